#define _GNU_SOURCE
#include "linux.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* When to try a full queue again that cannot be waited for. */
enum { RETRY_MS = 5 };

uint64_t rk_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 * RK_NS_PER_MS + (uint64_t)now.tv_nsec;
}

int rk_left_ms(uint64_t deadline_ns)
{
    uint64_t now = rk_now_ns();

    if (deadline_ns == UINT64_MAX) {
        return -1;
    }
    uint64_t left_ns = now < deadline_ns ? deadline_ns - now : 0;
    uint64_t left_ms = (left_ns + RK_NS_PER_MS - 1) / RK_NS_PER_MS;
    return left_ms < INT_MAX ? (int)left_ms : INT_MAX;
}

static bool is_late(const struct rk_launch *launch)
{
    return rk_left_ms(launch->deadline_ns) == 0;
}

static bool done(struct rk_outcome *outcome)
{
    *outcome = (struct rk_outcome){ .result = RK_DONE };
    return true;
}

static bool failed(struct rk_outcome *outcome, int os_errno)
{
    *outcome = (struct rk_outcome){ .result = RK_FAILED, .os_errno = (uint16_t)os_errno };
    return true;
}

static bool lost(struct rk_outcome *outcome, enum rk_loss how)
{
    *outcome = (struct rk_outcome){ .result = RK_LOST, .loss = (uint8_t)how };
    return true;
}

static bool refused(struct rk_outcome *outcome, struct rk_error error)
{
    *outcome = (struct rk_outcome){ .result = RK_REFUSED, .error = error };
    return true;
}

