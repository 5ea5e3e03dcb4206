/* The rules that a request must keep, as protocol/src/request.rs has them. */
#include "request.h"

#include "tap.h"

static struct rk_request good(void)
{
    struct rk_request request = {
        .uid = 1000,
        .gid = 1000,
        .package = rk_path("/apps/hello.sqfs"),
        .exec_dir = rk_path("/run/rocker/app"),
        .timeout_ms = 5000,
    };

    return request;
}

static void check(const struct rk_request *request, enum rk_rule rule, enum rk_item item)
{
    struct rk_error error = rk_request_check(request);

    CHECK_IS(error.fault, RK_INVALID);
    CHECK_IS(error.step, RK_REQUEST_ROCKER);
    CHECK_IS(error.rule, rule);
    CHECK_IS(error.item, item);
}

static void check_good(const struct rk_request *request)
{
    CHECK_IS(rk_request_check(request).fault, RK_NO_FAULT);
}

static void test_path_is_measured_no_further_than_needed(void)
{
    char *text = malloc(RK_PATH_MAX + 1);

    CHECK_IS(rk_path(NULL).length, 0);
    CHECK_IS(rk_path("").length, 0);
    CHECK_IS(rk_path("/a").length, 2);
    /* There is no NUL, and no memory behind it. */
    memset(text, '/', RK_PATH_MAX + 1);
    CHECK_IS(rk_path(text).length, RK_PATH_MAX + 1);
    text[RK_PATH_MAX] = '\0';
    CHECK_IS(rk_path(text).length, RK_PATH_MAX);
    free(text);
}

static void test_check_good_requests(void)
{
    struct rk_request request = good();

    check_good(&request);
    request.app_id = UINT32_MAX;
    request.uid = UINT32_MAX - 1;
    request.timeout_ms = RK_TIMEOUT_MS_MAX;
    request.data_dir = rk_path("/run/data");
    request.overlays = 3;
    request.overlay_dirs[0] = rk_path("//usr/./local/");
    request.overlay_dirs[1] = rk_path("/procfs");
    request.overlay_dirs[2] = rk_path("/...");
    check_good(&request);
    request.overlays = 0;
    request.overlay_all = 1;
    check_good(&request);
}

static void test_check_paths(void)
{
    static char longest[RK_PATH_MAX + 2];
    static const struct {
        const char *path;
        enum rk_rule rule;
    } wrong[] = {
        { "", RK_RULE_EMPTY },
        { "apps/hello.sqfs", RK_RULE_RELATIVE },
        { ".", RK_RULE_RELATIVE },
        { "/apps/../x", RK_RULE_PARENT_DIR },
        { "/..", RK_RULE_PARENT_DIR },
        { "/x/../", RK_RULE_PARENT_DIR },
        { "/\n", RK_RULE_CONTROL_BYTE },
        { "\x01", RK_RULE_CONTROL_BYTE },
        { "/\x7f", RK_RULE_CONTROL_BYTE },
        { longest, RK_RULE_TOO_LONG },
    };

    memset(longest, 'x', RK_PATH_MAX + 1);
    longest[0] = '/';
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct rk_request request = good();
        CASE("case %zu", i);
        request.package = rk_path(wrong[i].path);
        check(&request, wrong[i].rule, RK_ITEM_PACKAGE);
        request = good();
        request.exec_dir = rk_path(wrong[i].path);
        check(&request, wrong[i].rule, RK_ITEM_EXEC_DIR);
        request = good();
        request.data_dir = rk_path(wrong[i].path);
        check(&request, wrong[i].rule, RK_ITEM_DATA_DIR);
        request = good();
        request.data_dir = rk_path("/data");
        request.overlays = 2;
        request.overlay_dirs[0] = rk_path("/usr");
        request.overlay_dirs[1] = rk_path(wrong[i].path);
        request.overlay_index[1] = 9;
        check(&request, wrong[i].rule, RK_ITEM_OVERLAY_DIR);
        CHECK_IS(rk_request_check(&request).index, 9);
    }
    struct rk_request request = good();
    longest[RK_PATH_MAX] = '\0';
    request.package = rk_path(longest);
    check_good(&request);
    request.package = rk_path("/\xff\x80");
    check_good(&request);
    request.package = rk_path(NULL);
    check(&request, RK_RULE_EMPTY, RK_ITEM_PACKAGE);
}

static void test_check_ids(void)
{
    struct rk_request request = good();

    request.uid = 0;
    check(&request, RK_RULE_ROOT, RK_ITEM_UID);
    request.uid = UINT32_MAX;
    check(&request, RK_RULE_NO_SUCH_ID, RK_ITEM_UID);
    request = good();
    request.gid = 0;
    check(&request, RK_RULE_ROOT, RK_ITEM_GID);
    request.gid = UINT32_MAX;
    check(&request, RK_RULE_NO_SUCH_ID, RK_ITEM_GID);
}

static void test_check_timeout(void)
{
    struct rk_request request = good();

    request.timeout_ms = 0;
    check(&request, RK_RULE_OUT_OF_RANGE, RK_ITEM_TIMEOUT);
    request.timeout_ms = RK_TIMEOUT_MS_MAX + 1;
    check(&request, RK_RULE_OUT_OF_RANGE, RK_ITEM_TIMEOUT);
    request.timeout_ms = 1;
    check_good(&request);
}

