/* Writes down all that is done to the files below one folder, in one order, into a log outside of it. For LD_PRELOAD.
 *
 * recorder_start(folder, log) begins, also for children that are forked later; recorder_mark(text) puts in a line of the
 * caller's; recorder_stop() ends it. recorder_forgo_syncs(1): from now on syncs are not done at all, for who only looks.
 *
 * A record is appended by one system call when the call that it tells of has succeeded, before that returns to its caller:
 * so what a caller could know of stands before what it did next, whichever thread or process it is. Only a sync has a
 * second record, from before it began: it covers what stands before that. A sync of a part (sync_file_range) promises
 * nothing, and msync is not needed: neither is told. Nor is what is written through a map, which is lock.mdb alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include "paths.h"

/* As tests/trials/power/log.py reads it. */
enum { WRITE = 1, SYNC_BEGINS, SYNC_ENDS, RESIZE, MADE_FILE, MADE_FOLDER, REMOVED, RENAMED, EXCHANGED, LINKED, MARK };

struct record {
    uint32_t kind;
    uint32_t lasting; /* written through a descriptor whose writes are on the disk when they return */
    uint64_t call;
    uint64_t inode;
    int64_t at;
    uint32_t first; /* bytes of what follows: a path, another path, data */
    uint32_t second;
    uint64_t data;
};

static int log_fd = -1;
static atomic_int forgoing;
static atomic_ulong calls;

int recorder_start(const char *where, const char *log)
{
    look_below(where);
    log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    atomic_store(&armed, log_fd >= 0);
    return log_fd;
}

void recorder_stop(void)
{
    atomic_store(&armed, 0);
    syscall(SYS_close, log_fd);
}

void recorder_forgo_syncs(int yes)
{
    atomic_store(&forgoing, yes);
}

static void put(struct record it, const char *first, const char *second, const struct iovec *parts, int n)
{
    int held = errno;
    struct iovec all[3 + 1024];
    size_t left = it.data;
    int count = 3;
    it.first = first ? strlen(first) : 0;
    it.second = second ? strlen(second) : 0;
    all[0] = (struct iovec) { &it, sizeof it };
    all[1] = (struct iovec) { (void *)first, it.first };
    all[2] = (struct iovec) { (void *)second, it.second };
    for (int i = 0; i < n && i < 1021 && left; i++) { /* a short write is told as what was written */
        size_t size = parts[i].iov_len < left ? parts[i].iov_len : left;
        all[count++] = (struct iovec) { parts[i].iov_base, size };
        left -= size;
    }
    if (syscall(SYS_writev, log_fd, all, count) != (ssize_t)(sizeof it + it.first + it.second + it.data) || left)
        _exit(99); /* a log with a hole would lie */
    errno = held;
}

void recorder_mark(const char *text)
{
    if (atomic_load(&armed))
        put((struct record) { .kind = MARK }, text, NULL, NULL, 0);
}

static int counts(int fd)
{
    char path[PATH_MAX];
    return atomic_load(&armed) && of_descriptor(fd, path);
}

static uint64_t inode_of(int fd)
{
    struct stat found;
    return fstat(fd, &found) ? 0 : found.st_ino;
}

static uint64_t inode_at(const char *path)
{
    struct stat found;
    return lstat(path, &found) ? 0 : found.st_ino;
}

static int64_t size_of(int fd)
{
    struct stat found;
    return fstat(fd, &found) ? 0 : found.st_size;
}

#define REAL(type, name, signature)                  \
    static type (*real) signature;                   \
    if (!real)                                       \
        real = (type(*) signature)dlsym(RTLD_NEXT, #name)

/* -- contents -- */

static void wrote(int fd, int64_t at, const struct iovec *parts, int n, ssize_t done)
{
    if (done > 0)
        put((struct record) { .kind = WRITE, .lasting = (fcntl(fd, F_GETFL) & O_DSYNC) != 0, .inode = inode_of(fd),
                              .at = at, .data = done },
            NULL, NULL, parts, n);
}

#define WRITES(name, signature, arguments, where, parts, n)                                          \
    ssize_t name signature                                                                           \
    {                                                                                                \
        REAL(ssize_t, name, signature);                                                              \
        if (!counts(fd))                                                                             \
            return real arguments;                                                                   \
        int64_t begins = where;                                                                      \
        ssize_t done = real arguments;                                                               \
        wrote(fd, begins, parts, n, done);                                                           \
        return done;                                                                                 \
    }

static int64_t here(int fd)
{
    return fcntl(fd, F_GETFL) & O_APPEND ? size_of(fd) : lseek(fd, 0, SEEK_CUR);
}

#define ONE ((struct iovec[]) { { (void *)data, size } })

WRITES(write, (int fd, const void *data, size_t size), (fd, data, size), here(fd), ONE, 1)
WRITES(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), at, ONE, 1)
WRITES(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), at, ONE, 1)
WRITES(writev, (int fd, const struct iovec *list, int n), (fd, list, n), here(fd), list, n)
WRITES(pwritev, (int fd, const struct iovec *list, int n, off_t at), (fd, list, n, at), at, list, n)
WRITES(pwritev64, (int fd, const struct iovec *list, int n, off64_t at), (fd, list, n, at), at, list, n)

