/* Launches of callers that have their own ways: signals, threads, descriptors, children. */
#define _GNU_SOURCE
#include "stage.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>

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
    check_waited(began, 900);
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
            CHECK_IS(poll(&gone, 1, LATE_MS), 1);
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
            while (poll(&gone, 1, LATE_MS) < 0) {
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

static const struct test tests[] = {
    TEST(test_launch_in_cgroups),
    TEST(test_launch_in_a_cgroup_that_is_gone),
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
};

STAGE_MAIN(tests)
