/*
 * The system calls of src/arch.h, which are assembly on each machine. Without the flags that an
 * emulator of user programs does not know, so that the ones of other machines run here, too.
 */
#define _GNU_SOURCE
#include "arch.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sched.h>
#include <sys/mman.h>

#include "tap.h"

enum { STACK = 64 * 1024, STATUS = 42 };

static uint8_t *stack;

static void test_call_gives_results_and_errnos(void)
{
    char byte = 'x';
    int ends[2];

    CHECK_IS(rk_call(SYS_getpid, 0, 0, 0, 0, 0), getpid());
    errno = 0;
    CHECK_IS(rk_call(SYS_close, -1, 0, 0, 0, 0), -EBADF);
    CHECK(errno == 0 || !RK_SHARES);
    CHECK_IS(pipe(ends), 0);
    CHECK_IS(rk_call(SYS_write, ends[1], (long)(intptr_t)&byte, 1, 0, 0), 1);
    byte = 0;
    CHECK_IS(rk_call(SYS_read, ends[0], (long)(intptr_t)&byte, 1, 0, 0), 1);
    CHECK_IS(byte, 'x');
    close(ends[0]);
    close(ends[1]);
}

/* The last two arrive where they belong, too. */
static void test_call_passes_five_arguments(void)
{
    uint64_t set = 1u << (SIGUSR1 - 1);
    uint64_t before = 0;

    /* The fourth: the size of a set. */
    CHECK_IS(rk_call(SYS_rt_sigprocmask, SIG_BLOCK, (long)(intptr_t)&set,
                     (long)(intptr_t)&before, 7, 0),
             -EINVAL);
    CHECK_IS(rk_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)(intptr_t)&before,
                     (long)(intptr_t)&before, 8, 0),
             0);
    /* The fifth: options of prctl(PR_CAP_AMBIENT), which must be 0. */
    CHECK_IS(rk_call(SYS_prctl, 47, 4, 0, 0, 1), -EINVAL);
}

static int child(void *argument)
{
    int here = 0;

    /* The argument has arrived, and it runs on the stack it was given. */
    return argument == stack && (uint8_t *)&here > stack && (uint8_t *)&here < stack + STACK
               ? STATUS
               : 1;
}

static void check_clone(long flags)
{
    int status = -1;
    int pidfd = -1;

    long pid = rk_clone(flags | SIGCHLD, stack + STACK, &pidfd, child, stack);
    CHECK(pid > 0);
    CHECK_IS(waitpid((pid_t)pid, &status, 0), pid);
    CHECK_IS(status, STATUS << 8);
}

static void test_clone_runs_on_its_stack(void)
{
    check_clone(0);
}

static void test_clone_shares_memory(void)
{
    if (!RK_SHARES) {
        skip("this machine is not known by arch.h");
        return;
    }
    long probe = getenv("ROCKER_TEST_NO_CLONE") != NULL
                     ? -EINVAL
                     : rk_clone(CLONE_VM | SIGCHLD, stack + STACK, NULL, child, NULL);
    if (probe == -EINVAL) {
        skip("clone(2) is not complete here: an emulator?");
        return;
    }
    waitpid((pid_t)probe, NULL, 0);
    check_clone(CLONE_VM);
    check_clone(CLONE_VM | CLONE_VFORK);
}

static void test_clone_that_fails(void)
{
    int pidfd = -1;

    /* A thread must share the handlers of signals. */
    CHECK_IS(rk_clone(CLONE_THREAD, stack + STACK, &pidfd, child, stack), -EINVAL);
}

static const struct test tests[] = {
    TEST(test_call_gives_results_and_errnos),
    TEST(test_call_passes_five_arguments),
    TEST(test_clone_runs_on_its_stack),
    TEST(test_clone_shares_memory),
    TEST(test_clone_that_fails),
};

int main(int argc, char **argv)
{
    stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return stack == MAP_FAILED
               ? 1
               : tap_main(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
