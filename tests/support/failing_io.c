/* Fail the Nth system call of some processes on the files below a folder. Linux only.

   cc -shared -fPIC -o failing_io.so failing_io.c
   LD_PRELOAD=failing_io.so FAILING_IO_FOLDER=DIR FAILING_IO_STATE=FILE command

   FILE has at least `sizeof(struct state)` bytes. It is shared memory: the command, its threads and
   its processes count there, and a test sets there which call fails, before or between commands. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CHANGES, READS };

struct state {
    int64_t kind;   /* which calls are counted: those that change files, or those that read them */
    int64_t count;  /* of these calls so far */
    int64_t number; /* of the call that fails, from 1; 0: none */
    int64_t later;  /* whether all later calls fail too, as on a dead disk */
    int64_t error;  /* the errno */
    char call[2 * PATH_MAX]; /* the name of the call that failed, and its file */
};

static struct state *state;
static char folder[PATH_MAX];

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAILING_IO_STATE"), *name = getenv("FAILING_IO_FOLDER");
    if (!path || !name || !realpath(name, folder)) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *memory = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory != MAP_FAILED) state = memory;
    syscall(SYS_close, fd);
}

/* Count a call, and return whether it fails; then errno is set. */
static int fails(int kind, const char *call, const char *path) {
    size_t length = strlen(folder);
    if (state->kind != kind || strncmp(path, folder, length) || (path[length] && path[length] != '/')) return 0;
    int64_t count = __atomic_add_fetch(&state->count, 1, __ATOMIC_SEQ_CST);
    if (!state->number || count < state->number || (count > state->number && !state->later)) return 0;
    if (count == state->number) snprintf(state->call, sizeof state->call, "%s %s", call, path);
    errno = state->error;
    return 1;
}

static void path_of(int fd, char *path) {
    char link[64];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    path[size < 0 ? 0 : size] = 0;
    errno = before;
}

static int fails_fd(int kind, const char *call, int fd) {
    char path[PATH_MAX];
    if (!state) return 0;
    path_of(fd, path);
    return fails(kind, call, path);
}

static int fails_at(const char *call, int fd, const char *name) {
    char path[2 * PATH_MAX];
    if (!state) return 0;
    if (name[0] == '/') return fails(CHANGES, call, name);
    if (fd != AT_FDCWD) path_of(fd, path);
    else if (!getcwd(path, PATH_MAX)) return 0;
    strcat(path, "/");
    strncat(path, name, PATH_MAX - 1);
    return fails(CHANGES, call, path);
}

/* ---- calls that change a file, or end a change */

ssize_t write(int fd, const void *data, size_t size) { return fails_fd(CHANGES, "write", fd) ? -1 : syscall(SYS_write, fd, data, size); }
ssize_t writev(int fd, const struct iovec *parts, int n) { return fails_fd(CHANGES, "writev", fd) ? -1 : syscall(SYS_writev, fd, parts, n); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    return fails_fd(CHANGES, "pwrite", fd) ? -1 : syscall(SYS_pwrite64, fd, data, size, at);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { return fails_fd(CHANGES, "sendfile", to) ? -1 : syscall(SYS_sendfile, to, from, at, size); }
ssize_t sendfile(int to, int from, off_t *at, size_t size) { return sendfile64(to, from, at, size); }
int fsync(int fd) { return fails_fd(CHANGES, "fsync", fd) ? -1 : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails_fd(CHANGES, "fdatasync", fd) ? -1 : syscall(SYS_fdatasync, fd); }
int ftruncate64(int fd, off64_t size) { return fails_fd(CHANGES, "ftruncate", fd) ? -1 : syscall(SYS_ftruncate, fd, size); }
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int close(int fd) { /* as in Linux, the file is closed even if the call fails */
    int failed = fails_fd(CHANGES, "close", fd), error = errno, result = syscall(SYS_close, fd);
    if (!failed) return result;
    errno = error;
    return -1;
}

int renameat2(int from, const char *source, int to, const char *target, unsigned flags) {
    return fails_at("rename", to, target) ? -1 : syscall(SYS_renameat2, from, source, to, target, flags);
}
int renameat(int from, const char *source, int to, const char *target) { return renameat2(from, source, to, target, 0); }
int rename(const char *source, const char *target) { return renameat2(AT_FDCWD, source, AT_FDCWD, target, 0); }

int mkdirat(int fd, const char *name, mode_t mode) { return fails_at("mkdir", fd, name) ? -1 : syscall(SYS_mkdirat, fd, name, mode); }
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
int unlinkat(int fd, const char *name, int flags) { return fails_at("unlink", fd, name) ? -1 : syscall(SYS_unlinkat, fd, name, flags); }
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

static int open_at(int fd, const char *name, int flags, mode_t mode) {
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
    return writes && fails_at("open", fd, name) ? -1 : syscall(SYS_openat, fd, name, flags, mode);
}
#define OPEN(name, parameters, fd, path)                                       \
    int name parameters {                                                      \
        mode_t mode = 0;                                                       \
        if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {           \
            va_list rest;                                                      \
            va_start(rest, flags);                                             \
            mode = va_arg(rest, mode_t);                                       \
            va_end(rest);                                                      \
        }                                                                      \
        return open_at(fd, path, flags, mode);                                 \
    }
OPEN(open, (const char *name, int flags, ...), AT_FDCWD, name)
OPEN(open64, (const char *name, int flags, ...), AT_FDCWD, name)
OPEN(openat, (int fd, const char *name, int flags, ...), fd, name)
OPEN(openat64, (int fd, const char *name, int flags, ...), fd, name)

/* ---- calls that read a file */

ssize_t read(int fd, void *data, size_t size) { return fails_fd(READS, "read", fd) ? -1 : syscall(SYS_read, fd, data, size); }
ssize_t pread64(int fd, void *data, size_t size, off64_t at) { return fails_fd(READS, "pread", fd) ? -1 : syscall(SYS_pread64, fd, data, size, at); }
ssize_t pread(int fd, void *data, size_t size, off_t at) { return pread64(fd, data, size, at); }
