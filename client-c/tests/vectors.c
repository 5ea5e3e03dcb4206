/*
 * The bytes on the wire: protocol/vectors.txt is the contract with every other implementation.
 * With --seeds and a directory it writes them there instead, one file each, for fuzz/decode.c; with
 * --rows those that are answers, as fuzz/orders.c reads them.
 */
#define _GNU_SOURCE
#include "order_wire.h"

#include "filter.h"
#include "tap.h"

#ifndef VECTORS
#define VECTORS "../protocol/vectors.txt"
#endif

enum { BYTES_MAX = RK_MESSAGE_MAX, VECTORS_MAX = 200 };

struct vector {
    char name[64];
    uint8_t *bytes;
    size_t length;
};

static struct vector vectors[VECTORS_MAX];
static size_t count;

static int digit(char hex)
{
    return hex >= '0' && hex <= '9' ? hex - '0' : hex >= 'a' && hex <= 'f' ? hex - 'a' + 10 : -1;
}

/* One line, "name: hex". */
static bool add(char *line)
{
    char *hex = strstr(line, ": ");
    struct vector *vector = &vectors[count];

    if (line[0] == '#' || line[0] == '\n') {
        return true;
    }
    if (hex == NULL || count == VECTORS_MAX || hex - line >= (long)sizeof(vector->name)) {
        return false;
    }
    *hex = '\0';
    strcpy(vector->name, line);
    hex += 2;
    vector->bytes = malloc(strlen(hex) / 2 + 1);
    for (; digit(hex[0]) >= 0 && digit(hex[1]) >= 0; hex += 2) {
        vector->bytes[vector->length++] = (uint8_t)(digit(hex[0]) << 4 | digit(hex[1]));
    }
    count++;
    return hex[0] == '\n' || hex[0] == '\0';
}

static bool read_all(void)
{
    static char line[2 * BYTES_MAX + 128];
    FILE *file = fopen(VECTORS, "r");
    bool good = file != NULL;

    while (good && fgets(line, sizeof(line), file) != NULL) {
        good = add(line);
    }
    if (file != NULL) {
        fclose(file);
    }
    return good && count > 0;
}

static const struct vector *find(const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(vectors[i].name, name) == 0) {
            return &vectors[i];
        }
    }
    printf("# %s is not in %s\n", name, VECTORS);
    exit(1);
}

static bool begins(const char *name, const char *with)
{
    return strncmp(name, with, strlen(with)) == 0;
}

/* Who reads a message: a launch, or whoever gives orders. */
enum reader { LAUNCH, ORDERS, READERS };

static bool is_for(enum reader reader, const char *name)
{
    static const char *const answers[] = { "guard_started", "guard_exec_failed", "guard_exited",
                                           "guard_pong",    "guard_obeyed",      "guard_opened",
                                           "guard_failed" };

    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        if (reader == ORDERS && begins(name, answers[i])) {
            return true;
        }
    }
    return reader == LAUNCH
           && (begins(name, "master_failed") || begins(name, "guard_failed")
               || begins(name, "guard_entrance"));
}

/* In memory of just this size, so that a sanitizer sees each byte beyond it. */
static void decode(enum reader reader, const uint8_t *bytes, size_t length,
                   struct rk_message *message)
{
    uint8_t *exact = malloc(length > 0 ? length : 1);

    memcpy(exact, bytes, length);
    memset(message, 0xa5, sizeof(*message));
    (reader == LAUNCH ? rk_decode : rk_decode_answer)(exact, length, message);
    if (message->rest.bytes != NULL) {
        CHECK((const uint8_t *)message->rest.bytes >= exact
              && (const uint8_t *)message->rest.bytes + message->rest.length
                     <= exact + length);
    }
    free(exact);
}

