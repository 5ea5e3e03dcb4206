/* Errors in one line: the words of protocol and of client-rs, whatever the numbers and bytes. */
#include "rocker.h"

#include <errno.h>

#include "error.h"
#include "tap.h"

#ifndef SOURCES
#define SOURCES ".."
#endif

static RockerError failed(int step, int os_errno, const char *command)
{
    RockerError error = { .fault = RK_FAILED_FAULT, .step = step, .os_errno = os_errno };

    (void)snprintf(error.command, sizeof(error.command), "%s", command);
    return error;
}

static RockerError lost(int step, int loss)
{
    RockerError error = { .fault = RK_LOST_FAULT, .step = step, .loss = loss };

    return error;
}

static RockerError broken(int rule, int item, const char *subject)
{
    RockerError error = { .fault = RK_INVALID, .rule = rule, .item = item };

    (void)snprintf(error.subject, sizeof(error.subject), "%s", subject);
    return error;
}

static void check(const RockerError *error, const char *wanted)
{
    char line[2 * ROCKER_STRERROR_MAX];

    CHECK_IS(ROCKER_strerror(error, line, sizeof(line)), strlen(wanted));
    CHECK_TEXT(line, wanted);
}

/* A file of the repository; NULL if this library stands alone. */
static char *source(const char *name)
{
    char path[512];
    char *text = NULL;

    (void)snprintf(path, sizeof(path), "%s/%s", SOURCES, name);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        text = calloc(1, 256 * 1024);
        if (fread(text, 1, 256 * 1024 - 1, file) == 0) {
            text[0] = '\0';
        }
        fclose(file);
    }
    return text;
}

/* Without the backslashes of a literal, and where it is broken, without the break. */
static void unescape(char *text)
{
    char *to = text;

    for (char *at = text; *at != '\0'; at++) {
        if (at[0] == '\\' && at[1] == '\n') {
            for (at++; at[1] == ' '; at++) {
            }
        } else if (at[0] != '\\') {
            *to++ = *at;
        }
    }
    *to = '\0';
}

/* --- The words are those of the other implementation. --- */

static void test_strerror_every_step(void)
{
    char *rust = source("protocol/src/step.rs");
    char *at = rust != NULL ? strstr(rust, "steps! {\n    ") : NULL;
    unsigned steps = 0;

    if (rust == NULL) {
        skip("protocol is not there");
        return;
    }
    if (!CHECK(at != NULL)) {
        return;
    }
    /* Name = 0x00, Actor, "caption", "purpose"; */
    while ((at = strstr(at, " = 0x")) != NULL) {
        static const char *const diagrams[] = { "root", "prepare", "overlay", "enter",
                                               "exec" };
        char wanted[256];
        int step = (int)strtol(at + 3, NULL, 16);
        char *end = strstr(at, "\";\n");
        if (end == NULL) {
            break;
        }
        *end = '\0';
        (void)snprintf(wanted, sizeof(wanted), "cannot %s (%s.%d): the peer broke the protocol",
                       strrchr(at, '"') + 1, diagrams[step >> 4], step & 0xf);
        const RockerError error = lost(step, RK_LOSS_GARBAGE);
        check(&error, wanted);
        CHECK(rk_is_step((uint8_t)step));
        steps++;
        at = end + 1;
    }
    CHECK_IS(steps, 37);
    unsigned all = 0;
    for (int step = 0; step < 256; step++) {
        all += rk_is_step((uint8_t)step);
    }
    CHECK_IS(all, steps);
    free(rust);
}

