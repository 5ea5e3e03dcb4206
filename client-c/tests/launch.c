/* Launches as they go on: entered, given up, as documented, and what lives then. */
#define _GNU_SOURCE
#include "stage.h"

#include <pthread.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "filter.h"

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

static void test_launch_filters_and_flags_that_are_none(void)
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
        { NULL, 0, ROCKER_LANDLOCK << 1, "RockerOptions.flags: unknown" },
        { NULL, 0, ROCKER_STAYS | ~(~0ul >> 1), "RockerOptions.flags: unknown" },
    };
    char line[ROCKER_STRERROR_MAX];

    NEED_GUARD();
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
    CHECK_IS(poll(&gone, 1, LATE_MS), 1);
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
    TEST(test_launch_success),
    TEST(test_launch_entrance_that_is_no_process),
    TEST(test_launch_guard_that_has_ended),
    TEST(test_launch_without_the_right_to_enter),
    TEST(test_launch_no_processes),
    TEST(test_launch_guard_that_ends_late),
    TEST(test_launch_failure_that_is_reported_late),
    TEST(test_launch_filters_and_flags_that_are_none),
    TEST(test_launch_filter_that_is_none),
    TEST(test_launch_options_of_an_older_caller),
    TEST(test_launch_program_that_is_not_there),
    TEST(test_launch_exec_dir_that_is_not_there),
    TEST(test_launch_end_at_every_state),
    TEST(test_launch_end_at_once),
    TEST(test_enter_rocker_as_documented),
    TEST(test_kill_ends_the_guard),
    TEST(test_get_guardname_of_this_process),
    TEST(test_get_guardname_of_nobody),
    TEST(test_get_guardname_of_any_name),
    TEST(test_kill_guard_of_another_name),
};

STAGE_MAIN(tests)
