/*
 * Launches through the public API. The test plays master and guard itself: what they say waits
 * in a socket before the launch begins, so that one thread will do, and it matters to nobody who
 * is faster. Every failure is tried in all forms of the API, and must leave everything as it was.
 */
#define _GNU_SOURCE
#include "rocker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

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
static int pid_of(int pidfd)
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
static bool write_map(int pid, const char *file, int id)
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
static _Noreturn void raise_guard(int socket, int lifeline)
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
static struct guard new_guard(void)
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

static bool can_clone(void)
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

static void need_guard(void)
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
static int dead_pidfd(void)
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
static RockerOptions play(const struct script *script, int *peer)
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

static void leave(int peer)
{
    if (peer >= 0) {
        close(peer);
    }
}

/* --- This side. ------------------------------------------------------------------------------- */

static RockerRequest request(void)
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

static RockerProgram shell(void)
{
    RockerProgram program = ROCKER_program_new("sh");

    program.argv = exits;
    return program;
}

static int app(void *status)
{
    return *(int *)status;
}

static int app_that_stays(void *unused)
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

static struct job new_job(const RockerOptions *options)
{
    struct job job = { request(), *options, shell(), app, APP_STATUS };

    return job;
}

static ROCKER_ERR go(RockerLaunch *launch, Rocker *rocker, RockerError *error)
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

