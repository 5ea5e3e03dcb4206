/*
 * Orders through the public API. The test plays the guard itself: what it says waits in a socket
 * before the library looks, so that one thread will do. Every failure must leave everything as it
 * was.
 */
#define _GNU_SOURCE
#include "rocker.h"

#include <limits.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "error.h"
#include "filter.h"
#include "peer.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* Guard, Entrance, the name, a pid of 4711, no filter. */
#define ENTRANCE "\x01\x02\x01" "0123456789abcde" "\xe7\x24\x00\x00"
#define PING "\x01\x00\x06"
#define PONG "\x01\x02\x07"
/* As of protocol/vectors.txt, for order 1. */
#define STARTED "\x01\x02\x04\x01\x02"
#define FAILED "\x01\x02\x05\x01\x01\x41\x02\x0c" "exec bin/app"
/* The same in place of its end. */
#define FAILED_LATE "\x01\x02\x05\x01\x01\x43\x02\x0c" "exec bin/app"
/* No system call, and no cgroup. */
#define UNCOUNTED "\x00\x00\x00\x00\x00\x00\x00\x00"
#define ENDED "\x01\x02\x06\x01\x01\x09\x01\xe8\x07\xd0\x0f\x05\x80\x20" UNCOUNTED

/* An open rocker, and its guard's end of the connection. */
struct pair {
    RockerOpen open;
    int guard;
};

static RockerRequest hello(void)
{
    RockerRequest req = ROCKER_request_new();

    req.uid = req.gid = 1000;
    req.app_pkg_path = "/apps/hello.sqfs";
    return req;
}

