/*
 * The API: what include/rocker.h says. It checks, fills in what is not set, and lets the
 * machine go.
 */
#define _GNU_SOURCE
#include "rocker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "arch.h"
#include "linux.h"

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
/* Where ids of 16 bits came first. */
#ifdef SYS_getuid32
#define RK_GETUID SYS_getuid32
#define RK_GETGID SYS_getgid32
#else
#define RK_GETUID SYS_getuid
#define RK_GETGID SYS_getgid
#endif

static const char socket_path[] = "/run/rocker/master.sock";
static const char exec_dir[] = "/run/rocker/app";

_Static_assert(sizeof(((RockerRequest *)0)->app_overlay_dirs) / sizeof(char *)
                   == RK_OVERLAY_DIRS_MAX,
               "as many as documented");

/* The launch in a RockerLaunch. */
static struct rk_launch *in(RockerLaunch *launch)
{
    return (struct rk_launch *)(void *)launch->opaque;
}

static const struct rk_launch *in_const(const RockerLaunch *launch)
{
    return (const struct rk_launch *)(const void *)launch->opaque;
}

/* --- What is asked for. ----------------------------------------------------------------------- */

RockerRequest ROCKER_request_new(void)
{
    /* Every pointer is NULL. */
    RockerRequest request = { .app_id = -1, .uid = -1, .gid = -1 };

    return request;
}

static void fill_limits(struct rk_limits *limits, const RockerLimits *from)
{
    *limits = (struct rk_limits){
        .memory = from->memory,
        .swap = from->swap,
        .has_swap = from->has_swap != 0,
        .pids = from->pids,
        .cpu_millis = from->cpu_millis,
        .cpu_weight = from->cpu_weight,
        .cpus = rk_path(from->cpus),
        .io_read = from->io_read,
        .io_write = from->io_write,
    };
}

static bool asks_for_filter(const RockerOptions *options)
{
    return options->filter != NULL || options->filter_count > 0;
}

static void fill_request(struct rk_request *request, const RockerRequest *from,
                         const RockerOptions *options)
{
    long uid = from->uid == -1 ? rk_call(RK_GETUID, 0, 0, 0, 0, 0) : from->uid;
    long gid = from->gid == -1 ? rk_call(RK_GETGID, 0, 0, 0, 0, 0) : from->gid;
    /* One too many is as good as any more. */
    size_t filter_size = options->filter_count <= RK_INSTRUCTIONS_MAX
                             ? (size_t)options->filter_count * RK_INSTRUCTION
                             : (RK_INSTRUCTIONS_MAX + 1) * RK_INSTRUCTION;

    *request = (struct rk_request){
        .timeout_ms = request->timeout_ms,
        .app_id = from->app_id == -1 ? 0 : (uint32_t)from->app_id,
        .uid = (uint32_t)uid,
        .gid = (uint32_t)gid,
        .package = rk_path(from->app_pkg_path),
        .exec_dir = rk_path(from->app_exec_dir != NULL ? from->app_exec_dir : exec_dir),
        .data_dir = rk_path(from->app_data_dir),
        .overlay_all = options->overlay_all != 0,
        .seccomp = asks_for_filter(options)              ? RK_SECCOMP_FILTER
                   : options->flags & ROCKER_UNCONFINED  ? RK_SECCOMP_UNCONFINED
                   : options->flags & ROCKER_SECCOMP_LOG ? RK_SECCOMP_LOG
                                                         : RK_SECCOMP_DEFAULT,
        .is_volatile = (options->flags & ROCKER_VOLATILE) != 0,
        .has_inside = options->inside_uid != -1 || options->inside_gid != -1,
        .inside_uid = (uint32_t)(options->inside_uid == -1 ? uid : options->inside_uid),
        .inside_gid = (uint32_t)(options->inside_gid == -1 ? gid : options->inside_gid),
        .filter = { (const char *)options->filter, filter_size },
        .user_namespaces = (options->flags & ROCKER_USER_NAMESPACES) != 0,
        .stays = (options->flags & ROCKER_STAYS) != 0,
        .host_dev = (options->flags & ROCKER_HOST_DEV) != 0,
        .landlock = (options->flags & ROCKER_LANDLOCK) != 0,
        .devices = options->devices,
    };
    if (options->limits != NULL) {
        fill_limits(&request->limits, options->limits);
    }
    for (uint8_t i = 0; i < RK_OVERLAY_DIRS_MAX; i++) {
        if (from->app_overlay_dirs[i] != NULL) {
            request->overlay_index[request->overlays] = i;
            request->overlay_dirs[request->overlays++] = rk_path(from->app_overlay_dirs[i]);
        }
    }
}

