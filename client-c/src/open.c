/*
 * Rockers that take orders: what include/rocker.h says of them. It checks, sends what
 * order_wire.c writes, and lets orders.c say what the answers mean.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "linux.h"
#include "order_wire.h"
#include "orders.h"

_Static_assert(sizeof(struct rk_orders) <= sizeof(((RockerOpen *)0)->opaque), "it holds them");
_Static_assert(_Alignof(struct rk_orders) <= _Alignof(RockerOpen), "it holds them");
_Static_assert(ROCKER_EXEC_FDS_MAX == RK_DESCRIPTORS_MAX && ROCKER_FILES_MAX == RK_DESCRIPTORS_MAX,
               "as many as a message carries");

/* How long a guard may take for an answer that it need not wait for itself. */
enum { ANSWER_MS = 10000 };

/* `man 7 signal` */
enum { SIGNAL_MAX = 64 };

static struct rk_orders *in(RockerOpen *open)
{
    return (struct rk_orders *)(void *)open->opaque;
}

/* After so many milliseconds; -1: never. */
static uint64_t deadline_of(int timeout_ms)
{
    return timeout_ms < 0 ? UINT64_MAX : rk_now_ns() + (uint64_t)timeout_ms * RK_NS_PER_MS;
}

/* --- Words. ----------------------------------------------------------------------------------- */

static ROCKER_ERR fail(struct rk_error error, int code, const char *command, RockerError *told)
{
    RockerError dummy;
    char text[520] = "";

    if (told == NULL) {
        told = &dummy;
    }
    rk_add(text, command, strlen(command));
    rk_tell(&error, code, text, told);
    return told->err_no;
}

static ROCKER_ERR succeed(RockerError *error)
{
    return fail((struct rk_error){ .fault = RK_NO_FAULT }, 0, "", error);
}

static ROCKER_ERR misuse(const char *what, RockerError *error)
{
    return fail(rk_failed(RK_REQUEST_EXEC, EINVAL), ROCKER_ERR_param_invalid, what, error);
}

static const char verdicts[] =
    "normal\0"
    "time limit exceeded\0"
    "memory limit exceeded\0"
    "output limit exceeded\0"
    "disallowed system call\0"
    "signalled\0"
    "nonzero exit status\0"
    "runner error\0"
    "out of memory\0"
    "cancelled\0"
    "unknown\0";

const char *ROCKER_verdict_name(ROCKER_VERDICT verdict)
{
    unsigned number = (unsigned)verdict;
    unsigned unknown = ROCKER_VERDICT_cancelled + 1;

    return rk_nth(verdicts, number < unknown ? number : unknown);
}

/* --- The launch. ------------------------------------------------------------------------------ */

static ROCKER_ERR end_launch(struct rk_launch *launch, RockerOpen *open, RockerError *error)
{
    ROCKER_ERR code = rk_settle(launch, RK_TO_ORDER, error);

    memset(open, 0, sizeof(*open));
    open->guard_pidfd = open->connection = -1;
    /* A launch has ended with a ping. */
    rk_orders_init(in(open), launch->client.purpose == RK_TO_ORDER);
    if (code == ROCKER_ERR_success) {
        open->guard_pid = (int)launch->client.guard_pid;
        memcpy(open->guard_pname, launch->client.name, sizeof(open->guard_pname));
        open->guard_pidfd = launch->entry.guard;
        open->connection = launch->connection;
    }
    return code;
}

ROCKER_ERR ROCKER_open(const RockerRequest *req, const RockerOptions *options, RockerOpen *open,
                       RockerError *error)
{
    struct rk_launch launch;

    rk_begin_launch(&launch, req, options, NULL);
    while (!rk_go_on(&launch)) {
        rk_wait(&launch);
    }
    return end_launch(&launch, open, error);
}

void ROCKER_launch_begin_open(RockerLaunch *launch, const RockerRequest *req,
                              const RockerOptions *options)
{
    rk_begin_launch((struct rk_launch *)(void *)launch->opaque, req, options, NULL);
}