static int dev_null(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void say(int guard, const void *bytes, size_t length, unsigned fds)
{
    int null = dev_null();
    int copies[8];

    for (unsigned i = 0; i < fds; i++) {
        copies[i] = null;
    }
    pass(guard, bytes, length, copies, fds);
    close(null);
}

/* The next message to the guard, whole; its descriptors are the test's to close. */
static ssize_t hear(int guard, void *bytes, size_t size, int *fds, size_t *count)
{
    union {
        char bytes[CMSG_SPACE(32 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec piece = { bytes, size };
    struct msghdr header = { .msg_iov = &piece, .msg_iovlen = 1 };

    header.msg_control = control.bytes;
    header.msg_controllen = sizeof(control.bytes);
    *count = 0;
    ssize_t got = recvmsg(guard, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got >= 0 && header.msg_controllen > 0 && CMSG_FIRSTHDR(&header) != NULL) {
        *count = (CMSG_FIRSTHDR(&header)->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&header)), *count * sizeof(int));
    }
    return got;
}

static void check_heard(int guard, const void *wanted, size_t length, size_t descriptors)
{
    uint8_t bytes[512];
    int fds[32];
    size_t count;

    ssize_t got = hear(guard, bytes, sizeof(bytes), fds, &count);
    CHECK_IS(got, length);
    CHECK(got == (ssize_t)length && memcmp(bytes, wanted, length) == 0);
    CHECK_IS(count, descriptors);
    while (count > 0) {
        close(fds[--count]);
    }
}

static void check_silence(int guard)
{
    uint8_t byte;

    CHECK_IS(recv(guard, &byte, 1, MSG_DONTWAIT), -1);
    CHECK_IS(errno, EAGAIN);
}

/* The connection of a launch, on which so much was said already. */
static RockerOptions play(int *guard, const void *says, size_t length, unsigned fds)
{
    RockerOptions options = ROCKER_options_new();
    int sockets[2];

    CHECK_IS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    options.connection = sockets[0];
    options.timeout_ms = 100;
    *guard = sockets[1];
    if (says != NULL) {
        say(*guard, says, length, fds);
    }
    return options;
}

static struct pair new_pair(void)
{
    RockerRequest req = hello();
    struct pair pair;
    RockerError error;
    uint8_t request[512];

    RockerOptions options = play(&pair.guard, BYTES(ENTRANCE), 1);
    CHECK_IS(ROCKER_open(&req, &options, &pair.open, &error), ROCKER_ERR_success);
    CHECK(recv(pair.guard, request, sizeof(request), 0) > 0);
    check_heard(pair.guard, BYTES(PING), 0);
    return pair;
}

/* /dev/null stands for the guard; it can always be read. */
static void part(struct pair *pair)
{
    CHECK_IS(ROCKER_end(&pair->open, 1000), 0);
    close(pair->guard);
}

static const char *line_of(const RockerError *error)
{
    static char line[ROCKER_STRERROR_MAX];

    ROCKER_strerror(error, line, sizeof(line));
    return line;
}

static unsigned start_true(struct pair *pair, void *data, int sync)
{
    RockerProgram program = ROCKER_program_new("true");
    RockerExec exec = ROCKER_exec_new();
    RockerError error;
    unsigned id;

    exec.data = data;
    exec.sync = sync;
    CHECK_IS(ROCKER_exec(&pair->open, &program, &exec, &id, &error), ROCKER_ERR_success);
    CHECK_IS(error.err_no, ROCKER_ERR_success);
    return id;
}

static unsigned exec_true(struct pair *pair, void *data)
{
    return start_true(pair, data, 0);
}

/* With the id of this order in place of 1. */
static void answer(struct pair *pair, const char *literal, size_t length, unsigned id,
                   unsigned fds)
{
    uint8_t bytes[64];

    memcpy(bytes, literal, length);
    bytes[3] = (uint8_t)id;
    say(pair->guard, bytes, length, fds);
}

static void check_lost(struct pair *pair, enum rk_loss how)
{
    for (int again = 0; again < 2; again++) {
        RockerEvent event;
        CHECK_IS(ROCKER_next(&pair->open, &event), 1);
        CHECK_IS(event.kind, ROCKER_EVENT_lost);
        CHECK_IS(event.id, 0);
        CHECK_IS(event.pidfd, -1);
        CHECK_IS(event.error.err_no, ROCKER_ERR_recv_resp_failed);
        CHECK_IS(event.error.step, RK_REQUEST_EXEC);
        CHECK_IS(event.error.loss, how);
    }
}

/* --- The launch. ------------------------------------------------------------------------------ */

enum form { OPEN, BEGIN, FORMS };

static ROCKER_ERR open_by(enum form form, const RockerOptions *options, RockerOpen *open,
                          RockerError *error)
{
    RockerRequest req = hello();
    RockerLaunch launch;

    if (form == OPEN) {
        return ROCKER_open(&req, options, open, error);
    }
    ROCKER_launch_begin_open(&launch, &req, options);
    while (!ROCKER_launch_go_on(&launch)) {
        struct pollfd wait = { ROCKER_launch_fd(&launch), POLLIN, 0 };
        poll(&wait, 1, ROCKER_launch_wait_ms(&launch));
    }
    return ROCKER_launch_end_open(&launch, open, error);
}

static void test_open_success(void)
{
    for (enum form form = OPEN; form < FORMS; form++) {
        struct surroundings before;
        RockerOpen open;
        RockerError error;
        int guard;

        look(&before);
        RockerOptions options = play(&guard, BYTES(ENTRANCE), 1);
        CHECK_IS(open_by(form, &options, &open, &error), ROCKER_ERR_success);
        CHECK_IS(error.err_no, ROCKER_ERR_success);
        CHECK_IS(open.guard_pid, 4711);
        CHECK_TEXT(open.guard_pname, "0123456789abcde");
        CHECK_IS(open.connection, options.connection);
        CHECK(open.guard_pidfd >= 0 && (fcntl(open.guard_pidfd, F_GETFD) & FD_CLOEXEC));
        CHECK_IS(ROCKER_end(&open, 1000), 0);
        CHECK(open.connection == -1 && open.guard_pidfd == -1);
        close(guard);
        check_unchanged(&before);
    }
}

static void test_open_failures(void)
{
    static const struct {
        const char *says;
        size_t length;
        unsigned fds;
        ROCKER_ERR code;
        int step;
        int loss;
    } cases[] = {
        { NULL, 0, 0, ROCKER_ERR_recv_resp_failed, 0x30, RK_LOSS_SILENT },
        { BYTES(ENTRANCE), 0, ROCKER_ERR_recv_resp_failed, 0x30, RK_LOSS_GARBAGE },
        { BYTES(ENTRANCE), 2, ROCKER_ERR_recv_resp_failed, 0x30, RK_LOSS_GARBAGE },
        { BYTES(PONG), 0, ROCKER_ERR_recv_resp_failed, 0x30, RK_LOSS_GARBAGE },
        { BYTES(STARTED), 1, ROCKER_ERR_recv_resp_failed, 0x30, RK_LOSS_GARBAGE },
        { BYTES("\x02"), 0, ROCKER_ERR_recv_resp_failed, 0x30, RK_LOSS_VERSION },
        { BYTES("\x01\x01\x02\x01\x13\x05\x00"), 0, ROCKER_ERR_build_rocker_failed, 0x13, -1 },
        { BYTES("\x01\x01\x02\x00\x0b\x00\x00"), 0, ROCKER_ERR_param_invalid, 0x01, -1 },
    };

    for (size_t i = 0; i < COUNT(cases) * FORMS; i++) {
        size_t n = i / FORMS;
        struct surroundings before;
        RockerOpen open;
        RockerError error;
        int guard;

        CASE("case %zu", n);
        look(&before);
        RockerOptions options = play(&guard, cases[n].says, cases[n].length, cases[n].fds);
        CHECK_IS(open_by(i % FORMS == 0 ? OPEN : BEGIN, &options, &open, &error), cases[n].code);
        CHECK_IS(error.err_no, cases[n].code);
        CHECK_IS(error.step, cases[n].step);
        CHECK(cases[n].loss < 0 || error.loss == cases[n].loss);
        CHECK(open.connection == -1 && open.guard_pidfd == -1 && open.guard_pid == 0);
        /* It is nobody's any more, and can be ended all the same. */
        CHECK_IS(ROCKER_end(&open, -1), 0);
        close(guard);
        check_unchanged(&before);
    }
}

static void test_open_guard_that_ends_before_the_greeting(void)
{
    struct surroundings before;
    RockerOpen open;
    RockerError error;
    int guard;

    look(&before);
    RockerOptions options = play(&guard, BYTES(ENTRANCE), 1);
    close(guard);
    CHECK_IS(open_by(OPEN, &options, &open, &error), ROCKER_ERR_recv_resp_failed);
    CHECK_IS(error.step, RK_REQUEST_EXEC);
    CHECK_IS(error.loss, RK_LOSS_DIED);
    check_unchanged(&before);
}

static void test_open_broken_rules(void)
{
    RockerRequest req = hello();
    RockerOptions options = ROCKER_options_new();
    RockerOpen open;
    RockerError error;

    req.uid = 0;
    CHECK_IS(ROCKER_open(&req, NULL, &open, &error), ROCKER_ERR_param_invalid);
    CHECK_TEXT(line_of(&error), "uid 0: an App never runs as root (id 0)");
    CHECK_IS(ROCKER_open(NULL, NULL, &open, NULL), ROCKER_ERR_param_invalid);
    options.size = 0;
    req = hello();
    CHECK_IS(ROCKER_open(&req, &options, &open, NULL), ROCKER_ERR_param_invalid);
}

#define NAME "0123456789abcde"
#define ATTACH "\x01\x00\x0a" NAME

static ROCKER_ERR attach_by(enum form form, const char *name, const RockerOptions *options,
                            RockerOpen *open, RockerError *error)
{
    RockerLaunch launch;

    if (form == OPEN) {
        return ROCKER_attach(name, options, open, error);
    }
    ROCKER_launch_begin_attach(&launch, name, options);
    while (!ROCKER_launch_go_on(&launch)) {
        struct pollfd wait = { ROCKER_launch_fd(&launch), POLLIN, 0 };
        poll(&wait, 1, ROCKER_launch_wait_ms(&launch));
    }
    return ROCKER_launch_end_open(&launch, open, error);
}

static void test_attach_success(void)
{
    for (enum form form = OPEN; form < FORMS; form++) {
        struct surroundings before;
        struct pair pair;
        RockerError error;
        RockerEvent event;

        look(&before);
        RockerOptions options = play(&pair.guard, BYTES(ENTRANCE), 1);
        CHECK_IS(attach_by(form, NAME, &options, &pair.open, &error), ROCKER_ERR_success);
        CHECK_IS(error.err_no, ROCKER_ERR_success);
        CHECK_IS(pair.open.guard_pid, 4711);
        CHECK_TEXT(pair.open.guard_pname, NAME);
        CHECK(pair.open.guard_pidfd >= 0);
        check_heard(pair.guard, BYTES(ATTACH), 0);
        /* There is no greeting, so none is answered. */
        check_silence(pair.guard);
        CHECK_IS(ROCKER_next(&pair.open, &event), 0);
        CHECK_IS(exec_true(&pair, NULL), 1);
        answer(&pair, BYTES(FAILED), 1, 0);
        CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_failed);
        say(pair.guard, BYTES(PONG), 0);
        check_lost(&pair, RK_LOSS_GARBAGE);
        ROCKER_leave(&pair.open);
        CHECK(pair.open.connection == -1 && pair.open.guard_pidfd == -1);
        close(pair.guard);
        check_unchanged(&before);
    }
}

static void test_attach_failures(void)
{
    static const struct {
        const char *says;
        size_t length;
        unsigned fds;
        ROCKER_ERR code;
        int step;
        const char *line;
    } cases[] = {
        { NULL, 0, 0, ROCKER_ERR_build_rocker_failed, 0x03, "no answer before the deadline" },
        { BYTES(""), 0, ROCKER_ERR_build_rocker_failed, 0x03, "closed the connection" },
        { BYTES(ENTRANCE), 0, ROCKER_ERR_build_rocker_failed, 0x03, "broke the protocol" },
        { BYTES(PONG), 0, ROCKER_ERR_build_rocker_failed, 0x03, "broke the protocol" },
        { BYTES("\x02"), 0, ROCKER_ERR_build_rocker_failed, 0x03, "another version" },
        /* Of the master: no living rocker has this name. */
        { BYTES("\x01\x01\x02\x00\x14\x08\x00"), 0, ROCKER_ERR_param_invalid, 0x01,
          "rocker " NAME ": no living rocker has this name" },
        /* Of the guard: too many are there. */
        { BYTES("\x01\x02\x02\x01\x03\x0b\x03" "no!"), 0, ROCKER_ERR_build_rocker_failed, 0x03,
          "no!: Resource temporarily unavailable" },
    };

    for (size_t i = 0; i < COUNT(cases) * FORMS; i++) {
        size_t n = i / FORMS;
        struct surroundings before;
        RockerOpen open;
        RockerError error;
        int guard;

        CASE("case %zu", n);
        look(&before);
        RockerOptions options = play(&guard, cases[n].says, cases[n].length, cases[n].fds);
        CHECK_IS(attach_by(i % FORMS == 0 ? OPEN : BEGIN, NAME, &options, &open, &error),
                 cases[n].code);
        CHECK_IS(error.step, cases[n].step);
        CHECK(strstr(line_of(&error), cases[n].line) != NULL);
        CHECK(open.connection == -1 && open.guard_pidfd == -1 && open.guard_pid == 0);
        ROCKER_leave(&open);
        close(guard);
        check_unchanged(&before);
    }
}

/* Nothing is sent, and a connection that was given is closed. */
static void test_attach_broken_rules(void)
{
    static const char *const names[] = { NULL, "", "0123456789abcdE", "0123456789abcdef" };

    for (size_t i = 0; i < COUNT(names) + 2; i++) {
        struct surroundings before;
        RockerOpen open;
        RockerError error;
        uint8_t byte;
        int guard;

        CASE("case %zu", i);
        look(&before);
        RockerOptions options = play(&guard, NULL, 0, 0);
        const char *name = i < COUNT(names) ? names[i] : NAME;
        options.timeout_ms = i < COUNT(names) ? 100 : i == COUNT(names) ? 0 : -2;
        CHECK_IS(ROCKER_attach(name, &options, &open, &error), ROCKER_ERR_param_invalid);
        CHECK(strstr(line_of(&error), i < COUNT(names) ? "rocker" : "deadline") != NULL);
        CHECK_IS(recv(guard, &byte, 1, MSG_DONTWAIT), 0);
        close(guard);
        check_unchanged(&before);
    }
    RockerOptions options = ROCKER_options_new();
    RockerOpen open;
    options.size++;
    CHECK_IS(ROCKER_attach(NAME, &options, &open, NULL), ROCKER_ERR_param_invalid);
}

/* Over or not, and whatever came of it. */
static void test_launch_end_of_the_other_kind(void)
{
    RockerRequest req = hello();
    RockerProgram program = ROCKER_program_new("true");

    for (int goes_on = 0; goes_on < 2; goes_on++) {
        struct surroundings before;
        RockerLaunch launch;
        RockerOpen open;
        Rocker rocker;
        RockerError error;
        int guard;

        look(&before);
        RockerOptions options = play(&guard, BYTES(ENTRANCE), 1);
        ROCKER_launch_begin_open(&launch, &req, &options);
        CHECK(!goes_on || ROCKER_launch_go_on(&launch));
        CHECK_IS(ROCKER_launch_end(&launch, &rocker, &error), ROCKER_ERR_param_invalid);
        CHECK(strstr(line_of(&error), "by the function for its kind") != NULL);
        CHECK(rocker.guard_pidfd == -1 && rocker.app_pidfd == -1);
        close(guard);
        options = play(&guard, NULL, 0, 0);
        ROCKER_launch_begin(&launch, &req, &options, &program);
        CHECK(!goes_on || !ROCKER_launch_go_on(&launch));
        CHECK_IS(ROCKER_launch_end_open(&launch, &open, &error), ROCKER_ERR_param_invalid);
        CHECK(open.guard_pidfd == -1 && open.connection == -1);
        close(guard);
        check_unchanged(&before);
    }
}

/* --- Orders. ---------------------------------------------------------------------------------- */

static void test_exec_bytes(void)
{
    /* client_exec_bare of vectors.txt, with three descriptors. */
    static const char bare[] = "\x01\x00\x04\x01\x05" "true\0" "\0\0\x03\0\0\0\0\0\0";
    struct surroundings before;

    look(&before);
    struct pair pair = new_pair();
    CHECK_IS(exec_true(&pair, NULL), 1);
    check_heard(pair.guard, bare, sizeof(bare), 3);
    part(&pair);
    check_unchanged(&before);
}

static dev_t device_of(int fd)
{
    struct stat info;

    return fstat(fd, &info) == 0 ? info.st_rdev : 0;
}

/* Everything at once. */
static void test_exec_with_everything(void)
{
    static const char wanted[] = "\x01\x00\x04\x01\x09" "a/b\0" "c\0" "\0" "d\0" "\x08"
                                 "X=1\0" "Y=2\0" "\x05" "/tmp\0" "\x06\x01\x01\x02"
                                 "\x00\x01\x02" "\x07\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00"
                                 "\xf4\x03\x0a\x08\x06\x00\x00\x00\x00\x00\xff\x7f\x01";
    static char *const argv[] = { "a/b", "c", "", "d", NULL };
    static char *const envp[] = { "X=1", "Y=2", NULL };
    const RockerRlimit rlimits[] = { { 0, 1, 2 }, { 7, UINT64_MAX, 0 } };
    const struct sock_filter allow = ALLOW;
    struct surroundings before;
    uint8_t bytes[512];
    int got[32];
    size_t count;
    unsigned id;

    look(&before);
    struct pair pair = new_pair();
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    int fds[] = { full, zero };
    RockerProgram program = ROCKER_program_new("a/b");
    RockerExec exec = ROCKER_exec_new();
    program.argv = argv;
    program.envp = envp;
    program.cwd = "/tmp";
    program.stdio[0] = ROCKER_STDIO_NULL;
    program.stdio[1] = zero;
    program.stdio[2] = ROCKER_STDIO_NULL;
    program.fds = fds;
    program.fds_count = 2;
    exec.program_fd = full;
    program.terminal = 1;
    exec.wall_ms = 500;
    exec.grace_ms = 10;
    exec.rlimits = rlimits;
    exec.rlimits_count = 2;
    exec.filter = &allow;
    exec.filter_count = 1;
    exec.sync = 1;
    CHECK_IS(ROCKER_exec(&pair.open, &program, &exec, &id, NULL), ROCKER_ERR_success);
    ssize_t length = hear(pair.guard, bytes, sizeof(bytes), got, &count);
    CHECK_IS(length, sizeof(wanted) - 1);
    CHECK(memcmp(bytes, wanted, sizeof(wanted) - 1) == 0);
    /* Numbers of the kernel's documentation, devices.txt. */
    static const unsigned minors[] = { 7, 3, 5, 3, 7, 5 };
    CHECK_IS(count, COUNT(minors));
    for (size_t i = 0; i < count; i++) {
        CASE("descriptor %zu", i);
        CHECK_IS(minor(device_of(got[i])), minors[i]);
        close(got[i]);
    }
    close(zero);
    close(full);
    part(&pair);
    check_unchanged(&before);
}

static void test_exec_as_much_as_there_is_room_for(void)
{
    enum { ROOM = 32768 };
    /* Version, sender, variant, id, two lengths of three bytes and all else. */
    enum { OTHERS = 4 + 3 + sizeof("x") + 10 };
    static char argument[ROOM + 2];
    static uint8_t bytes[ROOM + 1];
    char *argv[] = { "x", argument, NULL };
    RockerProgram program = ROCKER_program_new("x");
    struct pair pair = new_pair();
    RockerError error;
    int fds[32];
    size_t count;
    unsigned id;

    program.argv = argv;
    memset(argument, 'a', ROOM - OTHERS - 1);
    CHECK_IS(ROCKER_exec(&pair.open, &program, NULL, &id, &error), ROCKER_ERR_success);
    CHECK_IS(hear(pair.guard, bytes, sizeof(bytes), fds, &count), ROOM);
    while (count > 0) {
        close(fds[--count]);
    }
    argument[ROOM - OTHERS - 1] = 'a';
    for (int more = 0; more < 2; more++) {
        CHECK_IS(ROCKER_exec(&pair.open, &program, NULL, &id, &error), ROCKER_ERR_param_invalid);
        CHECK_TEXT(line_of(&error), "program: it is too long");
        CHECK_IS(id, 0);
        check_silence(pair.guard);
        memset(argument, 'a', ROOM + 1);
    }
    part(&pair);
}

/* Nothing is sent. */
static void check_refused(struct pair *pair, const RockerProgram *program,
                          const RockerExec *exec, const char *words)
{
    RockerError error;
    unsigned id = 7;

    CASE("%s", words);
    CHECK_IS(ROCKER_exec(&pair->open, program, exec, &id, &error), ROCKER_ERR_param_invalid);
    CHECK(strstr(line_of(&error), words) != NULL);
    CHECK_IS(id, 0);
    CHECK_IS(ROCKER_exec(&pair->open, program, exec, &id, NULL), ROCKER_ERR_param_invalid);
    check_silence(pair->guard);
}

static void test_exec_misuse(void)
{
    static char *const other[] = { "false", NULL };
    static char *const none[] = { NULL };
    static const int fds[ROCKER_EXEC_FDS_MAX] = { 0 };
    static const struct sock_filter filter[4097];
    const RockerRlimit rlimits[17] = { { 0, 0, 0 }, { 256, 0, 0 } };
    const RockerProgram good = ROCKER_program_new("true");
    const RockerExec plain = ROCKER_exec_new();
    struct surroundings before;

    look(&before);
    struct pair pair = new_pair();
    RockerProgram program = good;
    RockerExec exec = plain;
    program.size--;
    check_refused(&pair, &program, NULL, "RockerProgram.size");
    exec.size++;
    check_refused(&pair, &good, &exec, "RockerExec.size");
    program = ROCKER_program_new(NULL);
    check_refused(&pair, &program, NULL, "program: it is empty");
    program = ROCKER_program_new("");
    check_refused(&pair, &program, NULL, "program: it is empty");
    program = good;
    program.argv = other;
    check_refused(&pair, &program, NULL, "does not begin with its path");
    program.argv = none;
    check_refused(&pair, &program, NULL, "does not begin with its path");
    program = good;
    program.keep_session = 1;
    check_refused(&pair, &program, NULL, "keep_session");
    program = good;
    program.stdio[1] = -3;
    check_refused(&pair, &program, NULL, "no descriptor");
    program = good;
    program.fds_count = 1;
    check_refused(&pair, &program, NULL, "no descriptor");
    program.fds = fds;
    program.fds_count = ROCKER_EXEC_FDS_MAX - 2;
    check_refused(&pair, &program, NULL, "more than a guard takes");
    program.fds_count--;
    exec = plain;
    exec.program_fd = 0;
    check_refused(&pair, &program, &exec, "more than a guard takes");
    exec.program_fd = -2;
    check_refused(&pair, &good, &exec, "program_fd");
    exec = plain;
    exec.cgroups = fds;
    exec.cgroups_count = ROCKER_EXEC_FDS_MAX - 2;
    check_refused(&pair, &good, &exec, "more than a guard takes");
    exec.cgroups_count = UINT_MAX;
    check_refused(&pair, &good, &exec, "more than a guard takes");
    exec.cgroups_count = 1;
    exec.cgroups = NULL;
    check_refused(&pair, &good, &exec, "RockerExec.cgroups");
    program = good;
    program.terminal = program.keep_session = 1;
    check_refused(&pair, &program, NULL, "RockerProgram.terminal");
    exec = plain;
    exec.rlimits_count = 1;
    check_refused(&pair, &good, &exec, "RockerExec.rlimits");
    exec.rlimits = rlimits;
    exec.rlimits_count = 17;
    check_refused(&pair, &good, &exec, "RockerExec.rlimits");
    exec.rlimits_count = 2;
    check_refused(&pair, &good, &exec, "no resource");
    exec = plain;
    exec.filter_count = 1;
    check_refused(&pair, &good, &exec, "RockerExec.filter");
    exec.filter = filter;
    exec.filter_count = 0;
    check_refused(&pair, &good, &exec, "RockerExec.filter");
    exec.filter_count = COUNT(filter);
    check_refused(&pair, &good, &exec, "RockerExec.filter");
    exec.filter_count--;
    check_refused(&pair, &good, &exec, "program: it is too long");
    part(&pair);
    check_unchanged(&before);
}

static void test_exec_descriptor_that_is_none(void)
{
    RockerProgram program = ROCKER_program_new("true");
    struct pair pair = new_pair();
    RockerError error;
    unsigned id;

    program.stdio[2] = 200;
    CHECK_IS(ROCKER_exec(&pair.open, &program, NULL, &id, &error), ROCKER_ERR_send_req_failed);
    CHECK_IS(error.os_errno, EBADF);
    CHECK_TEXT(line_of(&error), "cannot request a program (exec.0): Bad file descriptor");
    CHECK_IS(id, 0);
    /* The next one has the number that this one did not get. */
    CHECK_IS(exec_true(&pair, NULL), 1);
    part(&pair);
}

static void test_exec_one_too_many(void)
{
    RockerProgram program = ROCKER_program_new("true");
    struct pair pair = new_pair();
    RockerEvent event;
    RockerError error;
    unsigned id;
    uint8_t bytes[64];

    for (unsigned i = 1; i <= 64; i++) {
        CHECK_IS(exec_true(&pair, NULL), i);
        CHECK(recv(pair.guard, bytes, sizeof(bytes), 0) > 0);
    }
    for (int again = 0; again < 2; again++) {
        CHECK_IS(ROCKER_exec(&pair.open, &program, NULL, &id, &error),
                 ROCKER_ERR_app_exec_failed);
        CHECK_TEXT(line_of(&error), "cannot start the program (exec.1): clone # the program: "
                                    "Resource temporarily unavailable");
    }
    answer(&pair, BYTES(FAILED), 33, 0);
    CHECK(ROCKER_next(&pair.open, &event) && event.id == 33);
    CHECK_IS(exec_true(&pair, NULL), 65);
    part(&pair);
}

static void in_a_full_table(void)
{
    const struct rlimit full = { 3, 3 };
    RockerProgram program = ROCKER_program_new("true");
    struct pair pair = new_pair();
    RockerEvent event;
    RockerError error;
    unsigned id = exec_true(&pair, NULL);
    struct rlimit usual;
    struct surroundings before;

    look(&before);
    getrlimit(RLIMIT_NOFILE, &usual);
    answer(&pair, BYTES(STARTED), id, 1);
    CHECK_IS(setrlimit(RLIMIT_NOFILE, &(struct rlimit){ full.rlim_cur, usual.rlim_max }), 0);
    program.stdio[0] = ROCKER_STDIO_NULL;
    CHECK_IS(ROCKER_exec(&pair.open, &program, NULL, &id, &error), ROCKER_ERR_sys);
    /* The last of it are the words of the C library. */
    char wanted[128] = "cannot start the App (enter.3): open /dev/null: ";
    strcat(wanted, strerror(EMFILE));
    CHECK_TEXT(line_of(&error), wanted);
    /* A pidfd that finds no room: nobody can tell what was lost. */
    check_lost(&pair, RK_LOSS_GARBAGE);
    CHECK_IS(setrlimit(RLIMIT_NOFILE, &usual), 0);
    CHECK(!ROCKER_next(&pair.open, &event) || event.kind == ROCKER_EVENT_lost);
    check_unchanged(&before);
    part(&pair);
}

/* An emulator may keep the limit to itself: then the kernel knows nothing of it. */
static bool the_kernel_has_the_limit(void)
{
    const char *key = "Max open files";
    struct rlimit usual;
    char line[128];
    bool is_there = true;

    getrlimit(RLIMIT_NOFILE, &usual);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 37, usual.rlim_max });
    FILE *limits = fopen("/proc/self/limits", "r");
    while (limits != NULL && fgets(line, sizeof(line), limits) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0) {
            is_there = atoi(line + strlen(key)) == 37;
        }
    }
    if (limits != NULL) {
        fclose(limits);
    }
    setrlimit(RLIMIT_NOFILE, &usual);
    return is_there;
}