/* What is the running system itself is nobody's to cover or to write to. */
static void test_check_places_of_the_host(void)
{
    static const char *const api[] = { "/", "//", "/.", "/proc", "/proc/self", "//proc/.",
                                       "/./sys", "/dev/shm" };

    for (size_t i = 0; i < sizeof(api) / sizeof(api[0]); i++) {
        struct rk_request request = good();
        CASE("%s", api[i]);
        request.exec_dir = rk_path(api[i]);
        check(&request, RK_RULE_FORBIDDEN, RK_ITEM_EXEC_DIR);
        request = good();
        request.data_dir = rk_path(api[i]);
        check(&request, RK_RULE_FORBIDDEN, RK_ITEM_DATA_DIR);
        request.data_dir = rk_path("/data");
        request.overlays = 1;
        request.overlay_index[0] = 5;
        request.overlay_dirs[0] = rk_path(api[i]);
        check(&request, RK_RULE_FORBIDDEN, RK_ITEM_OVERLAY_DIR);
        CHECK_IS(rk_request_check(&request).index, 5);
    }
    struct rk_request request = good();
    request.exec_dir = rk_path("/run");
    check(&request, RK_RULE_FORBIDDEN, RK_ITEM_EXEC_DIR);
    request.exec_dir = rk_path("/run/x");
    request.data_dir = rk_path("/run");
    check_good(&request);
    request.overlays = 1;
    request.overlay_dirs[0] = rk_path("/run/x");
    check(&request, RK_RULE_FORBIDDEN, RK_ITEM_OVERLAY_DIR);
}

static void test_check_overlays_need_a_data_dir(void)
{
    struct rk_request request = good();

    request.overlays = 1;
    request.overlay_dirs[0] = rk_path("/usr");
    check(&request, RK_RULE_NO_DATA_DIR, RK_ITEM_DATA_DIR);
    request.overlays = 0;
    request.overlay_all = 1;
    check(&request, RK_RULE_NO_DATA_DIR, RK_ITEM_DATA_DIR);
}

static void test_check_volatile_is_about_overlays(void)
{
    struct rk_request request = good();

    request.is_volatile = 1;
    check(&request, RK_RULE_NO_OVERLAYS, RK_ITEM_VOLATILE);
    request.data_dir = rk_path("/data");
    check(&request, RK_RULE_NO_OVERLAYS, RK_ITEM_VOLATILE);
    request.overlay_all = 1;
    check_good(&request);
}

/* The first rule in the order of protocol is the one that is told. */
static void test_check_ids_inside(void)
{
    struct rk_request request = good();

    /* What is not asked for does not count. */
    request.inside_uid = request.inside_gid = UINT32_MAX;
    check_good(&request);
    request.has_inside = 1;
    check(&request, RK_RULE_NO_SUCH_ID, RK_ITEM_UID);
    request.inside_uid = 0;
    check(&request, RK_RULE_NO_SUCH_ID, RK_ITEM_GID);
    request.inside_gid = 0;
    /* Who enters it would be nobody. */
    check(&request, RK_RULE_NOT_COMMANDED, RK_ITEM_UID);
    request.commanded = 1;
    check_good(&request);
}

static void test_check_filter(void)
{
    static const char filter[RK_INSTRUCTION * (RK_INSTRUCTIONS_MAX + 1)];
    static const size_t bad[] = { 0, 1, 7, 9, sizeof(filter) };
    struct rk_request request = good();

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CASE("%zu bytes", bad[i]);
        request.filter = (struct rk_path){ filter, bad[i] };
        request.seccomp = RK_SECCOMP_LOG;
        check_good(&request);
        request.seccomp = RK_SECCOMP_FILTER;
        check(&request, RK_RULE_NOT_A_FILTER, RK_ITEM_SECCOMP);
    }
    request.filter = (struct rk_path){ NULL, 8 };
    check(&request, RK_RULE_NOT_A_FILTER, RK_ITEM_SECCOMP);
    request.filter = (struct rk_path){ filter, 8 };
    check_good(&request);
    request.filter.length = sizeof(filter) - RK_INSTRUCTION;
    check_good(&request);
}

static void test_check_order(void)
{
    struct rk_request request = good();

    request.uid = 0;
    request.timeout_ms = 0;
    request.package = rk_path("x");
    request.overlays = 1;
    request.overlay_dirs[0] = rk_path("y");
    check(&request, RK_RULE_RELATIVE, RK_ITEM_OVERLAY_DIR);
    request.overlays = 0;
    check(&request, RK_RULE_RELATIVE, RK_ITEM_PACKAGE);
    request.package = rk_path("/x");
    check(&request, RK_RULE_ROOT, RK_ITEM_UID);
    request.uid = 1;
    check(&request, RK_RULE_OUT_OF_RANGE, RK_ITEM_TIMEOUT);
}

static const struct test tests[] = {
    TEST(test_path_is_measured_no_further_than_needed),
    TEST(test_check_good_requests),
    TEST(test_check_paths),
    TEST(test_check_ids),
    TEST(test_check_timeout),
    TEST(test_check_places_of_the_host),
    TEST(test_check_overlays_need_a_data_dir),
    TEST(test_check_volatile_is_about_overlays),
    TEST(test_check_ids_inside),
    TEST(test_check_filter),
    TEST(test_check_order),
};

TAP_MAIN(tests)