ROCKER_ERR ROCKER_launch_end_open(RockerLaunch *launch, RockerOpen *open, RockerError *error)
{
    return end_launch((struct rk_launch *)(void *)launch->opaque, open, error);
}

ROCKER_ERR ROCKER_attach(const char *guard_pname, const RockerOptions *options, RockerOpen *open,
                         RockerError *error)
{
    struct rk_launch launch;

    rk_begin_question(&launch, RK_TO_ATTACH, guard_pname, options);
    while (!rk_go_on(&launch)) {
        rk_wait(&launch);
    }
    return end_launch(&launch, open, error);
}

void ROCKER_launch_begin_attach(RockerLaunch *launch, const char *guard_pname,
                                const RockerOptions *options)
{
    rk_begin_question((struct rk_launch *)(void *)launch->opaque, RK_TO_ATTACH, guard_pname,
                      options);
}

/* --- Orders. ---------------------------------------------------------------------------------- */

static ROCKER_ERR order(RockerOpen *open, struct rk_pieces *message, const int *descriptors,
                        unsigned count, RockerError *error)
{
    int why = rk_send(open->connection, message, descriptors, count);

    switch (why) {
    case 0:
    /* If the guard has said why it ended, that is still there to be read. */
    case EPIPE:
    case ECONNRESET:
        return succeed(error);
    case EMSGSIZE:
        return fail(rk_invalid(RK_RULE_TOO_LONG, count > 0 ? RK_ITEM_PROGRAM : RK_ITEM_FILE, 0), 0,
                    "", error);
    default:
        return fail(rk_failed(RK_REQUEST_EXEC, (uint16_t)why), 0, "", error);
    }
}

/* What is wrong with what was asked for, in words of the header; NULL: nothing. */
static const char *misuse_of(const RockerProgram *program, const RockerExec *exec)
{
    const char *wrong = rk_misuse_of(program);

    if (wrong != NULL) {
        return wrong;
    }
    if (exec->size != sizeof(RockerExec)) {
        return "RockerExec.size is not that of ROCKER_exec_new()";
    }
    if (program->path != NULL && program->argv != NULL
        && (program->argv[0] == NULL || strcmp(program->argv[0], program->path) != 0)) {
        return "RockerProgram.argv does not begin with its path, as a guard needs it";
    }
    if (program->keep_session) {
        return "RockerProgram.keep_session is not for a program that a guard starts";
    }
    if (exec->program_fd < -1) {
        return "RockerExec.program_fd is no descriptor";
    }
    /* Neither number is larger than its limit here, so they can be added up. */
    if (exec->cgroups_count > RK_DESCRIPTORS_MAX
        || program->fds_count + 3 + (exec->program_fd >= 0) + exec->cgroups_count
               > RK_DESCRIPTORS_MAX) {
        return "RockerProgram.fds and RockerExec.cgroups are more than a guard takes";
    }
    for (unsigned i = 0; i < exec->cgroups_count; i++) {
        if (exec->cgroups == NULL || exec->cgroups[i] < 0) {
            return "RockerExec.cgroups holds what is no descriptor";
        }
    }
    if (exec->rlimits_count > RK_RLIMITS_MAX
        || (exec->rlimits_count > 0 && exec->rlimits == NULL)) {
        return "RockerExec.rlimits has more than 16, or none of them";
    }
    if ((exec->filter == NULL) != (exec->filter_count == 0)
        || exec->filter_count > RK_INSTRUCTIONS_MAX) {
        return "RockerExec.filter is no row of 1 to 4096 instructions";
    }
    for (unsigned i = 0; i < exec->rlimits_count; i++) {
        if (exec->rlimits[i].resource < 0 || exec->rlimits[i].resource > UINT8_MAX) {
            return "RockerExec.rlimits names what is no resource";
        }
    }
    return NULL;
}

