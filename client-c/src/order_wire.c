#include "order_wire.h"

#include "postcard.h"

/* By their place in message.rs. */
enum {
    CLIENT_EXEC = 4,
    CLIENT_SIGNAL,
    CLIENT_OPEN = 7,
    CLIENT_DELETE,
    CLIENT_SYMLINK,
    CLIENT_CONF = 11,
    CLIENT_RESET,
    CLIENT_GO,
    CLIENT_EXEC_IN,
    CLIENT_ADOPT
};
enum {
    GUARD_FAILED = 2,
    GUARD_STARTED = 4,
    GUARD_EXEC_FAILED,
    GUARD_EXITED,
    GUARD_PONG,
    GUARD_OBEYED,
    GUARD_OPENED
};

/* enum Root, enum Place */
enum { ROOT_WHOLE, ROOT_DIRECTORY, ROOT_TMPFS };
enum {
    PLACE_BIND,
    PLACE_TMPFS,
    PLACE_OVERLAY,
    PLACE_PROC,
    PLACE_DEV,
    PLACE_LINK,
    PLACE_MASK
};

/* What a place of memory is open to, if nothing is said: everybody, for files of their own. */
enum { EVERYBODYS = 01777 };

/* enum Exit */
enum { EXIT_STATUS, EXIT_SIGNAL, EXIT_COUNT };

/* --- Out. --- */

static size_t length_of(const char *text)
{
    size_t length = 0;

    while (text[length] != '\0') {
        length++;
    }
    return length;
}

static void put_string(struct rk_pieces *out, const char *text)
{
    do {
        rk_put_byte(out, (uint8_t)*text);
    } while (*text++ != '\0');
}

/* Each ended by NUL, one after the other: the first, if there is one, and those of a list, if
 * there is one. */
static void put_strings(struct rk_pieces *out, const char *first, char *const *more)
{
    size_t length = first != NULL ? length_of(first) + 1 : 0;

    for (char *const *text = more; text != NULL && *text != NULL; text++) {
        length += length_of(*text) + 1;
    }
    rk_put_number(out, length);
    if (first != NULL) {
        put_string(out, first);
    }
    for (char *const *text = more; text != NULL && *text != NULL; text++) {
        put_string(out, *text);
    }
}

static void begin(struct rk_pieces *out, uint8_t variant, uint32_t id)
{
    rk_begin(out, variant);
    rk_put_number(out, id);
}

/* What is to run, and its environment. */
static void put_program(struct rk_pieces *out, const RockerProgram *program)
{
    put_strings(out, program->path, program->argv != NULL ? program->argv + 1 : NULL);
    put_strings(out, NULL, program->envp);
}

void rk_encode_exec(uint32_t id, const RockerProgram *program, const RockerExec *exec,
                    unsigned descriptors, struct rk_pieces *out)
{
    if (exec->cgroups_count > 0) {
        rk_begin(out, CLIENT_EXEC_IN);
        rk_put_byte(out, (uint8_t)exec->cgroups_count);
        rk_put_number(out, id);
    } else {
        begin(out, CLIENT_EXEC, id);
    }
    put_program(out, program);
    put_strings(out, program->cwd, NULL);
    rk_put_byte(out, (uint8_t)descriptors);
    rk_put_byte(out, exec->program_fd >= 0);
    rk_put_byte(out, program->terminal != 0);
    rk_put_number(out, exec->rlimits_count);
    for (unsigned i = 0; i < exec->rlimits_count; i++) {
        rk_put_byte(out, (uint8_t)exec->rlimits[i].resource);
        rk_put_number(out, exec->rlimits[i].soft);
        rk_put_number(out, exec->rlimits[i].hard);
    }
    rk_put_number(out, exec->wall_ms);
    rk_put_number(out, exec->grace_ms);
    rk_put_bytes(out, (struct rk_path){ (const char *)exec->filter,
                                        (size_t)exec->filter_count * RK_INSTRUCTION });
    rk_put_byte(out, exec->sync != 0);
}

void rk_encode_go(uint32_t id, struct rk_pieces *out)
{
    begin(out, CLIENT_GO, id);
}