static void test_descriptors_that_find_no_room(void)
{
    if (!the_kernel_has_the_limit()) {
        skip("the kernel has no limit of descriptors here: an emulator?");
        return;
    }
    in_child(in_a_full_table);
}

static void test_orders_to_a_guard_that_reads_nothing(void)
{
    struct pair pair = new_pair();
    ROCKER_ERR code = ROCKER_ERR_success;
    RockerEvent event;
    RockerError error;
    unsigned id = 0;
    unsigned last = 0;
    uint8_t bytes[64];

    for (unsigned i = 0; i < 100000 && code == ROCKER_ERR_success; i++) {
        last = id;
        code = ROCKER_ping(&pair.open, &id, &error);
    }
    CHECK_IS(code, ROCKER_ERR_send_req_failed);
    CHECK_IS(error.os_errno, EAGAIN);
    CHECK_IS(id, 0);
    /* Nothing is lost: it goes on when the guard does. */
    while (recv(pair.guard, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
    }
    for (unsigned i = 0; i <= last; i++) {
        say(pair.guard, BYTES(PONG), 0);
        CHECK_IS(ROCKER_next(&pair.open, &event), i == last);
    }
    CHECK(event.kind == ROCKER_EVENT_pong && event.id == last);
    part(&pair);
}

static void test_orders_to_a_guard_that_has_gone(void)
{
    struct pair pair = new_pair();
    RockerReport report;
    RockerProgram program = ROCKER_program_new("true");
    RockerEvent event;
    RockerError error;
    unsigned id = exec_true(&pair, NULL);

    /* What it said before is told before. */
    answer(&pair, BYTES(STARTED), id, 1);
    answer(&pair, BYTES(ENDED), id, 0);
    close(pair.guard);
    CHECK_IS(exec_true(&pair, NULL), 2);
    CHECK_IS(ROCKER_signal(&pair.open, 0, SIGTERM, &error), ROCKER_ERR_success);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_started);
    close(event.pidfd);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_ended);
    check_lost(&pair, RK_LOSS_DIED);
    CHECK_TEXT((ROCKER_next(&pair.open, &event), line_of(&event.error)),
               "cannot request a program (exec.0): the peer closed the connection");
    CHECK_IS(ROCKER_await(&pair.open, 2, -1, &event), 1);
    CHECK_IS(event.kind, ROCKER_EVENT_lost);
    part(&pair);
    pair = new_pair();
    close(pair.guard);
    CHECK_IS(ROCKER_run(&pair.open, &program, NULL, &report, &error),
             ROCKER_ERR_recv_resp_failed);
    CHECK_IS(error.loss, RK_LOSS_DIED);
    CHECK_IS(ROCKER_end(&pair.open, 1000), 0);
}

