#include "wire.h"

/* Senders, and their variants that a client knows, by their place in message.rs. */
enum { FROM_CLIENT, FROM_MASTER, FROM_GUARD };
enum { CLIENT_LAUNCH, CLIENT_APP_STARTED };
enum { MASTER_FAILED = 2 };

/* So many bytes, most of them zero: a C client asks for no others. */
enum { OPTION_USER_NAMESPACES = 3, OPTION_SECCOMP = 5, OPTIONS = 12 };
enum { SECCOMP_DEFAULT, SECCOMP_UNCONFINED };

enum { GUARD_ENTRANCE = 1, GUARD_FAILED = 2 };

bool rk_is_step(uint8_t step)
{
    /* So many arrows has each diagram. */
    static const uint8_t arrows[] = { 0x10, 0x0a, 0x02, 0x05, 0x04 };

    return (step >> 4) < sizeof(arrows) && (step & 0xf) < arrows[step >> 4];
}

/* --- Out. --- */

static void put_byte(struct rk_pieces *out, uint8_t byte)
{
    struct iovec *last = &out->pieces[out->count - 1];

    out->numbers[out->used++] = byte;
    last->iov_len++;
    out->length++;
}

static void put_number(struct rk_pieces *out, uint32_t number)
{
    for (; number > 0x7f; number >>= 7) {
        put_byte(out, (uint8_t)(number | 0x80));
    }
    put_byte(out, (uint8_t)number);
}

/* Numbers from here on are a piece of their own. */
static void begin_numbers(struct rk_pieces *out)
{
    out->pieces[out->count++] = (struct iovec){ &out->numbers[out->used], 0 };
}

static void put_path(struct rk_pieces *out, struct rk_path path)
{
    put_number(out, (uint32_t)path.length);
    /* An iovec is written to by nobody who sends it. */
    union {
        const char *in;
        void *out;
    } bytes = { path.bytes };
    out->pieces[out->count++] = (struct iovec){ bytes.out, path.length };
    out->length += path.length;
    begin_numbers(out);
}

static void begin(struct rk_pieces *out, uint8_t variant)
{
    out->count = out->used = 0;
    out->length = 0;
    begin_numbers(out);
    put_byte(out, RK_WIRE_VERSION);
    put_byte(out, FROM_CLIENT);
    put_byte(out, variant);
}

void rk_encode_launch(const struct rk_request *request, struct rk_pieces *out)
{
    begin(out, CLIENT_LAUNCH);
    put_number(out, request->app_id);
    put_number(out, request->uid);
    put_number(out, request->gid);
    put_path(out, request->package);
    put_path(out, request->exec_dir);
    put_byte(out, request->data_dir.bytes != NULL);
    if (request->data_dir.bytes != NULL) {
        put_path(out, request->data_dir);
    }
    put_byte(out, request->overlay_all != 0);
    if (!request->overlay_all) {
        put_number(out, request->overlays);
        for (unsigned i = 0; i < request->overlays; i++) {
            put_path(out, request->overlay_dirs[i]);
        }
    }
    put_byte(out, 0); /* Ids::Identity */
    put_number(out, request->timeout_ms);
    put_byte(out, 0); /* no trace */
    for (unsigned i = 0; i < OPTIONS; i++) {
        put_byte(out, i == OPTION_USER_NAMESPACES ? request->user_namespaces
                      : i == OPTION_SECCOMP && request->unconfined ? SECCOMP_UNCONFINED
                                                                  : SECCOMP_DEFAULT);
    }
}

void rk_encode_app_started(struct rk_pieces *out)
{
    begin(out, CLIENT_APP_STARTED);
}

/* --- In. --- */

struct reader {
    const uint8_t *at;
    const uint8_t *end;
};

static bool get_byte(struct reader *in, uint8_t *byte)
{
    if (in->at == in->end) {
        return false;
    }
    *byte = *in->at++;
    return true;
}