void rk_encode_adopt(uint32_t id, struct rk_pieces *out)
{
    begin(out, CLIENT_ADOPT, id);
}

void rk_encode_signal(uint32_t id, uint8_t signal, struct rk_pieces *out)
{
    rk_begin(out, CLIENT_SIGNAL);
    rk_put_byte(out, id != 0);
    if (id != 0) {
        rk_put_number(out, id);
    }
    rk_put_byte(out, signal);
}

/* Without the NUL. */
static void put_path(struct rk_pieces *out, const char *path)
{
    rk_put_number(out, length_of(path));
    for (; *path != '\0'; path++) {
        rk_put_byte(out, (uint8_t)*path);
    }
}

void rk_encode_open(uint32_t id, const RockerFile *files, unsigned count, struct rk_pieces *out)
{
    begin(out, CLIENT_OPEN, id);
    rk_put_number(out, count);
    for (const RockerFile *file = files; file < files + count; file++) {
        bool is_accessed = file->how & (ROCKER_FILE_READ | ROCKER_FILE_WRITE);
        put_path(out, file->path);
        rk_put_number(out, is_accessed ? file->how : file->how | ROCKER_FILE_READ);
        rk_put_number(out, file->mode);
    }
}

void rk_encode_delete(uint32_t id, const char *path, bool tree, struct rk_pieces *out)
{
    begin(out, CLIENT_DELETE, id);
    put_path(out, path);
    rk_put_byte(out, tree);
}

void rk_encode_symlink(uint32_t id, const char *target, const char *path, struct rk_pieces *out)
{
    begin(out, CLIENT_SYMLINK, id);
    put_path(out, target);
    put_path(out, path);
}

static void put_place(struct rk_pieces *out, const RockerPlace *place)
{
    switch (place->kind) {
    case ROCKER_PLACE_bind:
    case ROCKER_PLACE_bind_ro:
        rk_put_byte(out, PLACE_BIND);
        put_path(out, place->source);
        put_path(out, place->target);
        rk_put_byte(out, place->kind == ROCKER_PLACE_bind_ro);
        break;
    case ROCKER_PLACE_tmpfs:
        rk_put_byte(out, PLACE_TMPFS);
        put_path(out, place->target);
        rk_put_number(out, place->bytes);
        rk_put_number(out, place->mode != 0 ? place->mode : EVERYBODYS);
        break;
    case ROCKER_PLACE_overlay:
    case ROCKER_PLACE_dev:
        rk_put_byte(out, place->kind == ROCKER_PLACE_dev ? PLACE_DEV : PLACE_OVERLAY);
        put_path(out, place->target);
        rk_put_number(out, place->bytes);
        break;
    case ROCKER_PLACE_proc:
    case ROCKER_PLACE_mask:
        rk_put_byte(out, place->kind == ROCKER_PLACE_mask ? PLACE_MASK : PLACE_PROC);
        put_path(out, place->target);
        break;
    case ROCKER_PLACE_link:
        rk_put_byte(out, PLACE_LINK);
        put_path(out, place->target);
        put_path(out, place->source);
        break;
    }
}

static void put_places(struct rk_pieces *out, const RockerConf *conf)
{
    for (unsigned i = 0; i < conf->places_count; i++) {
        put_place(out, &conf->places[i]);
    }
}

static void put_optional(struct rk_pieces *out, const char *text)
{
    rk_put_byte(out, text != NULL);
    if (text != NULL) {
        put_path(out, text);
    }
}

void rk_encode_conf(uint32_t id, const RockerConf *conf, struct rk_pieces *out)
{
    const RockerProgram none = { 0 };
    struct rk_pieces places = { 0 };

    begin(out, CLIENT_CONF, id);
    if (conf->root != NULL) {
        rk_put_byte(out, ROOT_DIRECTORY);
        put_path(out, conf->root);
    } else if (conf->empty_root != 0) {
        rk_put_byte(out, ROOT_TMPFS);
        rk_put_number(out, conf->empty_root);
    } else {
        rk_put_byte(out, ROOT_WHOLE);
    }
    /* They are counted first, where there is no room for them. */
    put_places(&places, conf);
    rk_put_number(out, places.length);
    put_places(out, conf);
    put_optional(out, conf->work_dir);
    put_optional(out, conf->host_name);
    put_optional(out, conf->domain_name);
    rk_put_byte(out, conf->unshare_cgroup != 0);
    put_program(out, conf->init != NULL ? conf->init : &none);
    rk_put_number(out, conf->init_ms);
}