#define SYNCS(name)                                                                                     \
    int name(int fd)                                                                                    \
    {                                                                                                   \
        REAL(int, name, (int fd));                                                                      \
        int counted = counts(fd);                                                                       \
        struct record it = { .inode = counted ? inode_of(fd) : 0 };                                     \
        if (counted) {                                                                                  \
            it.call = ((uint64_t)getpid() << 32) + atomic_fetch_add(&calls, 1);                         \
            it.kind = SYNC_BEGINS;                                                                      \
            put(it, NULL, NULL, NULL, 0);                                                               \
        }                                                                                               \
        int result = atomic_load(&forgoing) ? 0 : real(fd);                                             \
        if (counted && !result) {                                                                       \
            it.kind = SYNC_ENDS;                                                                        \
            put(it, NULL, NULL, NULL, 0);                                                               \
        }                                                                                               \
        return result;                                                                                  \
    }

SYNCS(fsync)
SYNCS(fdatasync)

static void resized(int fd, int64_t size)
{
    put((struct record) { .kind = RESIZE, .inode = inode_of(fd), .at = size }, NULL, NULL, NULL, 0);
}

#define RESIZES(name, signature, arguments, happens, size) \
    int name signature                                     \
    {                                                      \
        REAL(int, name, signature);                        \
        int result = real arguments;                       \
        if (!result && counts(fd) && (happens))            \
            resized(fd, size);                             \
        return result;                                     \
    }

RESIZES(ftruncate, (int fd, off_t size), (fd, size), 1, size)
RESIZES(ftruncate64, (int fd, off64_t size), (fd, size), 1, size)
RESIZES(fallocate, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size), !mode, size_of(fd))
RESIZES(fallocate64, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size), !mode, size_of(fd))

/* -- names -- */

static void named(int kind, const char *path, const char *other)
{
    put((struct record) { .kind = kind, .inode = inode_at(other ? other : path) }, path, other, NULL, 0);
}

#define NAMES(name, signature, arguments, at, path, kind)            \
    int name signature                                               \
    {                                                                \
        REAL(int, name, signature);                                  \
        char one[PATH_MAX];                                          \
        int counted = whole(at, path, one);                          \
        int result = real arguments;                                 \
        if (!result && counted)                                      \
            named(kind, one, NULL);                                  \
        return result;                                               \
    }

NAMES(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path, MADE_FOLDER)
NAMES(mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), at, path, MADE_FOLDER)
NAMES(rmdir, (const char *path), (path), AT_FDCWD, path, REMOVED)
NAMES(unlink, (const char *path), (path), AT_FDCWD, path, REMOVED)
NAMES(unlinkat, (int at, const char *path, int flags), (at, path, flags), at, path, REMOVED)

#define MOVES(name, signature, arguments, at, from, into, to, kind)               \
    int name signature                                                            \
    {                                                                             \
        REAL(int, name, signature);                                               \
        char one[PATH_MAX], other[PATH_MAX];                                      \
        int counted = whole(at, from, one) | whole(into, to, other) << 1;         \
        int result = real arguments;                                              \
        if (!result && counted == 3)                                              \
            named(kind, one, other);                                              \
        else if (!result && counted)                                              \
            _exit(98); /* into the folder or out of it: not to be told */         \
        return result;                                                            \
    }

MOVES(rename, (const char *from, const char *to), (from, to), AT_FDCWD, from, AT_FDCWD, to, RENAMED)
MOVES(renameat, (int at, const char *from, int into, const char *to), (at, from, into, to), at, from, into, to, RENAMED)
MOVES(renameat2, (int at, const char *from, int into, const char *to, unsigned flags), (at, from, into, to, flags), at, from,
      into, to, flags & RENAME_EXCHANGE ? EXCHANGED : RENAMED)
MOVES(link, (const char *from, const char *to), (from, to), AT_FDCWD, from, AT_FDCWD, to, LINKED)
MOVES(linkat, (int at, const char *from, int into, const char *to, int flags), (at, from, into, to, flags), at, from, into, to,
      LINKED)

#define OPENS(name, signature, arguments, at)                                     \
    int name signature                                                            \
    {                                                                             \
        REAL(int, name, signature);                                               \
        char one[PATH_MAX];                                                       \
        mode_t mode = 0;                                                          \
        if (flags & (O_CREAT | O_TMPFILE)) {                                      \
            va_list rest;                                                         \
            va_start(rest, flags);                                                \
            mode = va_arg(rest, mode_t);                                          \
            va_end(rest);                                                         \
        }                                                                         \
        int counted = flags & (O_CREAT | O_TRUNC) && whole(at, path, one);        \
        int held = errno;                                                         \
        int makes = counted && !inode_at(one);                                    \
        errno = held;                                                             \
        int fd = real arguments;                                                  \
        if (fd >= 0 && makes)                                                     \
            named(MADE_FILE, one, NULL);                                          \
        else if (fd >= 0 && counted && flags & O_TRUNC)                           \
            resized(fd, 0);                                                       \
        return fd;                                                                \
    }

OPENS(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPENS(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)
OPENS(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)
