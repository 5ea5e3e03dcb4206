#include "wire.h"

#include "postcard.h"

/* The variants of a launch that a client knows, by their place in message.rs. */
enum {
    CLIENT_LAUNCH,
    CLIENT_APP_STARTED,
    CLIENT_LIST,
    CLIENT_KILL,
    CLIENT_PING = 6,
    CLIENT_ATTACH = 10
};
enum { MASTER_FAILED = 2, MASTER_ROCKER = 4, MASTER_END, MASTER_GONE };

/* enum Dev */
enum { DEV_OWN, DEV_HOST, DEV_WITH };

/* enum Ids */
enum { IDS_IDENTITY, IDS_INSIDE };

enum { GUARD_ENTRANCE = 1, GUARD_FAILED = 2 };

bool rk_is_step(uint8_t step)
{
    /* So many arrows has each diagram. */
    static const uint8_t arrows[] = { 0x10, 0x0a, 0x02, 0x05, 0x04 };

    return (step >> 4) < sizeof(arrows) && (step & 0xf) < arrows[step >> 4];
}

/* --- Out. --- */

void rk_put_byte(struct rk_pieces *out, uint8_t byte)
{
    out->length++;
    if (out->used < out->room) {
        out->numbers[out->used++] = byte;
        out->pieces[out->count - 1].iov_len++;
    }
}

void rk_put_number(struct rk_pieces *out, uint64_t number)
{
    for (; number > 0x7f; number >>= 7) {
        rk_put_byte(out, (uint8_t)(number | 0x80));
    }
    rk_put_byte(out, (uint8_t)number);
}

/* Numbers from here on are a piece of their own. */
static void begin_numbers(struct rk_pieces *out)
{
    out->pieces[out->count++] = (struct iovec){ &out->numbers[out->used], 0 };
}

static void put_piece(struct rk_pieces *out, struct rk_path bytes)
{
    /* An iovec is written to by nobody who sends it. */
    union {
        const char *in;
        void *out;
    } piece = { bytes.bytes };

    out->pieces[out->count++] = (struct iovec){ piece.out, bytes.length };
    out->length += bytes.length;
}

void rk_put_bytes(struct rk_pieces *out, struct rk_path path)
{
    rk_put_number(out, path.length);
    if (path.length == 0) {
        return;
    }
    put_piece(out, path);
    begin_numbers(out);
}

void rk_begin(struct rk_pieces *out, uint8_t variant)
{
    out->count = 0;
    out->used = out->length = 0;
    begin_numbers(out);
    rk_put_byte(out, RK_WIRE_VERSION);
    rk_put_byte(out, RK_FROM_CLIENT);
    rk_put_byte(out, variant);
}

static void put_option(struct rk_pieces *out, bool is_set, uint64_t number)
{
    rk_put_byte(out, is_set);
    if (is_set) {
        rk_put_number(out, number);
    }
}

static void put_limits(struct rk_pieces *out, const struct rk_limits *limits)
{
    put_option(out, limits->memory != 0, limits->memory);
    put_option(out, limits->has_swap, limits->swap);
    put_option(out, limits->pids != 0, limits->pids);
    put_option(out, limits->cpu_millis != 0, limits->cpu_millis);
    put_option(out, limits->cpu_weight != 0, limits->cpu_weight);
    rk_put_byte(out, limits->cpus.bytes != NULL);
    if (limits->cpus.bytes != NULL) {
        rk_put_bytes(out, limits->cpus);
    }
    put_option(out, limits->io_read != 0, limits->io_read);
    put_option(out, limits->io_write != 0, limits->io_write);
}

/* Each name with its NUL, where the caller has it. */
static void put_dev(struct rk_pieces *out, const struct rk_request *request)
{
    const char *const *devices = request->devices;
    size_t length = 0;

    if (request->host_dev || devices == NULL || devices[0] == NULL) {
        rk_put_byte(out, request->host_dev ? DEV_HOST : DEV_OWN);
        return;
    }
    rk_put_byte(out, DEV_WITH);
    for (unsigned i = 0; devices[i] != NULL; i++) {
        length += rk_path(devices[i]).length + 1;
    }
    rk_put_number(out, length);
    for (unsigned i = 0; devices[i] != NULL; i++) {
        put_piece(out, (struct rk_path){ devices[i], rk_path(devices[i]).length + 1 });
    }
    begin_numbers(out);
}

