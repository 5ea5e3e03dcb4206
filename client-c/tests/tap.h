/* The Test Anything Protocol, as much of it as these tests need: https://testanything.org. */
#ifndef TAP_H
#define TAP_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct test {
    const char *name;
    void (*run)(void);
};

#define TEST(function) { #function, function }

/* Of the test that runs. */
static unsigned tap_failures;
static const char *tap_skipped;
/* The case that is being tried, if a test has many; "" without. */
static char tap_case[160];

#define CHECK(what) tap_check((what), __FILE__, __LINE__, #what)
#define CHECK_IS(is, wanted) \
    tap_is((long long)(is), (long long)(wanted), __FILE__, __LINE__, #is)
#define CHECK_TEXT(is, wanted) tap_text((is), (wanted), __FILE__, __LINE__)
#define CASE(...) ((void)snprintf(tap_case, sizeof(tap_case), __VA_ARGS__))

static inline bool tap_check(bool is, const char *file, int line, const char *what)
{
    if (!is) {
        tap_failures++;
        printf("# %s:%d: %s: %s\n", file, line, tap_case, what);
    }
    return is;
}

static inline bool tap_is(long long is, long long wanted, const char *file, int line,
                          const char *what)
{
    if (is != wanted) {
        tap_failures++;
        printf("# %s:%d: %s: %s is %lld, not %lld\n", file, line, tap_case, what, is, wanted);
    }
    return is == wanted;
}

static inline bool tap_text(const char *is, const char *wanted, const char *file, int line)
{
    bool same = strcmp(is, wanted) == 0;

    if (!same) {
        tap_failures++;
        printf("# %s:%d: %s:\n#     \"%s\"\n# not \"%s\"\n", file, line, tap_case, is, wanted);
    }
    return same;
}

/* Where every test must run, not being able to is a failure. */
static inline void skip(const char *reason)
{
    const char *must = getenv("ROCKER_REQUIRE_ROOT");

    if (must != NULL && strcmp(must, "1") == 0 && strstr(reason, "root") != NULL) {
        tap_failures++;
    }
    tap_skipped = reason;
}

/* Runs it in a process of its own, which may change what a process has only one of. */
static inline void in_child(void (*run)(void))
{
    int status = -1;

    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        tap_failures = 0;
        run();
        fflush(stdout);
        _exit(tap_failures == 0 ? 0 : 1);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_IS(status, 0);
}

/* With an argument only the tests whose names contain it. */
static inline int tap_main(const struct test *tests, size_t count, int argc, char **argv)
{
    unsigned failed = 0;
    unsigned number = 0;

    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strstr(tests[i].name, argv[1]) == NULL) {
            continue;
        }
        tap_failures = 0;
        tap_skipped = NULL;
        tap_case[0] = '\0';
        tests[i].run();
        failed += tap_failures > 0;
        printf("%s %u - %s%s%s\n", tap_failures > 0 ? "not ok" : "ok", ++number, tests[i].name,
               tap_skipped != NULL ? " # SKIP " : "", tap_skipped != NULL ? tap_skipped : "");
        fflush(stdout);
    }
    printf("1..%u\n", number);
    return failed > 0;
}

#define TAP_MAIN(tests)                                                     \
    int main(int argc, char **argv)                                         \
    {                                                                       \
        return tap_main(tests, sizeof(tests) / sizeof(*(tests)), argc, argv); \
    }

#endif