static void test_signal(void)
{
    struct pair pair = new_pair();
    RockerEvent event;
    RockerError error;
    uint8_t bytes[64];

    CHECK_IS(ROCKER_signal(&pair.open, 0, 9, &error), ROCKER_ERR_success);
    check_heard(pair.guard, BYTES("\x01\x00\x05\x00\x09"), 0);
    /* Nobody has that number; nobody is told. */
    CHECK_IS(ROCKER_signal(&pair.open, 1, SIGTERM, &error), ROCKER_ERR_success);
    check_silence(pair.guard);
    unsigned id = exec_true(&pair, NULL);
    CHECK(recv(pair.guard, bytes, sizeof(bytes), 0) > 0);
    CHECK_IS(ROCKER_signal(&pair.open, id, 15, NULL), ROCKER_ERR_success);
    check_heard(pair.guard, BYTES("\x01\x00\x05\x01\x01\x0f"), 0);
    answer(&pair, BYTES(STARTED), id, 1);
    answer(&pair, BYTES(ENDED), id, 0);
    /* It came too late. */
    answer(&pair, BYTES(FAILED), id, 0);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_started);
    close(event.pidfd);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_ended);
    CHECK_IS(ROCKER_next(&pair.open, &event), 0);
    CHECK_IS(ROCKER_signal(&pair.open, id, 9, &error), ROCKER_ERR_success);
    check_silence(pair.guard);
    for (int wrong = -1; wrong <= 65; wrong += wrong == 0 ? 65 : 1) {
        CHECK_IS(ROCKER_signal(&pair.open, 0, wrong, &error), ROCKER_ERR_param_invalid);
        CHECK(strstr(line_of(&error), "not one of 1 to 64") != NULL);
    }
    check_silence(pair.guard);
    part(&pair);
}

static void test_go(void)
{
    struct surroundings before;
    RockerEvent event;
    RockerError error;
    uint8_t bytes[64];

    look(&before);
    struct pair pair = new_pair();
    /* Nobody has that number. */
    CHECK_IS(ROCKER_go(&pair.open, 1, &error), ROCKER_ERR_success);
    CHECK_IS(ROCKER_go(&pair.open, 0, &error), ROCKER_ERR_success);
    check_silence(pair.guard);
    unsigned id = start_true(&pair, NULL, 1);
    CHECK(recv(pair.guard, bytes, sizeof(bytes), 0) > 0);
    answer(&pair, BYTES(STARTED), id, 1);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_started);
    close(event.pidfd);
    for (int again = 0; again < 2; again++) {
        CHECK_IS(ROCKER_go(&pair.open, id, NULL), ROCKER_ERR_success);
        check_heard(pair.guard, BYTES("\x01\x00\x0d\x01"), 0);
    }
    /* It went already: nobody is told. */
    answer(&pair, BYTES(FAILED), id, 0);
    CHECK_IS(ROCKER_next(&pair.open, &event), 0);
    answer(&pair, BYTES(ENDED), id, 0);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_ended);
    CHECK_IS(ROCKER_go(&pair.open, id, &error), ROCKER_ERR_success);
    check_silence(pair.guard);
    part(&pair);
    check_unchanged(&before);
}