void rk_encode_launch(const struct rk_request *request, struct rk_pieces *out)
{
    rk_begin(out, CLIENT_LAUNCH);
    rk_put_number(out, request->app_id);
    rk_put_number(out, request->uid);
    rk_put_number(out, request->gid);
    rk_put_bytes(out, request->package);
    rk_put_bytes(out, request->exec_dir);
    rk_put_byte(out, request->data_dir.bytes != NULL);
    if (request->data_dir.bytes != NULL) {
        rk_put_bytes(out, request->data_dir);
    }
    rk_put_byte(out, request->overlay_all != 0);
    if (!request->overlay_all) {
        rk_put_number(out, request->overlays);
        for (unsigned i = 0; i < request->overlays; i++) {
            rk_put_bytes(out, request->overlay_dirs[i]);
        }
    }
    rk_put_byte(out, request->has_inside ? IDS_INSIDE : IDS_IDENTITY);
    if (request->has_inside) {
        rk_put_number(out, request->inside_uid);
        rk_put_number(out, request->inside_gid);
    }
    rk_put_number(out, request->timeout_ms);
    rk_put_byte(out, 0); /* no trace */
    rk_put_byte(out, request->commanded);
    rk_put_byte(out, request->stays);
    rk_put_byte(out, request->is_volatile);
    rk_put_byte(out, request->user_namespaces);
    rk_put_byte(out, request->seccomp);
    if (request->seccomp == RK_SECCOMP_FILTER) {
        rk_put_bytes(out, request->filter);
    }
    put_limits(out, &request->limits);
    put_dev(out, request);
    rk_put_byte(out, request->landlock);
}

static void encode_name(uint8_t variant, const char *name, struct rk_pieces *out)
{
    rk_begin(out, variant);
    for (unsigned i = 0; i < RK_NAME_LEN; i++) {
        rk_put_byte(out, (uint8_t)name[i]);
    }
}

void rk_encode_attach(const char *name, struct rk_pieces *out)
{
    encode_name(CLIENT_ATTACH, name, out);
}

void rk_encode_kill(const char *name, struct rk_pieces *out)
{
    encode_name(CLIENT_KILL, name, out);
}

void rk_encode_list(struct rk_pieces *out)
{
    rk_begin(out, CLIENT_LIST);
}

void rk_encode_app_started(struct rk_pieces *out)
{
    rk_begin(out, CLIENT_APP_STARTED);
}

void rk_encode_ping(struct rk_pieces *out)
{
    rk_begin(out, CLIENT_PING);
}

/* --- In. --- */

bool rk_get_byte(struct rk_reader *in, uint8_t *byte)
{
    if (in->at == in->end) {
        return false;
    }
    *byte = *in->at++;
    return true;
}

bool rk_get_number(struct rk_reader *in, unsigned bits, uint64_t *number)
{
    *number = 0;
    for (unsigned shift = 0; shift < bits; shift += 7) {
        uint8_t byte;
        if (!rk_get_byte(in, &byte)) {
            return false;
        }
        *number |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            /* The last byte has no room for seven bits. */
            return bits - shift >= 7 || byte < 1u << (bits - shift);
        }
    }
    return false;
}

bool rk_get_u32(struct rk_reader *in, uint32_t *number)
{
    uint64_t wide;

    if (!rk_get_number(in, 32, &wide)) {
        return false;
    }
    *number = (uint32_t)wide;
    return true;
}

bool rk_get_variant(struct rk_reader *in, unsigned count, uint8_t *variant)
{
    uint64_t number;

    if (!rk_get_number(in, 32, &number) || number >= count) {
        return false;
    }
    *variant = (uint8_t)number;
    return true;
}

static bool get_step(struct rk_reader *in, uint8_t *step)
{
    return rk_get_byte(in, step) && rk_is_step(*step);
}

bool rk_get_errno(struct rk_reader *in, uint16_t *os_errno)
{
    uint64_t number;

    if (!rk_get_number(in, 16, &number)) {
        return false;
    }
    *os_errno = (uint16_t)number;
    return true;
}

size_t rk_utf8_length(const char *text, size_t left, bool *is_whole)
{
    const uint8_t *at = (const uint8_t *)text;
    uint8_t first = at[0];
    size_t length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3
                    : first < 0xf5 ? 4 : 0;
    size_t found = 1;

    for (; found < length && found < left; found++) {
        uint8_t low = 0x80;
        uint8_t high = 0xbf;
        if (found == 1) {
            low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : low;
            high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : high;
        }
        if (at[found] < low || at[found] > high) {
            break;
        }
    }
    *is_whole = found == length;
    return found;
}

static bool get_bytes(struct rk_reader *in, struct rk_path *bytes)
{
    uint64_t length;

    if (!rk_get_number(in, 64, &length) || length > (uint64_t)(in->end - in->at)) {
        return false;
    }
    *bytes = (struct rk_path){ (const char *)in->at, (size_t)length };
    in->at += length;
    return true;
}

bool rk_is_text(struct rk_path bytes)
{
    bool is_whole = true;

    while (is_whole && bytes.length > 0) {
        size_t one = rk_utf8_length(bytes.bytes, bytes.length, &is_whole);
        bytes.bytes += one;
        bytes.length -= one;
    }
    return is_whole;
}

static bool get_text(struct rk_reader *in, struct rk_path *text)
{
    return get_bytes(in, text) && rk_is_text(*text);
}