/* Ends a launch before it has begun. */
static void refuse(struct rk_launch *launch, struct rk_error error)
{
    struct rk_outcome outcome = { .result = RK_REFUSED, .error = error };

    rk_client_advance(&launch->client, &outcome);
}

/* The caller's mistake, in words of the header. */
static void misuse(struct rk_launch *launch, const char *what)
{
    launch->code = ROCKER_ERR_param_invalid;
    rk_say(launch, what);
    refuse(launch, rk_failed(RK_REQUEST_ROCKER, EINVAL));
}

/* A descriptor that is none would leave the App the caller's of that number. */
static bool are_descriptors(const RockerProgram *program)
{
    for (int i = 0; i < 3; i++) {
        if (program->stdio[i] < ROCKER_STDIO_NULL) {
            return false;
        }
    }
    for (unsigned i = 0; i < program->fds_count; i++) {
        if (program->fds == NULL || program->fds[i] < 0) {
            return false;
        }
    }
    return program->fds_count <= ROCKER_FDS_MAX;
}

const char *rk_misuse_of(const RockerProgram *program)
{
    if (program->size != sizeof(RockerProgram)) {
        return "RockerProgram.size is not that of ROCKER_program_new()";
    }
    if (!are_descriptors(program)) {
        return "RockerProgram.stdio or fds holds what is no descriptor";
    }
    if (program->terminal && program->keep_session) {
        return "RockerProgram.terminal is for a session of its own";
    }
    return NULL;
}

static void check_program(struct rk_launch *launch, const RockerProgram *program)
{
    const char *wrong = rk_misuse_of(program);

    if (wrong != NULL) {
        misuse(launch, wrong);
        return;
    }
    if (program->path == NULL || program->path[0] == '\0') {
        refuse(launch, rk_invalid(RK_RULE_EMPTY, RK_ITEM_PROGRAM, 0));
        return;
    }
    launch->name_only[0] = (char *)(uintptr_t)program->path;
    launch->entry.argv = program->argv != NULL ? program->argv : launch->name_only;
    for (int i = 0; i < 3 && launch->entry.null < 0; i++) {
        if (program->stdio[i] != ROCKER_STDIO_NULL) {
            continue;
        }
        /* The host's: it is opened before the rocker is entered. */
        launch->entry.null = rk_open_null();
        if (launch->entry.null < 0) {
            launch->code = ROCKER_ERR_sys;
            rk_say(launch, "open /dev/null");
            /* For the App: nothing is wrong with the master. */
            refuse(launch, rk_failed(RK_RUN_APP, (uint16_t)errno));
            return;
        }
    }
}

/* One of the policy's is not the caller's to know. */
static void add_limit(char *text, uint64_t limit)
{
    if (limit != 0) {
        rk_add_number(text, limit);
    }
}

/* The master's word counts for nothing: there may be no such one. */
static void add_device(const char *const *devices, unsigned index, char *text)
{
    for (; devices != NULL && *devices != NULL; devices++) {
        if (index-- == 0) {
            rk_add(text, *devices, strlen(*devices));
            return;
        }
    }
}