/* Of one that was let go, and kept like an end. */
static void test_go_in_vain(void)
{
    struct surroundings before;
    RockerEvent event;
    int data;

    look(&before);
    struct pair pair = new_pair();
    unsigned id = start_true(&pair, &data, 1);
    unsigned other = start_true(&pair, NULL, 1);
    answer(&pair, BYTES(STARTED), id, 1);
    answer(&pair, BYTES(STARTED), other, 1);
    for (int i = 0; i < 2; i++) {
        CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_started);
        close(event.pidfd);
    }
    answer(&pair, BYTES(FAILED_LATE), id, 0);
    CHECK_IS(ROCKER_await(&pair.open, other, 0, &event), 0);
    CHECK_IS(ROCKER_await(&pair.open, id, -1, &event), 1);
    CHECK_IS(event.kind, ROCKER_EVENT_failed);
    CHECK(event.id == id && event.data == &data && event.error.at_exec);
    CHECK_IS(event.error.err_no, ROCKER_ERR_app_exec_failed);
    CHECK_IS(event.error.step, RK_REPORT_EXIT);
    CHECK(strstr(line_of(&event.error), "(exec.3): exec bin/app: No such file") != NULL);
    CHECK_IS(ROCKER_next(&pair.open, &event), 0);
    /* A long command is cut: it is for people. */
    for (int length = 94; length < 98; length++) {
        uint8_t bytes[128] = FAILED_LATE;
        char wanted[98] = "exec ";
        bytes[7] = (uint8_t)length;
        memset(bytes + 13, 'x', (size_t)length - 5);
        memset(wanted + 5, 'x', (size_t)length - 5);
        if (length > 95) {
            strcpy(wanted + 92, "...");
        }
        id = start_true(&pair, NULL, 1);
        bytes[3] = (uint8_t)id;
        answer(&pair, BYTES(STARTED), id, 1);
        say(pair.guard, bytes, 8 + (size_t)length, 0);
        CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_started);
        close(event.pidfd);
        CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_failed);
        CHECK_TEXT(event.error.command, wanted);
    }
    /* Of one that did not wait no guard says that. */
    id = exec_true(&pair, NULL);
    answer(&pair, BYTES(STARTED), id, 1);
    answer(&pair, BYTES(FAILED_LATE), id, 0);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_started);
    close(event.pidfd);
    check_lost(&pair, RK_LOSS_GARBAGE);
    part(&pair);
    check_unchanged(&before);
}

/* --- Files. ----------------------------------------------------------------------------------- */

static void test_files_bytes(void)
{
    static char longest[4097];
    const RockerFile files[ROCKER_FILES_MAX + 1] = {
        { "in", ROCKER_FILE_WRITE | ROCKER_FILE_CREATE, 0600 },
        { "/out", 0, 0 },
    };
    struct surroundings before;
    RockerError error;
    unsigned id;

    look(&before);
    struct pair pair = new_pair();
    CHECK_IS(ROCKER_open_files(&pair.open, files, 2, &id, &error), ROCKER_ERR_success);
    /* Neither to be read nor written: to be read. */
    check_heard(pair.guard, BYTES("\x01\x00\x07\x01\x02\x02" "in\x06\x80\x03\x04" "/out\x01\x00"),
                0);
    CHECK_IS(ROCKER_delete(&pair.open, "a", 1, &id, &error), ROCKER_ERR_success);
    check_heard(pair.guard, BYTES("\x01\x00\x08\x02\x01" "a\x01"), 0);
    CHECK_IS(ROCKER_symlink(&pair.open, "a", "/b", &id, &error), ROCKER_ERR_success);
    check_heard(pair.guard, BYTES("\x01\x00\x09\x03\x01" "a\x02" "/b"), 0);
    CHECK_IS(id, 3);
    /* What is no path is not sent. */
    memset(longest, 'x', sizeof(longest) - 1);
    CHECK_IS(ROCKER_delete(&pair.open, longest, 0, &id, &error), ROCKER_ERR_param_invalid);
    CHECK(strstr(line_of(&error), "file xxx") != NULL && strstr(line_of(&error), "too long") != NULL);
    CHECK_IS(id, 0);
    CHECK_IS(ROCKER_symlink(&pair.open, "a", "", &id, &error), ROCKER_ERR_param_invalid);
    CHECK_TEXT(line_of(&error), "file: it is empty");
    CHECK_IS(ROCKER_symlink(&pair.open, NULL, "a", &id, NULL), ROCKER_ERR_param_invalid);
    CHECK_IS(ROCKER_open_files(&pair.open, files, 3, &id, &error), ROCKER_ERR_param_invalid);
    CHECK_IS(ROCKER_open_files(&pair.open, files, 17, &id, &error), ROCKER_ERR_param_invalid);
    const RockerFile odd = { "a", 1 << 16, 0 };
    CHECK_IS(ROCKER_open_files(&pair.open, &odd, 1, &id, &error), ROCKER_ERR_param_invalid);
    check_silence(pair.guard);
    part(&pair);
    check_unchanged(&before);
}

static void test_files_events(void)
{
    const RockerFile files[] = { { "a", 0, 0 }, { "b", 0, 0 }, { "c", 0, 0 } };
    struct surroundings before;
    RockerEvent event;
    unsigned ids[3];

    look(&before);
    struct pair pair = new_pair();
    ROCKER_open_files(&pair.open, files, 3, &ids[0], NULL);
    ROCKER_delete(&pair.open, "a", 0, &ids[1], NULL);
    ROCKER_symlink(&pair.open, "a", "b", &ids[2], NULL);
    say(pair.guard, BYTES("\x01\x02\x09\x01\x03\x00\x02\x00"), 2);
    answer(&pair, BYTES("\x01\x02\x08\x01"), ids[1], 0);
    answer(&pair, BYTES("\x01\x02\x05\x01\x01\x41\x0d\x05" "ln -s"), ids[2], 0);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_opened);
    CHECK(event.id == ids[0] && event.files_count == 3 && event.files[1] == -ENOENT);
    CHECK(event.files[0] >= 0 && (fcntl(event.files[0], F_GETFD) & FD_CLOEXEC));
    CHECK(event.files[2] >= 0 && event.files[2] != event.files[0]);
    close(event.files[0]);
    close(event.files[2]);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_done);
    CHECK_IS(event.id, ids[1]);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_failed);
    CHECK_TEXT(line_of(&event.error),
               "cannot make a link inside (exec.1): ln -s: Permission denied");
    CHECK_IS(ROCKER_next(&pair.open, &event), 0);
    part(&pair);
    check_unchanged(&before);
}

/* A guard has one step for all of them. */
static void test_every_order_has_its_words(void)
{
    static const RockerFile file = { "a", 0, 0 };
    static const char *const words[] = { "start the program", "open a file inside",
                                         "delete a file inside", "make a link inside",
                                         "set up what the App sees", "make the rocker as new" };
    const RockerProgram program = ROCKER_program_new("true");
    const RockerConf conf = ROCKER_conf_new();
    RockerEvent event;
    char wanted[128];
    unsigned id;

    for (unsigned n = 0; n < 2 * COUNT(words); n++) {
        struct pair pair = new_pair();
        unsigned what = n / 2;
        ROCKER_ERR code = what == 0   ? ROCKER_exec(&pair.open, &program, NULL, &id, NULL)
                          : what == 1 ? ROCKER_open_files(&pair.open, &file, 1, &id, NULL)
                          : what == 2 ? ROCKER_delete(&pair.open, "a", 0, &id, NULL)
                          : what == 3 ? ROCKER_symlink(&pair.open, "a", "b", &id, NULL)
                          : what == 4 ? ROCKER_configure(&pair.open, &conf, &id, NULL)
                                      : ROCKER_reset(&pair.open, &id, NULL);
        CASE("%s", words[what]);
        CHECK_IS(code, ROCKER_ERR_success);
        /* Refused, or the end of the guard, which is so for two of them. */
        bool is_end = n % 2 == 1;
        const char *is = is_end && what < 4 ? words[0] : words[what];
        if (is_end) {
            say(pair.guard, BYTES("\x01\x02\x02\x01\x41\x0d\x02" "do"), 0);
        } else {
            answer(&pair, BYTES("\x01\x02\x05\x01\x01\x41\x0d\x02" "do"), id, 0);
        }
        (void)snprintf(wanted, sizeof(wanted), "cannot %s (exec.1): do: Permission denied", is);
        for (int times = 0; times <= is_end; times++) {
            CHECK_IS(ROCKER_next(&pair.open, &event), 1);
            CHECK_IS(event.kind, is_end ? ROCKER_EVENT_lost : ROCKER_EVENT_failed);
            CHECK_TEXT(line_of(&event.error), wanted);
        }
        part(&pair);
    }
}

/* As many as may be unanswered. */
static void test_files_one_too_many(void)
{
    struct pair pair = new_pair();
    RockerEvent event;
    RockerError error;
    unsigned id;

    for (unsigned i = 1; i <= 16; i++) {
        CHECK_IS(ROCKER_delete(&pair.open, "a", 0, &id, &error), ROCKER_ERR_success);
    }
    CHECK_IS(ROCKER_delete(&pair.open, "a", 0, &id, &error), ROCKER_ERR_send_req_failed);
    CHECK_IS(error.os_errno, EAGAIN);
    CHECK_IS(exec_true(&pair, NULL), 17);
    answer(&pair, BYTES("\x01\x02\x08\x01"), 9, 0);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_done && event.id == 9);
    CHECK_IS(ROCKER_delete(&pair.open, "a", 0, &id, &error), ROCKER_ERR_success);
    part(&pair);
}

