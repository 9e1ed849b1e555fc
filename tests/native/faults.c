/* What can befall a process at the N-th call that changes a file below one folder. For LD_PRELOAD.
 *
 * fault_arm(folder, n, what): from now on such calls are counted. At the n-th one the process is killed (SIGKILL): what = 0
 * instead of the call, -1 after it. -2: that call and all that follow take only a part of what they are to write. Any other
 * what is an errno, with which they fail, but those that need no room where it is ENOSPC or EDQUOT. n = 0 only counts.
 * fault_arm_times(folder, n, what, times): only so many calls of them. fault_disarm() ends it, fault_count() is how many
 * there were, fault_met() the name of the first that something did befall, a space, and the path of its file: the n-th may
 * be one that lets it pass. fault_unsynced() is how many syncs failed, but for EINTR, and fault_resynced() how many came to
 * a good end of a file of which one had failed before.
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
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "paths.h"

static long fateful;
static int fate;
static long last;
static char met[PATH_MAX + 64];
static __thread char seen[PATH_MAX]; /* the path of the call that is looked at */
static atomic_long count;
static atomic_long unsynced, resynced;
static struct { dev_t device; ino_t inode; } lost[64]; /* files of which a sync failed */

enum { KILLED_BEFORE = 0, KILLED_AFTER = -1, SHORT = -2 };