/* Whatever it is, it can be used. */
static void check_sane(const struct rk_message *message)
{
    switch ((enum rk_kind)message->kind) {
    case RK_NOTHING:
        CHECK(message->loss < RK_LOSS_COUNT && message->descriptors == 0);
        break;
    case RK_ENTERING:
        CHECK(message->descriptors >= 1 && message->descriptors <= 7 && strlen(message->name) == RK_NAME_LEN);
        break;
    case RK_FAILURE:
    case RK_NOT_STARTED:
        CHECK(message->descriptors == 0);
        CHECK(message->error.fault >= RK_INVALID && message->error.fault <= RK_LOST_FAULT);
        CHECK(rk_is_step(message->error.step) && message->error.rule < RK_RULE_COUNT
              && message->error.item < RK_ITEM_COUNT && message->error.loss < RK_LOSS_COUNT);
        break;
    case RK_STARTED:
        CHECK(message->descriptors == 1);
        break;
    case RK_EXITED:
        CHECK(message->descriptors == 0);
        CHECK(message->report.status >= -1 && message->report.status <= 255);
        CHECK(message->report.signal >= 0 && message->report.signal <= 255);
        CHECK(message->report.status == -1 || message->report.signal == 0);
        CHECK(message->report.verdict <= ROCKER_VERDICT_cancelled);
        break;
    case RK_PONG:
    case RK_OBEYED:
        CHECK(message->descriptors == 0);
        break;
    case RK_ROCKER:
        CHECK(strlen(message->info.guard_pname) == RK_NAME_LEN);
        CHECK(message->rest.length > 0 && message->descriptors == 0);
        break;
    case RK_LIST_END:
    case RK_GONE:
        CHECK(message->descriptors == 0);
        break;
    case RK_OPENED:
        CHECK(message->files <= ROCKER_FILES_MAX && message->descriptors <= message->files);
        break;
    }
}

/* --- Out. --- */

static struct rk_request hello(void)
{
    struct rk_request request = {
        .app_id = 7,
        .uid = 1000,
        .gid = 1001,
        .package = rk_path("/apps/hello.sqfs"),
        .exec_dir = rk_path("/var/hello/exec"),
        .data_dir = rk_path("/var/hello/data"),
        .overlays = 2,
        .overlay_dirs = { rk_path("/usr"), rk_path("/etc") },
        .timeout_ms = 5000,
    };

    return request;
}

static void check_pieces(const char *name, const struct rk_pieces *out)
{
    const struct vector *vector = find(name);
    static uint8_t bytes[2 * BYTES_MAX];
    size_t length = 0;

    CASE("%s", name);
    for (unsigned i = 0; i < out->count; i++) {
        memcpy(bytes + length, out->pieces[i].iov_base, out->pieces[i].iov_len);
        length += out->pieces[i].iov_len;
    }
    CHECK_IS(out->length, length);
    CHECK(out->used <= out->room
          && out->count <= sizeof(out->pieces) / sizeof(out->pieces[0]));
    CHECK_IS(length, vector->length);
    for (size_t i = 0; i < length && i < vector->length; i++) {
        if (bytes[i] != vector->bytes[i]) {
            printf("# byte %zu\n", i);
            CHECK_IS(bytes[i], vector->bytes[i]);
            break;
        }
    }
}

static void check_launch(const char *name, const struct rk_request *request)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces out = rk_pieces(numbers, sizeof(numbers));

    rk_encode_launch(request, &out);
    check_pieces(name, &out);
}

static void test_encode_launch_vectors(void)
{
    static const char *const devices[] = { "/dev/ttyUSB0", NULL };
    struct rk_request request = hello();

    check_launch("client_launch", &request);
    request.seccomp = RK_SECCOMP_UNCONFINED;
    request.user_namespaces = 1;
    check_launch("client_launch_unconfined", &request);
    request.user_namespaces = 0;
    request.seccomp = RK_SECCOMP_LOG;
    check_launch("client_launch_log", &request);
    request.seccomp = RK_SECCOMP_FILTER;
    request.filter = (struct rk_path){ "\x06\0\0\0\0\0\xff\x7f", 8 };
    check_launch("client_launch_filter", &request);
    request.seccomp = RK_SECCOMP_DEFAULT;
    request.is_volatile = 1;
    check_launch("client_launch_volatile", &request);
    request.is_volatile = 0;
    request.has_inside = 1;
    request.inside_uid = 0;
    request.inside_gid = 100;
    request.commanded = 1;
    check_launch("client_launch_inside", &request);
    request.has_inside = request.commanded = 0;
    request.host_dev = 1;
    check_launch("client_launch_host_dev", &request);
    request.host_dev = 0;
    request.landlock = 1;
    check_launch("client_launch_landlock", &request);
    request.landlock = 0;
    request.devices = devices;
    check_launch("client_launch_device", &request);
    request.devices = devices + 1;
    check_launch("client_launch", &request);
    request.devices = NULL;
    request.overlays = 0;
    request.overlay_all = 1;
    check_launch("client_launch_all_top_dirs", &request);
    request.overlay_all = 0;
    request.data_dir = rk_path(NULL);
    check_launch("client_launch_bare", &request);
    request = hello();
    request.limits = (struct rk_limits){ .memory = 64 << 20,
                                         .has_swap = 1,
                                         .pids = 32,
                                         .cpu_millis = 500,
                                         .cpu_weight = 10000,
                                         .cpus = rk_path("0-1,3"),
                                         .io_read = 10 << 20,
                                         .io_write = UINT64_MAX };
    check_launch("client_launch_limited", &request);
}