static bool get_error(struct rk_reader *in, struct rk_error *error)
{
    uint8_t fault;

    if (!rk_get_variant(in, 3, &fault)) {
        return false;
    }
    *error = (struct rk_error){ .fault = (uint8_t)(fault + RK_INVALID) };
    switch ((enum rk_fault)error->fault) {
    case RK_INVALID:
        error->step = RK_REQUEST_ROCKER;
        return rk_get_variant(in, RK_RULE_COUNT, &error->rule)
               && rk_get_variant(in, RK_ITEM_COUNT, &error->item)
               && ((error->item != RK_ITEM_OVERLAY_DIR && error->item != RK_ITEM_DEVICE)
                   || rk_get_byte(in, &error->index));
    case RK_FAILED_FAULT:
        return get_step(in, &error->step) && rk_get_errno(in, &error->os_errno);
    case RK_LOST_FAULT:
        return get_step(in, &error->step) && rk_get_variant(in, RK_LOSS_COUNT, &error->loss);
    case RK_NO_FAULT:
        break;
    }
    return false;
}

bool rk_get_failure(struct rk_reader *in, struct rk_message *message)
{
    message->kind = RK_FAILURE;
    return get_error(in, &message->error) && get_text(in, &message->rest);
}

static bool is_digit(uint8_t digit)
{
    return (digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f');
}

bool rk_is_name(struct rk_path text)
{
    size_t digits = 0;

    while (digits < text.length && is_digit((uint8_t)text.bytes[digits])) {
        digits++;
    }
    return digits == RK_NAME_LEN && text.length == RK_NAME_LEN;
}

static bool get_name(struct rk_reader *in, char *name)
{
    for (unsigned i = 0; i < RK_NAME_LEN; i++) {
        uint8_t digit;
        if (!rk_get_byte(in, &digit) || !is_digit(digit)) {
            return false;
        }
        name[i] = (char)digit;
    }
    return true;
}

static bool get_entrance(struct rk_reader *in, struct rk_message *message)
{
    uint8_t more;

    message->kind = RK_ENTERING;
    if (!get_name(in, message->name) || !rk_get_u32(in, &message->pid) || !get_bytes(in, &message->rest)
        || !rk_get_byte(in, &more) || more > RK_CGROUPS_MAX + 1) {
        return false;
    }
    message->descriptors = (uint8_t)(1 + more);
    return true;
}

static bool get_rocker(struct rk_reader *in, struct rk_message *message)
{
    RockerInfo *info = &message->info;
    uint32_t pid;

    message->kind = RK_ROCKER;
    if (!get_name(in, info->guard_pname) || !rk_get_u32(in, &info->app_id)
        || !rk_get_u32(in, &info->uid) || !rk_get_u32(in, &pid)
        || !rk_get_number(in, 64, &info->age_ms) || !get_bytes(in, &message->rest)) {
        return false;
    }
    info->guard_pid = (int)pid;
    return rk_path_rule(message->rest) == RK_RULE_COUNT;
}

static bool get_told(struct rk_reader *in, uint8_t sender, uint8_t variant,
                     struct rk_message *message)
{
    if ((sender == RK_FROM_GUARD && variant == GUARD_FAILED)
        || (sender == RK_FROM_MASTER && variant == MASTER_FAILED)) {
        return rk_get_failure(in, message);
    }
    if (sender == RK_FROM_MASTER && variant == MASTER_ROCKER) {
        return get_rocker(in, message);
    }
    message->kind = variant == MASTER_END ? RK_LIST_END : RK_GONE;
    return sender == RK_FROM_MASTER && (variant == MASTER_END || variant == MASTER_GONE);
}

static bool get_answer(struct rk_reader *in, uint8_t sender, uint8_t variant,
                       struct rk_message *message)
{
    if (sender == RK_FROM_GUARD && variant == GUARD_ENTRANCE) {
        return get_entrance(in, message);
    }
    if ((sender == RK_FROM_GUARD && variant == GUARD_FAILED)
        || (sender == RK_FROM_MASTER && variant == MASTER_FAILED)) {
        return rk_get_failure(in, message);
    }
    return false;
}

static void lose(struct rk_message *message, enum rk_loss how)
{
    *message = (struct rk_message){ .kind = RK_NOTHING, .loss = (uint8_t)how };
}

void rk_decode_as(const uint8_t *datagram, size_t length, struct rk_message *message,
                  rk_get *get)
{
    struct rk_reader in = { datagram, datagram + length };
    uint8_t version;
    uint8_t sender;
    uint8_t variant;

    *message = (struct rk_message){ .kind = RK_NOTHING };
    if (!rk_get_byte(&in, &version)) {
        lose(message, RK_LOSS_DIED);
    } else if (version != RK_WIRE_VERSION) {
        lose(message, RK_LOSS_VERSION);
    } else if (!rk_get_variant(&in, 3, &sender) || !rk_get_variant(&in, 256, &variant)
               || !get(&in, sender, variant, message) || in.at != in.end) {
        lose(message, RK_LOSS_GARBAGE);
    }
}

void rk_decode(const uint8_t *datagram, size_t length, struct rk_message *message)
{
    rk_decode_as(datagram, length, message, get_answer);
}

void rk_decode_told(const uint8_t *datagram, size_t length, struct rk_message *message)
{
    rk_decode_as(datagram, length, message, get_told);
}
