/*
 * For tests of launches through the public API: they play master and guard themselves. What these
 * say waits in a socket before the launch begins, so that one thread will do, and it matters to
 * nobody who is faster. Every failure is tried in all forms of the API, and must leave everything
 * as it was.
 */
#ifndef STAGE_H
#define STAGE_H

#include "rocker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "enter.h"
#include "peer.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#define CLONE_PIDFD_ 0x1000

enum { APP_UID = 1000, APP_GID = 1001, NOBODY = 65534, APP_STATUS = 7 };

/* --- The other side. -------------------------------------------------------------------------- */

/* A directory that every user may enter. */
static char dir[32];

/* A guard: the first process of namespaces of its own, as the master makes it. */
struct guard {
    int pidfd;
    int pid;
    /* It ends when this does. */
    int lifeline;
};
static struct guard guard = { -1, 0, -1 };
static const char *no_guard;

/* What the kernel says a pidfd is of. */
static inline int pid_of(int pidfd)
{
    char text[512] = "";
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(read(fd, text, sizeof(text) - 1) > 0);
    close(fd);
    const char *line = strstr(text, "\nPid:");
    return line != NULL ? atoi(line + 5) : 0;
}

/* As the master does: with the App's id alone. */
static inline bool write_map(int pid, const char *file, int id)
{
    char path[64];
    char map[64];

    (void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
    int length = snprintf(map, sizeof(map), "%d %d 1", id, id);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool written = fd >= 0 && write(fd, map, (size_t)length) == length;
    close(fd);
    return written;
}

/* In a process of its own: makes the guard, sends its pidfd, and waits for its end. */
static inline _Noreturn void raise_guard(int socket, int lifeline)
{
    int pidfd = -1;
    char byte;
    long pid = syscall(SYS_clone,
                       CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_PIDFD_ | SIGCHLD, 0,
                       &pidfd, 0, 0);

    if (pid == 0) {
        while (read(lifeline, &byte, 1) < 0) {
        }
        _exit(0);
    }
    if (pid > 0 && write_map((int)pid, "uid_map", APP_UID)
        && write_map((int)pid, "gid_map", APP_GID)) {
        pass(socket, "g", 1, &pidfd, 1);
    }
    close(socket);
    waitpid((pid_t)pid, NULL, 0);
    _exit(0);
}

/* A grandchild, so that this process has no child but those that the library leaves. */
static inline struct guard new_guard(void)
{
    struct guard made = { -1, 0, -1 };
    int lifeline[2];
    int sockets[2];
    char byte;

    CHECK_IS(pipe2(lifeline, O_CLOEXEC), 0);
    CHECK_IS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (fork() == 0) {
            close(lifeline[1]);
            close(sockets[0]);
            raise_guard(sockets[1], lifeline[0]);
        }
        _exit(0);
    }
    waitpid(child, NULL, 0);
    close(sockets[1]);
    close(lifeline[0]);
    made.lifeline = lifeline[1];
    take(sockets[0], &byte, 1, &made.pidfd);
    close(sockets[0]);
    made.pid = made.pidfd >= 0 ? pid_of(made.pidfd) : 0;
    return made;
}

/* An emulator of user programs knows forks and threads only, and valgrind even ends at others. */
static const char no_clone[] = "clone(2) is not complete here: an emulator?";

static inline bool can_clone(void)
{
    int pidfd = -1;

    if (getenv("ROCKER_TEST_NO_CLONE") != NULL) {
        return false;
    }
    long pid = syscall(SYS_clone, CLONE_FILES | CLONE_PIDFD_ | SIGCHLD, 0, &pidfd, 0, 0);

    if (pid == 0) {
        _exit(0);
    }
    close(pidfd);
    return pid > 0 && waitpid((pid_t)pid, NULL, 0) == pid;
}

static inline void need_guard(void)
{
    if (geteuid() != 0) {
        no_guard = "entering a rocker needs root";
    } else if (!can_clone()) {
        no_guard = no_clone;
    } else {
        guard = new_guard();
        no_guard = guard.pidfd >= 0 ? NULL : "this root may not make namespaces";
    }
}