/* The path or value that a broken rule is about. */
static void add_subject(const struct rk_launch *launch, const struct rk_error *error, char *text)
{
    const struct rk_request *request = &launch->request;
    const struct rk_limits *limits = &request->limits;
    const struct rk_path *path = NULL;

    switch ((enum rk_item)error->item) {
    case RK_ITEM_MEMORY:
        add_limit(text, limits->memory);
        break;
    case RK_ITEM_SWAP:
        rk_add_number(text, limits->swap);
        break;
    case RK_ITEM_PIDS:
        add_limit(text, limits->pids);
        break;
    case RK_ITEM_CPU:
        add_limit(text, limits->cpu_millis);
        rk_add(text, " m", limits->cpu_millis != 0 ? 2 : 0);
        break;
    case RK_ITEM_CPU_WEIGHT:
        add_limit(text, limits->cpu_weight);
        break;
    case RK_ITEM_IO_READ:
        add_limit(text, limits->io_read);
        break;
    case RK_ITEM_IO_WRITE:
        add_limit(text, limits->io_write);
        break;
    case RK_ITEM_CPUS:
        path = &limits->cpus;
        break;
    case RK_ITEM_PACKAGE:
        path = &request->package;
        break;
    case RK_ITEM_EXEC_DIR:
        path = &request->exec_dir;
        break;
    case RK_ITEM_DATA_DIR:
        path = &request->data_dir;
        break;
    case RK_ITEM_OVERLAY_DIR:
        for (unsigned i = 0; i < request->overlays; i++) {
            if (request->overlay_index[i] == error->index) {
                path = &request->overlay_dirs[i];
            }
        }
        break;
    case RK_ITEM_UID:
        rk_add_number(text, request->uid);
        break;
    case RK_ITEM_GID:
        rk_add_number(text, request->gid);
        break;
    case RK_ITEM_TIMEOUT:
        rk_add_number(text, request->timeout_ms);
        rk_add(text, " ms", 3);
        break;
    case RK_ITEM_DEVICE:
        add_device(request->devices, error->index, text);
        break;
    case RK_ITEM_DEV:
        for (unsigned i = 0; request->devices != NULL && request->devices[i] != NULL; i++) {
            rk_add(text, " ", i > 0);
            rk_add(text, request->devices[i], strlen(request->devices[i]));
        }
        break;
    case RK_ITEM_PROGRAM:
        if (launch->entry.program != NULL && launch->entry.program->path != NULL) {
            rk_add(text, launch->entry.program->path, strlen(launch->entry.program->path));
        }
        break;
    case RK_ITEM_NAME:
        if (launch->guard_name != NULL) {
            rk_add(text, launch->guard_name, strlen(launch->guard_name));
        }
        break;
    case RK_ITEM_REQUEST:
    case RK_ITEM_FILE:
    case RK_ITEM_VOLATILE:
    case RK_ITEM_SECCOMP:
    case RK_ITEM_USER_NAMESPACES:
    case RK_ITEM_COUNT:
        break;
    }
    if (path != NULL && path->bytes != NULL) {
        rk_add(text, path->bytes, path->length);
    }
}

/* --- One launch. ------------------------------------------------------------------------------ */

static const unsigned long all_flags = ROCKER_UNCONFINED | ROCKER_USER_NAMESPACES | ROCKER_STAYS
                                       | ROCKER_HOST_DEV | ROCKER_VOLATILE | ROCKER_SECCOMP_LOG
                                       | ROCKER_LANDLOCK;

/* With all that is in `options`, in `all`; false: it is over. */
static bool begin(struct rk_launch *launch, enum rk_purpose purpose, const RockerOptions *options,
                  RockerOptions *all)
{
    *all = ROCKER_options_new();
    memset(launch, 0, sizeof(*launch));
    rk_client_init(&launch->client, purpose);
    launch->running.pidfd = launch->running.lock = -1;
    launch->connection = launch->app = -1;
    launch->entry.null = launch->entry.guard = launch->entry.ruleset = -1;
    if (options != NULL) {
        /* It may be an older AppMaster's, which ends before `flags`. */
        if (options->size != sizeof(*all) && options->size != offsetof(RockerOptions, flags)) {
            misuse(launch, "RockerOptions.size is not that of ROCKER_options_new()");
            return false;
        }
        memcpy(all, options, options->size);
    }
    launch->connection = all->connection;
    launch->given = all->connection >= 0;
    launch->socket_path = all->socket_path != NULL ? all->socket_path : socket_path;
    launch->request.timeout_ms =
        all->timeout_ms == -1 ? RK_TIMEOUT_MS_DEFAULT : (uint32_t)all->timeout_ms;
    launch->deadline_ns = rk_now_ns() + (uint64_t)launch->request.timeout_ms * RK_NS_PER_MS;
    if (all->flags & ~all_flags) {
        misuse(launch, "RockerOptions.flags: unknown");
        return false;
    }
    return true;
}

