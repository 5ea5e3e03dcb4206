#include "request.h"

struct rk_path rk_path(const char *text)
{
    struct rk_path path = { text, 0 };

    while (text != NULL && path.length <= RK_PATH_MAX && text[path.length] != '\0') {
        path.length++;
    }
    return path;
}

/* The next name on the way down: empty ones and "." mean nothing to the kernel either. */
static bool next_name(struct rk_path path, size_t *at, struct rk_path *name)
{
    for (;;) {
        while (*at < path.length && path.bytes[*at] == '/') {
            (*at)++;
        }
        if (*at == path.length) {
            return false;
        }
        size_t begin = *at;
        while (*at < path.length && path.bytes[*at] != '/') {
            (*at)++;
        }
        *name = (struct rk_path){ path.bytes + begin, *at - begin };
        if (name->length != 1 || name->bytes[0] != '.') {
            return true;
        }
    }
}

static bool is(struct rk_path name, const char *text)
{
    size_t i = 0;

    while (i < name.length && text[i] != '\0' && text[i] == name.bytes[i]) {
        i++;
    }
    return i == name.length && text[i] == '\0';
}

/* Directories that are the running system itself come first, then `run`, which is one too. */
static const char host_dirs[][5] = { "proc", "sys", "dev", "run" };
enum { API_DIRS = 3, LIVE_DIRS = 4 };

/* Whether the first name is one of these, or there is none: "/" itself. */
static bool is_root_or_below(struct rk_path path, unsigned dirs)
{
    size_t at = 0;
    struct rk_path first;

    if (!next_name(path, &at, &first)) {
        return true;
    }
    for (unsigned i = 0; i < dirs; i++) {
        if (is(first, host_dirs[i])) {
            return true;
        }
    }
    return false;
}

static bool is_run(struct rk_path path)
{
    size_t at = 0;
    struct rk_path first;
    struct rk_path second;

    return next_name(path, &at, &first) && is(first, "run") && !next_name(path, &at, &second);
}

/* In the order in which protocol checks them. */
enum rk_rule rk_path_rule(struct rk_path path)
{
    size_t at = 0;
    struct rk_path name;

    if (path.length == 0) {
        return RK_RULE_EMPTY;
    }
    for (size_t i = 0; i < path.length; i++) {
        unsigned char byte = (unsigned char)path.bytes[i];
        if (byte < 0x20 || byte == 0x7f) {
            return RK_RULE_CONTROL_BYTE;
        }
    }
    if (path.bytes[0] != '/') {
        return RK_RULE_RELATIVE;
    }
    if (path.length > RK_PATH_MAX) {
        return RK_RULE_TOO_LONG;
    }
    while (next_name(path, &at, &name)) {
        if (is(name, "..")) {
            return RK_RULE_PARENT_DIR;
        }
    }
    return RK_RULE_COUNT;
}

static const struct rk_error kept = { .fault = RK_NO_FAULT };

static struct rk_error check_path(struct rk_path path, enum rk_item item, uint8_t index)
{
    enum rk_rule rule = rk_path_rule(path);

    return rule == RK_RULE_COUNT ? kept : rk_invalid(rule, item, index);
}

static struct rk_error check_paths(const struct rk_request *request)
{
    struct rk_error error = kept;

    /* A package that is not set is an empty one. */
    for (uint8_t i = 0; i < request->overlays && error.fault == RK_NO_FAULT; i++) {
        error = check_path(request->overlay_dirs[i], RK_ITEM_OVERLAY_DIR,
                           request->overlay_index[i]);
    }
    if (error.fault == RK_NO_FAULT) {
        error = check_path(request->package, RK_ITEM_PACKAGE, 0);
    }
    if (error.fault == RK_NO_FAULT) {
        error = check_path(request->exec_dir, RK_ITEM_EXEC_DIR, 0);
    }
    if (error.fault == RK_NO_FAULT && request->data_dir.bytes != NULL) {
        error = check_path(request->data_dir, RK_ITEM_DATA_DIR, 0);
    }
    return error;
}

