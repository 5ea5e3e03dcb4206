/* What the command does beside the library: it believes no package more than it says. */
#define _GNU_SOURCE
#include "tap.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

#include "../command/errno_words.c"
#include "../command/manifest.c"
#include "../command/tell.c"

/* Where the image ends. */
enum { END = 5000, TRAILER = 116 };

/* A package with these strings behind its image, as "rocker pack" writes it. */
static size_t package(char *bytes, const char *strings, size_t length)
{
    char *trailer = bytes + END;

    memset(bytes, 0, END + RK_TRAILER_MAX);
    memcpy(bytes, "hsqs", 4);
    bytes[40] = (char)(END & 0xff);
    bytes[41] = (char)(END >> 8);
    memcpy(trailer, "rocker manifest\1", 16);
    memcpy(trailer + 16, bytes, 96);
    trailer[112] = (char)(length & 0xff);
    trailer[113] = (char)(length >> 8);
    memcpy(trailer + TRAILER, strings, length);
    return END + TRAILER + length;
}

/* As many bytes of heap as the manifest takes, so that a sanitizer sees what is read behind it. */
static bool read_bytes(const char *bytes, size_t size, struct rk_manifest *manifest)
{
    int fd = memfd_create("package", MFD_CLOEXEC);

    CHECK(write(fd, bytes, size) == (ssize_t)size);
    bool is_read = rk_read_manifest(fd, manifest);
    close(fd);
    return is_read;
}

static char bytes[END + 2 * RK_TRAILER_MAX];
static const char strings[] = "ebin/clock\0a--face\0a\0vLANG=C\0c/var\0o/etc\0l";

static void a_manifest_is_read(void)
{
    struct rk_manifest *manifest = malloc(sizeof(*manifest));
    const char *wanted[] = { "ebin/clock", "a--face", "a", "vLANG=C", "c/var", "o/etc", "l" };
    const char *string = NULL;

    CHECK(read_bytes(bytes, package(bytes, strings, sizeof(strings)), manifest));
    for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++) {
        string = rk_manifest_next(manifest, string);
        CHECK_TEXT(string != NULL ? string : "none", wanted[i]);
    }
    CHECK(rk_manifest_next(manifest, string) == NULL);
    /* A package without rocker.toml. */
    CHECK(read_bytes(bytes, package(bytes, "", 0), manifest));
    CHECK(rk_manifest_next(manifest, NULL) == NULL);
    free(manifest);
}

static void what_is_not_whole_is_none(void)
{
    struct rk_manifest *manifest = malloc(sizeof(*manifest));
    size_t size = package(bytes, strings, sizeof(strings));

    for (size_t cut = 0; cut < size; cut++) {
        CASE("%zu bytes of %zu", cut, size);
        CHECK(!read_bytes(bytes, cut, manifest));
    }
    /* All the room there is, and a byte more. */
    char *more = calloc(1, RK_TRAILER_MAX);
    memset(more, 'a', RK_TRAILER_MAX - 1);
    more[RK_TRAILER_MAX - TRAILER - 1] = '\0';
    size = package(bytes, more, RK_TRAILER_MAX - TRAILER);
    CHECK(read_bytes(bytes, size, manifest));
    size = package(bytes, more, RK_TRAILER_MAX - TRAILER + 1);
    CHECK(!read_bytes(bytes, size, manifest));
    free(more);
    free(manifest);
}

static void a_changed_image_has_none(void)
{
    struct rk_manifest *manifest = malloc(sizeof(*manifest));

    for (size_t at = 0; at < 96 + 112; at++) {
        size_t size = package(bytes, strings, sizeof(strings));
        CASE("byte %zu", at);
        bytes[at < 96 ? at : END + at - 96] ^= 0x55;
        CHECK(!read_bytes(bytes, size, manifest));
    }
    free(manifest);
}