void rk_encode_reset(uint32_t id, struct rk_pieces *out)
{
    begin(out, CLIENT_RESET, id);
}

/* --- In. --- */

static bool get_syscall(struct rk_reader *in, int *number)
{
    uint8_t is_there;
    uint32_t found = UINT32_MAX;

    if (!rk_get_byte(in, &is_there) || is_there > 1 || (is_there && !rk_get_u32(in, &found))) {
        return false;
    }
    *number = (int)found;
    return true;
}

/* One that nobody has counted is ROCKER_UNKNOWN. */
static bool get_counted(struct rk_reader *in, uint64_t *number)
{
    uint8_t is_there;

    *number = ROCKER_UNKNOWN;
    return rk_get_byte(in, &is_there) && is_there <= 1
           && (!is_there || rk_get_number(in, 64, number));
}

static bool get_usage(struct rk_reader *in, RockerUsage *usage)
{
    return get_counted(in, &usage->memory) && get_counted(in, &usage->memory_peak)
           && get_counted(in, &usage->pids) && get_counted(in, &usage->pids_peak)
           && get_counted(in, &usage->cpu_us) && get_counted(in, &usage->read)
           && get_counted(in, &usage->written);
}

static bool get_report(struct rk_reader *in, RockerReport *report)
{
    uint8_t exit;
    uint8_t number;
    uint8_t verdict;

    if (!rk_get_variant(in, EXIT_COUNT, &exit) || !rk_get_byte(in, &number)
        || !rk_get_variant(in, ROCKER_VERDICT_cancelled + 1, &verdict)) {
        return false;
    }
    report->status = exit == EXIT_STATUS ? number : -1;
    report->signal = exit == EXIT_SIGNAL ? number : 0;
    report->verdict = (ROCKER_VERDICT)verdict;
    return rk_get_number(in, 64, &report->user_us) && rk_get_number(in, 64, &report->system_us)
           && rk_get_number(in, 64, &report->wall_us)
           && rk_get_number(in, 64, &report->peak_kib) && get_syscall(in, &report->syscall)
           && get_usage(in, &report->usage);
}

static bool get_files(struct rk_reader *in, struct rk_message *message)
{
    if (!rk_get_u32(in, &message->files) || message->files > ROCKER_FILES_MAX) {
        return false;
    }
    for (unsigned i = 0; i < message->files; i++) {
        if (!rk_get_errno(in, &message->errnos[i])) {
            return false;
        }
        message->descriptors = (uint8_t)(message->descriptors + (message->errnos[i] == 0));
    }
    return true;
}

static bool get_answer(struct rk_reader *in, uint8_t sender, uint8_t variant,
                       struct rk_message *message)
{
    if (sender != RK_FROM_GUARD) {
        return false;
    }
    if (variant == GUARD_PONG) {
        message->kind = RK_PONG;
        return true;
    }
    if (variant == GUARD_FAILED) {
        return rk_get_failure(in, message);
    }
    if (!rk_get_u32(in, &message->id)) {
        return false;
    }
    switch (variant) {
    case GUARD_STARTED:
        message->kind = RK_STARTED;
        message->descriptors = 1;
        return rk_get_u32(in, &message->pid);
    case GUARD_EXEC_FAILED:
        if (!rk_get_failure(in, message)) {
            return false;
        }
        message->kind = RK_NOT_STARTED;
        return true;
    case GUARD_EXITED:
        message->kind = RK_EXITED;
        return get_report(in, &message->report);
    case GUARD_OBEYED:
        message->kind = RK_OBEYED;
        return true;
    case GUARD_OPENED:
        message->kind = RK_OPENED;
        return get_files(in, message);
    default:
        return false;
    }
}

void rk_decode_answer(const uint8_t *datagram, size_t length, struct rk_message *message)
{
    rk_decode_as(datagram, length, message, get_answer);
}
