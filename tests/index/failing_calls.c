/* Loaded before libc (LD_PRELOAD): lets the FAIL_AT-th call of the kind FAIL_CALL names fail, once or from then on.

   Only files under FAIL_UNDER count, so that the interpreter's own are left alone. FAIL_ERRNO is what they fail with. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int seen;

static int counts(const char *path, const char *call) {
    const char *kind = getenv("FAIL_CALL"), *under = getenv("FAIL_UNDER"), *at = getenv("FAIL_AT");
    if (!kind || !under || !at || strcmp(kind, call) || strncmp(path, under, strlen(under))) return 0;
    int number = __sync_add_and_fetch(&seen, 1);
    if (getenv("FAIL_ONCE") ? number != atoi(at) : number < atoi(at)) return 0;
    errno = atoi(getenv("FAIL_ERRNO"));
    return 1;
}

static int fails(int file, const char *call) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return counts(path, call);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *bytes, size_t number) {
    return fails(file, "write") ? -1 : NEXT(write)(file, bytes, number);
}
ssize_t pwrite(int file, const void *bytes, size_t number, off_t at) {
    return fails(file, "write") ? -1 : NEXT(pwrite)(file, bytes, number, at);
}
ssize_t pwrite64(int file, const void *bytes, size_t number, off64_t at) {
    return fails(file, "write") ? -1 : NEXT(pwrite64)(file, bytes, number, at);
}
int fsync(int file) { return fails(file, "fsync") ? -1 : NEXT(fsync)(file); }
int fdatasync(int file) { return fails(file, "fsync") ? -1 : NEXT(fdatasync)(file); }
int rename(const char *from, const char *to) { return counts(from, "rename") ? -1 : NEXT(rename)(from, to); }