/* A process that has ended. */
static inline int dead_pidfd(void)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    CHECK(fcntl(pidfd, F_SETFD, FD_CLOEXEC) == 0);
    CHECK_IS(waitpid(pid, NULL, 0), pid);
    return pidfd;
}

/* What the other side says, and how it goes on. */
struct script {
    const char *says;
    size_t length;
    /* How many descriptors go with it, and what they are. */
    unsigned fds;
    enum { DEV_NULL, GUARD, DEAD } fd;
    /* Not 0: all but the first. */
    int cgroup;
    /* Said after that, without descriptors. */
    const char *then;
    size_t then_length;
    enum { STAYS, SHUTS_DOWN, CLOSES } ends;
};

/* Guard, Entrance, the name, a pid of 4711, no filter, and so many cgroups. */
#define LIMITED(cgroups) "\x01\x02\x01" "0123456789abcde" "\xe7\x24\x00" cgroups
#define ENTRANCE LIMITED("\x00")

/* The connection, with all that already said. `*peer` is the other end, or -1. */
static inline RockerOptions play(const struct script *script, int *peer)
{
    RockerOptions options = ROCKER_options_new();
    int sockets[2];
    int fd = -1;
    int fds[8];

    CHECK_IS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    options.connection = sockets[0];
    *peer = sockets[1];
    if (script->fds > 0) {
        fd = script->fd == GUARD  ? fcntl(guard.pidfd, F_DUPFD_CLOEXEC, 0)
             : script->fd == DEAD ? dead_pidfd()
                                  : open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    for (unsigned i = 0; i < script->fds; i++) {
        fds[i] = i > 0 && script->cgroup != 0 ? script->cgroup : fd;
    }
    if (script->says != NULL) {
        pass(*peer, script->says, script->length, fds, script->fds);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (script->then != NULL) {
        pass(*peer, script->then, script->then_length, NULL, 0);
    }
    if (script->ends == SHUTS_DOWN) {
        CHECK_IS(shutdown(*peer, SHUT_WR), 0);
    } else if (script->ends == CLOSES) {
        close(*peer);
        *peer = -1;
    }
    return options;
}

static const struct script entrance = { .says = ENTRANCE, .length = sizeof(ENTRANCE) - 1, .fds = 1, .fd = GUARD };

static inline void leave(int peer)
{
    if (peer >= 0) {
        close(peer);
    }
}

/* --- This side. ------------------------------------------------------------------------------- */

static inline RockerRequest request(void)
{
    static char package[] = "/apps/hello.sqfs";
    RockerRequest req = ROCKER_request_new();

    req.uid = APP_UID;
    req.gid = APP_GID;
    req.app_pkg_path = package;
    req.app_exec_dir = dir;
    return req;
}

static char *const exits[] = { "sh", "-c", "exit 7", NULL };
static char *const sleeps[] = { "sleep", "1000", NULL };

static inline RockerProgram shell(void)
{
    RockerProgram program = ROCKER_program_new("sh");

    program.argv = exits;
    return program;
}

static inline int app(void *status)
{
    return *(int *)status;
}

static inline int app_that_stays(void *unused)
{
    for (;;) {
        pause();
    }
    return unused != NULL;
}

/* All ways to launch. */
enum form { SPAWN, ENTER, BEGIN, BEGIN_ENTER, FORMS };
static const char *const form_names[] = { "spawn", "enter", "begin", "begin_enter" };

/* Signals come so often that the number of rounds says nothing. */
static bool is_stormy;

struct job {
    RockerRequest req;
    RockerOptions options;
    RockerProgram program;
    int (*function)(void *);
    int status;
};

static inline struct job new_job(const RockerOptions *options)
{
    struct job job = { request(), *options, shell(), app, APP_STATUS };

    return job;
}

static inline ROCKER_ERR go(RockerLaunch *launch, Rocker *rocker, RockerError *error)
{
    unsigned rounds = 0;

    while (!ROCKER_launch_go_on(launch)) {
        struct pollfd wait = { ROCKER_launch_fd(launch), POLLIN, 0 };
        int ms = ROCKER_launch_wait_ms(launch);
        CHECK(ms >= 0);
        poll(&wait, 1, ms);
        rounds++;
    }
    CHECK(rounds < 100 || is_stormy);
    CHECK_IS(ROCKER_launch_go_on(launch), 1);
    return ROCKER_launch_end(launch, rocker, error);
}

static inline ROCKER_ERR launch(enum form form, struct job *job, Rocker *rocker, RockerError *error)
{
    RockerLaunch begun;

    /* None of it has to be clean, and an errno of before means nothing. */
    memset(rocker, 0xa5, sizeof(*rocker));
    memset(error, 0xa5, sizeof(*error));
    memset(&begun, 0xa5, sizeof(begun));
    errno = form == SPAWN ? EINTR : form == ENTER ? EAGAIN : ENOENT;
    switch (form) {
    case SPAWN:
        return ROCKER_spawn(&job->req, &job->options, &job->program, rocker, error);
    case ENTER:
        return ROCKER_enter(&job->req, &job->options, job->function, &job->status, rocker,
                            error);
    case BEGIN:
        ROCKER_launch_begin(&begun, &job->req, &job->options, &job->program);
        return go(&begun, rocker, error);
    case BEGIN_ENTER:
    case FORMS:
        ROCKER_launch_begin_enter(&begun, &job->req, &job->options, job->function, &job->status);
        return go(&begun, rocker, error);
    }
    return ROCKER_ERR_unknown;
}

struct wanted {
    ROCKER_ERR code;
    int step;
    /* 0: not the kernel's. */
    int os_errno;
    /* -1: not lost. */
    int loss;
};

/* On failure nothing is left, and there is one line that says why. */
static inline void check_failure(const Rocker *rocker, const RockerError *error,
                          const struct wanted *wanted)
{
    char line[4 * ROCKER_STRERROR_MAX];

    CHECK_IS(error->err_no, wanted->code);
    CHECK_IS(error->step, wanted->step);
    CHECK_IS(error->os_errno, wanted->os_errno);
    CHECK_IS(error->fault == RK_LOST_FAULT ? error->loss : -1, wanted->loss);
    CHECK_IS(rocker->app_pid, 0);
    CHECK_IS(rocker->guard_pid, 0);
    CHECK_IS(rocker->app_pidfd, -1);
    CHECK_IS(rocker->guard_pidfd, -1);
    CHECK_TEXT(rocker->guard_pname, "");
    size_t length = ROCKER_strerror(error, line, sizeof(line));
    CHECK(length > 0 && length < sizeof(line) && strlen(line) == length);
    for (size_t i = 0; i < length; i++) {
        CHECK((unsigned char)line[i] >= 0x20);
    }
}

/* In every form. */
static inline void check_script(const char *name, const struct script *script,
                         const struct wanted *wanted)
{
    for (enum form form = SPAWN; form < FORMS; form++) {
        struct surroundings before;
        RockerError error;
        Rocker rocker;
        int peer;

        CASE("%s, %s", name, form_names[form]);
        look(&before);
        RockerOptions options = play(script, &peer);
        struct job job = new_job(&options);
        CHECK_IS(launch(form, &job, &rocker, &error), wanted->code);
        check_failure(&rocker, &error, wanted);
        leave(peer);
        check_unchanged(&before);
    }
}

/* The same without a connection. */
static inline void check_job(const struct job *job, const struct wanted *wanted, enum form first,
                      enum form last)
{
    for (enum form form = first; form <= last; form++) {
        struct surroundings before;
        struct job copy = *job;
        RockerError error;
        Rocker rocker;

        CASE("%s", form_names[form]);
        look(&before);
        if (job->options.connection >= 0) {
            /* From now on the launch's. */
            before.fds[job->options.connection] = false;
        }
        CHECK_IS(launch(form, &copy, &rocker, &error), wanted->code);
        check_failure(&rocker, &error, wanted);
        check_unchanged(&before);
    }
}

/* A launch that succeeds, from the first byte to the last. */
static inline void check_success(enum form form, struct job *job, int peer)
{
    uint8_t bytes[64 * 1024];
    RockerError error;
    Rocker rocker;
    int status = 0;
    int sent;

    if (!CHECK_IS(launch(form, job, &rocker, &error), ROCKER_ERR_success)) {
        char line[ROCKER_STRERROR_MAX];
        ROCKER_strerror(&error, line, sizeof(line));
        printf("# %s\n", line);
        return;
    }
    CHECK_IS(error.err_no, ROCKER_ERR_success);
    CHECK_IS(error.fault, RK_NO_FAULT);
    CHECK_IS(rocker.guard_pid, 4711);
    CHECK_TEXT(rocker.guard_pname, "0123456789abcde");
    CHECK_IS(pid_of(rocker.app_pidfd), rocker.app_pid);
    CHECK_IS(pid_of(rocker.guard_pidfd), guard.pid);
    CHECK_IS(fcntl(rocker.app_pidfd, F_GETFD), FD_CLOEXEC);
    CHECK_IS(fcntl(rocker.guard_pidfd, F_GETFD), FD_CLOEXEC);
    CHECK(take(peer, bytes, sizeof(bytes), &sent) > 3 && memcmp(bytes, "\1\0\0", 3) == 0);
    CHECK_IS(sent, -1);
    CHECK(take(peer, bytes, sizeof(bytes), &sent) == 3 && memcmp(bytes, "\1\0\1", 3) == 0);
    CHECK_IS(pid_of(sent), rocker.app_pid);
    close(sent);
    CHECK_IS(take(peer, bytes, sizeof(bytes), &sent), 0);
    CHECK_IS(waitpid(rocker.app_pid, &status, 0), rocker.app_pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == APP_STATUS);
    /* It has been waited for: the signal finds nobody, which is no error. */
    CHECK_IS(ROCKER_signal_app(&rocker, SIGTERM), 0);
    ROCKER_close(&rocker);
    CHECK_IS(rocker.app_pidfd, -1);
    CHECK_IS(rocker.guard_pidfd, -1);
    ROCKER_close(&rocker);
}

static inline void check_successes(void)
{
    for (enum form form = SPAWN; form < FORMS; form++) {
        struct surroundings before;
        int peer;

        CASE("%s", form_names[form]);
        look(&before);
        RockerOptions options = play(&entrance, &peer);
        struct job job = new_job(&options);
        check_success(form, &job, peer);
        leave(peer);
        check_unchanged(&before);
    }
}

#define NEED_GUARD()        \
    if (no_guard != NULL) { \
        skip(no_guard);     \
        return;             \
    }

static inline struct sockaddr_un address_in_dir(const char *name)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, name);
    unlink(address.sun_path);
    return address;
}

static inline int listen_at(const struct sockaddr_un *address, int type)
{
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

    CHECK_IS(bind(fd, (const struct sockaddr *)address, sizeof(*address)), 0);
    CHECK_IS(listen(fd, 0), 0);
    return fd;
}

static inline struct job job_to_nowhere(void)
{
    RockerOptions options = ROCKER_options_new();

    options.socket_path = "/nowhere/master.sock";
    return new_job(&options);
}

/* --- Every file of tests ends with this. ------------------------------------------------------- */

static inline int on_stage(const struct test *tests, size_t count, int argc, char **argv)
{
    (void)snprintf(dir, sizeof(dir), "/tmp/rocker-XXXXXX");
    if (mkdtemp(dir) == NULL || chmod(dir, 0755) != 0) {
        return 1;
    }
    need_guard();
    int failed = tap_main(tests, count, argc, argv);
    rmdir(dir);
    return failed;
}

#define STAGE_MAIN(tests)                                \
    int main(int argc, char **argv)                      \
    {                                                    \
        return on_stage(tests, COUNT(tests), argc, argv); \
    }

#endif