/* From `begin` on, the literals of `text` that follow "=>", in their order. */
static void check_literals(const char *file, const char *begin, unsigned count,
                           void (*make)(unsigned number, char *line, size_t size))
{
    char *rust = source(file);

    if (rust == NULL) {
        skip("protocol is not there");
        return;
    }
    unescape(rust);
    char *at = strstr(rust, begin);
    CHECK(at != NULL);
    for (unsigned i = 0; i < count && at != NULL; i++) {
        char line[512];
        make(i, line, sizeof(line));
        CASE("%u: %.100s", i, line);
        char *found = strstr(at, line);
        if (CHECK(found != NULL && found[-1] == '"')) {
            at = found + strlen(line);
            /* Or the index, which is shown where there is no path. */
            CHECK(at[0] == '"' || at[0] == ' ');
        }
    }
    free(rust);
}

static void rule_line(unsigned number, char *line, size_t size)
{
    const RockerError error = broken((int)number, RK_ITEM_UID, "");

    ROCKER_strerror(&error, line, size);
    memmove(line, line + strlen("uid: "), strlen(line + strlen("uid: ")) + 1);
}

static void item_line(unsigned number, char *line, size_t size)
{
    const RockerError error = broken(RK_RULE_EMPTY, (int)number, "x");

    ROCKER_strerror(&error, line, size);
    *strstr(line, " x: it is empty") = '\0';
}

static void loss_line(unsigned number, char *line, size_t size)
{
    static const char purpose[] = "cannot clone the guard (prepare.0): ";
    const RockerError error = lost(0x10, (int)number);

    ROCKER_strerror(&error, line, size);
    memmove(line, line + strlen(purpose), strlen(line + strlen(purpose)) + 1);
}

static void test_strerror_every_rule(void)
{
    check_literals("protocol/src/error.rs", "fmt::Display for Rule", RK_RULE_COUNT, rule_line);
}

static void test_strerror_every_item(void)
{
    check_literals("protocol/src/error.rs", "fmt::Display for Item", RK_ITEM_COUNT, item_line);
}

static void test_strerror_every_loss(void)
{
    check_literals("protocol/src/error.rs", "fmt::Display for Loss", RK_LOSS_COUNT, loss_line);
}

/* Every hint of client-rs is given for some failure here. */
static void test_strerror_every_hint(void)
{
    char *rust = source("client-rs/src/error.rs");
    unsigned hints = 0;

    if (rust == NULL) {
        skip("client-rs is not there");
        return;
    }
    unescape(rust);
    /* Up to one whose own words contain a colon. */
    enum { ERRNOS = ETOOMANYREFS };
    for (int step = 0; step < 256; step++) {
        for (int code = 0; code < 2 * ERRNOS + RK_LOSS_COUNT; code++) {
            char line[ROCKER_STRERROR_MAX];
            RockerError error = code < 2 * ERRNOS ? failed(step, code % ERRNOS, "")
                                                  : lost(step, code - 2 * ERRNOS);
            error.at_exec = code < ERRNOS;
            ROCKER_strerror(&error, line, sizeof(line));
            /* "cannot x (y): reason: hint" */
            char *hint = strstr(strstr(line, "): ") + 3, ": ");
            if (hint != NULL) {
                char literal[256];
                (void)snprintf(literal, sizeof(literal), "\"%s\"", hint + 2);
                CASE("%.100s", line);
                CHECK(strstr(rust, literal) != NULL);
                hints++;
            }
        }
    }
    CHECK(hints > 30);
    free(rust);
}

/* --- One line. --- */

static void test_strerror_failures(void)
{
    RockerError error = failed(0x13, EINVAL, "mount -t squashfs /dev/loop8 /app");

    check(&error, "cannot mount the package (prepare.3): mount -t squashfs /dev/loop8 /app: "
                  "Invalid argument: the image is damaged, or its length is no multiple of 512");
    error = failed(0x0f, EIO, "");
    CHECK(error.command[0] == '\0');
    char line[ROCKER_STRERROR_MAX];
    ROCKER_strerror(&error, line, sizeof(line));
    CHECK(strncmp(line, "cannot free what the rocker held (root.15): ", 44) == 0);
    error = failed(0x33, ENOENT, "exec nothing");
    error.at_exec = 1;
    ROCKER_strerror(&error, line, sizeof(line));
    CHECK(strstr(line, ": exec nothing: No such file or directory: a name without / is looked up "
                       "in PATH; ./NAME is the package's") != NULL);
    error = failed(0x33, ENOENT, "exec ./nothing");
    error.at_exec = 1;
    ROCKER_strerror(&error, line, sizeof(line));
    CHECK(strstr(line, ": exec ./nothing: No such file or directory: the rocker holds no such "
                       "program, or not its interpreter or loader") != NULL);
}