static void test_encode_launch_extreme(void)
{
    struct rk_request request = hello();

    request.app_id = UINT32_MAX;
    request.uid = UINT32_MAX - 1;
    request.gid = 1;
    request.package = rk_path("/\xff\xfe");
    request.exec_dir = rk_path("/");
    request.overlays = 16;
    for (int i = 0; i < 16; i++) {
        request.overlay_dirs[i] = rk_path("/x");
    }
    request.timeout_ms = UINT32_MAX;
    const struct vector *vector = find("client_launch_extreme");
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces out = rk_pieces(numbers, sizeof(numbers));
    rk_encode_launch(&request, &out);
    /* This client asks for no trace: the byte before the options. */
    uint8_t *trace = &vector->bytes[vector->length - 16];
    CHECK_IS(*trace, 1);
    *trace = 0;
    check_pieces("client_launch_extreme", &out);
    *trace = 1;
}

/* All numbers and paths at their longest still fit. */
static void test_encode_launch_longest(void)
{
    static char path[RK_PATH_MAX + 1];
    static const char *devices[RK_DEVICES_MAX + 1];
    struct rk_request request = hello();
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces out = rk_pieces(numbers, sizeof(numbers));

    memset(path, '/', RK_PATH_MAX);
    request.app_id = request.uid = request.gid = request.timeout_ms = UINT32_MAX;
    request.has_inside = 1;
    request.inside_uid = request.inside_gid = UINT32_MAX;
    request.seccomp = RK_SECCOMP_FILTER;
    request.filter = rk_path(path);
    request.limits = (struct rk_limits){ UINT64_MAX, UINT64_MAX, 1, UINT32_MAX, UINT32_MAX, UINT32_MAX,
                                         rk_path(path), UINT64_MAX, UINT64_MAX };
    request.package = request.exec_dir = request.data_dir = rk_path(path);
    request.overlays = RK_OVERLAY_DIRS_MAX;
    for (int i = 0; i < RK_OVERLAY_DIRS_MAX; i++) {
        request.overlay_dirs[i] = rk_path(path);
    }
    for (int i = 0; i < RK_DEVICES_MAX; i++) {
        devices[i] = path;
    }
    request.devices = devices;
    rk_encode_launch(&request, &out);
    CHECK(out.used < out.room);
    CHECK_IS(out.count, sizeof(out.pieces) / sizeof(out.pieces[0]));
    CHECK(out.length > RK_MESSAGE_MAX);
}

static void test_encode_app_started_vector(void)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces out = rk_pieces(numbers, sizeof(numbers));

    rk_encode_app_started(&out);
    check_pieces("client_app_started", &out);
}

static void test_encode_attach_vector(void)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces out = rk_pieces(numbers, sizeof(numbers));

    rk_encode_attach("0123456789abcde", &out);
    check_pieces("client_attach", &out);
    rk_encode_kill("0123456789abcde", &out);
    check_pieces("client_kill", &out);
    rk_encode_list(&out);
    check_pieces("client_list", &out);
}

static void test_names(void)
{
    static const struct {
        const char *text;
        bool good;
    } cases[] = {
        { "0123456789abcde", true },   { "fffffffffffffff", true },  { "0123456789abcd", false },
        { "0123456789abcdef", false }, { "0123456789abcdE", false }, { "0123456789abcd ", false },
        { "", false },                 { NULL, false },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CASE("case %zu", i);
        CHECK_IS(rk_is_name(rk_path(cases[i].text)), cases[i].good);
    }
}