static ROCKER_ERR launch(enum form form, struct job *job, Rocker *rocker, RockerError *error)
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
static void check_failure(const Rocker *rocker, const RockerError *error,
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
static void check_script(const char *name, const struct script *script,
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
static void check_job(const struct job *job, const struct wanted *wanted, enum form first,
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
static void check_success(enum form form, struct job *job, int peer)
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

static void check_successes(void)
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

/* --- Requests that are none. ------------------------------------------------------------------ */

static const struct wanted invalid = { ROCKER_ERR_param_invalid, RK_REQUEST_ROCKER, 0, -1 };
static const struct wanted misused = { ROCKER_ERR_param_invalid, RK_REQUEST_ROCKER, EINVAL, -1 };

/* A job that would fail at the socket if it got so far. */
static struct job job_to_nowhere(void)
{
    RockerOptions options = ROCKER_options_new();

    options.socket_path = "/nowhere/master.sock";
    return new_job(&options);
}

static void check_invalid(const struct job *job, int rule, int item)
{
    RockerError error;
    Rocker rocker;
    struct job copy = *job;

    check_job(job, &invalid, SPAWN, BEGIN_ENTER);
    launch(SPAWN, &copy, &rocker, &error);
    CHECK_IS(error.fault, RK_INVALID);
    CHECK_IS(error.rule, rule);
    CHECK_IS(error.item, item);
}

static void test_launch_null_request(void)
{
    RockerOptions options = ROCKER_options_new();
    RockerProgram program = shell();
    RockerError error;
    Rocker rocker;
    struct surroundings before;

    look(&before);
    CHECK_IS(ROCKER_enter_rocker(NULL, app, NULL).err_no, ROCKER_ERR_param_invalid);
    CHECK_IS(ROCKER_spawn(NULL, NULL, &program, &rocker, NULL), ROCKER_ERR_param_invalid);
    CHECK_IS(ROCKER_enter(NULL, NULL, app, NULL, &rocker, &error), ROCKER_ERR_param_invalid);
    check_failure(&rocker, &error, &misused);
    /* A connection that was given is closed whatever comes. */
    int peer;
    options = play(&(struct script){ 0 }, &peer);
    CHECK_IS(ROCKER_spawn(NULL, &options, &program, &rocker, &error), ROCKER_ERR_param_invalid);
    leave(peer);
    check_unchanged(&before);
}

static void test_launch_null_function_or_program(void)
{
    struct job job = job_to_nowhere();
    RockerError error;
    Rocker rocker;

    job.function = NULL;
    check_job(&job, &misused, ENTER, ENTER);
    check_job(&job, &misused, BEGIN_ENTER, BEGIN_ENTER);
    CHECK_IS(ROCKER_enter_rocker(&job.req, NULL, NULL).err_no, ROCKER_ERR_param_invalid);
    CHECK_IS(ROCKER_spawn(&job.req, &job.options, NULL, &rocker, &error),
             ROCKER_ERR_param_invalid);
}

static void test_launch_nothing_set(void)
{
    struct job job = job_to_nowhere();

    job.req = ROCKER_request_new();
    check_invalid(&job, RK_RULE_EMPTY, RK_ITEM_PACKAGE);
}

static void test_launch_as_root_is_refused(void)
{
    struct job job = job_to_nowhere();

    job.req.uid = 0;
    check_invalid(&job, RK_RULE_ROOT, RK_ITEM_UID);
    job.req.uid = 1;
    job.req.gid = 0;
    check_invalid(&job, RK_RULE_ROOT, RK_ITEM_GID);
}

static void test_launch_paths(void)
{
    static char longest[4096 + 1];
    struct job job = job_to_nowhere();

    memset(longest, 'x', sizeof(longest) - 1);
    longest[0] = '/';
    job.req.app_pkg_path = longest;
    check_invalid(&job, RK_RULE_TOO_LONG, RK_ITEM_PACKAGE);
    longest[4095] = '\0';
    const struct wanted nowhere = { ROCKER_ERR_send_req_failed, RK_REQUEST_ROCKER, ENOENT, -1 };
    check_job(&job, &nowhere, SPAWN, BEGIN_ENTER);
    job.req.app_pkg_path = "relative.sqfs";
    check_invalid(&job, RK_RULE_RELATIVE, RK_ITEM_PACKAGE);
    job = job_to_nowhere();
    job.req.app_exec_dir = "/a/../b";
    check_invalid(&job, RK_RULE_PARENT_DIR, RK_ITEM_EXEC_DIR);
    job.req.app_exec_dir = "/proc/self";
    check_invalid(&job, RK_RULE_FORBIDDEN, RK_ITEM_EXEC_DIR);
    job = job_to_nowhere();
    job.req.app_data_dir = "/data\n";
    check_invalid(&job, RK_RULE_CONTROL_BYTE, RK_ITEM_DATA_DIR);
    job.req.app_data_dir = NULL;
    job.req.app_overlay_dirs[3] = "/usr";
    check_invalid(&job, RK_RULE_NO_DATA_DIR, RK_ITEM_DATA_DIR);
}

/* All 16, and holes between them: what is wrong is named as the caller has numbered it. */
static void test_launch_overlay_dirs(void)
{
    struct job job = job_to_nowhere();
    const struct wanted nowhere = { ROCKER_ERR_send_req_failed, RK_REQUEST_ROCKER, ENOENT, -1 };
    RockerError error;
    Rocker rocker;

    job.req.app_data_dir = "/data";
    for (int i = 0; i < 16; i++) {
        job.req.app_overlay_dirs[i] = "/usr";
    }
    check_job(&job, &nowhere, SPAWN, BEGIN_ENTER);
    job.req.app_overlay_dirs[0] = NULL;
    job.req.app_overlay_dirs[7] = NULL;
    check_job(&job, &nowhere, SPAWN, BEGIN_ENTER);
    job.req.app_overlay_dirs[15] = "usr";
    launch(SPAWN, &job, &rocker, &error);
    CHECK_IS(error.err_no, ROCKER_ERR_param_invalid);
    CHECK_IS(error.item, RK_ITEM_OVERLAY_DIR);
    CHECK_IS(error.index, 15);
    CHECK_TEXT(error.subject, "usr");
}

static void test_launch_timeouts(void)
{
    static const int wrong[] = { 0, -2, 3600001, INT32_MIN };
    struct job job = job_to_nowhere();

    for (size_t i = 0; i < COUNT(wrong); i++) {
        job.options.timeout_ms = wrong[i];
        check_invalid(&job, RK_RULE_OUT_OF_RANGE, RK_ITEM_TIMEOUT);
    }
}

static void test_launch_structs_of_another_size(void)
{
    struct job job = job_to_nowhere();

    job.options.size--;
    check_job(&job, &misused, SPAWN, BEGIN_ENTER);
    job = job_to_nowhere();
    job.program.size = 0;
    check_job(&job, &misused, SPAWN, SPAWN);
    check_job(&job, &misused, BEGIN, BEGIN);
}

static void test_launch_programs_that_are_none(void)
{
    static const int fds[ROCKER_FDS_MAX + 1] = { 0 };
    static const int not_one[] = { 0, -1 };
    struct job job = job_to_nowhere();

    job.program.path = NULL;
    check_job(&job, &invalid, SPAWN, SPAWN);
    job.program.path = "";
    check_job(&job, &invalid, SPAWN, SPAWN);
    job = job_to_nowhere();
    job.program.stdio[1] = -3;
    check_job(&job, &misused, SPAWN, SPAWN);
    job = job_to_nowhere();
    job.program.fds_count = 1;
    check_job(&job, &misused, SPAWN, SPAWN);
    job.program.fds = not_one;
    job.program.fds_count = 2;
    check_job(&job, &misused, SPAWN, SPAWN);
    job.program.fds = fds;
    job.program.fds_count = ROCKER_FDS_MAX + 1;
    check_job(&job, &misused, SPAWN, SPAWN);
}

/* --- No master. ------------------------------------------------------------------------------- */

static struct sockaddr_un address_in_dir(const char *name)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, name);
    unlink(address.sun_path);
    return address;
}

static int listen_at(const struct sockaddr_un *address, int type)
{
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

    CHECK_IS(bind(fd, (const struct sockaddr *)address, sizeof(*address)), 0);
    CHECK_IS(listen(fd, 0), 0);
    return fd;
}

static void test_launch_no_master(void)
{
    struct sockaddr_un address = address_in_dir("s");
    struct job job = job_to_nowhere();
    struct wanted wanted = { ROCKER_ERR_send_req_failed, RK_REQUEST_ROCKER, ENOENT, -1 };

    job.options.socket_path = address.sun_path;
    check_job(&job, &wanted, SPAWN, BEGIN_ENTER);
    close(listen_at(&address, SOCK_SEQPACKET));
    wanted.os_errno = ECONNREFUSED;
    check_job(&job, &wanted, SPAWN, BEGIN_ENTER);
    unlink(address.sun_path);
    int other = listen_at(&address, SOCK_STREAM);
    wanted.os_errno = EPROTOTYPE;
    check_job(&job, &wanted, SPAWN, BEGIN_ENTER);
    close(other);
    unlink(address.sun_path);
    close(open(address.sun_path, O_CREAT | O_CLOEXEC, 0600));
    wanted.os_errno = ECONNREFUSED;
    check_job(&job, &wanted, SPAWN, BEGIN_ENTER);
    unlink(address.sun_path);
}

static void test_launch_socket_path_that_is_none(void)
{
    struct job job = job_to_nowhere();
    struct wanted wanted = { ROCKER_ERR_server_unaddr_invalid, RK_REQUEST_ROCKER, EINVAL, -1 };
    char path[4097];

    job.options.socket_path = "";
    check_job(&job, &wanted, SPAWN, BEGIN_ENTER);
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[4096] = '\0';
    job.options.socket_path = path;
    wanted.os_errno = ENAMETOOLONG;
    check_job(&job, &wanted, SPAWN, BEGIN_ENTER);
    path[108] = '\0';
    check_job(&job, &wanted, SPAWN, BEGIN_ENTER);
    path[107] = '\0';
    wanted.code = ROCKER_ERR_send_req_failed;
    wanted.os_errno = ENOENT;
    check_job(&job, &wanted, SPAWN, BEGIN_ENTER);
}

static void test_launch_connection_that_is_none(void)
{
    static const struct wanted wanted = { ROCKER_ERR_send_req_failed, RK_REQUEST_ROCKER,
                                          ENOTSOCK, -1 };

    for (enum form form = SPAWN; form < FORMS; form++) {
        struct job job = job_to_nowhere();
        job.options.connection = open("/dev/null", O_RDWR | O_CLOEXEC);
        check_job(&job, &wanted, form, form);
        CHECK(fcntl(job.options.connection, F_GETFD) < 0);
    }
}

/* Its queue is full, and stays so. */
static void test_launch_busy_master(void)
{
    struct sockaddr_un address = address_in_dir("s");
    struct job job = job_to_nowhere();
    const struct wanted wanted = { ROCKER_ERR_send_req_failed, RK_REQUEST_ROCKER, 0,
                                   RK_LOSS_SILENT };
    int master = listen_at(&address, SOCK_SEQPACKET);
    int fill = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    RockerLaunch begun;
    RockerError error;
    Rocker rocker;

    CHECK_IS(connect(fill, (const struct sockaddr *)&address, sizeof(address)), 0);
    job.options.socket_path = address.sun_path;
    job.options.timeout_ms = 40;
    check_job(&job, &wanted, SPAWN, BEGIN_ENTER);
    /* It has a place now, and the launch goes on. */
    job.options.timeout_ms = 5000;
    ROCKER_launch_begin(&begun, &job.req, &job.options, &job.program);
    CHECK_IS(ROCKER_launch_go_on(&begun), 0);
    CHECK_IS(ROCKER_launch_fd(&begun), -1);
    CHECK(ROCKER_launch_wait_ms(&begun) <= 5);
    close(accept4(master, NULL, NULL, SOCK_CLOEXEC));
    CHECK_IS(ROCKER_launch_go_on(&begun), 0);
    CHECK(ROCKER_launch_fd(&begun) >= 0);
    CHECK(ROCKER_launch_wait_ms(&begun) > 4000);
    close(master);
    CHECK_IS(ROCKER_launch_go_on(&begun), 1);
    CHECK_IS(ROCKER_launch_end(&begun, &rocker, &error), ROCKER_ERR_recv_resp_failed);
    close(fill);
    unlink(address.sun_path);
}

/* --- No descriptors. -------------------------------------------------------------------------- */

static void allow_descriptors(unsigned more)
{
    struct rlimit limit;
    int lowest = dup(0);

    close(lowest);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = (rlim_t)lowest + more;
    CHECK_IS(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void without_descriptors(void)
{
    struct job job = job_to_nowhere();
    struct wanted wanted = { ROCKER_ERR_gen_local_addr_failed, RK_REQUEST_ROCKER, EMFILE, -1 };

    allow_descriptors(0);
    check_job(&job, &wanted, SPAWN, BEGIN_ENTER);
    job.program.stdio[2] = ROCKER_STDIO_NULL;
    wanted.code = ROCKER_ERR_sys;
    /* It is the App's. */
    wanted.step = RK_RUN_APP;
    check_job(&job, &wanted, SPAWN, SPAWN);
    check_job(&job, &wanted, BEGIN, BEGIN);
}

static void test_launch_no_descriptors(void)
{
    in_child(without_descriptors);
}

/* As many as go through to some step, but not to the next. */
static void with_few_descriptors(void)
{
    struct rlimit before_limit;
    bool succeeded = false;

    getrlimit(RLIMIT_NOFILE, &before_limit);
    for (unsigned more = 0; more < 10; more++) {
        for (enum form form = SPAWN; form < FORMS; form++) {
            struct surroundings before;
            RockerError error;
            Rocker rocker;
            int peer;

            CASE("%u more, %s", more, form_names[form]);
            look(&before);
            RockerOptions options = play(&entrance, &peer);
            struct job job = new_job(&options);
            job.program.stdio[0] = ROCKER_STDIO_NULL;
            allow_descriptors(more);
            ROCKER_ERR code = launch(form, &job, &rocker, &error);
            CHECK_IS(setrlimit(RLIMIT_NOFILE, &before_limit), 0);
            succeeded = code == ROCKER_ERR_success;
            if (succeeded) {
                waitpid(rocker.app_pid, NULL, 0);
                ROCKER_close(&rocker);
            } else {
                CHECK(code == ROCKER_ERR_sys || code == ROCKER_ERR_recv_resp_failed
                      || code == ROCKER_ERR_enter_rocker_failed
                      || code == ROCKER_ERR_app_exec_failed);
            }
            leave(peer);
            check_unchanged(&before);
        }
    }
    CHECK(succeeded);
}

static void test_launch_few_descriptors(void)
{
    NEED_GUARD();
    in_child(with_few_descriptors);
}

/* --- Masters and guards that are no good. ----------------------------------------------------- */

static void test_launch_no_answer(void)
{
    static const struct wanted wanted = { ROCKER_ERR_recv_resp_failed, RK_AWAIT_ENTRANCE_STEP, 0,
                                          RK_LOSS_SILENT };

    for (enum form form = SPAWN; form < FORMS; form++) {
        int peer;
        RockerOptions options = play(&(struct script){ 0 }, &peer);
        options.timeout_ms = 60;
        struct job job = new_job(&options);
        long long began = now_ms();
        check_job(&job, &wanted, form, form);
        CHECK(now_ms() - began >= 60 && now_ms() - began < 2000);
        leave(peer);
    }
}

static void test_launch_end_of_connection(void)
{
    static const struct script shuts = { .ends = SHUTS_DOWN };
    static const struct script closes = { .ends = CLOSES };
    static const struct wanted wanted = { ROCKER_ERR_recv_resp_failed, RK_AWAIT_ENTRANCE_STEP, 0,
                                          RK_LOSS_DIED };

    /* SIGPIPE is as at the start of the program, where it would kill. */
    CHECK(signal(SIGPIPE, SIG_DFL) == SIG_DFL);
    check_script("shut down", &shuts, &wanted);
    check_script("closed", &closes, &wanted);
    /* Of a kind that the kernel would send the signal for. */
    for (enum form form = SPAWN; form < FORMS; form++) {
        RockerOptions options = ROCKER_options_new();
        int sockets[2];
        CHECK_IS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
        close(sockets[1]);
        options.connection = sockets[0];
        struct job job = new_job(&options);
        check_job(&job, &wanted, form, form);
    }
}

/* It says why and closes without reading: what it said must not be lost with that. */
static void test_launch_last_words(void)
{
    static const struct script before_the_request = {
        .says = "\x01\x01\x02\x01\x10\x1c\x00", .length = 7, .ends = CLOSES
    };
    static const struct wanted wanted = { ROCKER_ERR_build_rocker_failed, RK_CLONE_GUARD, ENOSPC,
                                          -1 };
    struct surroundings before;
    RockerLaunch begun;
    RockerError error;
    Rocker rocker;
    int peer;

    check_script("before the request", &before_the_request, &wanted);
    CASE("after the request");
    look(&before);
    RockerOptions options = play(&(struct script){ 0 }, &peer);
    struct job job = new_job(&options);
    ROCKER_launch_begin(&begun, &job.req, &job.options, &job.program);
    CHECK_IS(ROCKER_launch_go_on(&begun), 0);
    pass(peer, before_the_request.says, before_the_request.length, NULL, 0);
    close(peer);
    CHECK_IS(ROCKER_launch_go_on(&begun), 1);
    CHECK_IS(ROCKER_launch_end(&begun, &rocker, &error), ROCKER_ERR_build_rocker_failed);
    check_failure(&rocker, &error, &wanted);
    check_unchanged(&before);
}

static void test_launch_other_versions(void)
{
    static const struct script earlier = { .says = "\x00\x02\x01", .length = 3 };
    static const struct script later = { .says = "\x02\x09\x09\x09\x09", .length = 5, .fds = 1 };
    static const struct wanted wanted = { ROCKER_ERR_recv_resp_failed, RK_AWAIT_ENTRANCE_STEP, 0,
                                          RK_LOSS_VERSION };

    check_script("earlier", &earlier, &wanted);
    check_script("later", &later, &wanted);
}

static void test_launch_garbage(void)
{
    static char long_one[4096] = "\x01\x02\x02";
    static const struct script scripts[] = {
        { BYTES("\x01"), .fds = 0 },
        { BYTES("\x01\xff\xff\xff\xff\xff\xff"), .fds = 2 },
        { BYTES("\x01\x00\x01"), .fds = 0 },
        { BYTES("\x01\x01\x00"), .fds = 0 },
        { BYTES("\x01\x02\x01" "0123456789ABCDE" "\x01"), .fds = 1 },
        { BYTES(ENTRANCE "\x00"), .fds = 1 },
        { long_one, sizeof(long_one), .fds = 0 },
        { long_one, sizeof(long_one), .fds = 2 },
        /* Entrances without descriptor, or with too many. */
        { BYTES(ENTRANCE), .fds = 0 },
        { BYTES(ENTRANCE), .fds = 2 },
        { BYTES(ENTRANCE), .fds = 3 },
        { BYTES(ENTRANCE), .fds = 4 },
        { BYTES(ENTRANCE), .fds = 8 },
        { BYTES(LIMITED("\x01")), .fds = 1 },
        { BYTES(LIMITED("\x06")), .fds = 7 },
        /* A failure that brings some. */
        { BYTES("\x01\x01\x02\x01\x10\x1c\x00"), .fds = 1 },
        { BYTES("\x01\x01\x02\x01\x10\x1c\x00"), .fds = 4 },
    };
    static const struct wanted wanted = { ROCKER_ERR_recv_resp_failed, RK_AWAIT_ENTRANCE_STEP, 0,
                                          RK_LOSS_GARBAGE };
    char name[32];

    for (size_t i = 0; i < COUNT(scripts); i++) {
        /* qemu takes more than it can pass on, and keeps that for ever. */
        if (scripts[i].fds > 3 && no_guard == no_clone) {
            continue;
        }
        (void)snprintf(name, sizeof(name), "script %zu", i);
        check_script(name, &scripts[i], &wanted);
    }
}

/* Where it failed decides the code. */
static void test_launch_failures_that_are_reported(void)
{
    static const struct {
        uint8_t step;
        ROCKER_ERR code;
    } steps[] = {
        { 0x01, ROCKER_ERR_send_req_failed },    { 0x02, ROCKER_ERR_build_rocker_failed },
        { 0x10, ROCKER_ERR_build_rocker_failed }, { 0x13, ROCKER_ERR_build_rocker_failed },
        { 0x19, ROCKER_ERR_build_rocker_failed }, { 0x21, ROCKER_ERR_build_rocker_failed },
        { 0x05, ROCKER_ERR_build_rocker_failed }, { 0x30, ROCKER_ERR_recv_resp_failed },
        { 0x31, ROCKER_ERR_enter_rocker_failed }, { 0x32, ROCKER_ERR_enter_rocker_failed },
        { 0x33, ROCKER_ERR_app_exec_failed },     { 0x34, ROCKER_ERR_enter_rocker_failed },
    };

    for (size_t i = 0; i < COUNT(steps); i++) {
        for (char sender = 1; sender <= 2; sender++) {
            char kernel[] = "\x01?\x02\x01?\x1cxmount\n/\xc3\xa9";
            char lost[] = "\x01?\x02\x02?\x00";
            char name[32];
            kernel[1] = lost[1] = sender;
            kernel[4] = lost[4] = (char)steps[i].step;
            kernel[6] = sizeof(kernel) - 8;
            lost[5] = RK_LOSS_DIED;
            struct script script = { .says = kernel, .length = sizeof(kernel) - 1 };
            struct wanted wanted = { steps[i].code, steps[i].step, ENOSPC, -1 };
            (void)snprintf(name, sizeof(name), "sender %d, step %#x", sender, steps[i].step);
            check_script(name, &script, &wanted);
            /* The last byte of the literal is the length of no command. */
            script = (struct script){ .says = lost, .length = sizeof(lost) };
            wanted = (struct wanted){ steps[i].code, steps[i].step, 0, RK_LOSS_DIED };
            check_script(name, &script, &wanted);
        }
    }
}

/* The master knows the rule, and the client what the caller has said. */
static void test_launch_rules_that_are_reported(void)
{
    static const struct script script = { .says = "\x01\x01\x02\x00\x0e\x01\x00", .length = 7 };
    char line[ROCKER_STRERROR_MAX];
    RockerError error;
    Rocker rocker;
    int peer;

    check_script("not a squashfs", &script, &invalid);
    RockerOptions options = play(&script, &peer);
    struct job job = new_job(&options);
    launch(SPAWN, &job, &rocker, &error);
    leave(peer);
    ROCKER_strerror(&error, line, sizeof(line));
    CHECK_TEXT(line, "package /apps/hello.sqfs: it is not a squashfs image; "
                     "build one with \"rocker pack\"");
}

/* --- Entering. -------------------------------------------------------------------------------- */

static void test_launch_success(void)
{
    NEED_GUARD();
    check_successes();
}

static void test_launch_entrance_that_is_no_process(void)
{
    static const struct script script = { BYTES(ENTRANCE), .fds = 1 };
    static const struct wanted wanted = { ROCKER_ERR_enter_rocker_failed,
                                          RK_JOIN_NAMESPACES_STEP, EINVAL, -1 };

    NEED_GUARD();
    check_script("/dev/null", &script, &wanted);
}

static void test_launch_guard_that_has_ended(void)
{
    static const struct script script = { BYTES(ENTRANCE), .fds = 1, .fd = DEAD };
    static const struct wanted wanted = { ROCKER_ERR_enter_rocker_failed,
                                          RK_JOIN_NAMESPACES_STEP, ESRCH, -1 };

    NEED_GUARD();
    check_script("dead", &script, &wanted);
}

static void as_nobody(void)
{
    static const struct script script = { BYTES(ENTRANCE), .fds = 1 };
    static const struct wanted wanted = { ROCKER_ERR_enter_rocker_failed,
                                          RK_JOIN_NAMESPACES_STEP, EPERM, -1 };

    if (geteuid() == 0) {
        CHECK_IS(setresgid(NOBODY, NOBODY, NOBODY), 0);
        CHECK_IS(setresuid(NOBODY, NOBODY, NOBODY), 0);
    }
    check_script("nobody", &script, &wanted);
}

static void test_launch_without_the_right_to_enter(void)
{
    if (!can_clone()) {
        skip(no_clone);
        return;
    }
    in_child(as_nobody);
}

static void without_processes(void)
{
    static const struct script script = { BYTES(ENTRANCE), .fds = 1 };
    static const struct wanted wanted = { ROCKER_ERR_enter_rocker_failed, RK_FORK_HELPER_STEP,
                                          EAGAIN, -1 };
    const struct rlimit none = { 0, 0 };

    CHECK_IS(setrlimit(RLIMIT_NPROC, &none), 0);
    CHECK_IS(setresgid(NOBODY, NOBODY, NOBODY), 0);
    CHECK_IS(setresuid(NOBODY, NOBODY, NOBODY), 0);
    check_script("no processes", &script, &wanted);
}

static void test_launch_no_processes(void)
{
    NEED_GUARD();
    in_child(without_processes);
}

/* What has been started ends with the launch. */
static void check_late(const struct script *script, const struct wanted *wanted)
{
    for (enum form form = SPAWN; form < FORMS; form++) {
        struct surroundings before;
        RockerError error;
        Rocker rocker;
        int peer;

        CASE("%s", form_names[form]);
        look(&before);
        RockerOptions options = play(script, &peer);
        struct job job = new_job(&options);
        job.program.path = "sleep";
        job.program.argv = sleeps;
        job.function = app_that_stays;
        CHECK_IS(launch(form, &job, &rocker, &error), wanted->code);
        check_failure(&rocker, &error, wanted);
        leave(peer);
        check_unchanged(&before);
    }
}

static void test_launch_guard_that_ends_late(void)
{
    static const struct wanted wanted = { ROCKER_ERR_enter_rocker_failed, RK_REPORT_APP_STEP, 0,
                                          RK_LOSS_DIED };
    struct script script = entrance;

    NEED_GUARD();
    script.ends = CLOSES;
    check_late(&script, &wanted);
}

static void test_launch_failure_that_is_reported_late(void)
{
    struct script script = entrance;
    struct wanted wanted = { ROCKER_ERR_build_rocker_failed, 0x09, ENOMEM, -1 };

    NEED_GUARD();
    script.then = "\x01\x02\x02\x01\x09\x0c\x00";
    script.then_length = 7;
    check_late(&script, &wanted);
    /* A second entrance, or anything else, has no place there. */
    script.then = ENTRANCE;
    script.then_length = 21;
    wanted = (struct wanted){ ROCKER_ERR_enter_rocker_failed, RK_REPORT_APP_STEP, 0,
                              RK_LOSS_GARBAGE };
    check_late(&script, &wanted);
}

static void check_program_fails_in(const struct script *script, const RockerProgram *program,
                                   int os_errno, int at_exec)
{
    static const enum form forms[] = { SPAWN, BEGIN };
    const struct wanted wanted = { ROCKER_ERR_app_exec_failed, RK_RUN_APP, os_errno, -1 };

    for (size_t i = 0; i < COUNT(forms); i++) {
        struct surroundings before;
        RockerError error;
        Rocker rocker;
        int peer;

        CASE("%s, %s", form_names[forms[i]], program->path);
        look(&before);
        RockerOptions options = play(script, &peer);
        struct job job = new_job(&options);
        job.program = *program;
        launch(forms[i], &job, &rocker, &error);
        check_failure(&rocker, &error, &wanted);
        CHECK_IS(error.at_exec, at_exec);
        leave(peer);
        check_unchanged(&before);
    }
}

static void check_program_fails(const RockerProgram *program, int os_errno, int at_exec)
{
    check_program_fails_in(&entrance, program, os_errno, at_exec);
}

/* An entrance with a filter of one instruction. */
#define FILTER_OF(instruction) \
    { BYTES("\x01\x02\x01" "0123456789abcde" "\xe7\x24\x08" instruction "\x00"), .fds = 1, .fd = GUARD }

static void test_launch_filters_that_are_none(void)
{
    static const struct sock_filter own[1];
    static const struct {
        const struct sock_filter *filter;
        unsigned count;
        unsigned long flags;
        const char *line;
    } cases[] = {
        { own, 0, 0, "system call filter: it is not a row" },
        { NULL, 1, 0, "system call filter: it is not a row" },
        { own, 4097, 0, "system call filter: it is not a row" },
        { own, UINT32_MAX / 8 + 2, 0, "system call filter: it is not a row" },
        { own, 1, ROCKER_UNCONFINED, "two filters" },
        { own, 1, ROCKER_SECCOMP_LOG, "two filters" },
        { NULL, 0, ROCKER_UNCONFINED | ROCKER_SECCOMP_LOG, "two filters" },
        { own, 4096, 0, "request: it is too long" },
    };
    char line[ROCKER_STRERROR_MAX];

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct surroundings before;
        RockerError error;
        Rocker rocker;
        int peer;

        CASE("case %zu", i);
        look(&before);
        RockerOptions options = play(&entrance, &peer);
        options.filter = cases[i].filter;
        options.filter_count = cases[i].count;
        options.flags = cases[i].flags;
        struct job job = new_job(&options);
        launch(SPAWN, &job, &rocker, &error);
        CHECK_IS(error.err_no, ROCKER_ERR_param_invalid);
        ROCKER_strerror(&error, line, sizeof(line));
        CHECK(strstr(line, cases[i].line) != NULL);
        leave(peer);
        check_unchanged(&before);
    }
}

static void test_launch_filter_that_is_none(void)
{
    static const struct script none = FILTER_OF("\xff\xff\xff\xff\xff\xff\xff\xff");
    static char long_one[22 + 904] = "\x01\x02\x01" "0123456789abcde" "\xe7\x24";
    static const struct wanted garbage = { ROCKER_ERR_recv_resp_failed, RK_AWAIT_ENTRANCE_STEP, 0,
                                           RK_LOSS_GARBAGE };
    const struct script too_long = { long_one, sizeof(long_one), .fds = 1, .fd = GUARD };
    const struct wanted wanted = { ROCKER_ERR_app_exec_failed, RK_RUN_APP, EINVAL, -1 };
    const RockerProgram program = shell();
    RockerError error;
    Rocker rocker;
    int peer;

    NEED_GUARD();
    check_program_fails_in(&none, &program, EINVAL, 0);
    RockerOptions options = play(&none, &peer);
    struct job job = new_job(&options);
    launch(SPAWN, &job, &rocker, &error);
    check_failure(&rocker, &error, &wanted);
    CHECK_TEXT(error.command, "seccomp # the rocker's filter");
    leave(peer);
    /* One of the caller's own counts, and what the guard may say of it does not. */
    static const struct sock_filter own[] = { { 0xffff, 0xff, 0xff, 0xffffffff } };
    static const struct script allows = FILTER_OF("\x06\x00\x00\x00\x00\x00\xff\x7f");
    options = play(&allows, &peer);
    options.filter = own;
    options.filter_count = 1;
    job = new_job(&options);
    launch(SPAWN, &job, &rocker, &error);
    check_failure(&rocker, &error, &wanted);
    CHECK_TEXT(error.command, "seccomp # the rocker's filter");
    leave(peer);
    /* 904 bytes, where there is room for 896. */
    long_one[20] = (char)0x88;
    long_one[21] = 7;
    check_script("a filter that is too long", &too_long, &garbage);
}

static void test_launch_options_of_an_older_caller(void)
{
    int peer;

    NEED_GUARD();
    for (enum form form = SPAWN; form < FORMS; form++) {
        struct surroundings before;
        RockerError error;
        Rocker rocker;
        CASE("%s", form_names[form]);
        look(&before);
        RockerOptions options = play(&entrance, &peer);
        options.size = offsetof(RockerOptions, flags);
        /* Whatever lies behind what it knows. */
        options.flags = ~0ul;
        struct job job = new_job(&options);
        launch(form, &job, &rocker, &error);
        CHECK_IS(error.err_no, ROCKER_ERR_success);
        char sent[1024];
        ssize_t length = take(peer, sent, sizeof(sent), &(int){ -1 });
        /* It asked for the default filter, and for no user namespaces. */
        CHECK(length > 12 && sent[length - 12 + 3] == 0 && sent[length - 12 + 4] == 0);
        CHECK_IS(kill(rocker.app_pid, SIGKILL) == 0 || errno == ESRCH, 1);
        CHECK_IS(waitpid(rocker.app_pid, NULL, 0), rocker.app_pid);
        ROCKER_close(&rocker);
        leave(peer);
        check_unchanged(&before);
    }
}

static void test_launch_program_that_is_not_there(void)
{
    static const int closed[] = { 200 };
    static char *const no_path[] = { "PATH=", NULL };
    RockerProgram program = ROCKER_program_new("/nowhere");
    char path[64];

    NEED_GUARD();
    check_program_fails(&program, ENOENT, 1);
    program = ROCKER_program_new("nowhere");
    check_program_fails(&program, ENOENT, 1);
    program = ROCKER_program_new("sh");
    program.envp = no_path;
    check_program_fails(&program, ENOENT, 1);
    (void)snprintf(path, sizeof(path), "%s/data", dir);
    close(open(path, O_CREAT | O_CLOEXEC, 0644));
    program = ROCKER_program_new(path);
    check_program_fails(&program, EACCES, 1);
    CHECK_IS(chmod(path, 0755), 0);
    check_program_fails(&program, ENOEXEC, 1);
    unlink(path);
    program = shell();
    program.cwd = "/nowhere";
    check_program_fails(&program, ENOENT, 0);
    program = shell();
    program.fds = closed;
    program.fds_count = 1;
    check_program_fails(&program, EBADF, 0);
}

static void test_launch_exec_dir_that_is_not_there(void)
{
    const struct wanted wanted = { ROCKER_ERR_app_exec_failed, RK_RUN_APP, ENOENT, -1 };

    NEED_GUARD();
    for (enum form form = SPAWN; form < FORMS; form++) {
        int peer;
        RockerOptions options = play(&entrance, &peer);
        struct job job = new_job(&options);
        job.req.app_exec_dir = "/nowhere";
        check_job(&job, &wanted, form, form);
        leave(peer);
    }
}

/* --- Giving up. ------------------------------------------------------------------------------- */

/* Before, in the middle of, and after everything that a helper does. */
static void test_launch_end_at_every_state(void)
{
    struct surroundings before;
    RockerLaunch begun;
    RockerError error;
    Rocker rocker;
    int peer;

    look(&before);
    for (enum form form = BEGIN; form < FORMS; form++) {
        for (int after = -1; after < (no_guard == NULL ? 60 : 0); after++) {
            CASE("%s, %d", form_names[form], after);
            RockerOptions options = play(after < 0 ? &(struct script){ 0 } : &entrance, &peer);
            struct job job = new_job(&options);
            job.program.path = "sleep";
            job.program.argv = sleeps;
            job.function = app_that_stays;
            if (form == BEGIN) {
                ROCKER_launch_begin(&begun, &job.req, &job.options, &job.program);
            } else {
                ROCKER_launch_begin_enter(&begun, &job.req, &job.options, job.function, NULL);
            }
            bool over = after != 0 && ROCKER_launch_go_on(&begun);
            if (after > 0 && !over) {
                usleep((useconds_t)after * 25);
                over = after % 3 == 0 && ROCKER_launch_go_on(&begun);
            }
            ROCKER_ERR code = ROCKER_launch_end(&begun, &rocker, &error);
            CHECK(code == (after < 0    ? ROCKER_ERR_recv_resp_failed
                           : after == 0 ? ROCKER_ERR_send_req_failed
                           : over       ? ROCKER_ERR_success
                                        : ROCKER_ERR_app_exec_failed));
            if (code == ROCKER_ERR_success) {
                CHECK_IS(ROCKER_signal_app(&rocker, SIGKILL), 0);
                waitpid(rocker.app_pid, NULL, 0);
                ROCKER_close(&rocker);
            }
            leave(peer);
            check_unchanged(&before);
        }
    }
}

/* Without a word from anybody: nothing has begun yet. */
static void test_launch_end_at_once(void)
{
    struct job job = job_to_nowhere();
    struct surroundings before;
    RockerLaunch begun;
    RockerError error;
    Rocker rocker;

    look(&before);
    job.program.stdio[0] = ROCKER_STDIO_NULL;
    ROCKER_launch_begin(&begun, &job.req, &job.options, &job.program);
    CHECK_IS(ROCKER_launch_end(&begun, &rocker, &error), ROCKER_ERR_send_req_failed);
    check_unchanged(&before);
    job.req.uid = 0;
    ROCKER_launch_begin(&begun, &job.req, &job.options, &job.program);
    CHECK_IS(ROCKER_launch_end(&begun, &rocker, NULL), ROCKER_ERR_param_invalid);
    check_unchanged(&before);
}

/* --- Callers that have their own ways. -------------------------------------------------------- */

static volatile sig_atomic_t signals;

static void count_signal(int signal)
{
    signals += signal > 0;
}

static void storm(bool blows)
{
    const struct itimerval timer = { { 0, blows ? 100 : 0 }, { 0, blows ? 100 : 0 } };
    struct sigaction action;

    if (blows) {
        memset(&action, 0, sizeof(action));
        action.sa_handler = count_signal;
        sigaction(SIGALRM, &action, NULL);
    }
    CHECK_IS(setitimer(ITIMER_REAL, &timer, NULL), 0);
    is_stormy = blows;
}

static void in_a_storm(void)
{
    static const struct wanted wanted = { ROCKER_ERR_recv_resp_failed, RK_AWAIT_ENTRANCE_STEP, 0,
                                          RK_LOSS_SILENT };

    storm(true);
    for (enum form form = SPAWN; form < FORMS; form++) {
        int peer;
        RockerOptions options = play(&(struct script){ 0 }, &peer);
        options.timeout_ms = 30;
        struct job job = new_job(&options);
        check_job(&job, &wanted, form, form);
        leave(peer);
    }
    CHECK(signals > 10);
    if (no_guard == NULL) {
        for (int i = 0; i < 10; i++) {
            /* Waits of the test's own are not what is tried here. */
            for (enum form form = SPAWN; form < FORMS; form++) {
                RockerError error;
                Rocker rocker;
                int peer;
                RockerOptions options = play(&entrance, &peer);
                struct job job = new_job(&options);
                CHECK_IS(launch(form, &job, &rocker, &error), ROCKER_ERR_success);
                while (waitpid(rocker.app_pid, NULL, 0) < 0 && errno == EINTR) {
                }
                ROCKER_close(&rocker);
                leave(peer);
            }
        }
    }
    /* What has been started is ended and waited for in a storm, too. */
    for (enum form form = SPAWN; no_guard == NULL && form < FORMS; form++) {
        struct script script = entrance;
        RockerError error;
        Rocker rocker;
        int peer;
        script.ends = CLOSES;
        RockerOptions options = play(&script, &peer);
        struct job job = new_job(&options);
        job.function = app_that_stays;
        job.program.path = "sleep";
        job.program.argv = sleeps;
        CHECK_IS(launch(form, &job, &rocker, &error), ROCKER_ERR_enter_rocker_failed);
    }
    storm(false);
    check_childless();
}

static void test_launch_in_a_storm_of_signals(void)
{
    in_child(in_a_storm);
}

/* What does not end is given up after a second, however many signals come. */
static void end_nothing_in_a_storm(void)
{
    CHECK_IS(setresgid(NOBODY, NOBODY, NOBODY), 0);
    CHECK_IS(setresuid(NOBODY, NOBODY, NOBODY), 0);
    int init = (int)syscall(SYS_pidfd_open, 1, 0);
    CHECK(init >= 0 && kill(1, 0) < 0 && errno == EPERM);
    if (tap_failures > 0) {
        return;
    }
    storm(true);
    long long began = now_ms();
    CHECK(!rk_end(init));
    CHECK(now_ms() - began >= 900 && now_ms() - began < 3000);
    storm(false);
}

static void test_end_in_a_storm_of_signals(void)
{
    NEED_GUARD();
    in_child(end_nothing_in_a_storm);
}

static void while_sigchld_is_ignored(void)
{
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < 10; i++) {
        for (enum form form = SPAWN; form < FORMS; form++) {
            struct surroundings before;
            RockerError error;
            Rocker rocker;
            int peer;

            CASE("%s", form_names[form]);
            look(&before);
            RockerOptions options = play(&entrance, &peer);
            struct job job = new_job(&options);
            if (!CHECK_IS(launch(form, &job, &rocker, &error), ROCKER_ERR_success)) {
                return;
            }
            CHECK_IS(pid_of(rocker.guard_pidfd), guard.pid);
            struct pollfd gone = { rocker.app_pidfd, POLLIN, 0 };
            CHECK_IS(poll(&gone, 1, 5000), 1);
            /* Its end can be seen before the kernel has taken it away. */
            CHECK_IS(waitpid(-1, NULL, 0), -1);
            ROCKER_close(&rocker);
            leave(peer);
            check_unchanged(&before);
        }
    }
}

static void test_launch_while_sigchld_is_ignored(void)
{
    NEED_GUARD();
    in_child(while_sigchld_is_ignored);
}

static void reap_all(int signal)
{
    int saved = errno;

    while (waitpid(-1, NULL, WNOHANG) > 0) {
        signals += signal > 0;
    }
    errno = saved;
}

static void while_a_handler_waits_for_all(void)
{
    signal(SIGCHLD, reap_all);
    for (int i = 0; i < 10; i++) {
        for (enum form form = SPAWN; form < FORMS; form++) {
            RockerError error;
            Rocker rocker;
            int peer;

            CASE("%s", form_names[form]);
            RockerOptions options = play(&entrance, &peer);
            struct job job = new_job(&options);
            CHECK_IS(launch(form, &job, &rocker, &error), ROCKER_ERR_success);
            struct pollfd gone = { rocker.app_pidfd, POLLIN, 0 };
            while (poll(&gone, 1, 5000) < 0) {
            }
            ROCKER_close(&rocker);
            leave(peer);
        }
    }
    signal(SIGCHLD, SIG_DFL);
    reap_all(0);
    check_childless();
    CHECK(signals >= 40);
}

static void test_launch_while_a_handler_waits_for_all(void)
{
    NEED_GUARD();
    in_child(while_a_handler_waits_for_all);
}

static void while_all_signals_are_blocked(void)
{
    const uint64_t all = UINT64_MAX;

    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, 8);
    check_successes();
}

