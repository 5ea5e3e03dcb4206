/*
 * rocker: the command. What people type most, an App of root's in the foreground, is done here, in
 * C and without a C library: as a whole process that takes far less time and memory
 * (ARCHITECTURE.md). All else is rocker-cli's, which knows every word and tells what is wrong with
 * one: it is executed in place of this, as if it had been called. So nothing here is refused before
 * a master is asked, and whatever is unusual is not looked into.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <rocker.h>
#include <stdbool.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <unistd.h>

#include "run.h"
#include "tell.h"
#include "vigil.h"

/* Exit statuses, as of env(1) and container engines. */
enum { ROCKER_FAILED = 125, NOT_EXECUTABLE = 126, NOT_FOUND = 127, SIGNALLED = 128 };

/* root.1, as errors have it. */
enum { REQUEST_ROCKER = 0x01 };

/* The path of this program; without /proc, as it was executed by. */
static void find_own_path(char *path, size_t size)
{
    ssize_t length = readlink("/proc/self/exe", path, size - 1);

    if (length < 0) {
        const char *executed = (const char *)getauxval(AT_EXECFN);
        length = strlen(executed) < size ? (ssize_t)strlen(executed) : 0;
        memcpy(path, executed, (size_t)length);
    }
    path[length] = '\0';
}

/* rocker-cli, as if it had been called: beside this program, or where it is installed. */
static int hand_over(char **argv, char **envp)
{
    const char *places[] = { "/rocker-cli", "/../libexec/rocker/rocker-cli" };
    char path[4096 + 32];

    find_own_path(path, 4096);
    char *end = strrchr(path, '/');
    for (size_t i = 0; end != NULL && i < sizeof(places) / sizeof(*places); i++) {
        memcpy(end, places[i], strlen(places[i]) + 1);
        execve(path, argv, envp);
        if (errno != ENOENT) {
            break;
        }
    }
    rk_tell_failure("execute rocker-cli, beside rocker or in ../libexec/rocker", errno);
    return ROCKER_FAILED;
}

/* The exit status of a launch that failed, whose error is told. */
static int refused(const RockerError *error)
{
    char line[ROCKER_STRERROR_MAX];

    ROCKER_strerror(error, line, sizeof(line));
    rk_complain(line);
    if (!error->at_exec) {
        return ROCKER_FAILED;
    }
    bool is_missing = error->os_errno == ENOENT || error->os_errno == ENOTDIR;
    return is_missing ? NOT_FOUND : NOT_EXECUTABLE;
}

static bool nobody_listens(const RockerError *error)
{
    return error->step == REQUEST_ROCKER &&
           (error->os_errno == ENOENT || error->os_errno == ECONNREFUSED);
}

static int launch(const struct rk_plan *plan, char **argv, char **envp)
{
    struct rk_signals signals;
    Rocker rocker;
    RockerError error;
    int status = 0;

    if (rk_take_signals(&signals) < 0) {
        return hand_over(argv, envp);
    }
    if (ROCKER_spawn(&plan->request, &plan->options, &plan->program, &rocker, &error) !=
        ROCKER_ERR_success) {
        if (nobody_listens(&error)) {
            /* It brings a master of its own. */
            rk_return_signals(&signals);
            return hand_over(argv, envp);
        }
        return refused(&error);
    }
    int waited = rk_until_gone(&rocker, &signals, &status);
    if (waited < 0) {
        rk_tell_failure("wait for the App", -waited);
        return ROCKER_FAILED;
    }
    return WIFSIGNALED(status) ? SIGNALLED + WTERMSIG(status) : WEXITSTATUS(status);
}

/* What std does for a program in Rust: nothing that is opened becomes one of these three. */
static void hold_stdio(void)
{
    struct pollfd stdio[] = { { 0, 0, 0 }, { 1, 0, 0 }, { 2, 0, 0 } };

    poll(stdio, 3, 0);
    for (int i = 0; i < 3; i++) {
        if ((stdio[i].revents & POLLNVAL) != 0) {
            open("/dev/null", O_RDWR);
        }
    }
}

int main(int argc, char **argv, char **envp);
int main(int argc, char **argv, char **envp)
{
    static struct rk_said said;
    static struct rk_plan plan;

    hold_stdio();
    bool is_plain = argc > 2 && strcmp(argv[1], "run") == 0 && rk_take_words(&said, argv + 2) &&
                    geteuid() == 0 && rk_make_plan(&plan, &said, envp);
    return is_plain ? launch(&plan, argv, envp) : hand_over(argv, envp);
}