void rk_close(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

int rk_open_null(void)
{
    return open("/dev/null", O_RDWR | O_CLOEXEC);
}

/* --- root.1, or root.3 ----------------------------------------------------------------------------------- */

static void say_connect(struct rk_launch *launch)
{
    rk_say(launch, "connect ");
    rk_say(launch, launch->socket_path);
}

static bool cannot_connect(struct rk_launch *launch, struct rk_outcome *outcome, ROCKER_ERR code,
                           int os_errno)
{
    launch->code = (int8_t)code;
    say_connect(launch);
    return failed(outcome, os_errno);
}

static bool connect_to_master(struct rk_launch *launch, struct rk_outcome *outcome)
{
    /* A path that fills its place needs no NUL (unix(7)), but valgrind looks for one. */
    struct {
        struct sockaddr_un un;
        char nul;
    } address = { .un.sun_family = AF_UNIX };
    size_t length = strlen(launch->socket_path);

    if (launch->given) {
        return done(outcome);
    }
    if (length == 0 || length > sizeof(address.un.sun_path)) {
        return cannot_connect(launch, outcome, ROCKER_ERR_server_unaddr_invalid,
                              length == 0 ? EINVAL : ENAMETOOLONG);
    }
    memcpy(address.un.sun_path, launch->socket_path, length);
    if (launch->connection < 0) {
        launch->connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    }
    if (launch->connection < 0) {
        return cannot_connect(launch, outcome, ROCKER_ERR_gen_local_addr_failed, errno);
    }
    if (connect(launch->connection, (const struct sockaddr *)&address.un, sizeof(address.un)) == 0) {
        return done(outcome);
    }
    if (errno != EAGAIN) {
        return cannot_connect(launch, outcome, ROCKER_ERR_success, errno);
    }
    /* The master's queue is full, and there is nothing to poll for: it is tried again. */
    if (!is_late(launch)) {
        return false;
    }
    say_connect(launch);
    return lost(outcome, RK_LOSS_SILENT);
}

int rk_send(int connection, struct rk_pieces *message, const int *descriptors, unsigned count)
{
    union {
        char bytes[CMSG_SPACE(RK_DESCRIPTORS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control = { { 0 } };
    struct msghdr header = { .msg_iov = message->pieces };

    if (message->length > RK_MESSAGE_MAX) {
        return EMSGSIZE;
    }
    /* Their types are another one in each C library. */
    header.msg_iovlen = (__typeof__(header.msg_iovlen))message->count;
    if (count > 0) {
        header.msg_control = control.bytes;
        header.msg_controllen = (__typeof__(header.msg_controllen))CMSG_SPACE(count * sizeof(int));

        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = (__typeof__(rights->cmsg_len))CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(rights), descriptors, count * sizeof(int));
    }
    while (sendmsg(connection, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

static bool send_request(struct rk_launch *launch, struct rk_outcome *outcome)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces message = rk_pieces(numbers, sizeof(numbers));

    switch ((enum rk_purpose)launch->client.purpose) {
    case RK_TO_ENTER:
    case RK_TO_ORDER:
        rk_encode_launch(&launch->request, &message);
        break;
    case RK_TO_ATTACH:
        rk_encode_attach(launch->guard_name, &message);
        break;
    case RK_TO_KILL:
        rk_encode_kill(launch->guard_name, &message);
        break;
    case RK_TO_LIST:
        rk_encode_list(&message);
        break;
    }
    int error = rk_send(launch->connection, &message, NULL, 0);
    switch (error) {
    case 0:
    /* It has closed already, but may have said why: that is still there to be read. */
    case EPIPE:
    case ECONNRESET:
        return done(outcome);
    case EMSGSIZE:
        return refused(outcome, rk_invalid(RK_RULE_TOO_LONG, RK_ITEM_REQUEST, 0));
    default:
        return failed(outcome, error);
    }
}

/* --- enter.0 ---------------------------------------------------------------------------------- */

/* musl's CMSG_NXTHDR converts signs. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
static void take_descriptors(struct msghdr *header, struct rk_datagram *datagram)
{
    for (struct cmsghdr *item = CMSG_FIRSTHDR(header); item != NULL;
         item = CMSG_NXTHDR(header, item)) {
        if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const unsigned char *data = CMSG_DATA(item);
        size_t count = (item->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int descriptor;
            memcpy(&descriptor, data + i * sizeof(int), sizeof(int));
            if (datagram->count < RK_DESCRIPTORS_MAX) {
                datagram->descriptors[datagram->count++] = descriptor;
            } else {
                /* The room is rounded up, so one more than that may have come. */
                close(descriptor);
                datagram->whole = false;
            }
        }
    }
}
#pragma GCC diagnostic pop

int rk_receive(int connection, struct rk_datagram *datagram)
{
    union {
        char bytes[CMSG_SPACE(RK_DESCRIPTORS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec piece = { datagram->bytes, RK_ANSWER_MAX };
    struct msghdr header = { .msg_iov = &piece, .msg_iovlen = 1 };
    ssize_t got;

    do {
        header.msg_control = control.bytes;
        header.msg_controllen = sizeof(control.bytes);
        got = recvmsg(connection, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        /* The peer has gone without reading everything we sent. The kernel says so once, before
         * the last that the peer said, which may be what we wait for. */
    } while (got < 0 && (errno == EINTR || errno == ECONNRESET));
    if (got < 0) {
        return errno;
    }
    datagram->length = (size_t)got;
    datagram->whole = !(header.msg_flags & (MSG_TRUNC | MSG_CTRUNC));
    datagram->count = 0;
    take_descriptors(&header, datagram);
    return 0;
}

void rk_drop(struct rk_datagram *datagram)
{
    while (datagram->count > 0) {
        close(datagram->descriptors[--datagram->count]);
    }
}

/* Whether the App has a Landlock ruleset, which comes with the entrance. */
static bool has_ruleset(const struct rk_launch *launch)
{
    return launch->request.landlock && launch->client.purpose == RK_TO_ENTER;
}

/* Whether the descriptors may be those of the entrance that was asked for. */
static bool is_entrance(const struct rk_launch *launch, const struct rk_datagram *datagram)
{
    int cgroups = (int)datagram->count - 1 - has_ruleset(launch);

    return cgroups >= 0 && cgroups <= RK_CGROUPS_MAX;
}

/* What the master has answered to a question; false if there is more to come. */
static bool is_told(struct rk_launch *launch, struct rk_message *message, struct rk_datagram *datagram,
                    struct rk_outcome *outcome)
{
    bool lists = launch->client.purpose == RK_TO_LIST;

    if (message->kind == RK_ROCKER && lists) {
        /* It is the end of the message, behind which there is room. */
        datagram->bytes[datagram->length] = '\0';
        message->info.package = message->rest.bytes;
        launch->each(launch->each_data, &message->info);
        return false;
    }
    return message->kind == (lists ? RK_LIST_END : RK_GONE) ? done(outcome)
                                                           : lost(outcome, RK_LOSS_GARBAGE);
}

/* Acts on one datagram; false if there is more to come. */
static bool understand(struct rk_launch *launch, struct rk_datagram *datagram,
                       struct rk_outcome *outcome)
{
    struct rk_message message;
    bool is_question = launch->client.purpose == RK_TO_KILL || launch->client.purpose == RK_TO_LIST;

    if (is_question) {
        rk_decode_told(datagram->bytes, datagram->length, &message);
    } else {
        rk_decode(datagram->bytes, datagram->length, &message);
    }
    if (message.kind == RK_NOTHING && datagram->whole) {
        lost(outcome, (enum rk_loss)message.loss);
    } else if (!datagram->whole || message.descriptors != datagram->count) {
        lost(outcome, RK_LOSS_GARBAGE);
    } else if (message.kind == RK_FAILURE) {
        launch->command[0] = '\0';
        rk_add(launch->command, message.rest.bytes, message.rest.length);
        refused(outcome, message.error);
    } else if (is_question) {
        return is_told(launch, &message, datagram, outcome);
    } else if (launch->entry.guard >= 0 || message.rest.length > RK_FILTER_MAX
               || !is_entrance(launch, datagram)) {
        lost(outcome, RK_LOSS_GARBAGE);
    } else {
        launch->entry.guard = datagram->descriptors[0];
        bool is_own = launch->request.seccomp == RK_SECCOMP_FILTER;
        struct rk_path filter = is_own ? launch->request.filter : message.rest;
        launch->entry.filter = is_own ? filter.bytes : launch->filter;
        launch->entry.filter_size = (uint16_t)filter.length;
        memcpy(launch->filter, message.rest.bytes, message.rest.length);
        if (has_ruleset(launch)) {
            launch->entry.ruleset = datagram->descriptors[--datagram->count];
        }
        launch->entry.cgroups_count = (unsigned)datagram->count - 1;
        memcpy(launch->entry.cgroups, &datagram->descriptors[1],
               launch->entry.cgroups_count * sizeof(int));
        datagram->count = 0;
        *outcome = (struct rk_outcome){ .result = RK_ENTRANCE, .pid = message.pid };
        memcpy(outcome->name, message.name, sizeof(outcome->name));
    }
    return true;
}

/* Reads what is there; false when nothing is. */
static bool hear(struct rk_launch *launch, struct rk_outcome *outcome)
{
    struct rk_datagram datagram;
    int error = rk_receive(launch->connection, &datagram);

    if (error == EAGAIN) {
        return false;
    }
    if (error != 0) {
        return failed(outcome, error);
    }
    bool is_over = understand(launch, &datagram, outcome);
    rk_drop(&datagram);
    return is_over;
}

static bool await_entrance(struct rk_launch *launch, struct rk_outcome *outcome)
{
    if (hear(launch, outcome)) {
        return true;
    }
    return is_late(launch) && lost(outcome, RK_LOSS_SILENT);
}

/* --- enter.1 to enter.4 ----------------------------------------------------------------------- */

static bool fork_helper(struct rk_launch *launch, struct rk_outcome *outcome)
{
    uint16_t error = rk_start(&launch->entry, &launch->running);

    return error == 0 ? done(outcome) : failed(outcome, error);
}

/* The command that would have failed the same way. */
static void say_last(struct rk_launch *launch, enum rk_helper_state last)
{
    const struct rk_entry *entry = &launch->entry;
    const char *cwd = entry->program != NULL ? entry->program->cwd : NULL;

    launch->command[0] = '\0';
    switch (last) {
    case RK_DROP_GROUPS:
        rk_say(launch, "setpriv --clear-groups");
        break;
    case RK_JOIN_NAMESPACES:
        rk_say(launch, entry->cgroups_count > 0 ? "echo 0 > cgroup.procs; " : "");
        rk_say(launch, "nsenter --target ");
        rk_add_number(launch->command, launch->client.guard_pid);
        rk_say(launch, " --user --mount --pid --ipc");
        break;
    case RK_TAKE_IDS:
        rk_say(launch, "setpriv --reuid ");
        rk_add_number(launch->command, entry->uid);
        rk_say(launch, " --regid ");
        rk_add_number(launch->command, entry->gid);
        break;
    case RK_DROP_PRIVILEGES:
        rk_say(launch, "setpriv --ambient-caps -all --bounding-set -all --inh-caps -all "
                       "--no-new-privs");
        rk_say(launch, entry->ruleset >= 0 ? " --landlock-access fs" : "");
        break;
    case RK_ENTER_DIRECTORY:
        rk_say(launch, "cd ");
        if (cwd == NULL || cwd[0] != '/') {
            rk_say(launch, entry->exec_dir);
            rk_say(launch, cwd == NULL ? "" : "/");
        }
        rk_say(launch, cwd == NULL ? "" : cwd);
        break;
    case RK_START_APP:
        if (launch->at == RK_AT_FILTER) {
            rk_say(launch, "seccomp # the rocker's filter");
            break;
        }
        rk_say(launch, "exec ");
        rk_say(launch, entry->program != NULL ? entry->program->path : "callback");
        break;
    case RK_HELPER_ENDED:
    case RK_HELPER_STATE_COUNT:
        break;
    }
}

static bool await_app(struct rk_launch *launch, struct rk_outcome *outcome)
{
    struct rk_slip slip;
    bool ended = rk_wait_for(launch->running.pidfd, 0);

    if (!ended && !is_late(launch)) {
        return false;
    }
    rk_finish(&launch->running, ended, &slip, outcome, &launch->app);
    launch->at = slip.at;
    if (outcome->result == RK_REFUSED) {
        say_last(launch, (enum rk_helper_state)slip.last);
    }
    return true;
}

/* What came of saying something to the guard. */
static bool said(struct rk_outcome *outcome, int error)
{
    switch (error) {
    case 0:
        return done(outcome);
    case EPIPE:
    case ECONNRESET:
        return lost(outcome, RK_LOSS_DIED);
    default:
        return failed(outcome, error);
    }
}

static bool report_app(struct rk_launch *launch, struct rk_outcome *outcome)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces message = rk_pieces(numbers, sizeof(numbers));

    /* The guard may still be telling something. What is unread when we close would reset the
     * connection, and the guard would hear of that before it hears of the App. So first nothing
     * more can come, and then everything that came is read. */
    if (shutdown(launch->connection, SHUT_RD) < 0) {
        return failed(outcome, errno);
    }
    /* The end, or what a socket says that has nothing more. */
    if (hear(launch, outcome)
        && !(outcome->result == RK_LOST && outcome->loss == RK_LOSS_DIED)) {
        return true;
    }
    rk_encode_app_started(&message);
    return said(outcome, rk_send(launch->connection, &message, &launch->app, 1));
}

/* --- exec.0 ----------------------------------------------------------------------------------- */

/* The guard answers in its own time. */
static bool greet(struct rk_launch *launch, struct rk_outcome *outcome)
{
    uint8_t numbers[RK_NUMBERS_MAX];
    struct rk_pieces message = rk_pieces(numbers, sizeof(numbers));

    rk_encode_ping(&message);
    return said(outcome, rk_send(launch->connection, &message, NULL, 0));
}

/* --- All of them. ----------------------------------------------------------------------------- */

bool rk_perform(struct rk_launch *launch, struct rk_outcome *outcome)
{
    switch ((enum rk_state)launch->client.state) {
    case RK_CONNECT:
        return connect_to_master(launch, outcome);
    case RK_SEND_REQUEST:
        return send_request(launch, outcome);
    case RK_AWAIT_ENTRANCE:
        return await_entrance(launch, outcome);
    case RK_FORK_HELPER:
        return fork_helper(launch, outcome);
    case RK_AWAIT_APP:
        return await_app(launch, outcome);
    case RK_REPORT_APP:
        return report_app(launch, outcome);
    case RK_GREET:
        return greet(launch, outcome);
    case RK_ENDED:
    case RK_STATE_COUNT:
        break;
    }
    return false;
}

int rk_waits_for(const struct rk_launch *launch)
{
    switch ((enum rk_state)launch->client.state) {
    case RK_AWAIT_ENTRANCE:
        return launch->connection;
    case RK_AWAIT_APP:
        return launch->running.pidfd;
    case RK_CONNECT:
    case RK_SEND_REQUEST:
    case RK_FORK_HELPER:
    case RK_REPORT_APP:
    case RK_GREET:
    case RK_ENDED:
    case RK_STATE_COUNT:
        break;
    }
    return -1;
}

int rk_wait_ms(const struct rk_launch *launch)
{
    int left_ms = rk_left_ms(launch->deadline_ns);

    switch ((enum rk_state)launch->client.state) {
    case RK_CONNECT:
        return left_ms < RETRY_MS ? left_ms : RETRY_MS;
    case RK_AWAIT_ENTRANCE:
    case RK_AWAIT_APP:
        return left_ms;
    case RK_SEND_REQUEST:
    case RK_FORK_HELPER:
    case RK_REPORT_APP:
    case RK_GREET:
    case RK_ENDED:
    case RK_STATE_COUNT:
        break;
    }
    return 0;
}

bool rk_wait_for(int fd, int at_most_ms)
{
    struct pollfd ready = { fd, POLLIN, 0 };

    return poll(&ready, 1, at_most_ms) > 0;
}

void rk_wait(const struct rk_launch *launch)
{
    rk_wait_for(rk_waits_for(launch), rk_wait_ms(launch));
}

void rk_release(struct rk_launch *launch)
{
    bool succeeded =
        launch->client.state == RK_ENDED && launch->client.error.fault == RK_NO_FAULT;

    if (launch->running.pidfd >= 0) {
        struct rk_slip slip;
        struct rk_outcome outcome;
        rk_finish(&launch->running, false, &slip, &outcome, &launch->app);
    }
    if (!succeeded
        || (launch->client.purpose != RK_TO_ORDER && launch->client.purpose != RK_TO_ATTACH)) {
        rk_close(&launch->connection);
    }
    rk_close(&launch->entry.null);
    rk_close(&launch->entry.ruleset);
    for (unsigned i = 0; i < launch->entry.cgroups_count; i++) {
        rk_close(&launch->entry.cgroups[i]);
    }
    if (!succeeded) {
        if (launch->app >= 0) {
            rk_end(launch->app);
        }
        rk_close(&launch->app);
        rk_close(&launch->entry.guard);
    }
}