/* Sends it; `null` stands for ROCKER_STDIO_NULL. */
static ROCKER_ERR send_exec(RockerOpen *open, const RockerProgram *program,
                            const RockerExec *exec, int null, RockerError *error)
{
    struct rk_orders *orders = in(open);
    int descriptors[RK_DESCRIPTORS_MAX];
    unsigned count = 0;
    uint8_t bytes[RK_MESSAGE_MAX];
    struct rk_pieces message = rk_pieces(bytes, sizeof(bytes));

    if (exec->program_fd >= 0) {
        descriptors[count++] = exec->program_fd;
    }
    for (int i = 0; i < 3; i++) {
        descriptors[count++] = program->stdio[i] == ROCKER_STDIO_INHERIT ? i
                               : program->stdio[i] == ROCKER_STDIO_NULL  ? null
                                                                         : program->stdio[i];
    }
    for (unsigned i = 0; i < program->fds_count; i++) {
        descriptors[count++] = program->fds[i];
    }
    for (unsigned i = 0; i < exec->cgroups_count; i++) {
        descriptors[count++] = exec->cgroups[i];
    }
    rk_encode_exec(rk_orders_next_id(orders), program, exec, count, &message);
    ROCKER_ERR code = order(open, &message, descriptors, count, error);
    if (code == ROCKER_ERR_success) {
        rk_orders_exec(orders, exec->data, exec->sync != 0 || exec->cgroups_count > 0);
    }
    return code;
}

ROCKER_ERR ROCKER_exec(RockerOpen *open, const RockerProgram *program, const RockerExec *exec,
                       unsigned *id, RockerError *error)
{
    const RockerExec none = ROCKER_exec_new();
    int null = -1;

    if (exec == NULL) {
        exec = &none;
    }
    *id = 0;
    const char *wrong = misuse_of(program, exec);
    if (wrong != NULL) {
        return misuse(wrong, error);
    }
    if (program->path == NULL || program->path[0] == '\0') {
        return fail(rk_invalid(RK_RULE_EMPTY, RK_ITEM_PROGRAM, 0), 0, "", error);
    }
    if (!rk_orders_have_room(in(open), RK_PROGRAM)) {
        /* As the guard itself says it of one too many. */
        return fail(rk_failed(RK_START_PROGRAM, EAGAIN), 0, "clone # the program", error);
    }
    for (int i = 0; i < 3 && null < 0; i++) {
        if (program->stdio[i] == ROCKER_STDIO_NULL && (null = rk_open_null()) < 0) {
            return fail(rk_failed(RK_RUN_APP, (uint16_t)errno), ROCKER_ERR_sys,
                        "open /dev/null", error);
        }
    }
    ROCKER_ERR code = send_exec(open, program, exec, null, error);
    rk_close(&null);
    *id = code == ROCKER_ERR_success ? in(open)->last_id : 0;
    return code;
}

ROCKER_ERR ROCKER_adopt(RockerOpen *open, void *data, unsigned *id, RockerError *error)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces message = rk_pieces(numbers, sizeof(numbers));

    *id = 0;
    if (!rk_orders_have_room(in(open), RK_PROGRAM)) {
        return fail(rk_failed(RK_REQUEST_EXEC, EAGAIN), 0, "", error);
    }
    rk_encode_adopt(rk_orders_next_id(in(open)), &message);
    ROCKER_ERR code = order(open, &message, NULL, 0, error);
    if (code == ROCKER_ERR_success) {
        rk_orders_exec(in(open), data, false);
        *id = in(open)->last_id;
    }
    return code;
}

/* Nobody is told what comes of it. */
static ROCKER_ERR order_signal(RockerOpen *open, struct rk_pieces *message, RockerError *error)
{
    ROCKER_ERR code = order(open, message, NULL, 0, error);

    if (code == ROCKER_ERR_success) {
        rk_orders_signal(in(open));
    }
    return code;
}

ROCKER_ERR ROCKER_signal(RockerOpen *open, unsigned id, int signal, RockerError *error)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces message = rk_pieces(numbers, sizeof(numbers));

    if (signal < 1 || signal > SIGNAL_MAX) {
        return misuse("the signal is not one of 1 to 64", error);
    }
    if (id != 0 && !rk_orders_live(in(open), id)) {
        return succeed(error);
    }
    rk_encode_signal(id, (uint8_t)signal, &message);
    return order_signal(open, &message, error);
}

