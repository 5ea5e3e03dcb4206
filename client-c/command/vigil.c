#define _GNU_SOURCE
#include "vigil.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../src/arch.h"
#include "../src/launch.h"

/* Most children that are waited for at once: protocol's REAPED_MAX. */
enum { REAPED_MAX = 64 };

/* A set of signals is the kernel's own, of so many bytes. */
enum { SET_BYTES = 8 };

#define BIT(signal) (UINT64_C(1) << ((signal) - 1))

/* Those that ask for the end, even when there is no App any more to ask. */
#define FINAL (BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGHUP) | BIT(SIGQUIT))

/* Passed on to the App, which in its session of its own gets none from the terminal. */
#define FORWARDED (FINAL | BIT(SIGUSR1) | BIT(SIGUSR2) | BIT(SIGWINCH) | BIT(SIGCONT))

enum { FORWARDED_COUNT = 8 };
_Static_assert(__builtin_popcountll(FORWARDED) == FORWARDED_COUNT, "so many are passed on");

int rk_take_signals(struct rk_signals *signals)
{
    /* A closed pipe is to be an error of write(2), as in rocker-cli. */
    uint64_t taken = FORWARDED | BIT(SIGCHLD), blocked = taken | BIT(SIGPIPE);
    long done = rk_call(SYS_rt_sigprocmask, SIG_BLOCK, (long)&blocked, (long)&signals->before,
                        SET_BYTES, 0);

    if (done < 0) {
        return (int)done;
    }
    long fd = rk_call(SYS_signalfd4, -1, (long)&taken, SET_BYTES, SFD_CLOEXEC | SFD_NONBLOCK, 0);
    if (fd < 0) {
        rk_return_signals(signals);
        return (int)fd;
    }
    signals->fd = (int)fd;
    return 0;
}

void rk_return_signals(struct rk_signals *signals)
{
    rk_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&signals->before, 0, SET_BYTES, 0);
}

/* The number of one that has come; 0: there is none. */
static int next_signal(const struct rk_signals *signals)
{
    struct signalfd_siginfo info;

    return read(signals->fd, &info, sizeof(info)) == sizeof(info) ? (int)info.ssi_signo : 0;
}

/* Waits for this process's end or a signal, unless there is something to do at once; whether it
 * was the end, or a negative errno. */
static int is_over(int pidfd, const struct rk_signals *signals, bool is_busy)
{
    struct pollfd ready[] = { { pidfd, POLLIN, 0 }, { signals->fd, POLLIN, 0 } };

    if (poll(ready, 2, is_busy ? 0 : -1) < 0 && errno != EINTR) {
        return -errno;
    }
    return ready[0].revents != 0;
}

/* Waits for those that have ended, but for no more than so many at once; whether there may be
 * more. The App's status, if it was among them. */
static bool reap(const Rocker *rocker, bool *has_status, int *status)
{
    for (int i = 0; i < REAPED_MAX; i++) {
        int told;
        pid_t pid = waitpid(-1, &told, WNOHANG);
        if (pid == 0 || (pid < 0 && errno != EINTR)) {
            return false;
        }
        /* Who asked to be traced has not ended when it stops. And once it has, its number may be
         * another's. */
        if (pid == rocker->app_pid && !*has_status && !WIFSTOPPED(told)) {
            *has_status = true;
            *status = told;
        }
    }
    return true;
}

/* Of a thread, or of a process's first one, whose directory in /proc this is; it is closed then. 0:
 * it is gone. proc_pid_stat(5). */
static char state(long directory)
{
    char stat[512];
    long got = -1;

    if (directory < 0) {
        return 0;
    }
    long fd = rk_call(SYS_openat, directory, (long)"stat", O_RDONLY | O_CLOEXEC, 0, 0);
    if (fd >= 0) {
        got = read((int)fd, stat, sizeof(stat) - 1);
        close((int)fd);
    }
    close((int)directory);
    stat[got > 0 ? got : 0] = '\0';
    /* The name may hold anything, and ends at the last parenthesis. */
    const char *name = strrchr(stat, ')');
    return name != NULL && name[1] == ' ' ? name[2] : 0;
}

static long open_dir(long parent, const char *path)
{
    return rk_call(SYS_openat, parent, (long)path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, 0);
}

/* Whether one of these threads is neither dead nor stopped for a tracer. getdents(2). */
static bool has_living(long tasks)
{
    enum { LENGTH_AT = 16, NAME_AT = 19 };
    char entries[2048];
    long got;

    while ((got = rk_call(SYS_getdents64, tasks, (long)entries, sizeof(entries), 0, 0)) > 0) {
        uint16_t length;
        for (long at = 0; at < got; at += length) {
            const char *name = entries + at + NAME_AT;
            memcpy(&length, entries + at + LENGTH_AT, sizeof(length));
            char its = name[0] == '.' ? 0 : state(open_dir(tasks, name));
            if (its != 0 && its != 'Z' && its != 'X' && its != 't') {
                return true;
            }
        }
    }
    return false;
}

/* Whether the App, for which nobody has waited, has anybody left to get a signal. Where its first
 * thread has ended, and each other one has as well or is stopped for a tracer inside, it is as
 * good as dead: only that tracer keeps it from having ended. */
static bool can_hear(const Rocker *rocker)
{
    struct pollfd ended = { rocker->app_pidfd, POLLIN, 0 };
    char path[sizeof(((RockerError *)0)->command)] = "/proc/";

    if (poll(&ended, 1, 0) > 0) {
        return false;
    }
    rk_add_number(path, (unsigned)rocker->app_pid);
    if (state(open_dir(AT_FDCWD, path)) != 'Z') {
        return true;
    }
    rk_add(path, "/task", strlen("/task"));
    long tasks = open_dir(AT_FDCWD, path);
    bool hears = tasks >= 0 && has_living(tasks);
    if (tasks >= 0) {
        close((int)tasks);
    }
    return hears;
}

int rk_until_gone(const Rocker *rocker, const struct rk_signals *signals, int *status)
{
    bool has_status = false, has_more = false;
    int error = 0, over;

    while ((over = is_over(rocker->guard_pidfd, signals, has_more)) == 0) {
        /* One of each at most: whoever leaves children without pause keeps none of the others. */
        for (int i = 0; i <= FORWARDED_COUNT; i++) {
            int signal = next_signal(signals);
            if (signal == 0) {
                break;
            }
            if (signal == SIGCHLD) {
                has_more = true;
            } else if (!has_status && can_hear(rocker)) {
                error = ROCKER_signal_app(rocker, signal);
            } else if (BIT(signal) & FINAL) {
                error = ROCKER_kill(rocker);
            }
            if (error != 0) {
                return -error;
            }
        }
        if (has_more) {
            has_more = reap(rocker, &has_status, status);
        }
    }
    if (over < 0) {
        return over;
    }
    /* It may have ended at the same moment. */
    while (!has_status && reap(rocker, &has_status, status)) {
    }
    /* Somebody else has waited for it, or told the kernel that nobody will. */
    return has_status ? 0 : -ECHILD;
}