static void test_strerror_rules(void)
{
    RockerError error = broken(RK_RULE_FORBIDDEN, RK_ITEM_OVERLAY_DIR, "/proc");

    check(&error, "overlay dir /proc: this place belongs to the host and stays so");
    error = broken(RK_RULE_NOT_ALLOWED, RK_ITEM_OVERLAY_DIR, "");
    error.index = 15;
    check(&error, "overlay dir 15: the master's policy does not allow it to this caller; "
                  "root can, by default in /etc/rocker/master.toml");
    error = broken(RK_RULE_TOO_LONG, RK_ITEM_REQUEST, "");
    (void)snprintf(error.command, sizeof(error.command), "more");
    check(&error, "request: it is too long: more");
    error = broken(RK_RULE_NO_SUCH_DEVICE, RK_ITEM_DEVICE, "/dev/nope");
    check(&error, "device /dev/nope: the host has no such device");
    error.subject[0] = '\0';
    error.index = 31;
    check(&error, "device 31: the host has no such device");
}

/* Of the master's steps none is theirs; and a number that is none is of no order. */
static void test_strerror_orders(void)
{
    RockerError error = failed(0x01, ECONNREFUSED, "connect /run/m.sock");

    error.order = RK_QUESTION;
    check(&error, "cannot ask the master: connect /run/m.sock: Connection refused: start "
                  "rocker-master, or name its socket");
    error = lost(0x0a, RK_LOSS_DIED);
    error.order = RK_QUESTION;
    check(&error, "cannot kill the guard (root.10): the peer closed the connection");
    error = failed(0x41, EACCES, "");
    error.order = RK_RESET;
    check(&error, "cannot make the rocker as new (exec.1): Permission denied");
    error.step = 0x40;
    check(&error, "cannot request a program (exec.0): Permission denied");
    error.step = 0x41;
    error.order = -1;
    check(&error, "cannot start the program (exec.1): Permission denied");
}

static void test_strerror_success(void)
{
    const RockerError error = { .err_no = ROCKER_ERR_success };

    check(&error, "success");
}

/* Numbers that are none, from a master of a later version or a struct that was never filled. */
static void test_strerror_numbers_that_are_none(void)
{
    RockerError other = lost(0x1a, RK_LOSS_SILENT);
    static const int numbers[] = { INT32_MIN, -1, 5, 0x1a, 0x35, 255, 256, 4096, INT32_MAX };
    char line[4 * ROCKER_STRERROR_MAX];

    check(&other, "cannot do what is unknown here (step 26): no answer before the deadline");
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        for (int fault = -1; fault < 6; fault++) {
            int number = numbers[i];
            RockerError error = { .fault = fault, .rule = number, .item = number,
                                  .index = number, .loss = number, .os_errno = number };
            error.step = number;
            size_t length = ROCKER_strerror(&error, line, sizeof(line));
            CASE("%d, %d: %.100s", fault, number, line);
            CHECK(length > 0 && length < sizeof(line) && strlen(line) == length);
        }
    }
}

