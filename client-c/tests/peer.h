/*
 * For tests that play the library's peer themselves: messages with descriptors, and what a
 * library has to leave alone.
 */
#ifndef PEER_H
#define PEER_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof(*(array)))
/* A literal's bytes, and how many. */
#define BYTES(literal) literal, sizeof(literal) - 1

/* --- What a library has to leave alone. ------------------------------------------------------- */

enum { FDS_MAX = 256, SIGNALS = 64 };

struct surroundings {
    bool fds[FDS_MAX];
    uint64_t mask;
    uint64_t actions[SIGNALS + 1][4];
    int dumpable;
    char cwd[4096];
};

static inline void look(struct surroundings *seen)
{
    memset(seen, 0, sizeof(*seen));
    for (int fd = 0; fd < FDS_MAX; fd++) {
        seen->fds[fd] = fcntl(fd, F_GETFD) >= 0;
    }
    for (int signal = 1; signal <= SIGNALS; signal++) {
        /* Two are the C library's own, which sets them with the first thread. */
        if (signal != 32 && signal != 33) {
            syscall(SYS_rt_sigaction, signal, NULL, seen->actions[signal], 8);
        }
    }
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &seen->mask, 8);
    seen->dumpable = prctl(PR_GET_DUMPABLE);
    CHECK(getcwd(seen->cwd, sizeof(seen->cwd)) != NULL);
}

/* Neither living nor dead. */
static inline void check_childless(void)
{
    errno = 0;
    CHECK_IS(waitpid(-1, NULL, WNOHANG), -1);
    CHECK_IS(errno, ECHILD);
}

static inline void check_unchanged(const struct surroundings *before)
{
    struct surroundings after;

    look(&after);
    for (int fd = 0; fd < FDS_MAX; fd++) {
        if (before->fds[fd] != after.fds[fd]) {
            CHECK_IS(after.fds[fd] ? fd : -fd, 0);
        }
    }
    CHECK_IS(after.mask, before->mask);
    CHECK(memcmp(after.actions, before->actions, sizeof(after.actions)) == 0);
    CHECK_IS(after.dumpable, before->dumpable);
    CHECK_TEXT(after.cwd, before->cwd);
    check_childless();
}

static inline long long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* What nobody delays is done by then, on the slowest machine and under valgrind. */
#define LATE_MS 30000

/* A wait that has ended, no earlier than it was to. */
static inline void check_waited(long long began_ms, long long wanted_ms)
{
    long long took_ms = now_ms() - began_ms;

    CHECK(took_ms >= wanted_ms);
    CHECK(took_ms < LATE_MS);
}

/* --- Messages. ------------------------------------------------------------------------------- */

static inline void pass(int socket, const void *bytes, size_t length, const int *fds, size_t count)
{
    union {
        char bytes[CMSG_SPACE(8 * sizeof(int))];
        struct cmsghdr align;
    } control;
    union {
        const void *in;
        void *out;
    } data = { bytes };
    struct iovec piece = { data.out, length };
    struct msghdr header = { .msg_iov = &piece, .msg_iovlen = 1 };

    memset(&control, 0, sizeof(control));
    if (count > 0) {
        header.msg_control = control.bytes;
        /* Their types are another one in each C library. */
        header.msg_controllen = (__typeof__(header.msg_controllen))CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = (__typeof__(rights->cmsg_len))CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, count * sizeof(int));
    }
    CHECK_IS(sendmsg(socket, &header, MSG_NOSIGNAL), length);
}

/* The length, -1 for none; `*fd` is its one descriptor, or -1. */
static inline ssize_t take(int socket, void *bytes, size_t size, int *fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec piece = { bytes, size };
    struct msghdr header = { .msg_iov = &piece, .msg_iovlen = 1 };

    header.msg_control = control.bytes;
    header.msg_controllen = sizeof(control.bytes);
    *fd = -1;
    ssize_t got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    if (got >= 0 && header.msg_controllen > 0 && CMSG_FIRSTHDR(&header) != NULL) {
        memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof(int));
    }
    return got;
}

#endif