static void check_exec(const char *name, uint32_t id, const RockerProgram *program,
                       const RockerExec *exec, unsigned descriptors)
{
    static uint8_t numbers[RK_MESSAGE_MAX];
    struct rk_pieces out = rk_pieces(numbers, sizeof(numbers));

    rk_encode_exec(id, program, exec, descriptors, &out);
    check_pieces(name, &out);
}

static void test_encode_exec_vectors(void)
{
    static char *const argv[] = { "bin/app", "-v", "", NULL };
    static char *const envp[] = { "PATH=/bin", "A=", NULL };
    static const int cgroup = 7;
    const struct sock_filter allow = ALLOW;
    RockerRlimit rlimits[RK_RLIMITS_MAX];
    RockerProgram program = ROCKER_program_new("true");
    RockerExec exec = ROCKER_exec_new();

    check_exec("client_exec_bare", 1, &program, &exec, 0);
    program.path = argv[0];
    program.argv = argv;
    program.envp = envp;
    program.cwd = "/tmp";
    for (int i = 0; i < RK_RLIMITS_MAX; i++) {
        rlimits[i] = (RockerRlimit){ 15, 1 << 26, UINT64_MAX };
    }
    exec.rlimits = rlimits;
    exec.rlimits_count = RK_RLIMITS_MAX;
    exec.program_fd = 0;
    program.terminal = 1;
    exec.wall_ms = 3000;
    exec.grace_ms = 500;
    check_exec("client_exec", UINT32_MAX, &program, &exec, 3);
    program = ROCKER_program_new("true");
    exec = ROCKER_exec_new();
    exec.sync = 1;
    check_exec("client_exec_to_wait", 1, &program, &exec, 0);
    exec.sync = 0;
    exec.filter = &allow;
    exec.filter_count = 1;
    check_exec("client_exec_with_a_filter", 1, &program, &exec, 0);
    exec = ROCKER_exec_new();
    exec.cgroups = &cgroup;
    exec.cgroups_count = 1;
    check_exec("client_exec_in", 1, &program, &exec, 4);
}

/* What finds no room is counted, and not written. */
static void test_encode_exec_without_room(void)
{
    uint8_t numbers[8];
    struct rk_pieces out = rk_pieces(numbers, sizeof(numbers));
    RockerProgram program = ROCKER_program_new("a program");
    RockerExec exec = ROCKER_exec_new();

    rk_encode_exec(1, &program, &exec, 3, &out);
    CHECK_IS(out.used, sizeof(numbers));
    CHECK_IS(out.length, 4 + 1 + sizeof("a program") + 1 + 1 + 8);
}

static void test_encode_files_vectors(void)
{
    static uint8_t numbers[RK_MESSAGE_MAX];
    RockerFile files[ROCKER_FILES_MAX];
    struct rk_pieces out = rk_pieces(numbers, sizeof(numbers));
    const RockerFile two[] = { { "out\n\xff", ROCKER_FILE_READ, 0 },
                               { "/tmp/x", 0x3ff, 0777 } };

    rk_encode_open(1, two, 2, &out);
    check_pieces("client_open", &out);
    rk_encode_open(2, files, 0, &out);
    check_pieces("client_open_none", &out);
    for (int i = 0; i < ROCKER_FILES_MAX; i++) {
        files[i] = two[1];
    }
    rk_encode_open(UINT32_MAX, files, ROCKER_FILES_MAX, &out);
    check_pieces("client_open_extreme", &out);
    rk_encode_delete(3, "a/b", false, &out);
    check_pieces("client_delete", &out);
    rk_encode_delete(4, "/a", true, &out);
    check_pieces("client_delete_tree", &out);
    rk_encode_symlink(5, "../x", "y", &out);
    check_pieces("client_symlink", &out);
}

static void check_conf(const char *name, uint32_t id, const RockerConf *conf)
{
    static uint8_t numbers[RK_MESSAGE_MAX];
    struct rk_pieces out = rk_pieces(numbers, sizeof(numbers));

    rk_encode_conf(id, conf, &out);
    check_pieces(name, &out);
}