/* An answer to another kind of order; and other descriptors than it says. */
static void test_files_what_no_guard_says(void)
{
    static const RockerFile file = { "a", 0, 0 };
    static const struct {
        const char *says;
        size_t length;
        unsigned fds;
    } cases[] = {
        /* 1 is a program, 2 are files, 3 is a deed. */
        { BYTES("\x01\x02\x08\x01"), 0 },
        { BYTES("\x01\x02\x08\x02"), 0 },
        { BYTES("\x01\x02\x09\x01\x01\x00"), 1 },
        { BYTES("\x01\x02\x09\x03\x01\x00"), 1 },
        { BYTES("\x01\x02\x09\x02\x02\x00\x00"), 2 },
        { BYTES("\x01\x02\x09\x02\x00"), 0 },
        { BYTES("\x01\x02\x09\x02\x01\x00"), 0 },
        { BYTES("\x01\x02\x09\x02\x01\x02"), 1 },
        { BYTES("\x01\x02\x09\x02\x11\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), 8 },
        { BYTES("\x01\x02\x04\x02\x02"), 1 },
        { BYTES("\x01\x02\x04\x03\x02"), 1 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct surroundings before;
        unsigned id;

        CASE("case %zu", i);
        look(&before);
        struct pair pair = new_pair();
        exec_true(&pair, NULL);
        ROCKER_open_files(&pair.open, &file, 1, &id, NULL);
        ROCKER_delete(&pair.open, "a", 0, &id, NULL);
        say(pair.guard, cases[i].says, cases[i].length, cases[i].fds);
        check_lost(&pair, RK_LOSS_GARBAGE);
        part(&pair);
        check_unchanged(&before);
    }
}

/* --- What the rocker looks like. -------------------------------------------------------------- */

static void check_not_configured(struct pair *pair, const RockerConf *conf, const char *words)
{
    RockerError error;
    unsigned id = 7;

    CASE("%s", words);
    CHECK_IS(ROCKER_configure(&pair->open, conf, &id, &error), ROCKER_ERR_param_invalid);
    CHECK(strstr(line_of(&error), words) != NULL);
    CHECK_IS(id, 0);
    CHECK_IS(ROCKER_configure(&pair->open, conf, &id, NULL), ROCKER_ERR_param_invalid);
    check_silence(pair->guard);
}

static void test_configure_bytes_and_events(void)
{
    static const RockerPlace places[] = {
        { ROCKER_PLACE_bind, 0, "/a", "/b", 0 },
        { ROCKER_PLACE_tmpfs, 0700, NULL, "/c", 1 },
    };
    RockerConf conf = ROCKER_conf_new();
    struct surroundings before;
    RockerEvent event;
    RockerError error;
    unsigned id;

    look(&before);
    struct pair pair = new_pair();
    CHECK_IS(ROCKER_configure(&pair.open, &conf, &id, &error), ROCKER_ERR_success);
    CHECK(id == 1 && error.err_no == ROCKER_ERR_success);
    check_heard(pair.guard, BYTES("\x01\x00\x0b\x01\0\0\0\0\0\0\0\0\0"), 0);
    conf.places = places;
    conf.places_count = 2;
    CHECK_IS(ROCKER_configure(&pair.open, &conf, &id, NULL), ROCKER_ERR_success);
    check_heard(pair.guard,
                BYTES("\x01\x00\x0b\x02\x00\x0f" "\x00\x02/a\x02/b\x00" "\x01\x02/c\x01\xc0\x03"
                      "\0\0\0\0\0\0\0"), 0);
    CHECK_IS(ROCKER_reset(&pair.open, &id, &error), ROCKER_ERR_success);
    CHECK_IS(id, 3);
    check_heard(pair.guard, BYTES("\x01\x00\x0c\x03"), 0);
    answer(&pair, BYTES("\x01\x02\x08\x01"), 1, 0);
    answer(&pair, BYTES("\x01\x02\x05\x01\x01\x41\x11\x04" "conf"), 2, 0);
    answer(&pair, BYTES("\x01\x02\x08\x01"), 3, 0);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_done && event.id == 1);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_failed && event.id == 2);
    CHECK_IS(event.error.os_errno, EEXIST);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_done && event.id == 3);
    CHECK_IS(ROCKER_next(&pair.open, &event), 0);
    part(&pair);
    check_unchanged(&before);
}

/* What ends by it is told like any end, before it is done. */
static void test_reset_ends_programs(void)
{
    struct pair pair = new_pair();
    RockerEvent event;
    unsigned reset;
    unsigned id = exec_true(&pair, NULL);

    answer(&pair, BYTES(STARTED), id, 1);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_started);
    close(event.pidfd);
    CHECK_IS(ROCKER_reset(&pair.open, &reset, NULL), ROCKER_ERR_success);
    answer(&pair, BYTES(ENDED), id, 0);
    answer(&pair, BYTES("\x01\x02\x08\x01"), reset, 0);
    CHECK_IS(ROCKER_await(&pair.open, reset, -1, &event), 1);
    CHECK(event.kind == ROCKER_EVENT_done && event.id == reset);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_ended && event.id == id);
    part(&pair);
}

static void test_configure_misuse(void)
{
    static char longest[4097];
    static char name[66];
    static RockerPlace many[900];
    struct pair pair = new_pair();
    RockerPlace place = { ROCKER_PLACE_bind, 0, "/a", "/b", 0 };
    RockerProgram init = ROCKER_program_new("true");
    const RockerConf plain = ROCKER_conf_new();
    RockerConf conf = plain;

    conf.size++;
    check_not_configured(&pair, &conf, "RockerConf.size");
    conf = plain;
    conf.root = "/a";
    conf.empty_root = 1;
    check_not_configured(&pair, &conf, "root and empty_root");
    conf.empty_root = 0;
    conf.root = "a";
    check_not_configured(&pair, &conf, "file a: the path must be absolute");
    conf = plain;
    conf.work_dir = "";
    check_not_configured(&pair, &conf, "file: it is empty");
    conf = plain;
    conf.places_count = 1;
    check_not_configured(&pair, &conf, "RockerConf.places");
    conf.places = &place;
    place.kind = (ROCKER_PLACE)8;
    check_not_configured(&pair, &conf, "RockerPlace.kind");
    place.kind = ROCKER_PLACE_tmpfs;
    place.mode = 65536;
    check_not_configured(&pair, &conf, "RockerPlace.kind or mode");
    place.mode = 0;
    place.target = NULL;
    check_not_configured(&pair, &conf, "file: it is empty");
    place.target = "/a/../b";
    check_not_configured(&pair, &conf, "file /a/../b: the path must not contain");
    memset(longest, '/', sizeof(longest) - 1);
    place.target = longest;
    check_not_configured(&pair, &conf, "it is too long");
    place = (RockerPlace){ ROCKER_PLACE_bind_ro, 0, "a\n", "/b", 0 };
    check_not_configured(&pair, &conf, "control character");
    place.kind = ROCKER_PLACE_link;
    place.source = "";
    check_not_configured(&pair, &conf, "file: it is empty");
    place.source = longest;
    check_not_configured(&pair, &conf, "it is too long");
    conf = plain;
    memset(name, 'n', 65);
    conf.host_name = name;
    check_not_configured(&pair, &conf, "rocker nnn");
    name[64] = '\0';
    conf.domain_name = "\xc3";
    check_not_configured(&pair, &conf, "not UTF-8");
    conf.domain_name = name;
    conf.init = &init;
    check_not_configured(&pair, &conf, "program: a time must lie between");
    conf.init_ms = 1;
    init.path = NULL;
    check_not_configured(&pair, &conf, "program: it is empty");
    init.size--;
    check_not_configured(&pair, &conf, "RockerProgram.size");
    /* Together they are too long. */
    conf = plain;
    for (size_t i = 0; i < COUNT(many); i++) {
        many[i] = (RockerPlace){ ROCKER_PLACE_mask, 0, NULL, longest + 4060, 0 };
    }
    conf.places = many;
    conf.places_count = COUNT(many);
    check_not_configured(&pair, &conf, "request: it is too long");
    part(&pair);
}

/* --- Events. ---------------------------------------------------------------------------------- */