void rk_begin_question(struct rk_launch *launch, enum rk_purpose purpose, const char *name,
                       const RockerOptions *options)
{
    RockerOptions all;
    uint32_t timeout_ms;

    if (!begin(launch, purpose, options, &all)) {
        return;
    }
    launch->guard_name = name;
    timeout_ms = launch->request.timeout_ms;
    if (purpose != RK_TO_LIST && !rk_is_name(rk_path(name))) {
        refuse(launch, rk_invalid(RK_RULE_NO_SUCH_ROCKER, RK_ITEM_NAME, 0));
    } else if (timeout_ms == 0 || timeout_ms > RK_TIMEOUT_MS_MAX) {
        refuse(launch, rk_invalid(RK_RULE_OUT_OF_RANGE, RK_ITEM_TIMEOUT, 0));
    }
}

void rk_begin_launch(struct rk_launch *launch, const RockerRequest *req,
                     const RockerOptions *options, const struct rk_entry *entry)
{
    RockerOptions all;

    if (!begin(launch, entry == NULL ? RK_TO_ORDER : RK_TO_ENTER, options, &all)) {
        return;
    }
    if (entry != NULL) {
        launch->entry = *entry;
        launch->entry.null = launch->entry.guard = launch->entry.ruleset = -1;
    }
    if (all.limits != NULL && all.limits->size != sizeof(RockerLimits)) {
        misuse(launch, "RockerLimits.size is not that of ROCKER_limits_new()");
        return;
    }
    if (((all.flags & ROCKER_UNCONFINED) != 0) + ((all.flags & ROCKER_SECCOMP_LOG) != 0)
            + asks_for_filter(&all) > 1) {
        misuse(launch, "RockerOptions asks for two filters of system calls");
        return;
    }
    if (req == NULL) {
        misuse(launch, "RockerRequest is NULL");
        return;
    }
    fill_request(&launch->request, req, &all);
    launch->request.commanded = entry == NULL;
    launch->entry.uid = launch->request.uid;
    launch->entry.gid = launch->request.gid;
    launch->entry.exec_dir = launch->request.exec_dir.bytes;
    struct rk_error error = rk_request_check(&launch->request);
    if (error.fault != RK_NO_FAULT) {
        refuse(launch, error);
    } else if (entry == NULL) {
        return;
    } else if (entry->program != NULL) {
        check_program(launch, entry->program);
    } else if (entry->function == NULL) {
        misuse(launch, "there is neither a function nor a program");
    }
}

bool rk_go_on(struct rk_launch *launch)
{
    struct rk_outcome outcome;

    while (launch->client.state != RK_ENDED) {
        if (!rk_perform(launch, &outcome)) {
            return false;
        }
        rk_client_advance(&launch->client, &outcome);
    }
    return true;
}

/* Where it failed, never with which errno. */
static ROCKER_ERR code_of(const struct rk_error *error, int code)
{
    if (error->fault == RK_NO_FAULT) {
        return ROCKER_ERR_success;
    }
    if (error->fault == RK_INVALID) {
        return ROCKER_ERR_param_invalid;
    }
    if (code != 0) {
        return (ROCKER_ERR)code;
    }
    switch (error->step) {
    case RK_REQUEST_ROCKER:
        return ROCKER_ERR_send_req_failed;
    case RK_REQUEST_EXEC:
        return error->fault == RK_LOST_FAULT ? ROCKER_ERR_recv_resp_failed
                                             : ROCKER_ERR_send_req_failed;
    case RK_AWAIT_ENTRANCE_STEP:
        return ROCKER_ERR_recv_resp_failed;
    case RK_FORK_HELPER_STEP:
    case RK_JOIN_NAMESPACES_STEP:
    case RK_REPORT_APP_STEP:
        return ROCKER_ERR_enter_rocker_failed;
    case RK_RUN_APP:
    case RK_START_PROGRAM:
    case RK_REPORT_EXIT:
        return ROCKER_ERR_app_exec_failed;
    default:
        /* Whatever master or guard reported. */
        return ROCKER_ERR_build_rocker_failed;
    }
}