static void test_encode_conf_vectors(void)
{
    static char *const argv[] = { "bin/init", "-v", NULL };
    static char *const envp[] = { "A=b", NULL };
    static const RockerPlace places[] = {
        { ROCKER_PLACE_bind_ro, 0, "/s", "/t", 0 },
        { ROCKER_PLACE_tmpfs, 0, NULL, "/t", 1 << 20 },
        { ROCKER_PLACE_overlay, 0, NULL, "/t", UINT64_MAX },
        { ROCKER_PLACE_proc, 0, NULL, "/t", 0 },
        { ROCKER_PLACE_dev, 0, NULL, "/t", 4096 },
        { ROCKER_PLACE_link, 0, "../x", "/t", 0 },
        { ROCKER_PLACE_mask, 0, NULL, "/t", 0 },
    };
    RockerProgram init = ROCKER_program_new("bin/init");
    RockerConf conf = ROCKER_conf_new();
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces out = rk_pieces(numbers, sizeof(numbers));

    conf.init_ms = 1;
    check_conf("client_conf_bare", 1, &conf);
    conf.empty_root = 1 << 20;
    check_conf("client_conf_empty_root", 3, &conf);
    conf.empty_root = 0;
    conf.root = "/app";
    conf.places = places;
    conf.places_count = sizeof(places) / sizeof(places[0]);
    conf.work_dir = "/tmp";
    conf.host_name = "judge";
    conf.domain_name = "example";
    conf.unshare_cgroup = 1;
    init.argv = argv;
    init.envp = envp;
    conf.init = &init;
    conf.init_ms = 5000;
    check_conf("client_conf", 2, &conf);
    rk_encode_reset(4, &out);
    check_pieces("client_reset", &out);
}

static void test_encode_signal_ping_and_go_vectors(void)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces out = rk_pieces(numbers, sizeof(numbers));

    rk_encode_signal(1, 15, &out);
    check_pieces("client_signal", &out);
    rk_encode_signal(0, 9, &out);
    check_pieces("client_signal_all", &out);
    rk_encode_ping(&out);
    check_pieces("client_ping", &out);
    rk_encode_go(1, &out);
    check_pieces("client_go", &out);
    rk_encode_adopt(1, &out);
    check_pieces("client_adopt", &out);
}

/* --- In. --- */

static void test_decode_entrance_vector(void)
{
    const struct vector *vector = find("guard_entrance");
    struct rk_message message;

    decode(LAUNCH, vector->bytes, vector->length, &message);
    CHECK_IS(message.kind, RK_ENTERING);
    CHECK_IS(message.descriptors, 1);
    CHECK_IS(message.pid, 4711);
    CHECK_TEXT(message.name, "0123456789abcde");
    CHECK_IS(message.rest.length, 0);
    vector = find("guard_entrance_with_a_filter");
    rk_decode(vector->bytes, vector->length, &message);
    CHECK_IS(message.kind, RK_ENTERING);
    CHECK(message.rest.length == 8 && memcmp(message.rest.bytes, "\x06\0\0\0\0\0\xff\x7f", 8) == 0);
    vector = find("guard_entrance_cgroups");
    decode(LAUNCH, vector->bytes, vector->length, &message);
    CHECK_IS(message.kind, RK_ENTERING);
    CHECK_IS(message.descriptors, 6);
}