static void test_next_tells_what_came(void)
{
    struct surroundings before;
    RockerEvent event;
    int data;

    look(&before);
    struct pair pair = new_pair();
    CHECK_IS(ROCKER_next(&pair.open, &event), 0);
    say(pair.guard, BYTES(PONG), 0);
    CHECK_IS(ROCKER_next(&pair.open, &event), 0);
    unsigned id = exec_true(&pair, &data);
    CHECK_IS(ROCKER_next(&pair.open, &event), 0);
    answer(&pair, BYTES(STARTED), id, 1);
    CHECK_IS(ROCKER_next(&pair.open, &event), 1);
    CHECK_IS(event.kind, ROCKER_EVENT_started);
    CHECK(event.id == id && event.data == &data && event.pid == 2);
    CHECK(event.pidfd >= 0 && (fcntl(event.pidfd, F_GETFD) & FD_CLOEXEC));
    CHECK_IS(event.error.err_no, ROCKER_ERR_success);
    close(event.pidfd);
    answer(&pair, BYTES(ENDED), id, 0);
    CHECK_IS(ROCKER_next(&pair.open, &event), 1);
    CHECK_IS(event.kind, ROCKER_EVENT_ended);
    CHECK(event.id == id && event.data == &data && event.pidfd == -1);
    CHECK(event.report.status == -1 && event.report.signal == 9);
    CHECK_IS(event.report.verdict, ROCKER_VERDICT_time_limit_exceeded);
    CHECK_TEXT(ROCKER_verdict_name(event.report.verdict), "time limit exceeded");
    CHECK(event.report.user_us == 1000 && event.report.system_us == 2000);
    CHECK(event.report.wall_us == 5 && event.report.peak_kib == 4096);
    id = exec_true(&pair, &data);
    answer(&pair, BYTES(FAILED), id, 0);
    CHECK_IS(ROCKER_next(&pair.open, &event), 1);
    CHECK_IS(event.kind, ROCKER_EVENT_failed);
    CHECK(event.id == id && event.data == &data && event.pidfd == -1);
    CHECK_IS(event.error.err_no, ROCKER_ERR_app_exec_failed);
    CHECK_IS(event.error.at_exec, 1);
    CHECK_TEXT(line_of(&event.error),
               "cannot start the program (exec.1): exec bin/app: No such file or directory: "
               "the rocker holds no such program, or not its interpreter or loader");
    CHECK_IS(ROCKER_next(&pair.open, &event), 0);
    part(&pair);
    check_unchanged(&before);
}

static void test_verdicts_have_names(void)
{
    CHECK_TEXT(ROCKER_verdict_name(ROCKER_VERDICT_normal), "normal");
    CHECK_TEXT(ROCKER_verdict_name(ROCKER_VERDICT_cancelled), "cancelled");
    CHECK_TEXT(ROCKER_verdict_name((ROCKER_VERDICT)10), "unknown");
    CHECK_TEXT(ROCKER_verdict_name((ROCKER_VERDICT)-1), "unknown");
}

/* What no guard says: the connection is of no use any more, and nothing is left open. */
static void test_next_what_no_guard_says(void)
{
    static char long_one[2000] = FAILED;
    static const struct {
        const char *says;
        size_t length;
        unsigned fds;
        int loss;
    } cases[] = {
        { BYTES("\x01"), 0, RK_LOSS_GARBAGE },
        { BYTES("\x02"), 0, RK_LOSS_VERSION },
        { BYTES(""), 0, RK_LOSS_DIED },
        { BYTES(""), 1, RK_LOSS_GARBAGE },
        { BYTES("\x02"), 1, RK_LOSS_GARBAGE },
        { BYTES(PONG "\x00"), 0, RK_LOSS_GARBAGE },
        { BYTES(PONG), 1, RK_LOSS_GARBAGE },
        { BYTES(PING), 0, RK_LOSS_GARBAGE },
        { BYTES(ENTRANCE), 1, RK_LOSS_GARBAGE },
        { BYTES("\x01\x02\x02\x01\x13\x05\x00"), 1, RK_LOSS_GARBAGE },
        { BYTES("\x01\x01\x02\x01\x13\x05\x00"), 0, RK_LOSS_GARBAGE },
        { BYTES(STARTED), 0, RK_LOSS_GARBAGE },
        { BYTES(STARTED), 2, RK_LOSS_GARBAGE },
        { BYTES(STARTED), 8, RK_LOSS_GARBAGE },
        { BYTES(FAILED), 1, RK_LOSS_GARBAGE },
        { BYTES(ENDED), 0, RK_LOSS_GARBAGE },
        { BYTES("\x01\x02\x04\x02\x02"), 1, RK_LOSS_GARBAGE },
        { BYTES("\x01\x02\x04\x00\x02"), 1, RK_LOSS_GARBAGE },
        { BYTES("\x01\x02\x05\x02\x01\x41\x02\x00"), 0, RK_LOSS_GARBAGE },
        /* An end of no known kind, and one with no known verdict. */
        { BYTES("\x01\x02\x06\x01\x02\x00\x00\x01\x01\x01\x01" UNCOUNTED), 0, RK_LOSS_GARBAGE },
        { BYTES("\x01\x02\x06\x01\x00\x00\x0a\x01\x01\x01\x01" UNCOUNTED), 0, RK_LOSS_GARBAGE },
        { long_one, sizeof(long_one), 0, RK_LOSS_GARBAGE },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct surroundings before;

        CASE("case %zu", i);
        look(&before);
        struct pair pair = new_pair();
        CHECK_IS(exec_true(&pair, NULL), 1);
        say(pair.guard, cases[i].says, cases[i].length, cases[i].fds);
        say(pair.guard, BYTES(STARTED), 1);
        check_lost(&pair, (enum rk_loss)cases[i].loss);
        part(&pair);
        check_unchanged(&before);
    }
}

static void test_next_last_words_of_a_guard(void)
{
    struct pair pair = new_pair();
    RockerEvent event;
    unsigned id = exec_true(&pair, NULL);

    say(pair.guard, BYTES("\x01\x02\x02\x01\x41\x02\x07" "cd /tmp"), 0);
    answer(&pair, BYTES(STARTED), id, 1);
    for (int again = 0; again < 2; again++) {
        CHECK_IS(ROCKER_await(&pair.open, id, -1, &event), 1);
        CHECK(event.kind == ROCKER_EVENT_lost && event.id == 0);
        CHECK_TEXT(line_of(&event.error),
                   "cannot start the program (exec.1): cd /tmp: No such file or directory");
    }
    part(&pair);
}

/* In every state of an order. */
static void test_next_answers_out_of_turn(void)
{
    struct pair pair = new_pair();
    RockerEvent event;

    say(pair.guard, BYTES(PONG), 0);
    say(pair.guard, BYTES(PONG), 0);
    check_lost(&pair, RK_LOSS_GARBAGE);
    part(&pair);
    pair = new_pair();
    unsigned id = exec_true(&pair, NULL);
    answer(&pair, BYTES(STARTED), id, 1);
    answer(&pair, BYTES(STARTED), id, 1);
    CHECK_IS(ROCKER_next(&pair.open, &event), 1);
    close(event.pidfd);
    check_lost(&pair, RK_LOSS_GARBAGE);
    part(&pair);
    pair = new_pair();
    id = exec_true(&pair, NULL);
    answer(&pair, BYTES(STARTED), id, 1);
    answer(&pair, BYTES(ENDED), id, 0);
    answer(&pair, BYTES(ENDED), id, 0);
    CHECK_IS(ROCKER_next(&pair.open, &event), 1);
    close(event.pidfd);
    CHECK(ROCKER_next(&pair.open, &event) && event.kind == ROCKER_EVENT_ended);
    check_lost(&pair, RK_LOSS_GARBAGE);
    part(&pair);
}

static void test_await_keeps_what_is_for_others(void)
{
    struct surroundings before;
    RockerEvent event;
    unsigned ids[3];

    look(&before);
    struct pair pair = new_pair();
    for (int i = 0; i < 3; i++) {
        ids[i] = exec_true(&pair, &ids[i]);
        answer(&pair, BYTES(STARTED), ids[i], 1);
        CHECK_IS(ROCKER_await(&pair.open, ids[i], 0, &event), 1);
        CHECK(event.kind == ROCKER_EVENT_started && event.id == ids[i]);
        close(event.pidfd);
        CHECK_IS(ROCKER_await(&pair.open, ids[i], 0, &event), 0);
    }
    for (int i = 0; i < 3; i++) {
        answer(&pair, BYTES(ENDED), ids[i], 0);
    }
    CHECK_IS(ROCKER_await(&pair.open, ids[2], -1, &event), 1);
    CHECK(event.kind == ROCKER_EVENT_ended && event.data == &ids[2]);
    CHECK_IS(ROCKER_next(&pair.open, &event), 1);
    CHECK(event.kind == ROCKER_EVENT_ended && event.id != ids[2]);
    CHECK_IS(ROCKER_await(&pair.open, ids[0] + ids[1] - event.id, -1, &event), 1);
    CHECK(event.kind == ROCKER_EVENT_ended);
    CHECK_IS(ROCKER_next(&pair.open, &event), 0);
    /* Nothing more comes of any. */
    for (int i = 0; i < 3; i++) {
        CHECK_IS(ROCKER_await(&pair.open, ids[i], -1, &event), 1);
        CHECK(event.kind == ROCKER_EVENT_failed && event.id == ids[i]);
        CHECK_IS(event.error.err_no, ROCKER_ERR_param_invalid);
        CHECK(strstr(line_of(&event.error), "no such order") != NULL);
    }
    part(&pair);
    check_unchanged(&before);
}