static void test_launch_while_all_signals_are_blocked(void)
{
    NEED_GUARD();
    in_child(while_all_signals_are_blocked);
}

/* Leaves its number free for what the library opens. */
static int high(int fd)
{
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, 60);

    close(fd);
    return moved;
}

/* Each under its new number, though that is another one's old one. */
static void place_descriptors(void)
{
    static char *const writes[] = { "sh", "-c", "echo a >&8; echo b >&9; read x; exit 7", NULL };
    static const enum form forms[] = { SPAWN, BEGIN };

    for (size_t i = 0; i < COUNT(forms); i++) {
        struct surroundings before;
        char text[8] = "";
        int a[2];
        int b[2];
        int peer;

        CASE("%s", form_names[forms[i]]);
        look(&before);
        CHECK_IS(pipe2(a, O_CLOEXEC), 0);
        CHECK_IS(pipe2(b, O_CLOEXEC), 0);
        RockerOptions options = play(&entrance, &peer);
        options.connection = high(options.connection);
        peer = high(peer);
        for (int end = 0; end < 2; end++) {
            a[end] = high(a[end]);
            b[end] = high(b[end]);
        }
        struct job job = new_job(&options);
        int fds[20];
        for (size_t fd = 0; fd < COUNT(fds); fd++) {
            fds[fd] = fd % 2 == 1 ? a[1] : b[1];
        }
        job.program.argv = writes;
        job.program.stdio[0] = ROCKER_STDIO_NULL;
        job.program.fds = fds;
        job.program.fds_count = COUNT(fds);
        check_success(forms[i], &job, peer);
        close(a[1]);
        close(b[1]);
        CHECK_IS(read(a[0], text, sizeof(text)), 2);
        CHECK_TEXT(text, "a\n");
        CHECK_IS(read(b[0], text, sizeof(text)), 2);
        CHECK_TEXT(text, "b\n");
        close(a[0]);
        close(b[0]);
        leave(peer);
        check_unchanged(&before);
    }
}