static void test_decode_failure_vectors(void)
{
    unsigned rules = 0;
    unsigned items = 0;
    unsigned losses = 0;
    unsigned steps = 0;

    for (size_t i = 0; i < count; i++) {
        const char *name = vectors[i].name;
        struct rk_message message;
        CASE("%s", name);
        if (!begins(name, "master_failed") && !begins(name, "guard_failed")) {
            continue;
        }
        if (begins(name, "guard_failed")) {
            rk_decode_answer(vectors[i].bytes, vectors[i].length, &message);
            CHECK_IS(message.kind, RK_FAILURE);
        }
        rk_decode(vectors[i].bytes, vectors[i].length, &message);
        CHECK_IS(message.kind, RK_FAILURE);
        CHECK_IS(message.descriptors, 0);
        if (begins(name, "master_failed_rule")) {
            CHECK_IS(message.error.fault, RK_INVALID);
            CHECK_IS(message.error.rule, rules++);
            CHECK_IS(message.error.item, RK_ITEM_PACKAGE);
        } else if (begins(name, "master_failed_item")) {
            CHECK_IS(message.error.rule, RK_RULE_NOT_ALLOWED);
            CHECK_IS(message.error.item, items++);
            CHECK_IS(message.error.index, message.error.item == RK_ITEM_OVERLAY_DIR ? 15
                                              : message.error.item == RK_ITEM_DEVICE    ? 31
                                                                                        : 0);
        } else if (begins(name, "master_failed_lost")) {
            CHECK_IS(message.error.fault, RK_LOST_FAULT);
            CHECK_IS(message.error.step, 0x17);
            CHECK_IS(message.error.loss, losses++);
            CHECK(message.rest.length == 7
                  && memcmp(message.rest.bytes, "recvmsg", 7) == 0);
        } else {
            steps++;
            CHECK_IS(message.error.fault, RK_FAILED_FAULT);
            CHECK_IS(message.error.step, vectors[i].bytes[4]);
            CHECK_IS(message.error.os_errno, 16);
            CHECK(message.rest.length == 9
                  && memcmp(message.rest.bytes, "mount /\xc3\xa9", 9) == 0);
        }
    }
    CHECK_IS(rules, RK_RULE_COUNT);
    CHECK_IS(items, RK_ITEM_COUNT);
    CHECK_IS(losses, RK_LOSS_COUNT);
    CHECK_IS(steps, 37);
}

static void check_usage(const RockerUsage *usage, bool is_known)
{
    static const RockerUsage known = { 1 << 20, ROCKER_UNKNOWN, 1, 33, 3000, 0, 512 };
    static const RockerUsage none = { ROCKER_UNKNOWN, ROCKER_UNKNOWN, ROCKER_UNKNOWN,
                                      ROCKER_UNKNOWN, ROCKER_UNKNOWN, ROCKER_UNKNOWN,
                                      ROCKER_UNKNOWN };

    CHECK(memcmp(usage, is_known ? &known : &none, sizeof(none)) == 0);
}

static void test_decode_answer_vectors(void)
{
    unsigned verdicts = 0;
    struct rk_message message;
    const struct vector *vector = find("guard_started");

    decode(ORDERS, vector->bytes, vector->length, &message);
    CHECK_IS(message.kind, RK_STARTED);
    CHECK(message.id == 1 && message.pid == 2 && message.descriptors == 1);
    vector = find("guard_pong");
    decode(ORDERS, vector->bytes, vector->length, &message);
    CHECK_IS(message.kind, RK_PONG);
    vector = find("guard_exec_failed");
    rk_decode_answer(vector->bytes, vector->length, &message);
    CHECK_IS(message.kind, RK_NOT_STARTED);
    CHECK(message.id == 1 && message.error.fault == RK_FAILED_FAULT
          && message.error.step == RK_START_PROGRAM && message.error.os_errno == 2);
    CHECK(message.rest.length == 12 && memcmp(message.rest.bytes, "exec bin/app", 12) == 0);
    vector = find("guard_exec_failed_late");
    rk_decode_answer(vector->bytes, vector->length, &message);
    CHECK_IS(message.kind, RK_NOT_STARTED);
    CHECK(message.id == 1 && message.error.step == RK_REPORT_EXIT);
    for (size_t i = 0; i < count; i++) {
        const RockerReport *report = &message.report;
        CASE("%s", vectors[i].name);
        if (!begins(vectors[i].name, "guard_exited")) {
            continue;
        }
        decode(ORDERS, vectors[i].bytes, vectors[i].length, &message);
        CHECK_IS(message.kind, RK_EXITED);
        CHECK_IS(message.id, 1);
        CHECK_IS(report->verdict, verdicts);
        CHECK_IS(report->status, verdicts == ROCKER_VERDICT_normal ? 0 : -1);
        CHECK_IS(report->signal, verdicts == ROCKER_VERDICT_normal ? 0 : 9);
        CHECK_IS(report->syscall, verdicts == ROCKER_VERDICT_disallowed_syscall ? 101 : -1);
        CHECK(report->user_us == 1000 && report->system_us == 2000);
        CHECK(report->wall_us == UINT64_MAX && report->peak_kib == 4096);
        check_usage(&report->usage, verdicts == ROCKER_VERDICT_memory_limit_exceeded);
        verdicts++;
    }
    CHECK_IS(verdicts, ROCKER_VERDICT_cancelled + 1);
    vector = find("guard_obeyed");
    decode(ORDERS, vector->bytes, vector->length, &message);
    CHECK(message.kind == RK_OBEYED && message.id == 3);
    vector = find("guard_opened");
    decode(ORDERS, vector->bytes, vector->length, &message);
    CHECK(message.kind == RK_OPENED && message.id == 1 && message.files == 4);
    CHECK(message.errnos[0] == 0 && message.errnos[1] == 2 && message.errnos[2] == 0);
    CHECK(message.errnos[3] == UINT16_MAX && message.descriptors == 2);
}

