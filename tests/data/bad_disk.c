/* A disk that fails when it is told to: a library that tests preload into the service's processes.
 *
 * BAD_DISK_UNDER  what the paths on the disk contain, several divided by colons
 * BAD_DISK_FAULT  a file that says how it fails now: full, readonly or fsync; absent or anything else: not at all
 *
 * Built by tests/integration/receiving/test_listener_bad_disk.py and its neighbours with the machine's C compiler.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static char fault(void)
{
    char word = 0;
    const char *path = getenv("BAD_DISK_FAULT");
    long file = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return 0;
    if (syscall(SYS_read, file, &word, 1) != 1)
        word = 0;
    syscall(SYS_close, file);
    return word; /* f(ull), r(eadonly), s(ync) */
}

static int is_on_it(const char *path)
{
    const char *under = getenv("BAD_DISK_UNDER");
    char parts[4096];
    if (!under || !path || strlen(under) >= sizeof parts)
        return 0;
    strcpy(parts, under);
    for (char *rest = parts, *part; (part = strsep(&rest, ":"));)
        if (*part && strstr(path, part))
            return 1;
    return 0;
}

static int holds(int file)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_on_it(path);
}

static int refuses(int error)
{
    errno = error;
    return -1;
}

static int write_error(int file)
{
    char now = fault();
    if ((now != 'f' && now != 'r') || !holds(file))
        return 0;
    return now == 'f' ? ENOSPC : EROFS;
}

static int is_readonly(const char *path)
{
    return fault() == 'r' && is_on_it(path);
}

#define OPENS(name)                                                              \
    int name(const char *path, int flags, ...)                                   \
    {                                                                            \
        va_list more;                                                            \
        va_start(more, flags);                                                   \
        mode_t mode = va_arg(more, mode_t);                                      \
        va_end(more);                                                            \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && is_readonly(path))        \
            return refuses(EROFS);                                               \
        return REAL(name)(path, flags, mode);                                    \
    }
OPENS(open)
OPENS(open64)

ssize_t write(int file, const void *data, size_t size)
{
    int error = write_error(file);
    return error ? refuses(error) : REAL(write)(file, data, size);
}

#define WRITES_AT(name, offset_t)                                                \
    ssize_t name(int file, const void *data, size_t size, offset_t at)           \
    {                                                                            \
        int error = write_error(file);                                           \
        return error ? refuses(error) : REAL(name)(file, data, size, at);        \
    }
WRITES_AT(pwrite, off_t)
WRITES_AT(pwrite64, off64_t)

#define SYNCS(name)                                                              \
    int name(int file)                                                           \
    {                                                                            \
        return fault() == 's' && holds(file) ? refuses(EIO) : REAL(name)(file);  \
    }
SYNCS(fsync)
SYNCS(fdatasync)

int unlink(const char *path)
{
    return is_readonly(path) ? refuses(EROFS) : REAL(unlink)(path);
}

int rename(const char *from, const char *to)
{
    return is_readonly(from) ? refuses(EROFS) : REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode)
{
    return is_readonly(path) ? refuses(EROFS) : REAL(mkdir)(path, mode);
}