static void test_launch_places_descriptors(void)
{
    NEED_GUARD();
    place_descriptors();
}

static int app_without_stdio(void *status)
{
    for (int fd = 0; fd < 200; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) {
            return 1;
        }
    }
    return *(int *)status;
}

/* So the library's own descriptors get the numbers 0 to 2, which are the App's. */
static void without_stdio(void)
{
    for (int fd = 0; fd < 3; fd++) {
        close(fd);
    }
    check_successes();
    place_descriptors();
    for (int i = 0; i < 2; i++) {
        int peer;
        RockerOptions options = play(&entrance, &peer);
        struct job job = new_job(&options);
        job.function = app_without_stdio;
        check_success(i == 0 ? ENTER : BEGIN_ENTER, &job, peer);
        leave(peer);
    }
}

static void test_launch_without_stdio(void)
{
    NEED_GUARD();
    in_child(without_stdio);
}

static void while_nothing_can_be_dumped(void)
{
    CHECK_IS(prctl(PR_SET_DUMPABLE, 0), 0);
    check_successes();
}

static void test_launch_by_who_is_not_dumpable(void)
{
    NEED_GUARD();
    in_child(while_nothing_can_be_dumped);
}

enum { THREADS = 4, LAUNCHES = 40 };

static void *launch_many(void *failed)
{
    for (int i = 0; i < LAUNCHES; i++) {
        RockerError error;
        Rocker rocker;
        int status = 0;
        int peer;

        RockerOptions options = play(&entrance, &peer);
        struct job job = new_job(&options);
        if (launch((enum form)(i % FORMS), &job, &rocker, &error) != ROCKER_ERR_success
            || waitpid(rocker.app_pid, &status, 0) != rocker.app_pid
            || WEXITSTATUS(status) != APP_STATUS) {
            ++*(int *)failed;
        }
        ROCKER_close(&rocker);
        leave(peer);
    }
    return NULL;
}