static void test_decode_what_is_for_others(void)
{
    unsigned others = 0;

    for (size_t i = 0; i < READERS * count; i++) {
        const struct vector *vector = &vectors[i / READERS];
        enum reader reader = i % READERS;
        struct rk_message message;
        CASE("%s", vector->name);
        if (!is_for(reader, vector->name)) {
            decode(reader, vector->bytes, vector->length, &message);
            CHECK_IS(message.kind, RK_NOTHING);
            CHECK_IS(message.loss, RK_LOSS_GARBAGE);
            others++;
        }
    }
    CHECK(others > count);
}

static void test_decode_every_prefix(void)
{
    for (size_t i = 0; i < READERS * count; i++) {
        const struct vector *vector = &vectors[i / READERS];
        enum reader reader = i % READERS;
        for (size_t length = 0; is_for(reader, vector->name) && length < vector->length;
             length++) {
            struct rk_message message;
            CASE("%s, %zu", vector->name, length);
            decode(reader, vector->bytes, length, &message);
            CHECK_IS(message.kind, RK_NOTHING);
            CHECK_IS(message.loss, length == 0 ? RK_LOSS_DIED : RK_LOSS_GARBAGE);
        }
    }
}

static void test_decode_more_than_there_should_be(void)
{
    for (size_t i = 0; i < READERS * count; i++) {
        const struct vector *vector = &vectors[i / READERS];
        enum reader reader = i % READERS;
        uint8_t bytes[2048];
        struct rk_message message;
        CASE("%s", vector->name);
        if (is_for(reader, vector->name) && vector->length < sizeof(bytes)) {
            memcpy(bytes, vector->bytes, vector->length);
            bytes[vector->length] = 0;
            decode(reader, bytes, vector->length + 1, &message);
            CHECK_IS(message.kind, RK_NOTHING);
        }
    }
}

/* Every byte, in every way. */
static void test_decode_every_flipped_byte(void)
{
    for (size_t i = 0; i < READERS * count; i++) {
        const struct vector *vector = &vectors[i / READERS];
        enum reader reader = i % READERS;
        for (size_t at = 0; is_for(reader, vector->name) && at < vector->length; at++) {
            uint8_t right = vector->bytes[at];
            for (unsigned flip = 1; flip < 256; flip++) {
                struct rk_message message;
                CASE("%s, %zu: %#x", vector->name, at, flip);
                vector->bytes[at] = (uint8_t)(right ^ flip);
                decode(reader, vector->bytes, vector->length, &message);
                check_sane(&message);
                if (at == 0) {
                    CHECK_IS(message.kind, RK_NOTHING);
                    CHECK_IS(message.loss, RK_LOSS_VERSION);
                }
            }
            vector->bytes[at] = right;
        }
    }
}