ROCKER_ERR ROCKER_go(RockerOpen *open, unsigned id, RockerError *error)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces message = rk_pieces(numbers, sizeof(numbers));

    if (!rk_orders_live(in(open), id)) {
        return succeed(error);
    }
    rk_encode_go(id, &message);
    return order_signal(open, &message, error);
}

ROCKER_ERR ROCKER_ping(RockerOpen *open, unsigned *id, RockerError *error)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces message = rk_pieces(numbers, sizeof(numbers));

    rk_encode_ping(&message);
    ROCKER_ERR code = order(open, &message, NULL, 0, error);
    if (code == ROCKER_ERR_success) {
        rk_orders_ping(in(open));
    }
    *id = code == ROCKER_ERR_success ? in(open)->last_id : 0;
    return code;
}

/* --- Files. ----------------------------------------------------------------------------------- */

/* With the text that breaks the rule. */
static ROCKER_ERR refuse(enum rk_rule rule, enum rk_item item, struct rk_path text,
                         RockerError *error)
{
    ROCKER_ERR code = fail(rk_invalid(rule, item, 0), 0, "", error);

    if (error != NULL && text.bytes != NULL) {
        rk_add(error->subject, text.bytes, text.length);
    }
    return code;
}

/* What is wrong with a path, in `error`; success: nothing. */
static ROCKER_ERR check_file(const char *text, RockerError *error)
{
    struct rk_path path = rk_path(text);

    if (path.length > 0 && path.length <= RK_PATH_MAX) {
        return succeed(error);
    }
    return refuse(path.length == 0 ? RK_RULE_EMPTY : RK_RULE_TOO_LONG, RK_ITEM_FILE, path, error);
}

static ROCKER_ERR check_room(const RockerOpen *open, RockerError *error)
{
    const struct rk_orders *orders = (const struct rk_orders *)(const void *)open->opaque;

    return rk_orders_have_room(orders, RK_FILES)
               ? succeed(error)
               : fail(rk_failed(RK_REQUEST_EXEC, EAGAIN), 0, "", error);
}

ROCKER_ERR ROCKER_open_files(RockerOpen *open, const RockerFile *files, unsigned count,
                             unsigned *id, RockerError *error)
{
    uint8_t bytes[RK_MESSAGE_MAX];
    struct rk_pieces message = rk_pieces(bytes, sizeof(bytes));
    ROCKER_ERR code = check_room(open, error);

    *id = 0;
    if (count > ROCKER_FILES_MAX) {
        return fail(rk_invalid(RK_RULE_TOO_MANY, RK_ITEM_FILE, 0), 0, "", error);
    }
    for (unsigned i = 0; i < count && code == ROCKER_ERR_success; i++) {
        code = check_file(files[i].path, error);
        if (code == ROCKER_ERR_success && (files[i].how > UINT16_MAX || files[i].mode > UINT16_MAX)) {
            code = misuse("RockerFile.how or mode is none", error);
        }
    }
    if (code == ROCKER_ERR_success) {
        rk_encode_open(rk_orders_next_id(in(open)), files, count, &message);
        code = order(open, &message, NULL, 0, error);
    }
    if (code == ROCKER_ERR_success) {
        rk_orders_files(in(open), count);
        *id = in(open)->last_id;
    }
    return code;
}

/* To be sent, and answered by ROCKER_EVENT_done. */
static ROCKER_ERR order_deed(RockerOpen *open, enum rk_kind_of_order kind,
                             struct rk_pieces *message, unsigned *id, RockerError *error)
{
    ROCKER_ERR code = order(open, message, NULL, 0, error);

    if (code == ROCKER_ERR_success) {
        rk_orders_deed(in(open), kind);
        *id = in(open)->last_id;
    }
    return code;
}