void rk_tell(const struct rk_error *error, int code, const char *command, RockerError *told)
{
    memset(told, 0, sizeof(*told));
    told->err_no = code_of(error, code);
    if (error->fault == RK_NO_FAULT) {
        return;
    }
    told->step = error->step;
    told->os_errno = error->os_errno;
    told->fault = error->fault;
    told->rule = error->rule;
    told->item = error->item;
    told->index = error->index;
    told->loss = error->loss;
    memcpy(told->command, command, sizeof(told->command));
}

/* What a launch of this purpose leaves, if it succeeds. */
static enum rk_purpose kind_of(unsigned purpose)
{
    return purpose == RK_TO_ENTER                                 ? RK_TO_ENTER
           : purpose == RK_TO_ORDER || purpose == RK_TO_ATTACH ? RK_TO_ORDER
                                                                  : RK_TO_LIST;
}

ROCKER_ERR rk_settle(struct rk_launch *launch, enum rk_purpose wanted, RockerError *error)
{
    const struct rk_error *why = &launch->client.error;

    if (kind_of(launch->client.purpose) != kind_of(wanted)) {
        rk_client_init(&launch->client, wanted);
        misuse(launch, "a launch ends by the function for its kind");
    } else if (launch->client.state != RK_ENDED) {
        struct rk_outcome outcome = { .result = RK_LOST, .loss = RK_LOSS_SILENT };
        rk_client_advance(&launch->client, &outcome);
    }
    rk_release(launch);
    if (error != NULL) {
        rk_tell(why, launch->code, launch->command, error);
        error->at_exec = launch->at == RK_AT_EXEC;
        error->order = launch->client.purpose >= RK_TO_ATTACH ? RK_QUESTION : RK_PROGRAM;
        if (why->fault == RK_INVALID) {
            add_subject(launch, why, error->subject);
        }
    }
    return code_of(why, launch->code);
}

/* --- Of an App. ------------------------------------------------------------------------------- */

static ROCKER_ERR end(struct rk_launch *launch, Rocker *rocker, RockerError *error)
{
    ROCKER_ERR code = rk_settle(launch, RK_TO_ENTER, error);

    *rocker = (Rocker){ .app_pidfd = -1, .guard_pidfd = -1 };
    if (code == ROCKER_ERR_success) {
        rocker->app_pid = (int)launch->client.app_pid;
        rocker->guard_pid = (int)launch->client.guard_pid;
        memcpy(rocker->guard_pname, launch->client.name, sizeof(rocker->guard_pname));
        rocker->app_pidfd = launch->app;
        rocker->guard_pidfd = launch->entry.guard;
    }
    return code;
}

static ROCKER_ERR run(const RockerRequest *req, const RockerOptions *options,
                      const struct rk_entry *entry, Rocker *rocker, RockerError *error)
{
    struct rk_launch launch;

    rk_begin_launch(&launch, req, options, entry);
    while (!rk_go_on(&launch)) {
        rk_wait(&launch);
    }
    return end(&launch, rocker, error);
}

ROCKER_ERR ROCKER_spawn(const RockerRequest *req, const RockerOptions *options,
                        const RockerProgram *program, Rocker *rocker, RockerError *error)
{
    const struct rk_entry entry = { .program = program };

    return run(req, options, &entry, rocker, error);
}

ROCKER_ERR ROCKER_enter(const RockerRequest *req, const RockerOptions *options,
                        int (*app)(void *), void *app_args, Rocker *rocker, RockerError *error)
{
    const struct rk_entry entry = { .function = app, .argument = app_args, .waits = 1 };

    return run(req, options, &entry, rocker, error);
}

RockerResult ROCKER_enter_rocker(RockerRequest *req, int (*app)(void *), void *app_args)
{
    RockerResult result;
    Rocker rocker;

    memset(&result, 0, sizeof(result));
    result.err_no = ROCKER_enter(req, NULL, app, app_args, &rocker, NULL);
    result.app_pid = rocker.app_pid;
    result.guard_pid = rocker.guard_pid;
    memcpy(result.guard_pname, rocker.guard_pname, sizeof(result.guard_pname));
    ROCKER_close(&rocker);
    return result;
}

/* --- In the caller's poll loop. --------------------------------------------------------------- */

void ROCKER_launch_begin(RockerLaunch *launch, const RockerRequest *req,
                         const RockerOptions *options, const RockerProgram *program)
{
    const struct rk_entry entry = { .program = program };

    rk_begin_launch(in(launch), req, options, &entry);
}

