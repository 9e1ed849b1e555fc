/* Which files count: those below one folder, by whatever call and from whatever folder they are named. */
#ifndef PATHS_H
#define PATHS_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char folder[PATH_MAX];
static size_t folder_length;
static atomic_int armed;

static void look_below(const char *where)
{
    snprintf(folder, sizeof folder, "%s", where);
    folder_length = strlen(folder);
}

static int is_below(const char *path)
{
    return !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

/* Where a descriptor leads, if that is below the folder; of a file without a name some path all the same. */
static int of_descriptor(int fd, char *path)
{
    char link[64];
    int held = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    errno = held;
    path[length < 0 ? 0 : length] = 0;
    return length > 0 && is_below(path);
}

/* The whole path of a name that is relative to a folder; whether it is below ours. */
static int whole(int at, const char *path, char *out)
{
    if (!atomic_load(&armed) || !path)
        return 0;
    out[0] = 0;
    if (path[0] != '/') {
        if (at == AT_FDCWD) {
            if (!getcwd(out, PATH_MAX))
                return 0;
        } else
            of_descriptor(at, out);
        if (strlen(out) + strlen(path) + 2 > PATH_MAX)
            return 0;
        strcat(out, "/");
    }
    if (strlen(out) + strlen(path) + 1 > PATH_MAX)
        return 0;
    strcat(out, path);
    return is_below(out);
}

#endif
