/* What can befall a process at the N-th call that changes a file below one folder. For LD_PRELOAD.
 *
 * fault_arm(folder, n, what): from now on such calls are counted. At the n-th one the process is killed (SIGKILL): what = 0
 * instead of the call, -1 after it. Any other what is an errno, with which that call and all that follow fail, but those
 * that need no room where it is ENOSPC. n = 0 only counts. fault_disarm() ends it, fault_count() is how many there were.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char folder[PATH_MAX];
static size_t folder_length;
static long fateful;
static int fate;
static atomic_long count;
static atomic_int armed;

enum { KILLED_BEFORE = 0, KILLED_AFTER = -1 };

void fault_arm(const char *where, long n, int what)
{
    snprintf(folder, sizeof folder, "%s", where);
    folder_length = strlen(folder);
    fateful = n;
    fate = what;
    atomic_store(&count, 0);
    atomic_store(&armed, 1);
}

void fault_disarm(void)
{
    atomic_store(&armed, 0);
}

long fault_count(void)
{
    return atomic_load(&count);
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static int path_counts(const char *path)
{
    return atomic_load(&armed) && path && !strncmp(path, folder, folder_length)
        && (path[folder_length] == '/' || !path[folder_length]);
}

static int fd_counts(int fd)
{
    char link[64], path[PATH_MAX];
    ssize_t length;
    if (!atomic_load(&armed))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return path_counts(path);
}

enum fate { LIVES, DIES, FAILS };

/* What becomes of a call. Killed before it, this does not return. */
static enum fate befalls(int counts, int needs_room)
{
    long now;
    if (!counts)
        return LIVES;
    now = atomic_fetch_add(&count, 1) + 1;
    if (!fateful || now < fateful)
        return LIVES;
    if (fate > 0)
        return fate == ENOSPC && !needs_room ? LIVES : FAILS;
    if (now > fateful)
        return LIVES;
    if (fate == KILLED_BEFORE)
        die();
    return DIES;
}

#define CALL(counts, needs_room, type, name, signature, arguments)     \
    type name signature                                                \
    {                                                                  \
        static type (*real) signature;                                 \
        if (!real)                                                     \
            real = (type(*) signature)dlsym(RTLD_NEXT, #name);         \
        enum fate it = befalls(counts, needs_room);                    \
        if (it == FAILS) {                                             \
            errno = fate;                                              \
            return -1;                                                 \
        }                                                              \
        type result = real arguments;                                  \
        if (it == DIES)                                                \
            die();                                                     \
        return result;                                                 \
    }

CALL(fd_counts(fd), 1, ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
CALL(fd_counts(fd), 1, ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
CALL(fd_counts(fd), 1, ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
CALL(fd_counts(fd), 1, ssize_t, writev, (int fd, const struct iovec *parts, int n), (fd, parts, n))
CALL(fd_counts(fd), 1, ssize_t, pwritev, (int fd, const struct iovec *parts, int n, off_t at), (fd, parts, n, at))
CALL(fd_counts(fd), 1, ssize_t, pwritev64, (int fd, const struct iovec *parts, int n, off64_t at), (fd, parts, n, at))
CALL(fd_counts(fd), 1, int, fsync, (int fd), (fd))
CALL(fd_counts(fd), 1, int, fdatasync, (int fd), (fd))
CALL(fd_counts(fd), 0, int, sync_file_range, (int fd, off64_t at, off64_t size, unsigned flags), (fd, at, size, flags))
CALL(atomic_load(&armed), 0, int, msync, (void *at, size_t size, int flags), (at, size, flags))
CALL(fd_counts(fd), 0, int, ftruncate, (int fd, off_t size), (fd, size))
CALL(fd_counts(fd), 0, int, ftruncate64, (int fd, off64_t size), (fd, size))
CALL(fd_counts(fd), 1, int, fallocate, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size))
CALL(fd_counts(fd), 1, int, fallocate64, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size))
CALL(fd_counts(fd), 0, int, fchown, (int fd, uid_t user, gid_t group), (fd, user, group))
CALL(fd_counts(fd), 0, int, fchmod, (int fd, mode_t mode), (fd, mode))
CALL(path_counts(path), 0, int, chmod, (const char *path, mode_t mode), (path, mode))
CALL(path_counts(path), 1, int, mkdir, (const char *path, mode_t mode), (path, mode))
CALL(path_counts(path), 0, int, rmdir, (const char *path), (path))
CALL(path_counts(path), 0, int, unlink, (const char *path), (path))
CALL(path_counts(path), 0, int, unlinkat, (int at, const char *path, int flags), (at, path, flags))
CALL(path_counts(path), 0, int, truncate, (const char *path, off_t size), (path, size))
CALL(path_counts(path), 0, int, utimensat, (int at, const char *path, const struct timespec times[2], int flags),
     (at, path, times, flags))
CALL(path_counts(to), 1, int, link, (const char *from, const char *to), (from, to))
CALL(path_counts(to), 0, int, rename, (const char *from, const char *to), (from, to))
CALL(path_counts(to), 0, int, renameat, (int at, const char *from, int into, const char *to), (at, from, into, to))
CALL(path_counts(to), 0, int, renameat2, (int at, const char *from, int into, const char *to, unsigned flags),
     (at, from, into, to, flags))

/* Opening changes something only where it makes the file or empties it. */
#define OPEN(name, before, given, path_name)                                                                   \
    int name before                                                                                            \
    {                                                                                                          \
        static int (*real) before;                                                                             \
        mode_t mode = 0;                                                                                       \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                   \
            va_list rest;                                                                                      \
            va_start(rest, flags);                                                                             \
            mode = va_arg(rest, mode_t);                                                                       \
            va_end(rest);                                                                                      \
        }                                                                                                      \
        if (!real)                                                                                             \
            real = (int(*) before)dlsym(RTLD_NEXT, #name);                                                     \
        int makes = (flags & O_CREAT && access(path_name, F_OK)) || flags & O_TRUNC;                           \
        enum fate it = befalls(makes && path_counts(path_name), flags & O_CREAT);                              \
        if (it == FAILS) {                                                                                     \
            errno = fate;                                                                                      \
            return -1;                                                                                         \
        }                                                                                                      \
        int result = real given;                                                                               \
        if (it == DIES)                                                                                        \
            die();                                                                                             \
        return result;                                                                                         \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode), path)
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), path)
OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), path)
OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), path)