ROCKER_ERR ROCKER_delete(RockerOpen *open, const char *path, int tree, unsigned *id,
                         RockerError *error)
{
    uint8_t bytes[RK_PATH_MAX + RK_NUMBERS_MAX];
    struct rk_pieces message = rk_pieces(bytes, sizeof(bytes));
    ROCKER_ERR code = check_room(open, error);

    *id = 0;
    if (code == ROCKER_ERR_success) {
        code = check_file(path, error);
    }
    if (code != ROCKER_ERR_success) {
        return code;
    }
    rk_encode_delete(rk_orders_next_id(in(open)), path, tree != 0, &message);
    return order_deed(open, RK_DELETE, &message, id, error);
}

ROCKER_ERR ROCKER_symlink(RockerOpen *open, const char *target, const char *path, unsigned *id,
                          RockerError *error)
{
    uint8_t bytes[2 * RK_PATH_MAX + RK_NUMBERS_MAX];
    struct rk_pieces message = rk_pieces(bytes, sizeof(bytes));
    ROCKER_ERR code = check_room(open, error);

    *id = 0;
    if (code == ROCKER_ERR_success) {
        code = check_file(target, error);
    }
    if (code == ROCKER_ERR_success) {
        code = check_file(path, error);
    }
    if (code != ROCKER_ERR_success) {
        return code;
    }
    rk_encode_symlink(rk_orders_next_id(in(open)), target, path, &message);
    return order_deed(open, RK_SYMLINK, &message, id, error);
}

/* --- What the rocker looks like. -------------------------------------------------------------- */

static ROCKER_ERR check_path(const char *text, RockerError *error)
{
    struct rk_path path = rk_path(text);
    enum rk_rule rule = rk_path_rule(path);

    return rule == RK_RULE_COUNT ? succeed(error) : refuse(rule, RK_ITEM_FILE, path, error);
}

static ROCKER_ERR check_name(const char *text, RockerError *error)
{
    struct rk_path name = rk_path(text);

    if (name.length > RK_HOST_NAME_MAX) {
        return refuse(RK_RULE_TOO_LONG, RK_ITEM_NAME, name, error);
    }
    return rk_is_text(name) ? succeed(error)
                            : misuse("RockerConf.host_name or domain_name is not UTF-8", error);
}

static ROCKER_ERR check_place(const RockerPlace *place, RockerError *error)
{
    ROCKER_ERR code = ROCKER_ERR_success;

    if (place->kind < ROCKER_PLACE_bind || place->kind > ROCKER_PLACE_mask
        || place->mode > UINT16_MAX) {
        return misuse("RockerPlace.kind or mode is none", error);
    }
    if (place->kind == ROCKER_PLACE_link) {
        code = check_file(place->source, error);
    } else if (place->kind == ROCKER_PLACE_bind || place->kind == ROCKER_PLACE_bind_ro) {
        code = check_path(place->source, error);
    }
    return code == ROCKER_ERR_success ? check_path(place->target, error) : code;
}

/* What is wrong with the program that is to run first, in words of the header; NULL: nothing. */
static const char *misuse_of_init(const RockerConf *conf)
{
    const RockerExec none = ROCKER_exec_new();

    return conf->init != NULL ? misuse_of(conf->init, &none) : NULL;
}

static ROCKER_ERR check_conf(const RockerConf *conf, RockerError *error)
{
    const char *wrong = conf->size != sizeof(RockerConf)
                            ? "RockerConf.size is not that of ROCKER_conf_new()"
                        : conf->root != NULL && conf->empty_root != 0
                            ? "RockerConf has two of root and empty_root"
                        : conf->places_count > 0 && conf->places == NULL
                            ? "RockerConf.places has none of them"
                            : misuse_of_init(conf);
    ROCKER_ERR code = wrong != NULL ? misuse(wrong, error) : succeed(error);

    for (unsigned i = 0; code == ROCKER_ERR_success && i < conf->places_count; i++) {
        code = check_place(&conf->places[i], error);
    }
    if (code == ROCKER_ERR_success && conf->init != NULL) {
        bool is_named = conf->init->path != NULL && conf->init->path[0] != '\0';
        code = is_named && conf->init_ms > 0
                   ? code
                   : fail(rk_invalid(is_named ? RK_RULE_TIME_OUT_OF_RANGE : RK_RULE_EMPTY,
                                     RK_ITEM_PROGRAM, 0),
                          0, "", error);
    }
    if (code == ROCKER_ERR_success && conf->root != NULL) {
        code = check_path(conf->root, error);
    }
    if (code == ROCKER_ERR_success && conf->work_dir != NULL) {
        code = check_path(conf->work_dir, error);
    }
    if (code == ROCKER_ERR_success) {
        code = check_name(conf->host_name, error);
    }
    return code == ROCKER_ERR_success ? check_name(conf->domain_name, error) : code;
}

