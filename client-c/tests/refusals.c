/*
 * Launches that are refused: requests that are none, and masters, guards and kernels that are no
 * good.
 */
#define _GNU_SOURCE
#include "stage.h"

#include <sys/resource.h>

/* --- Requests that are none. ------------------------------------------------------------------ */

static const struct wanted invalid = { ROCKER_ERR_param_invalid, RK_REQUEST_ROCKER, 0, -1 };
static const struct wanted misused = { ROCKER_ERR_param_invalid, RK_REQUEST_ROCKER, EINVAL, -1 };

/* A job that would fail at the socket if it got so far. */
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
    path[109] = '\0';
    check_job(&job, &wanted, SPAWN, BEGIN_ENTER);
    path[108] = '\0';
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
    CHECK(ROCKER_spawn(&job.req, &job.options, &job.program, &rocker, &error) != 0);
    CHECK(strstr(error.command, "connect ") != NULL && strstr(error.command, job.options.socket_path));
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
        check_waited(began, 60);
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
};

STAGE_MAIN(tests)