static void test_decode_numbers_that_are_too_long(void)
{
    static const struct {
        const char *bytes;
        size_t length;
        bool good;
    } cases[] = {
        /* An errno of 16 bits, in three bytes at most. */
        { "\x01\x01\x02\x01\x13\xff\xff\x03\x00", 9, true },
        { "\x01\x01\x02\x01\x13\xff\xff\x04\x00", 9, false },
        { "\x01\x01\x02\x01\x13\xff\xff\x83\x00\x00", 10, false },
        /* A length beyond all memory. */
        { "\x01\x01\x02\x01\x13\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 16, false },
        { "\x01\x01\x02\x01\x13\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 16, false },
        { "\x01\x01\x02\x01\x13\x01\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 17, false },
        /* A pid of 32 bits. */
        { "\x01\x02\x01" "0123456789abcde" "\xff\xff\xff\xff\x0f\x00\x00", 25, true },
        { "\x01\x02\x01" "0123456789abcde" "\xff\xff\xff\xff\x1f\x00\x00", 25, false },
        /* No more than five cgroups and a ruleset. */
        { "\x01\x02\x01" "0123456789abcde" "\x01\x00\x06", 21, true },
        { "\x01\x02\x01" "0123456789abcde" "\x01\x00\x07", 21, false },
        /* A name is hexadecimal. */
        { "\x01\x02\x01" "0123456789abcdg" "\x01\x00\x00", 21, false },
        { "\x01\x02\x01" "0123456789abc\0e" "\x01\x00", 20, false },
        /* A filter that is longer than the message. */
        { "\x01\x02\x01" "0123456789abcde" "\x01\x01", 20, false },
        /* No such step. */
        { "\x01\x01\x02\x01\x1a\x01\x00", 7, false },
        { "\x01\x01\x02\x01\x35\x01\x00", 7, false },
        { "\x01\x01\x02\x01\x44\x01\x00", 7, false },
        /* UTF-8 that is none: too long a form, a half of a pair, beyond the last. */
        { "\x01\x01\x02\x01\x13\x01\x02\xc1\xbf", 9, false },
        { "\x01\x01\x02\x01\x13\x01\x03\xe0\x9f\xbf", 10, false },
        { "\x01\x01\x02\x01\x13\x01\x03\xed\xa0\x80", 10, false },
        { "\x01\x01\x02\x01\x13\x01\x04\xf4\x90\x80\x80", 11, false },
        { "\x01\x01\x02\x01\x13\x01\x04\xf0\x9f\x98\x80", 11, true },
        { "\x01\x01\x02\x01\x13\x01\x01\x80", 8, false },
        { "\x01\x01\x02\x01\x13\x01\x01\xc3", 8, false },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rk_message message;
        CASE("case %zu", i);
        decode(LAUNCH, (const uint8_t *)cases[i].bytes, cases[i].length, &message);
        CHECK_IS(message.kind != RK_NOTHING, cases[i].good);
        check_sane(&message);
    }
}

static const struct test tests[] = {
    TEST(test_encode_launch_vectors),
    TEST(test_encode_launch_extreme),
    TEST(test_encode_launch_longest),
    TEST(test_encode_app_started_vector),
    TEST(test_encode_attach_vector),
    TEST(test_names),
    TEST(test_encode_exec_vectors),
    TEST(test_encode_exec_without_room),
    TEST(test_encode_files_vectors),
    TEST(test_encode_conf_vectors),
    TEST(test_encode_signal_ping_and_go_vectors),
    TEST(test_decode_entrance_vector),
    TEST(test_decode_failure_vectors),
    TEST(test_decode_answer_vectors),
    TEST(test_decode_what_is_for_others),
    TEST(test_decode_every_prefix),
    TEST(test_decode_more_than_there_should_be),
    TEST(test_decode_every_flipped_byte),
    TEST(test_decode_numbers_that_are_too_long),
};

static int write_seeds(const char *dir, bool rows)
{
    for (size_t i = 0; i < count; i++) {
        const struct vector *vector = &vectors[i];
        /* An exec, then the answer, then what was kept. */
        const uint8_t head[] = { 0x0f, (uint8_t)vector->length };
        char path[4096];
        if (rows && (!is_for(ORDERS, vector->name) || vector->length > 255)) {
            continue;
        }
        (void)snprintf(path, sizeof(path), "%s/%s", dir, vector->name);
        FILE *file = fopen(path, "w");
        if (file == NULL || (rows && fwrite(head, sizeof(head), 1, file) != 1)
            || fwrite(vector->bytes, vector->length, 1, file) != 1 || fclose(file) != 0) {
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (!read_all()) {
        printf("Bail out! cannot read %s\n", VECTORS);
        return 1;
    }
    bool rows = argc == 3 && strcmp(argv[1], "--rows") == 0;
    int failed = rows || (argc == 3 && strcmp(argv[1], "--seeds") == 0)
                     ? write_seeds(argv[2], rows)
                     : tap_main(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
    for (size_t i = 0; i < count; i++) {
        free(vectors[i].bytes);
    }
    return failed;
}