ROCKER_ERR ROCKER_configure(RockerOpen *open, const RockerConf *conf, unsigned *id,
                            RockerError *error)
{
    uint8_t bytes[RK_MESSAGE_MAX];
    struct rk_pieces message = rk_pieces(bytes, sizeof(bytes));
    ROCKER_ERR code = check_room(open, error);

    *id = 0;
    if (code == ROCKER_ERR_success) {
        code = check_conf(conf, error);
    }
    if (code != ROCKER_ERR_success) {
        return code;
    }
    rk_encode_conf(rk_orders_next_id(in(open)), conf, &message);
    if (message.length > RK_MESSAGE_MAX) {
        return fail(rk_invalid(RK_RULE_TOO_LONG, RK_ITEM_REQUEST, 0), 0, "", error);
    }
    return order_deed(open, RK_CONFIGURE, &message, id, error);
}

ROCKER_ERR ROCKER_reset(RockerOpen *open, unsigned *id, RockerError *error)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces message = rk_pieces(numbers, sizeof(numbers));
    ROCKER_ERR code = check_room(open, error);

    *id = 0;
    if (code != ROCKER_ERR_success) {
        return code;
    }
    rk_encode_reset(rk_orders_next_id(in(open)), &message);
    return order_deed(open, RK_RESET, &message, id, error);
}

/* --- Events. ---------------------------------------------------------------------------------- */

/* Without ids, pids and descriptors. */
static void clear(RockerEvent *event)
{
    memset(event, 0, sizeof(*event));
    event->pidfd = -1;
}

/* From here on there is nothing else to be heard. */
static void lose(RockerOpen *open, struct rk_error why)
{
    rk_orders_lose(in(open), why);
}

/* What was not carried out: event->error.order. */
static void tell_failure(const struct rk_error *error, struct rk_path command, RockerEvent *event)
{
    char text[520] = "";
    int order = event->error.order;

    rk_add(text, command.bytes, command.length);
    rk_tell(error, 0, text, &event->error);
    event->error.order = order;
    event->error.at_exec = strncmp(text, "exec ", 5) == 0;
}

/* Acts on one datagram. */
static bool understand(RockerOpen *open, struct rk_datagram *datagram, RockerEvent *event)
{
    struct rk_message message;

    rk_decode_answer(datagram->bytes, datagram->length, &message);
    if (message.kind == RK_NOTHING && datagram->whole && datagram->count == 0) {
        lose(open, rk_lost(RK_REQUEST_EXEC, (enum rk_loss)message.loss));
        return false;
    }
    if (!datagram->whole || message.descriptors != datagram->count) {
        lose(open, rk_lost(RK_REQUEST_EXEC, RK_LOSS_GARBAGE));
        return false;
    }
    if (message.kind == RK_FAILURE) {
        lose(open, message.error);
        rk_add(in(open)->last_words, message.rest.bytes, message.rest.length);
        return false;
    }
    switch (rk_orders_hear(in(open), &message, event)) {
    case RK_TELL:
        break;
    case RK_KEEP:
    case RK_FORGET:
        return false;
    case RK_DENY:
        lose(open, rk_lost(RK_REQUEST_EXEC, RK_LOSS_GARBAGE));
        return false;
    }
    if (event->kind == ROCKER_EVENT_started) {
        event->pidfd = datagram->descriptors[0];
        datagram->count = 0;
    } else if (event->kind == ROCKER_EVENT_opened) {
        event->files_count = message.files;
        for (unsigned i = 0, opened = 0; i < message.files; i++) {
            event->files[i] = message.errnos[i] == 0 ? datagram->descriptors[opened++]
                                                     : -(int)message.errnos[i];
        }
        datagram->count = 0;
    } else if (event->kind == ROCKER_EVENT_failed) {
        tell_failure(&message.error, message.rest, event);
    }
    return true;
}

