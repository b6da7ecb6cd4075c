/* Loaded before libc (LD_PRELOAD): a disk that fails under one folder, and a wall clock that is wrong, on demand.

   WORLD names a file that holds two numbers, "<errno> <seconds>": what writing under WORLD_UNDER fails with (0: it works),
   and by how much the wall clock is ahead. It is read at every call, so a test changes the world under a running process.
   With EROFS files cannot be opened for writing either. Time that only counts on, CLOCK_MONOTONIC, is left alone. */
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
#include <time.h>
#include <unistd.h>

static void world(int *error, long *ahead) {
    char text[64];
    const char *path = getenv("WORLD");
    *error = 0;
    *ahead = 0;
    int file = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    ssize_t length = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    if (length <= 0) return;
    text[length] = 0;
    sscanf(text, "%d %ld", error, ahead);
}

static int fails(const char *path, int changes_folder) {
    int kept = errno, error;
    long ahead;
    const char *under = getenv("WORLD_UNDER");
    if (!under || strncmp(path, under, strlen(under))) return 0;
    world(&error, &ahead);
    errno = kept;
    if (!error || (changes_folder && error != EROFS)) return 0;
    errno = error;
    return 1;
}

static int file_fails(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(path, 0);
}

#define NEXT(name)                                                         \
    ({                                                                     \
        static __typeof__(&name) next;                                     \
        if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name);      \
        next;                                                              \
    })

ssize_t write(int file, const void *bytes, size_t number) {
    return file_fails(file) ? -1 : NEXT(write)(file, bytes, number);
}
ssize_t pwrite(int file, const void *bytes, size_t number, off_t at) {
    return file_fails(file) ? -1 : NEXT(pwrite)(file, bytes, number, at);
}
ssize_t pwrite64(int file, const void *bytes, size_t number, off64_t at) {
    return file_fails(file) ? -1 : NEXT(pwrite64)(file, bytes, number, at);
}

#define OPEN(name)                                                                                \
    int name(const char *path, int flags, ...) {                                                  \
        va_list rest;                                                                             \
        va_start(rest, flags);                                                                    \
        mode_t mode = va_arg(rest, mode_t);                                                       \
        va_end(rest);                                                                             \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails(path, 1)) return -1;                 \
        return NEXT(name)(path, flags, mode);                                                     \
    }
OPEN(open)
OPEN(open64)
int mkdir(const char *path, mode_t mode) { return fails(path, 1) ? -1 : NEXT(mkdir)(path, mode); }
int rename(const char *from, const char *to) { return fails(from, 1) ? -1 : NEXT(rename)(from, to); }
int unlink(const char *path) { return fails(path, 1) ? -1 : NEXT(unlink)(path); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int error, result = NEXT(clock_gettime)(clock, now);
    long ahead;
    if (!result && clock == CLOCK_REALTIME) {
        world(&error, &ahead);
        now->tv_sec += ahead;
    }
    return result;
}