/* A number of at most so many bits, seven to a byte. */
static bool get_number(struct reader *in, unsigned bits, uint64_t *number)
{
    *number = 0;
    for (unsigned shift = 0; shift < bits; shift += 7) {
        uint8_t byte;
        if (!get_byte(in, &byte)) {
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

/* A number below `count`, which is at most 256. */
static bool get_variant(struct reader *in, unsigned count, uint8_t *variant)
{
    uint64_t number;

    if (!get_number(in, 32, &number) || number >= count) {
        return false;
    }
    *variant = (uint8_t)number;
    return true;
}

static bool get_step(struct reader *in, uint8_t *step)
{
    return get_byte(in, step) && rk_is_step(*step);
}

static bool get_errno(struct reader *in, uint16_t *os_errno)
{
    uint64_t number;

    if (!get_number(in, 16, &number)) {
        return false;
    }
    *os_errno = (uint16_t)number;
    return true;
}

/* How many bytes of UTF-8 stand here, by the Unicode Standard, table 3-7; 0 if none do. */
static size_t utf8_length(const uint8_t *at, size_t left)
{
    uint8_t first = at[0];
    size_t length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3
                    : first < 0xf5 ? 4 : 0;

    if (length > left) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        uint8_t low = 0x80;
        uint8_t high = 0xbf;
        if (i == 1) {
            low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : low;
            high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : high;
        }
        if (at[i] < low || at[i] > high) {
            return 0;
        }
    }
    return length;
}

static bool get_bytes(struct reader *in, struct rk_path *bytes)
{
    uint64_t length;

    if (!get_number(in, 64, &length) || length > (uint64_t)(in->end - in->at)) {
        return false;
    }
    *bytes = (struct rk_path){ (const char *)in->at, (size_t)length };
    in->at += length;
    return true;
}

static bool get_text(struct reader *in, struct rk_path *text)
{
    if (!get_bytes(in, text)) {
        return false;
    }
    for (const uint8_t *at = in->at - text->length; at < in->at;) {
        size_t one = utf8_length(at, (size_t)(in->at - at));
        if (one == 0) {
            return false;
        }
        at += one;
    }
    return true;
}

static bool get_error(struct reader *in, struct rk_error *error)
{
    uint8_t fault;

    if (!get_variant(in, 3, &fault)) {
        return false;
    }
    *error = (struct rk_error){ .fault = (uint8_t)(fault + RK_INVALID) };
    switch ((enum rk_fault)error->fault) {
    case RK_INVALID:
        error->step = RK_REQUEST_ROCKER;
        return get_variant(in, RK_RULE_COUNT, &error->rule)
               && get_variant(in, RK_ITEM_COUNT, &error->item)
               && (error->item != RK_ITEM_OVERLAY_DIR || get_byte(in, &error->index));
    case RK_FAILED_FAULT:
        return get_step(in, &error->step) && get_errno(in, &error->os_errno);
    case RK_LOST_FAULT:
        return get_step(in, &error->step) && get_variant(in, RK_LOSS_COUNT, &error->loss);
    case RK_NO_FAULT:
        break;
    }
    return false;
}

static bool get_failure(struct reader *in, struct rk_message *message)
{
    message->kind = RK_FAILURE;
    return get_error(in, &message->error) && get_text(in, &message->rest);
}

static bool get_entrance(struct reader *in, struct rk_message *message)
{
    uint64_t pid;

    message->kind = RK_ENTERING;
    message->descriptors = 1;
    for (unsigned i = 0; i < RK_NAME_LEN; i++) {
        uint8_t digit;
        if (!get_byte(in, &digit)
            || !((digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f'))) {
            return false;
        }
        message->name[i] = (char)digit;
    }
    if (!get_number(in, 32, &pid)) {
        return false;
    }
    message->guard_pid = (uint32_t)pid;
    return get_bytes(in, &message->rest);
}

static bool get_message(struct reader *in, struct rk_message *message)
{
    uint8_t sender;
    uint8_t variant;

    if (!get_variant(in, 3, &sender) || !get_variant(in, 256, &variant)) {
        return false;
    }
    if (sender == FROM_GUARD && variant == GUARD_ENTRANCE) {
        return get_entrance(in, message);
    }
    if ((sender == FROM_GUARD && variant == GUARD_FAILED)
        || (sender == FROM_MASTER && variant == MASTER_FAILED)) {
        return get_failure(in, message);
    }
    return false;
}

static void lose(struct rk_message *message, enum rk_loss how)
{
    *message = (struct rk_message){ .kind = RK_NOTHING, .loss = (uint8_t)how };
}

void rk_decode(const uint8_t *datagram, size_t length, struct rk_message *message)
{
    struct reader in = { datagram, datagram + length };
    uint8_t version;

    *message = (struct rk_message){ .kind = RK_NOTHING };
    if (!get_byte(&in, &version)) {
        lose(message, RK_LOSS_DIED);
    } else if (version != RK_WIRE_VERSION) {
        lose(message, RK_LOSS_VERSION);
    } else if (!get_message(&in, message) || in.at != in.end) {
        lose(message, RK_LOSS_GARBAGE);
    }
}