static void test_strerror_cut_buffers(void)
{
    const RockerError error = failed(0x13, EBUSY, "mount -t squashfs /dev/loop8 /app");
    char whole[ROCKER_STRERROR_MAX];
    size_t length = ROCKER_strerror(&error, whole, sizeof(whole));

    CHECK_IS(ROCKER_strerror(&error, NULL, 0), length);
    for (size_t size = 1; size <= length + 2; size++) {
        /* In memory of just this size. */
        char *cut = malloc(size);
        memset(cut, 'x', size);
        CHECK_IS(ROCKER_strerror(&error, cut, size), length);
        CHECK_IS(strlen(cut), size <= length ? size - 1 : length);
        CHECK(strncmp(cut, whole, strlen(cut)) == 0);
        free(cut);
    }
}

static void test_strerror_no_bytes_make_a_second_line(void)
{
    RockerError error = broken(RK_RULE_CONTROL_BYTE, RK_ITEM_PACKAGE, "/a\nb\t\r\x1b[1m\x01\x7f\xc3\xa9");
    char line[ROCKER_STRERROR_MAX];

    check(&error, "package /a\\nb\\t\\r\\u{1b}[1m\\u{1}\\u{7f}\xc3\xa9: it contains a NUL or "
                  "another control character");
    error = failed(0x13, EIO, "mount\nrocker: fine");
    ROCKER_strerror(&error, line, sizeof(line));
    CHECK(strchr(line, '\n') == NULL);
    for (int byte = 1; byte < 256; byte++) {
        error.command[0] = (char)byte;
        size_t length = ROCKER_strerror(&error, line, sizeof(line));
        for (size_t i = 0; i < length; i++) {
            CHECK((unsigned char)line[i] >= 0x20 && line[i] != 0x7f);
        }
    }
}

static void test_strerror_longest(void)
{
    RockerError error = failed(0x13, EINVAL, "");
    char line[4 * sizeof(error.command)];

    memset(error.command, '\x1b', sizeof(error.command) - 1);
    size_t length = ROCKER_strerror(&error, line, sizeof(line));
    CHECK(length > 5 * sizeof(error.command) && strlen(line) == sizeof(line) - 1);
}

/* --- Codes. --- */

static void test_err_name_every_code(void)
{
    static const struct {
        ROCKER_ERR code;
        const char *name;
    } codes[] = {
#define CODE(name) { ROCKER_ERR_##name, #name }
        CODE(unknown),           CODE(success),           CODE(sys),
        CODE(param_invalid),     CODE(server_unaddr_invalid), CODE(gen_local_addr_failed),
        CODE(send_req_failed),   CODE(recv_resp_failed),  CODE(build_rocker_failed),
        CODE(enter_rocker_failed), CODE(app_exec_failed), CODE(get_guardname_failed),
    };

    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        CHECK_TEXT(ROCKER_err_name(codes[i].code), codes[i].name);
        CHECK_IS(codes[i].code, (int)i - 1);
    }
}

static void test_err_name_no_code(void)
{
    static const int none[] = { -2, 11, 12, INT32_MAX, INT32_MIN };

    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
        ROCKER_ERR code;
        /* As C code may, which C++ and UBSan would not like. */
        memcpy(&code, &none[i], sizeof(code));
        CHECK_TEXT(ROCKER_err_name(code), "unknown");
    }
}

static void test_versions(void)
{
    CHECK_TEXT(ROCKER_version(), ROCKER_VERSION);
    CHECK_IS(ROCKER_wire_version(), 1);
}

static const struct test tests[] = {
    TEST(test_strerror_every_step),
    TEST(test_strerror_every_rule),
    TEST(test_strerror_every_item),
    TEST(test_strerror_every_loss),
    TEST(test_strerror_every_hint),
    TEST(test_strerror_failures),
    TEST(test_strerror_rules),
    TEST(test_strerror_orders),
    TEST(test_strerror_success),
    TEST(test_strerror_numbers_that_are_none),
    TEST(test_strerror_cut_buffers),
    TEST(test_strerror_no_bytes_make_a_second_line),
    TEST(test_strerror_longest),
    TEST(test_err_name_every_code),
    TEST(test_err_name_no_code),
    TEST(test_versions),
};

TAP_MAIN(tests)