void ROCKER_launch_begin_enter(RockerLaunch *launch, const RockerRequest *req,
                               const RockerOptions *options, int (*app)(void *), void *app_args)
{
    const struct rk_entry entry = { .function = app, .argument = app_args };

    rk_begin_launch(in(launch), req, options, &entry);
}

int ROCKER_launch_go_on(RockerLaunch *launch)
{
    return rk_go_on(in(launch));
}

int ROCKER_launch_fd(const RockerLaunch *launch)
{
    return rk_waits_for(in_const(launch));
}

int ROCKER_launch_wait_ms(const RockerLaunch *launch)
{
    return rk_wait_ms(in_const(launch));
}

ROCKER_ERR ROCKER_launch_end(RockerLaunch *launch, Rocker *rocker, RockerError *error)
{
    return end(in(launch), rocker, error);
}

/* --- A living rocker. ------------------------------------------------------------------------- */

/* 0, or an errno. */
static int send_signal(int pidfd, int signal)
{
    long sent = rk_call(SYS_pidfd_send_signal, pidfd, signal, 0, 0, 0);

    return sent == 0 || sent == -ESRCH ? 0 : (int)-sent;
}

int ROCKER_kill(const Rocker *rocker)
{
    return send_signal(rocker->guard_pidfd, SIGKILL);
}

int ROCKER_signal_app(const Rocker *rocker, int signal)
{
    return send_signal(rocker->app_pidfd, signal);
}

void ROCKER_close(Rocker *rocker)
{
    if (rocker->app_pidfd >= 0) {
        close(rocker->app_pidfd);
    }
    if (rocker->guard_pidfd >= 0) {
        close(rocker->guard_pidfd);
    }
    rocker->app_pidfd = rocker->guard_pidfd = -1;
}

/* The second field of /proc/<pid>/stat: it may itself hold blanks and parentheses, but no later
 * field does. 0, or an errno. */
static int name_of(int pid, char name[16])
{
    /* The pid, the name and its parentheses come first; later fields may be cut off, and hold
     * none. */
    char stat[128];
    char path[520] = "/proc/";

    memset(name, 0, 16);
    rk_add_number(path, (uint32_t)pid);
    rk_add(path, "/stat", 5);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    ssize_t got;
    do {
        got = read(fd, stat, sizeof(stat));
    } while (got < 0 && errno == EINTR);
    int error = errno;
    close(fd);
    if (got < 0) {
        return error;
    }
    ssize_t begin = -1;
    ssize_t end = -1;
    for (ssize_t i = 0; i < got; i++) {
        if (stat[i] == '(' && begin < 0) {
            begin = i + 1;
        } else if (stat[i] == ')') {
            end = i;
        }
    }
    if (begin < 0 || end < begin || end - begin > 15) {
        return EINVAL;
    }
    memcpy(name, stat + begin, (size_t)(end - begin));
    return 0;
}

RockerResult ROCKER_get_guardname(int pid)
{
    RockerResult result;

    memset(&result, 0, sizeof(result));
    result.guard_pid = pid;
    if (name_of(pid, result.guard_pname) != 0) {
        result.err_no = ROCKER_ERR_get_guardname_failed;
    }
    return result;
}

int ROCKER_kill_guard(int guard_pid, const char *guard_pname)
{
    char name[16];
    int pidfd = (int)rk_call(SYS_pidfd_open, guard_pid, 0, 0, 0, 0);

    if (pidfd < 0) {
        return -pidfd;
    }
    /* The name is looked at after the process was opened: if it is the guard's, then so was the
     * process, for its name was never given to another one. */
    int error = name_of(guard_pid, name);
    if (error == 0 && strcmp(name, guard_pname) != 0) {
        error = ESRCH;
    }
    if (error == 0) {
        error = send_signal(pidfd, SIGKILL);
    }
    close(pidfd);
    return error == ENOENT ? ESRCH : error;
}

/* --- Versions. -------------------------------------------------------------------------------- */

const char *ROCKER_version(void)
{
    return ROCKER_VERSION;
}

int ROCKER_wire_version(void)
{
    return RK_WIRE_VERSION;
}
