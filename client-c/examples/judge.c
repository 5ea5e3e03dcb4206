/*
 * A small judge: runs a program once for each test, several at once in one rocker, and says what
 * became of each. Any user whom the master's policy lets may run it.
 *
 *     judge [-s SOCKET] [-u UID] [-x EXEC_DIR] [-j JOBS] [-w WALL_MS] PACKAGE TESTS PROGRAM [ARG]...
 *
 * TESTS is a directory with 1.in and 1.out, 2.in and 2.out, and so on: what the program is given,
 * and what it is to say. It sees neither: the files are opened here and handed down.
 *
 * One thread, one poll. Status 0 if every test is accepted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <rocker.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { JOBS_MAX = 64, OUTPUT_MAX = 16 << 20 };

/* One run of the program. */
struct job {
    int test; /* 0: this place is free */
    int output;
};

static struct job jobs[JOBS_MAX];
static const char *tests;
static RockerProgram program;
static RockerExec limits;
static bool all_accepted = true;

static int open_test(int test, const char *kind)
{
    char path[4096];

    (void)snprintf(path, sizeof(path), "%s/%d.%s", tests, test, kind);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static void say(int test, const char *verdict, const RockerReport *report)
{
    printf("%d: %s, %" PRIu64 " ms, %" PRIu64 " KiB\n", test, verdict,
           (report->user_us + report->system_us) / 1000, report->peak_kib);
    all_accepted = all_accepted && strcmp(verdict, "accepted") == 0;
}

/* Test 0: of none, but of the rocker. */
static void fail(int test, const RockerError *error)
{
    char line[ROCKER_STRERROR_MAX];

    ROCKER_strerror(error, line, sizeof(line));
    if (test == 0) {
        fprintf(stderr, "judge: %s\n", line);
    } else {
        printf("%d: %s\n", test, line);
    }
    all_accepted = false;
}

/* Closes the expected one. */
static bool is_same(int output, int expected)
{
    char said[4096];
    char wanted[4096];
    off_t at = 0;
    ssize_t got;

    do {
        got = pread(output, said, sizeof(said), at);
        if (pread(expected, wanted, sizeof(wanted), at) != got
            || (got > 0 && memcmp(said, wanted, (size_t)got) != 0)) {
            got = -1;
        }
        at += got;
    } while (got > 0);
    close(expected);
    return got == 0;
}

/* Whether there was such a test; `job` has it now, unless it could not be started. */
static bool start(RockerOpen *rocker, struct job *job, int test)
{
    RockerError error;
    unsigned id;
    int input = open_test(test, "in");

    if (input < 0) {
        return false;
    }
    job->test = test;
    job->output = memfd_create("output", MFD_CLOEXEC);
    program.stdio[0] = input;
    program.stdio[1] = job->output;
    limits.data = job;
    if (ROCKER_exec(rocker, &program, &limits, &id, &error) != ROCKER_ERR_success) {
        fail(test, &error);
        close(job->output);
        job->test = 0;
    }
    close(input);
    return true;
}

static void end(struct job *job)
{
    close(job->output);
    job->test = 0;
}

/* False if there is no guard any more. */
static bool understand(const RockerEvent *event)
{
    struct job *job = event->data;

    switch (event->kind) {
    case ROCKER_EVENT_lost:
        fail(0, &event->error);
        return false;
    case ROCKER_EVENT_started:
        close(event->pidfd);
        break;
    case ROCKER_EVENT_failed:
        fail(job->test, &event->error);
        end(job);
        break;
    case ROCKER_EVENT_ended: {
        const char *verdict = ROCKER_verdict_name(event->report.verdict);
        if (event->report.verdict == ROCKER_VERDICT_normal) {
            bool is_right = is_same(job->output, open_test(job->test, "out"));
            verdict = is_right ? "accepted" : "wrong answer";
        }
        say(job->test, verdict, &event->report);
        end(job);
        break;
    }
    case ROCKER_EVENT_pong:
    case ROCKER_EVENT_done:
    case ROCKER_EVENT_opened:
        break;
    }
    return true;
}

/* False if the guard was lost before the last test. */
static bool run_all(RockerOpen *rocker, int at_once)
{
    int next = 1;
    bool is_last = false;

    for (;;) {
        RockerEvent event;
        int running = 0;
        for (struct job *job = jobs; job < jobs + at_once; job++) {
            while (job->test == 0 && !is_last) {
                is_last = !start(rocker, job, next);
                next += !is_last;
            }
            running += job->test != 0;
        }
        if (running == 0) {
            return true;
        }
        struct pollfd wait = { rocker->connection, POLLIN, 0 };
        poll(&wait, 1, -1);
        while (ROCKER_next(rocker, &event)) {
            if (!understand(&event)) {
                return false;
            }
        }
    }
}

int main(int argc, char **argv)
{
    const RockerRlimit rlimits[] = {
        { RLIMIT_CPU, 2, 3 },
        { RLIMIT_AS, 256 << 20, 256 << 20 },
        { RLIMIT_FSIZE, OUTPUT_MAX, OUTPUT_MAX },
    };
    RockerRequest req = ROCKER_request_new();
    RockerOptions options = ROCKER_options_new();
    RockerOpen rocker;
    RockerError error;
    int at_once = 4;
    int option;

    limits = ROCKER_exec_new();
    limits.wall_ms = 5000;
    limits.rlimits = rlimits;
    limits.rlimits_count = sizeof(rlimits) / sizeof(*rlimits);
    /* "+": what follows the program is the program's. */
    while ((option = getopt(argc, argv, "+s:u:x:j:w:")) != -1) {
        switch (option) {
        case 's':
            options.socket_path = optarg;
            break;
        case 'u':
            req.uid = req.gid = atoi(optarg);
            break;
        case 'x':
            req.app_exec_dir = optarg;
            break;
        case 'j':
            at_once = atoi(optarg);
            break;
        case 'w':
            limits.wall_ms = (unsigned)atoi(optarg);
            break;
        default:
            return 2;
        }
    }
    if (argc - optind < 3 || at_once < 1 || at_once > JOBS_MAX) {
        fprintf(stderr, "usage: judge [-s SOCKET] [-u UID] [-x EXEC_DIR] [-j JOBS] [-w WALL_MS] "
                        "PACKAGE TESTS PROGRAM [ARG]...\n");
        return 2;
    }
    req.app_pkg_path = argv[optind];
    tests = argv[optind + 1];
    program = ROCKER_program_new(argv[optind + 2]);
    program.argv = argv + optind + 2;
    program.stdio[2] = ROCKER_STDIO_NULL;
    int first = open_test(1, "in");
    if (first < 0) {
        fprintf(stderr, "judge: cannot open %s/1.in: %s\n", tests, strerror(errno));
        return 2;
    }
    close(first);
    if (ROCKER_open(&req, &options, &rocker, &error) != ROCKER_ERR_success) {
        fail(0, &error);
        return 2;
    }
    bool is_done = run_all(&rocker, at_once);
    ROCKER_end(&rocker, 5000);
    return !is_done ? 2 : !all_accepted;
}