static struct rk_error check_id(uint32_t id, enum rk_item item)
{
    switch (id) {
    case 0:
        return rk_invalid(RK_RULE_ROOT, item, 0);
    case UINT32_MAX:
        return rk_invalid(RK_RULE_NO_SUCH_ID, item, 0);
    default:
        return kept;
    }
}

/* They may be root's, which is nobody in particular there. */
static struct rk_error check_inside(const struct rk_request *request)
{
    if (!request->has_inside) {
        return kept;
    }
    if (request->inside_uid == UINT32_MAX) {
        return rk_invalid(RK_RULE_NO_SUCH_ID, RK_ITEM_UID, 0);
    }
    if (request->inside_gid == UINT32_MAX) {
        return rk_invalid(RK_RULE_NO_SUCH_ID, RK_ITEM_GID, 0);
    }
    return request->commanded ? kept : rk_invalid(RK_RULE_NOT_COMMANDED, RK_ITEM_UID, 0);
}

/* What it means the kernel checks. */
static bool is_filter(struct rk_path filter)
{
    return filter.bytes != NULL && filter.length > 0 && filter.length % RK_INSTRUCTION == 0
           && filter.length <= RK_INSTRUCTIONS_MAX * RK_INSTRUCTION;
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

/* A number of 16 bits; false if none begins at `*at`. */
static bool get_cpu(struct rk_path list, size_t *at, uint32_t *cpu)
{
    size_t begin = *at;

    for (*cpu = 0; *at < list.length && is_digit(list.bytes[*at]); (*at)++) {
        *cpu = *cpu * 10 + (uint32_t)(list.bytes[*at] - '0');
        if (*cpu > UINT16_MAX) {
            return false;
        }
    }
    return *at > begin;
}

/* Ranges such as 0-1,3. */
static bool are_cpus(struct rk_path list)
{
    uint32_t first;
    uint32_t last;

    if (list.length > RK_CPUS_MAX) {
        return false;
    }
    for (size_t at = 0;; at++) {
        if (!get_cpu(list, &at, &first)) {
            return false;
        }
        if (at < list.length && list.bytes[at] == '-') {
            at++;
            if (!get_cpu(list, &at, &last) || last < first) {
                return false;
            }
        }
        if (at == list.length) {
            return true;
        }
        if (list.bytes[at] != ',') {
            return false;
        }
    }
}

static struct rk_error check_limits(const struct rk_limits *limits)
{
    if (limits->memory != 0 && limits->memory < RK_MEMORY_MIN) {
        return rk_invalid(RK_RULE_MEMORY_OUT_OF_RANGE, RK_ITEM_MEMORY, 0);
    }
    if (limits->pids > RK_PIDS_MAX) {
        return rk_invalid(RK_RULE_PIDS_OUT_OF_RANGE, RK_ITEM_PIDS, 0);
    }
    if (limits->cpu_millis != 0
        && (limits->cpu_millis < RK_CPU_MILLIS_MIN || limits->cpu_millis > RK_CPU_MILLIS_MAX)) {
        return rk_invalid(RK_RULE_CPU_OUT_OF_RANGE, RK_ITEM_CPU, 0);
    }
    if (limits->cpu_weight > RK_CPU_WEIGHT_MAX) {
        return rk_invalid(RK_RULE_CPU_WEIGHT_OUT_OF_RANGE, RK_ITEM_CPU_WEIGHT, 0);
    }
    if (limits->io_read != 0 && limits->io_read < RK_IO_MIN) {
        return rk_invalid(RK_RULE_IO_OUT_OF_RANGE, RK_ITEM_IO_READ, 0);
    }
    if (limits->io_write != 0 && limits->io_write < RK_IO_MIN) {
        return rk_invalid(RK_RULE_IO_OUT_OF_RANGE, RK_ITEM_IO_WRITE, 0);
    }
    if (limits->has_swap && limits->memory == 0) {
        return rk_invalid(RK_RULE_NO_MEMORY_LIMIT, RK_ITEM_SWAP, 0);
    }
    if (limits->cpus.bytes != NULL && !are_cpus(limits->cpus)) {
        return rk_invalid(RK_RULE_NOT_CPUS, RK_ITEM_CPUS, 0);
    }
    return kept;
}

/* A path below /dev. */
static enum rk_rule device_rule(struct rk_path path)
{
    enum rk_rule rule = rk_path_rule(path);
    size_t at = 0;
    struct rk_path name;

    if (rule != RK_RULE_COUNT) {
        return rule;
    }
    return next_name(path, &at, &name) && is(name, "dev") && next_name(path, &at, &name)
               ? RK_RULE_COUNT
               : RK_RULE_WRONG_TYPE;
}

static struct rk_error check_devices(const struct rk_request *request)
{
    const char *const *devices = request->host_dev ? NULL : request->devices;

    for (unsigned i = 0; devices != NULL && devices[i] != NULL; i++) {
        enum rk_rule rule = i < RK_DEVICES_MAX ? device_rule(rk_path(devices[i])) : RK_RULE_TOO_LONG;
        if (rule != RK_RULE_COUNT) {
            return rk_invalid(rule, i < RK_DEVICES_MAX ? RK_ITEM_DEVICE : RK_ITEM_DEV, (uint8_t)i);
        }
    }
    return kept;
}

struct rk_error rk_request_check(const struct rk_request *request)
{
    bool overlays = request->overlay_all || request->overlays > 0;
    struct rk_error error = check_paths(request);

    if (error.fault == RK_NO_FAULT) {
        error = check_id(request->uid, RK_ITEM_UID);
    }
    if (error.fault == RK_NO_FAULT) {
        error = check_id(request->gid, RK_ITEM_GID);
    }
    if (error.fault == RK_NO_FAULT) {
        error = check_inside(request);
    }
    if (error.fault != RK_NO_FAULT) {
        return error;
    }
    if (request->timeout_ms == 0 || request->timeout_ms > RK_TIMEOUT_MS_MAX) {
        return rk_invalid(RK_RULE_OUT_OF_RANGE, RK_ITEM_TIMEOUT, 0);
    }
    /* A package may be mounted below /run, but not over it. */
    if (is_root_or_below(request->exec_dir, API_DIRS) || is_run(request->exec_dir)) {
        return rk_invalid(RK_RULE_FORBIDDEN, RK_ITEM_EXEC_DIR, 0);
    }
    if (request->data_dir.bytes != NULL && is_root_or_below(request->data_dir, API_DIRS)) {
        return rk_invalid(RK_RULE_FORBIDDEN, RK_ITEM_DATA_DIR, 0);
    }
    if (overlays && request->data_dir.bytes == NULL) {
        return rk_invalid(RK_RULE_NO_DATA_DIR, RK_ITEM_DATA_DIR, 0);
    }
    if (request->is_volatile && !overlays) {
        return rk_invalid(RK_RULE_NO_OVERLAYS, RK_ITEM_VOLATILE, 0);
    }
    error = check_limits(&request->limits);
    if (error.fault == RK_NO_FAULT) {
        error = check_devices(request);
    }
    if (error.fault != RK_NO_FAULT) {
        return error;
    }
    if (request->seccomp == RK_SECCOMP_FILTER && !is_filter(request->filter)) {
        return rk_invalid(RK_RULE_NOT_A_FILTER, RK_ITEM_SECCOMP, 0);
    }
    for (uint8_t i = 0; i < request->overlays && !request->overlay_all; i++) {
        if (is_root_or_below(request->overlay_dirs[i], LIVE_DIRS)) {
            return rk_invalid(RK_RULE_FORBIDDEN, RK_ITEM_OVERLAY_DIR, request->overlay_index[i]);
        }
    }
    return kept;
}