static void test_await_does_not_overtake(void)
{
    struct pair pair = new_pair();
    RockerEvent event;
    RockerError error;
    unsigned ping;
    unsigned id = exec_true(&pair, NULL);

    CHECK_IS(ROCKER_ping(&pair.open, &ping, &error), ROCKER_ERR_success);
    CHECK_IS(ROCKER_await(&pair.open, id, -1, &event), 1);
    CHECK_IS(event.error.err_no, ROCKER_ERR_param_invalid);
    CHECK_IS(ROCKER_await(&pair.open, ping, -1, &event), 1);
    CHECK_IS(event.error.err_no, ROCKER_ERR_param_invalid);
    answer(&pair, BYTES(STARTED), id, 1);
    CHECK_IS(ROCKER_next(&pair.open, &event), 1);
    CHECK_IS(event.kind, ROCKER_EVENT_started);
    close(event.pidfd);
    CHECK_IS(ROCKER_await(&pair.open, ping, 0, &event), 0);
    say(pair.guard, BYTES(PONG), 0);
    say(pair.guard, BYTES(PONG), 0);
    CHECK_IS(ROCKER_await(&pair.open, ping, -1, &event), 1);
    CHECK(event.kind == ROCKER_EVENT_pong && event.id == ping && event.data == NULL);
    CHECK_IS(ROCKER_await(&pair.open, id, 0, &event), 0);
    part(&pair);
}

static void test_await_ends_in_time(void)
{
    struct pair pair = new_pair();
    RockerEvent event;
    unsigned id = exec_true(&pair, NULL);
    long long began = now_ms();

    CHECK_IS(ROCKER_await(&pair.open, id, 50, &event), 0);
    check_waited(began, 50);
    part(&pair);
}

static volatile sig_atomic_t signals;

static void count_signal(int signal)
{
    signals += signal > 0;
}

static void in_a_storm(void)
{
    const struct itimerval blows = { { 0, 100 }, { 0, 100 } };
    const struct itimerval calm = { { 0, 0 }, { 0, 0 } };
    struct sigaction action;
    RockerEvent event;

    memset(&action, 0, sizeof(action));
    action.sa_handler = count_signal;
    sigaction(SIGALRM, &action, NULL);
    struct pair pair = new_pair();
    CHECK_IS(setitimer(ITIMER_REAL, &blows, NULL), 0);
    unsigned id = exec_true(&pair, NULL);
    long long began = now_ms();
    CHECK_IS(ROCKER_await(&pair.open, id, 50, &event), 0);
    check_waited(began, 50);
    CHECK(signals > 10);
    for (int i = 0; i < 200; i++) {
        /* The test's own calls are not what is tried here. */
        setitimer(ITIMER_REAL, &calm, NULL);
        answer(&pair, BYTES(STARTED), id, 1);
        answer(&pair, BYTES(ENDED), id, 0);
        setitimer(ITIMER_REAL, &blows, NULL);
        CHECK_IS(ROCKER_await(&pair.open, id, -1, &event), 1);
        CHECK_IS(event.kind, ROCKER_EVENT_started);
        close(event.pidfd);
        CHECK_IS(ROCKER_await(&pair.open, id, -1, &event), 1);
        CHECK_IS(event.kind, ROCKER_EVENT_ended);
        /* Numbers of one byte are enough for this guard. */
        if (i % 100 == 99) {
            ROCKER_end(&pair.open, 1000);
            setitimer(ITIMER_REAL, &calm, NULL);
            close(pair.guard);
            pair = new_pair();
            setitimer(ITIMER_REAL, &blows, NULL);
        }
        id = exec_true(&pair, NULL);
        uint8_t bytes[64];
        while (recv(pair.guard, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
        }
    }
    setitimer(ITIMER_REAL, &calm, NULL);
    part(&pair);
}

static void test_orders_in_a_storm_of_signals(void)
{
    in_child(in_a_storm);
}

static void test_run(void)
{
    RockerProgram program = ROCKER_program_new("true");
    struct surroundings before;
    RockerReport report;
    RockerError error;

    look(&before);
    struct pair pair = new_pair();
    /* Its number will be 1; what it says too early waits in the socket. */
    answer(&pair, BYTES(STARTED), 1, 1);
    answer(&pair, BYTES(ENDED), 1, 0);
    CHECK_IS(ROCKER_run(&pair.open, &program, NULL, &report, &error), ROCKER_ERR_success);
    CHECK_IS(error.err_no, ROCKER_ERR_success);
    CHECK(report.signal == 9 && report.wall_us == 5);
    answer(&pair, BYTES(FAILED), 2, 0);
    CHECK_IS(ROCKER_run(&pair.open, &program, NULL, &report, &error), ROCKER_ERR_app_exec_failed);
    CHECK_IS(error.os_errno, ENOENT);
    CHECK(report.signal == 0 && report.wall_us == 0);
    CHECK_IS(ROCKER_run(&pair.open, &(RockerProgram){ 0 }, NULL, &report, NULL),
             ROCKER_ERR_param_invalid);
    /* One that waits goes at once. */
    uint8_t bytes[64];
    RockerExec exec = ROCKER_exec_new();
    exec.sync = 1;
    while (recv(pair.guard, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
    }
    for (unsigned id = 3; id < 5; id++) {
        answer(&pair, BYTES(STARTED), id, 1);
        if (id == 3) {
            answer(&pair, BYTES(ENDED), id, 0);
        } else {
            answer(&pair, BYTES(FAILED_LATE), id, 0);
        }
        CHECK_IS(ROCKER_run(&pair.open, &program, &exec, &report, &error),
                 id == 3 ? ROCKER_ERR_success : ROCKER_ERR_app_exec_failed);
        CHECK_IS(recv(pair.guard, bytes, sizeof(bytes), MSG_DONTWAIT), 20);
        const uint8_t go[] = { 1, 0, 13, (uint8_t)id };
        check_heard(pair.guard, go, sizeof(go), 0);
    }
    CHECK_IS(report.signal, 0);
    /* Behind an answer of somebody else's it does not begin to wait. */
    exec_true(&pair, NULL);
    CHECK_IS(ROCKER_run(&pair.open, &program, NULL, &report, &error), ROCKER_ERR_param_invalid);
    part(&pair);
    check_unchanged(&before);
}

/* --- The end. --------------------------------------------------------------------------------- */

/* A process that ends with its connection, as a guard does; or only when it is killed. */
static pid_t new_guard(int connection, int others, int *pidfd)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        close(others);
        while (connection < 0 || recv(connection, &byte, 1, 0) > 0) {
            if (connection < 0) {
                pause();
            }
        }
        _exit(0);
    }
    *pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return pid;
}

static void test_end_waits_until_all_is_gone(void)
{
    struct surroundings before;
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);

    if (self < 0) {
        skip("there is no pidfd_open(2) here: an emulator?");
        return;
    }
    close(self);
    look(&before);
    for (int timeout_ms = -1; timeout_ms < 20000; timeout_ms += 10000) {
        struct pair pair = new_pair();
        close(pair.open.guard_pidfd);
        pid_t pid = new_guard(pair.guard, pair.open.connection, &pair.open.guard_pidfd);
        CHECK_IS(ROCKER_end(&pair.open, timeout_ms), 0);
        CHECK_IS(waitpid(pid, NULL, WNOHANG), pid);
        close(pair.guard);
    }
    for (int timeout_ms = 0; timeout_ms < 100; timeout_ms += 50) {
        struct pair pair = new_pair();
        long long began = now_ms();
        close(pair.open.guard_pidfd);
        pid_t pid = new_guard(-1, -1, &pair.open.guard_pidfd);
        CHECK_IS(ROCKER_end(&pair.open, timeout_ms), ETIMEDOUT);
        check_waited(began, timeout_ms);
        CHECK(pair.open.guard_pidfd == -1 && pair.open.connection == -1);
        kill(pid, SIGKILL);
        CHECK_IS(waitpid(pid, NULL, 0), pid);
        close(pair.guard);
    }
    check_unchanged(&before);
}

static const struct test tests[] = {
    TEST(test_open_success),
    TEST(test_open_failures),
    TEST(test_open_guard_that_ends_before_the_greeting),
    TEST(test_open_broken_rules),
    TEST(test_attach_success),
    TEST(test_attach_failures),
    TEST(test_attach_broken_rules),
    TEST(test_launch_end_of_the_other_kind),
    TEST(test_exec_bytes),
    TEST(test_exec_with_everything),
    TEST(test_exec_as_much_as_there_is_room_for),
    TEST(test_exec_misuse),
    TEST(test_exec_descriptor_that_is_none),
    TEST(test_exec_one_too_many),
    TEST(test_descriptors_that_find_no_room),
    TEST(test_orders_to_a_guard_that_reads_nothing),
    TEST(test_orders_to_a_guard_that_has_gone),
    TEST(test_signal),
    TEST(test_go),
    TEST(test_go_in_vain),
    TEST(test_files_bytes),
    TEST(test_files_events),
    TEST(test_every_order_has_its_words),
    TEST(test_files_one_too_many),
    TEST(test_files_what_no_guard_says),
    TEST(test_configure_bytes_and_events),
    TEST(test_reset_ends_programs),
    TEST(test_configure_misuse),
    TEST(test_next_tells_what_came),
    TEST(test_verdicts_have_names),
    TEST(test_next_what_no_guard_says),
    TEST(test_next_last_words_of_a_guard),
    TEST(test_next_answers_out_of_turn),
    TEST(test_await_keeps_what_is_for_others),
    TEST(test_await_does_not_overtake),
    TEST(test_await_ends_in_time),
    TEST(test_orders_in_a_storm_of_signals),
    TEST(test_run),
    TEST(test_end_waits_until_all_is_gone),
};

TAP_MAIN(tests)