void fault_arm_times(const char *where, long n, int what, long times)
{
    look_below(where);
    fateful = n;
    fate = what;
    last = times > LONG_MAX - n ? LONG_MAX : n + times - 1;
    met[0] = 0;
    atomic_store(&count, 0);
    atomic_store(&unsynced, 0);
    atomic_store(&resynced, 0);
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

long fault_unsynced(void)
{
    return atomic_load(&unsynced);
}

long fault_resynced(void)
{
    return atomic_load(&resynced);
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* A name that is relative to the folder of a descriptor. */
static int name_counts(int at, const char *path)
{
    return whole(at, path, seen);
}

static int path_counts(const char *path)
{
    return name_counts(AT_FDCWD, path);
}

static int fd_counts(int fd)
{
    return atomic_load(&armed) && of_descriptor(fd, seen);
}

enum fate { LIVES, DIES, FAILS, HALVES };

/* What becomes of a call. Killed before it, this does not return. halvable: it may take a part of what it is given. */
static enum fate befalls(const char *name, int counts, int needs_room, int halvable)
{
    long now;
    if (!counts)
        return LIVES;
    now = atomic_fetch_add(&count, 1) + 1;
    if (!fateful || now < fateful || now > last)
        return LIVES;
    if (fate > 0 ? (fate == ENOSPC || fate == EDQUOT) && !needs_room : fate == SHORT ? !halvable : now > fateful)
        return LIVES;
    if (!met[0])
        snprintf(met, sizeof met, "%s %s", name, seen);
    if (fate > 0)
        return FAILS;
    if (fate == SHORT)
        return HALVES;
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

#define WRITE(halvable, halving, counts, needs_room, type, name, signature, arguments) \
    type name signature                                                \
    {                                                                  \
        static type (*real) signature;                                 \
        if (!real)                                                     \
            real = (type(*) signature)dlsym(RTLD_NEXT, #name);         \
        enum fate it = befalls(#name, counts, needs_room, halvable);             \
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

#define CALL(...) WRITE(0, (void)0, __VA_ARGS__)
#define SIZED(...) WRITE(size > 1, size = half(size), __VA_ARGS__)
#define PARTS(...) WRITE(n > 1 || (n == 1 && parts->iov_len > 1), parts = half_of(parts, &n), __VA_ARGS__)

SIZED(fd_counts(fd), 1, ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
SIZED(fd_counts(fd), 1, ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
SIZED(fd_counts(fd), 1, ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
PARTS(fd_counts(fd), 1, ssize_t, writev, (int fd, const struct iovec *parts, int n), (fd, parts, n))
PARTS(fd_counts(fd), 1, ssize_t, pwritev, (int fd, const struct iovec *parts, int n, off_t at), (fd, parts, n, at))
PARTS(fd_counts(fd), 1, ssize_t, pwritev64, (int fd, const struct iovec *parts, int n, off64_t at), (fd, parts, n, at))
SIZED(fd_counts(fd), 1, ssize_t, copy_file_range,
      (int from, off64_t *at, int fd, off64_t *into, size_t size, unsigned flags), (from, at, fd, into, size, flags))
SIZED(fd_counts(fd), 1, ssize_t, sendfile, (int fd, int from, off_t *at, size_t size), (fd, from, at, size))
SIZED(fd_counts(fd), 1, ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size))
CALL(fd_counts(fd), 0, int, sync_file_range, (int fd, off64_t at, off64_t size, unsigned flags), (fd, at, size, flags))
CALL(atomic_load(&armed), 0, int, msync, (void *at, size_t size, int flags), (at, size, flags))
CALL(fd_counts(fd), 0, int, ftruncate, (int fd, off_t size), (fd, size))
CALL(fd_counts(fd), 0, int, ftruncate64, (int fd, off64_t size), (fd, size))
CALL(fd_counts(fd), 1, int, fallocate, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size))
CALL(fd_counts(fd), 1, int, fallocate64, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size))
CALL(fd_counts(fd), 0, int, fchown, (int fd, uid_t user, gid_t group), (fd, user, group))
CALL(fd_counts(fd), 0, int, fchmod, (int fd, mode_t mode), (fd, mode))
CALL(path_counts(path), 0, int, chmod, (const char *path, mode_t mode), (path, mode))
CALL(name_counts(at, path), 0, int, fchmodat, (int at, const char *path, mode_t mode, int flags), (at, path, mode, flags))
CALL(path_counts(path), 1, int, mkdir, (const char *path, mode_t mode), (path, mode))
CALL(name_counts(at, path), 1, int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
CALL(path_counts(path), 0, int, rmdir, (const char *path), (path))
CALL(path_counts(path), 0, int, unlink, (const char *path), (path))
CALL(name_counts(at, path), 0, int, unlinkat, (int at, const char *path, int flags), (at, path, flags))
CALL(path_counts(path), 0, int, truncate, (const char *path, off_t size), (path, size))
CALL(name_counts(at, path), 0, int, utimensat,
     (int at, const char *path, const struct timespec times[2], int flags), (at, path, times, flags))
CALL(fd_counts(fd), 0, int, futimens, (int fd, const struct timespec times[2]), (fd, times))
CALL(path_counts(to), 1, int, symlink, (const char *from, const char *to), (from, to))
CALL(name_counts(into, to), 1, int, symlinkat, (const char *from, int into, const char *to), (from, into, to))
CALL(path_counts(to), 1, int, link, (const char *from, const char *to), (from, to))
CALL(name_counts(into, to), 1, int, linkat, (int at, const char *from, int into, const char *to, int flags),
     (at, from, into, to, flags))
CALL(path_counts(to) || path_counts(from), 0, int, rename, (const char *from, const char *to), (from, to))
CALL(name_counts(into, to) || name_counts(at, from), 0, int, renameat, (int at, const char *from, int into, const char *to),
     (at, from, into, to))
CALL(name_counts(into, to) || name_counts(at, from), 0, int, renameat2,
     (int at, const char *from, int into, const char *to, unsigned flags), (at, from, into, to, flags))

/* A sync that fails has lost something, which one that is tried again does not bring back. */
static void note_sync(int fd, int failed)
{
    struct stat found;
    long known = atomic_load(&unsynced);
    int held = errno;
    if (!fstat(fd, &found)) {
        if (!failed) {
            for (long at = 0; at < known && at < 64; at++)
                if (lost[at].device == found.st_dev && lost[at].inode == found.st_ino) {
                    atomic_fetch_add(&resynced, 1);
                    break;
                }
        } else if ((known = atomic_fetch_add(&unsynced, 1)) < 64) {
            lost[known].device = found.st_dev;
            lost[known].inode = found.st_ino;
        }
    }
    errno = held;
}

#define SYNC(name)                                                     \
    int name(int fd)                                                   \
    {                                                                  \
        static int (*real)(int);                                       \
        if (!real)                                                     \
            real = (int (*)(int))dlsym(RTLD_NEXT, #name);              \
        int counted = fd_counts(fd);                                   \
        enum fate it = befalls(#name, counted, 1, 0);                  \
        if (it == FAILS) {                                             \
            if (fate != EINTR)                                         \
                note_sync(fd, 1);                                      \
            errno = fate;                                              \
            return -1;                                                 \
        }                                                              \
        int result = real(fd);                                         \
        if (it == DIES)                                                \
            die();                                                     \
        if (counted && !result)                                        \
            note_sync(fd, 0);                                          \
        return result;                                                 \
    }

SYNC(fsync)
SYNC(fdatasync)

/* Opening changes something only where it makes the file or empties it. */
#define OPEN(name, before, given, at)                                                                          \
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
        int held = errno;                                                                                      \
        int makes = flags & O_TRUNC || (flags & O_TMPFILE) == O_TMPFILE                                        \
            || (flags & O_CREAT && faccessat(at, path, F_OK, 0));                                              \
        errno = held;                                                                                          \
        enum fate it = befalls(#name, makes && name_counts(at, path), flags & O_CREAT, 0);                     \
        if (it == FAILS) {                                                                                     \
            errno = fate;                                                                                      \
            return -1;                                                                                         \
        }                                                                                                      \
        int result = real given;                                                                               \
        if (it == DIES)                                                                                        \
            die();                                                                                             \
        return result;                                                                                         \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)
OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)