static void with_threads(void)
{
    struct surroundings before;
    pthread_t threads[THREADS];
    int failed[THREADS] = { 0 };

    look(&before);
    for (int i = 0; i < THREADS; i++) {
        CHECK_IS(pthread_create(&threads[i], NULL, launch_many, &failed[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_IS(failed[i], 0);
    }
    check_unchanged(&before);
}

static void test_launch_by_threads_at_once(void)
{
    NEED_GUARD();
    in_child(with_threads);
}

static unsigned mappings(void)
{
    char bytes[4096];
    unsigned count = 0;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

    for (ssize_t got; (got = read(fd, bytes, sizeof(bytes))) > 0;) {
        for (ssize_t i = 0; i < got; i++) {
            count += bytes[i] == '\n';
        }
    }
    close(fd);
    return count;
}

static void test_launch_leaves_no_memory_mapped(void)
{
    unsigned before = 0;

    NEED_GUARD();
    for (int i = 0; i < 60; i++) {
        RockerError error;
        Rocker rocker;
        int peer;
        struct script script = entrance;

        script.ends = i % 2 == 0 ? STAYS : CLOSES;
        RockerOptions options = play(&script, &peer);
        struct job job = new_job(&options);
        if (launch((enum form)(i % FORMS), &job, &rocker, &error) == ROCKER_ERR_success) {
            waitpid(rocker.app_pid, NULL, 0);
            ROCKER_close(&rocker);
        }
        leave(peer);
        if (i == 9) {
            before = mappings();
        }
    }
    CHECK(mappings() <= before + 5);
}

/* Whoever enters writes itself to each cgroup, and the App has none of them open. */
static void test_launch_in_cgroups(void)
{
    NEED_GUARD();
    for (int form = 0; form < FORMS; form++) {
        struct surroundings before;
        struct script script = entrance;
        RockerError error;
        Rocker rocker;
        char text[8] = "";
        int peer;

        CASE("%s", form_names[form]);
        int procs = memfd_create("cgroup.procs", MFD_CLOEXEC);
        look(&before);
        script.says = LIMITED("\x02");
        script.fds = 3;
        script.cgroup = procs;
        RockerOptions options = play(&script, &peer);
        struct job job = new_job(&options);
        CHECK_IS(launch((enum form)form, &job, &rocker, &error), ROCKER_ERR_success);
        waitpid(rocker.app_pid, NULL, 0);
        ROCKER_close(&rocker);
        leave(peer);
        check_unchanged(&before);
        CHECK_IS(pread(procs, text, sizeof(text), 0), 2);
        CHECK_TEXT(text, "00");
        close(procs);
    }
}

static void test_launch_in_a_cgroup_that_is_gone(void)
{
    static const struct wanted wanted = { ROCKER_ERR_enter_rocker_failed,
                                          RK_JOIN_NAMESPACES_STEP, EBADF, -1 };
    struct script script = { BYTES(LIMITED("\x01")), .fds = 2, .fd = GUARD };

    NEED_GUARD();
    /* It is open for reading only. */
    script.cgroup = open("/dev/null", O_RDONLY | O_CLOEXEC);
    check_script("", &script, &wanted);
    close(script.cgroup);
}

/* --- The documented function. ----------------------------------------------------------------- */

static int listening;

/* One launch: an entrance, and the request and the App's report read. */
static void *serve(void *unused)
{
    uint8_t bytes[4096];
    int fd;
    int connection = accept4(listening, NULL, NULL, SOCK_CLOEXEC);

    pass(connection, entrance.says, entrance.length, &guard.pidfd, 1);
    CHECK(take(connection, bytes, sizeof(bytes), &fd) > 3);
    CHECK_IS(take(connection, bytes, sizeof(bytes), &fd), 3);
    close(fd);
    close(connection);
    return unused;
}

static int own_name(void *unused)
{
    char cwd[64] = "";

    return unused == NULL && getcwd(cwd, sizeof(cwd)) != NULL
                   && strcmp(cwd, "/run/rocker/app") == 0 && getuid() == APP_UID
                   && getgid() == APP_GID
               ? APP_STATUS
               : 1;
}

static void on_a_host_of_its_own(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/run/rocker/master.sock" };
    RockerRequest req = request();
    struct surroundings before;
    pthread_t master;
    int status = 0;

    CHECK_IS(unshare(CLONE_NEWNS), 0);
    CHECK_IS(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    CHECK_IS(mount("tmpfs", "/run", "tmpfs", 0, "mode=755"), 0);
    CHECK_IS(mkdir("/run/rocker", 0755), 0);
    CHECK_IS(mkdir("/run/rocker/app", 0755), 0);
    req.app_exec_dir = NULL;
    look(&before);
    RockerResult result = ROCKER_enter_rocker(&req, own_name, NULL);
    CHECK_IS(result.err_no, ROCKER_ERR_send_req_failed);
    CHECK_IS(result.app_pid, 0);
    CHECK_IS(result.guard_pid, 0);
    CHECK_TEXT(result.guard_pname, "");
    check_unchanged(&before);
    close(guard.pidfd);
    close(guard.lifeline);
    guard = new_guard();
    CHECK_IS(bind(listening, (const struct sockaddr *)&address, sizeof(address)), 0);
    CHECK_IS(listen(listening, 0), 0);
    look(&before);
    CHECK_IS(pthread_create(&master, NULL, serve, NULL), 0);
    result = ROCKER_enter_rocker(&req, own_name, NULL);
    pthread_join(master, NULL);
    CHECK_IS(result.err_no, ROCKER_ERR_success);
    CHECK_IS(result.guard_pid, 4711);
    CHECK_TEXT(result.guard_pname, "0123456789abcde");
    CHECK_IS(waitpid(result.app_pid, &status, 0), result.app_pid);
    CHECK_IS(status, APP_STATUS << 8);
    check_unchanged(&before);
}

static void test_enter_rocker_as_documented(void)
{
    NEED_GUARD();
    listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    in_child(on_a_host_of_its_own);
    close(listening);
}

/* --- A living rocker. ------------------------------------------------------------------------- */

static void test_kill_ends_the_guard(void)
{
    NEED_GUARD();
    struct guard other = new_guard();
    Rocker rocker = { 0, 0, "", -1, other.pidfd };
    struct pollfd gone = { other.pidfd, POLLIN, 0 };

    CHECK_IS(poll(&gone, 1, 0), 0);
    CHECK_IS(ROCKER_kill(&rocker), 0);
    CHECK_IS(poll(&gone, 1, 5000), 1);
    CHECK_IS(ROCKER_kill(&rocker), 0);
    close(other.lifeline);
    ROCKER_close(&rocker);
    CHECK_IS(ROCKER_kill(&rocker), EBADF);
    CHECK_IS(ROCKER_signal_app(&rocker, SIGTERM), EBADF);
}

static void test_get_guardname_of_this_process(void)
{
    char name[17] = "";

    if (no_guard == no_clone) {
        skip("an emulator has another name than its program");
        return;
    }
    CHECK_IS(prctl(PR_GET_NAME, name), 0);
    RockerResult result = ROCKER_get_guardname((int)getpid());
    CHECK_IS(result.err_no, ROCKER_ERR_success);
    CHECK_IS(result.guard_pid, getpid());
    CHECK_IS(result.app_pid, 0);
    CHECK_TEXT(result.guard_pname, name);
}

static void test_get_guardname_of_nobody(void)
{
    static const int nobody[] = { 0, -1, INT32_MIN, INT32_MAX };
    struct surroundings before;

    look(&before);
    for (size_t i = 0; i < COUNT(nobody); i++) {
        RockerResult result = ROCKER_get_guardname(nobody[i]);
        CASE("%d", nobody[i]);
        CHECK_IS(result.err_no, ROCKER_ERR_get_guardname_failed);
        CHECK_TEXT(result.guard_pname, "");
    }
    check_unchanged(&before);
}

/* A child of this name, that waits to be killed. */
static pid_t child_named(const char *name)
{
    int ready[2];
    char byte = 0;

    CHECK_IS(pipe2(ready, O_CLOEXEC), 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_NAME, name);
        byte = write(ready[1], "x", 1) == 1;
        for (;;) {
            pause();
        }
    }
    CHECK_IS(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void test_get_guardname_of_any_name(void)
{
    static const char *const names[] = { ") R (x", "a) b", "((((", "))))", " ",
                                         "0123456789abcde", "\x7f\xff(", "" };

    for (size_t i = 0; i < COUNT(names); i++) {
        pid_t pid = child_named(names[i]);
        RockerResult result = ROCKER_get_guardname((int)pid);
        CASE("%s", names[i]);
        CHECK_IS(result.err_no, ROCKER_ERR_success);
        CHECK_TEXT(result.guard_pname, names[i]);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        CHECK_IS(ROCKER_get_guardname((int)pid).err_no, ROCKER_ERR_get_guardname_failed);
    }
}

static void test_kill_guard_of_another_name(void)
{
    struct surroundings before;
    int status = 0;

    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (self < 0) {
        skip("there is no pidfd_open(2) here: an emulator?");
        return;
    }
    close(self);
    look(&before);
    pid_t pid = child_named("0123456789abcde");
    CHECK_IS(ROCKER_kill_guard((int)pid, "0123456789abcdf"), ESRCH);
    CHECK_IS(ROCKER_kill_guard((int)pid, "0123456789abcd"), ESRCH);
    CHECK_IS(ROCKER_kill_guard((int)pid, "0123456789abcdef0123456789abcdef"), ESRCH);
    CHECK_IS(ROCKER_kill_guard((int)pid, ""), ESRCH);
    CHECK_IS(waitpid(pid, NULL, WNOHANG), 0);
    CHECK_IS(ROCKER_kill_guard((int)pid, "0123456789abcde"), 0);
    CHECK_IS(waitpid(pid, &status, 0), pid);
    CHECK_IS(status, SIGKILL);
    CHECK_IS(ROCKER_kill_guard((int)pid, "0123456789abcde"), ESRCH);
    CHECK_IS(ROCKER_kill_guard(INT32_MAX, "0123456789abcde"), ESRCH);
    CHECK_IS(ROCKER_kill_guard(-1, "0123456789abcde"), EINVAL);
    CHECK_IS(ROCKER_kill_guard(0, "0123456789abcde"), EINVAL);
    check_unchanged(&before);
}

static const struct test tests[] = {
    TEST(test_launch_null_request),
    TEST(test_launch_null_function_or_program),
    TEST(test_launch_nothing_set),
    TEST(test_launch_as_root_is_refused),
    TEST(test_launch_paths),
    TEST(test_launch_overlay_dirs),
    TEST(test_launch_timeouts),
    TEST(test_launch_structs_of_another_size),
    TEST(test_launch_programs_that_are_none),
    TEST(test_launch_no_master),
    TEST(test_launch_socket_path_that_is_none),
    TEST(test_launch_connection_that_is_none),
    TEST(test_launch_busy_master),
    TEST(test_launch_no_descriptors),
    TEST(test_launch_few_descriptors),
    TEST(test_launch_no_answer),
    TEST(test_launch_end_of_connection),
    TEST(test_launch_last_words),
    TEST(test_launch_other_versions),
    TEST(test_launch_garbage),
    TEST(test_launch_failures_that_are_reported),
    TEST(test_launch_rules_that_are_reported),
    TEST(test_launch_success),
    TEST(test_launch_entrance_that_is_no_process),
    TEST(test_launch_in_cgroups),
    TEST(test_launch_in_a_cgroup_that_is_gone),
    TEST(test_launch_guard_that_has_ended),
    TEST(test_launch_without_the_right_to_enter),
    TEST(test_launch_no_processes),
    TEST(test_launch_guard_that_ends_late),
    TEST(test_launch_failure_that_is_reported_late),
    TEST(test_launch_filters_that_are_none),
    TEST(test_launch_filter_that_is_none),
    TEST(test_launch_options_of_an_older_caller),
    TEST(test_launch_program_that_is_not_there),
    TEST(test_launch_exec_dir_that_is_not_there),
    TEST(test_launch_end_at_every_state),
    TEST(test_launch_end_at_once),
    TEST(test_launch_in_a_storm_of_signals),
    TEST(test_end_in_a_storm_of_signals),
    TEST(test_launch_while_sigchld_is_ignored),
    TEST(test_launch_while_a_handler_waits_for_all),
    TEST(test_launch_while_all_signals_are_blocked),
    TEST(test_launch_without_stdio),
    TEST(test_launch_places_descriptors),
    TEST(test_launch_by_who_is_not_dumpable),
    TEST(test_launch_by_threads_at_once),
    TEST(test_launch_leaves_no_memory_mapped),
    TEST(test_enter_rocker_as_documented),
    TEST(test_kill_ends_the_guard),
    TEST(test_get_guardname_of_this_process),
    TEST(test_get_guardname_of_nobody),
    TEST(test_get_guardname_of_any_name),
    TEST(test_kill_guard_of_another_name),
};

int main(int argc, char **argv)
{
    (void)snprintf(dir, sizeof(dir), "/tmp/rocker-XXXXXX");
    if (mkdtemp(dir) == NULL || chmod(dir, 0755) != 0) {
        return 1;
    }
    need_guard();
    int failed = tap_main(tests, COUNT(tests), argc, argv);
    rmdir(dir);
    return failed;
}
