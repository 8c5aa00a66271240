/* A library to be loaded before libc: disks that are slow or fail, and a wall clock that was set, as a file of numbers says.
 *
 * FAULTY_CONTROL names a file of five 64-bit numbers, mapped at the first use:
 *   0  milliseconds that each fsync and fdatasync takes longer
 *   1  errno that they fail with, 0: none
 *   2  errno that writes fail with, 0: none
 *   3  milliseconds that CLOCK_REALTIME is ahead
 *   4  how many calls failed so far
 * Only descriptors of files whose path contains FAULTY_PATH are touched, so that logs and sockets go on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *control(void) {
    static volatile int64_t *mapped;
    static int tried;
    if (!tried) {
        const char *path = getenv("FAULTY_CONTROL");
        int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
        tried = 1;
        if (fd >= 0) {
            void *at = mmap(NULL, 40, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            mapped = at == MAP_FAILED ? NULL : at;
            close(fd);
        }
    }
    return mapped;
}

static int concerned(int fd) {
    const char *part = getenv("FAULTY_PATH");
    char link[64], path[4096];
    ssize_t length;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (!part || length < 0)
        return 0;
    path[length] = 0;
    return strstr(path, part) != NULL;
}

static int fails(int number) {
    volatile int64_t *told = control();
    if (!told || !told[number])
        return 0;
    __sync_fetch_and_add(&told[4], 1);
    errno = (int)told[number];
    return 1;
}

static int sync_faulty(int fd, const char *name) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    volatile int64_t *told = control();
    if (told && (told[0] || told[1]) && concerned(fd)) {
        if (told[0])
            usleep((useconds_t)(told[0] * 1000));
        if (fails(1))
            return -1;
    }
    return real(fd);
}

int fsync(int fd) { return sync_faulty(fd, "fsync"); }
int fdatasync(int fd) { return sync_faulty(fd, "fdatasync"); }

ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    volatile int64_t *told = control();
    if (!real)
        real = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    if (told && told[2] && concerned(fd) && fails(2))
        return -1;
    return real(fd, data, size);
}

static ssize_t pwrite_faulty(int fd, const void *data, size_t size, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    volatile int64_t *told = control();
    if (!real)
        real = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (told && told[2] && concerned(fd) && fails(2))
        return -1;
    return real(fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite_faulty(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return pwrite_faulty(fd, data, size, at); }

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    int done;
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    done = real(which, now);
    if (done == 0 && which == CLOCK_REALTIME) {
        volatile int64_t *told = control();
        int64_t ahead = told ? told[3] : 0;
        int64_t ns = now->tv_nsec + (ahead % 1000) * 1000000;
        now->tv_sec += ahead / 1000;
        if (ns < 0) {
            ns += 1000000000;
            now->tv_sec -= 1;
        } else if (ns >= 1000000000) {
            ns -= 1000000000;
            now->tv_sec += 1;
        }
        now->tv_nsec = ns;
    }
    return done;
}