/* Whatever the strings are, nothing behind them is read. */
static void hostile_strings_end(void)
{
    struct rk_manifest *manifest = malloc(sizeof(*manifest));
    unsigned random = 1;

    for (int round = 0; round < 20000; round++) {
        char hostile[64];
        size_t length = 0;
        random = random * 1103515245 + 12345;
        for (length = 0; length < (random >> 16) % sizeof(hostile); length++) {
            hostile[length] = (char)((random >> 8) * (length + 3) >> 4);
            hostile[length] = (char)(hostile[length] & (length % 3 == 0 ? 0 : 0xff));
        }
        bool ends = length == 0 || hostile[length - 1] == '\0';
        CHECK_IS(read_bytes(bytes, package(bytes, hostile, length), manifest), ends);
        size_t told = 0;
        const char *string = NULL;
        while (ends && (string = rk_manifest_next(manifest, string)) != NULL) {
            told += strlen(string) + 1;
        }
        CHECK_IS(told, ends ? length : 0);
    }
    free(manifest);
}

static void errors_have_their_words(void)
{
#ifdef __GLIBC__
    unsigned known = 0;

    for (int number = 1; number < 134; number++) {
        const char *words = rk_errno_words(number);
        CASE("errno %d", number);
        if (words != NULL) {
            known++;
            /* It has none for EHWPOISON. */
            CHECK_TEXT(words, number < 133 ? strerror(number) : words);
        } else {
            CHECK(strncmp(strerror(number), "Unknown error", 13) == 0);
        }
    }
    CHECK(known > 120);
#endif
    CHECK(rk_errno_words(0) == NULL && rk_errno_words(-1) == NULL && rk_errno_words(4096) == NULL);
}

/* What rk_complain() writes. */
static void check_told(const char *text, const char *wanted)
{
    char told[4 * ROCKER_STRERROR_MAX] = "";
    int ends[2], before = dup(2);

    CHECK(pipe(ends) == 0 && dup2(ends[1], 2) == 2);
    rk_complain(text);
    dup2(before, 2);
    close(before);
    close(ends[1]);
    CHECK(read(ends[0], told, sizeof(told) - 1) > 0);
    close(ends[0]);
    CHECK_TEXT(told, wanted);
}

static void a_terminal_obeys_nothing(void)
{
    char longest[2 * ROCKER_STRERROR_MAX];

    check_told("plain \xc3\xa9 \xe2\x82\xac", "rocker: plain \xc3\xa9 \xe2\x82\xac\n");
    check_told("\xc2\x9b" "31m", "rocker: \\u{9b}31m\n");
    check_told("a\xe2\x80\xae" "b\xe2\x81\xa6", "rocker: a\\u{202e}b\\u{2066}\n");
    /* What is no character reads as String::from_utf8_lossy() has it. */
    check_told("cut \xe2\x80", "rocker: cut \xef\xbf\xbd\n");
    check_told("cut \xf0\x9f\x98.", "rocker: cut \xef\xbf\xbd.\n");
    check_told("\x9b" "31m\xff", "rocker: \xef\xbf\xbd" "31m\xef\xbf\xbd\n");
    check_told("\xed\xa0\x80", "rocker: \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\n");
    check_told("\xf0\x9f\x98\x80 \xf4\x90", "rocker: \xf0\x9f\x98\x80 \xef\xbf\xbd\xef\xbf\xbd\n");
    /* However much there is to escape, it ends. */
    memset(longest, 0, sizeof(longest));
    for (size_t at = 0; at + 2 < sizeof(longest); at += 2) {
        memcpy(longest + at, "\xc2\x80", 2);
    }
    int before = dup(2);
    CHECK(freopen("/dev/null", "w", stderr) != NULL);
    rk_complain(longest);
    rk_tell_failure("do it", EPERM);
    dup2(before, 2);
    close(before);
}

static const struct test tests[] = {
    TEST(a_manifest_is_read),      TEST(what_is_not_whole_is_none), TEST(a_changed_image_has_none),
    TEST(hostile_strings_end),     TEST(errors_have_their_words),   TEST(a_terminal_obeys_nothing),
};

TAP_MAIN(tests)