/* The next event of this order, or, if that is 0, of any. False if none is there. */
static bool next(RockerOpen *open, unsigned id, RockerEvent *event)
{
    struct rk_orders *orders = in(open);

    for (;;) {
        struct rk_datagram datagram;
        clear(event);
        const struct rk_order *over = rk_orders_end(orders, id, event);
        if (over != NULL && event->kind == ROCKER_EVENT_failed) {
            tell_failure(&over->error, rk_path(over->command), event);
        }
        if (over != NULL) {
            return true;
        }
        if (orders->lost.fault != RK_NO_FAULT) {
            fail(orders->lost, 0, orders->last_words, &event->error);
            event->error.order = (int)orders->lost_order;
            return true;
        }
        int why = rk_receive(open->connection, &datagram);
        if (why == EAGAIN) {
            return false;
        }
        if (why != 0) {
            lose(open, rk_failed(RK_REQUEST_EXEC, (uint16_t)why));
            continue;
        }
        bool told = understand(open, &datagram, event);
        rk_drop(&datagram);
        if (told) {
            return true;
        }
    }
}

int ROCKER_next(RockerOpen *open, RockerEvent *event)
{
    return next(open, 0, event);
}

int ROCKER_await(RockerOpen *open, unsigned id, int timeout_ms, RockerEvent *event)
{
    uint64_t deadline_ns = deadline_of(timeout_ms);

    if (!rk_orders_may_await(in(open), id)) {
        clear(event);
        event->kind = ROCKER_EVENT_failed;
        event->id = id;
        misuse("there is no such order, or another one is unanswered", &event->error);
        return 1;
    }
    while (!next(open, id, event)) {
        int left_ms = rk_left_ms(deadline_ns);
        if (left_ms == 0) {
            return 0;
        }
        rk_wait_for(open->connection, left_ms);
    }
    return 1;
}

ROCKER_ERR ROCKER_run(RockerOpen *open, const RockerProgram *program, const RockerExec *exec,
                      RockerReport *report, RockerError *error)
{
    RockerEvent event;
    unsigned id;

    memset(report, 0, sizeof(*report));
    ROCKER_ERR code = ROCKER_exec(open, program, exec, &id, error);
    if (code != ROCKER_ERR_success) {
        return code;
    }
    if (!ROCKER_await(open, id, ANSWER_MS, &event)) {
        return fail(rk_lost(RK_REQUEST_EXEC, RK_LOSS_SILENT), 0, "", error);
    }
    if (event.kind == ROCKER_EVENT_started) {
        rk_close(&event.pidfd);
        code = exec != NULL && exec->sync ? ROCKER_go(open, id, error) : ROCKER_ERR_success;
        if (code != ROCKER_ERR_success) {
            return code;
        }
        ROCKER_await(open, id, -1, &event);
    }
    if (event.kind != ROCKER_EVENT_ended) {
        if (error != NULL) {
            *error = event.error;
        }
        return event.error.err_no;
    }
    *report = event.report;
    return ROCKER_ERR_success;
}

void ROCKER_leave(RockerOpen *open)
{
    rk_close(&open->connection);
    rk_close(&open->guard_pidfd);
}

int ROCKER_end(RockerOpen *open, int timeout_ms)
{
    uint64_t deadline_ns = deadline_of(timeout_ms);
    int left_ms = timeout_ms;
    bool is_gone = open->guard_pidfd < 0;

    /* One that stays ends with its last process, any other one with its connection. */
    ROCKER_signal(open, 0, SIGKILL, NULL);
    rk_close(&open->connection);
    while (!is_gone && !(is_gone = rk_wait_for(open->guard_pidfd, left_ms))) {
        left_ms = rk_left_ms(deadline_ns);
        if (left_ms == 0) {
            break;
        }
    }
    ROCKER_leave(open);
    return is_gone ? 0 : ETIMEDOUT;
}
