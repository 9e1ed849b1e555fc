/* What can befall a process at the N-th call that changes a file below one folder. For LD_PRELOAD.
 *
 * fault_arm(folder, n, what): from now on such calls are counted. At the n-th one the process is killed (SIGKILL): what = 0
 * instead of the call, -1 after it. -2: that call and all that follow take only a part of what they are to write. Any other
 * what is an errno, with which they fail, but those that need no room where it is ENOSPC or EDQUOT. n = 0 only counts.
 * fault_arm_times(folder, n, what, times): only so many calls of them. fault_disarm() ends it, fault_count() is how many
 * there were, fault_met() the name of the n-th one, a space, and the path of its file.
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
static long last;
static char met[PATH_MAX + 64];
static __thread char seen[PATH_MAX]; /* the path of the call that is looked at */
static atomic_long count;
static atomic_int armed;

enum { KILLED_BEFORE = 0, KILLED_AFTER = -1, SHORT = -2 };

void fault_arm_times(const char *where, long n, int what, long times)
{
    snprintf(folder, sizeof folder, "%s", where);
    folder_length = strlen(folder);
    fateful = n;
    fate = what;
    last = times > LONG_MAX - n ? LONG_MAX : n + times - 1;
    met[0] = 0;
    atomic_store(&count, 0);
    atomic_store(&armed, 1);
}

void fault_arm(const char *where, long n, int what)
{
    fault_arm_times(where, n, what, LONG_MAX);
}

void fault_disarm(void)
{
    atomic_store(&armed, 0);
}

long fault_count(void)
{
    return atomic_load(&count);
}

const char *fault_met(void)
{
    return met;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static int path_counts(const char *path)
{
    if (!atomic_load(&armed) || !path || strncmp(path, folder, folder_length)
        || (path[folder_length] != '/' && path[folder_length]))
        return 0;
    if (path != seen)
        snprintf(seen, sizeof seen, "%s", path);
    return 1;
}

static int fd_counts(int fd)
{
    char link[64];
    ssize_t length;
    if (!atomic_load(&armed))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, seen, sizeof seen - 1);
    if (length < 0)
        return 0;
    seen[length] = 0;
    return path_counts(seen);
}

enum fate { LIVES, DIES, FAILS, HALVES };

/* What becomes of a call. Killed before it, this does not return. */
static enum fate befalls(const char *name, int counts, int needs_room)
{
    long now;
    if (!counts)
        return LIVES;
    now = atomic_fetch_add(&count, 1) + 1;
    if (!fateful || now < fateful || now > last)
        return LIVES;
    if (now == fateful)
        snprintf(met, sizeof met, "%s %s", name, seen);
    if (fate > 0)
        return (fate == ENOSPC || fate == EDQUOT) && !needs_room ? LIVES : FAILS;
    if (fate == SHORT)
        return HALVES;
    if (now > fateful)
        return LIVES;
    if (fate == KILLED_BEFORE)
        die();
    return DIES;
}

/* Half of what a call was to write, but never nothing. */
static size_t half(size_t size)
{
    return size > 1 ? size / 2 : size;
}

/* Of several parts half of them, of a single one half of that. */
static const struct iovec *half_of(const struct iovec *parts, int *n)
{
    static __thread struct iovec first;
    if (*n > 1) {
        *n /= 2;
        return parts;
    }
    first = (struct iovec){parts->iov_base, half(parts->iov_len)};
    return &first;
}

#define WRITE(halving, counts, needs_room, type, name, signature, arguments) \
    type name signature                                                \
    {                                                                  \
        static type (*real) signature;                                 \
        if (!real)                                                     \
            real = (type(*) signature)dlsym(RTLD_NEXT, #name);         \
        enum fate it = befalls(#name, counts, needs_room);             \
        if (it == FAILS) {                                             \
            errno = fate;                                              \
            return -1;                                                 \
        }                                                              \
        if (it == HALVES) {                                            \
            halving;                                                   \
        }                                                              \
        type result = real arguments;                                  \
        if (it == DIES)                                                \
            die();                                                     \
        return result;                                                 \
    }

#define CALL(...) WRITE((void)0, __VA_ARGS__)
#define SIZED(...) WRITE(size = half(size), __VA_ARGS__)
#define PARTS(...) WRITE(parts = half_of(parts, &n), __VA_ARGS__)

SIZED(fd_counts(fd), 1, ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
SIZED(fd_counts(fd), 1, ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
SIZED(fd_counts(fd), 1, ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
PARTS(fd_counts(fd), 1, ssize_t, writev, (int fd, const struct iovec *parts, int n), (fd, parts, n))
PARTS(fd_counts(fd), 1, ssize_t, pwritev, (int fd, const struct iovec *parts, int n, off_t at), (fd, parts, n, at))
PARTS(fd_counts(fd), 1, ssize_t, pwritev64, (int fd, const struct iovec *parts, int n, off64_t at), (fd, parts, n, at))
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
        enum fate it = befalls(#name, makes && path_counts(path_name), flags & O_CREAT);                       \
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
