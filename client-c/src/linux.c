#define _GNU_SOURCE
#include "linux.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    /* The room that every sender's messages need: see protocol's DESCRIPTORS_MAX. */
    DESCRIPTORS_MAX = 3,
    /* When to try a full queue again that cannot be waited for. */
    RETRY_MS = 5
};

static const uint64_t NS_PER_MS = 1000000;

uint64_t rk_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 * NS_PER_MS + (uint64_t)now.tv_nsec;
}

static uint64_t left_ns(const struct rk_launch *launch)
{
    uint64_t now = rk_now_ns();

    return now < launch->deadline_ns ? launch->deadline_ns - now : 0;
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

static void close_it(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* --- root.1 ----------------------------------------------------------------------------------- */

static bool cannot_connect(struct rk_launch *launch, struct rk_outcome *outcome, ROCKER_ERR code,
                           int os_errno)
{
    launch->code = (int8_t)code;
    rk_say(launch, "connect ");
    rk_say(launch, launch->socket_path);
    return failed(outcome, os_errno);
}

static bool connect_to_master(struct rk_launch *launch, struct rk_outcome *outcome)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t length = strlen(launch->socket_path);

    if (launch->given) {
        return done(outcome);
    }
    if (length == 0 || length >= sizeof(address.sun_path)) {
        return cannot_connect(launch, outcome, ROCKER_ERR_server_unaddr_invalid,
                              length == 0 ? EINVAL : ENAMETOOLONG);
    }
    memcpy(address.sun_path, launch->socket_path, length);
    if (launch->connection < 0) {
        launch->connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    }
    if (launch->connection < 0) {
        return cannot_connect(launch, outcome, ROCKER_ERR_gen_local_addr_failed, errno);
    }
    if (connect(launch->connection, (const struct sockaddr *)&address, sizeof(address)) == 0) {
        return done(outcome);
    }
    if (errno != EAGAIN) {
        return cannot_connect(launch, outcome, ROCKER_ERR_success, errno);
    }
    /* The master's queue is full, and there is nothing to poll for: it is tried again. */
    return left_ns(launch) == 0 && lost(outcome, RK_LOSS_SILENT);
}

/* 0, or an errno. Never waits: a peer that does not read is the peer's problem. */
static int send_message(int connection, struct rk_pieces *message, int descriptor)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = { { 0 } };
    struct msghdr header = { .msg_iov = message->pieces };

    /* A size_t in glibc and an int in musl. */
    header.msg_iovlen = (__typeof__(header.msg_iovlen))message->count;

    if (descriptor >= 0) {
        header.msg_control = control.bytes;
        header.msg_controllen = sizeof(control.bytes);

        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &descriptor, sizeof(int));
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
    struct rk_pieces message;

    rk_encode_launch(&launch->request, &message);
    int error = message.length > RK_MESSAGE_MAX
                    ? EMSGSIZE
                    : send_message(launch->connection, &message, -1);
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

/* A datagram with its descriptors. */
struct datagram {
    size_t length;
    bool whole;
    int count;
    int descriptors[DESCRIPTORS_MAX];
    uint8_t bytes[RK_ANSWER_MAX];
};

/* musl's CMSG_NXTHDR converts signs. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
static void take_descriptors(struct msghdr *header, struct datagram *datagram)
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
            if (datagram->count < DESCRIPTORS_MAX) {
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

/* 0, EAGAIN if there is none, or another errno. */
static int receive(int connection, struct datagram *datagram)
{
    union {
        char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec piece = { datagram->bytes, sizeof(datagram->bytes) };
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

/* Acts on one datagram. */
static void understand(struct rk_launch *launch, struct datagram *datagram,
                       struct rk_outcome *outcome)
{
    struct rk_message message;

    rk_decode(datagram->bytes, datagram->length, &message);
    if (message.kind == RK_NOTHING && datagram->whole) {
        lost(outcome, (enum rk_loss)message.loss);
    } else if (!datagram->whole || message.descriptors != datagram->count) {
        lost(outcome, RK_LOSS_GARBAGE);
    } else if (message.kind == RK_FAILURE) {
        launch->command[0] = '\0';
        rk_add(launch->command, message.rest.bytes, message.rest.length);
        refused(outcome, message.error);
    } else if (launch->entry.guard >= 0 || message.rest.length > RK_FILTER_MAX) {
        lost(outcome, RK_LOSS_GARBAGE);
    } else {
        launch->entry.guard = datagram->descriptors[0];
        launch->entry.filter = launch->filter;
        launch->entry.filter_size = (uint16_t)message.rest.length;
        memcpy(launch->filter, message.rest.bytes, message.rest.length);
        datagram->count = 0;
        *outcome = (struct rk_outcome){ .result = RK_ENTRANCE, .pid = message.guard_pid };
        memcpy(outcome->name, message.name, sizeof(outcome->name));
    }
}

/* Reads what is there; false when nothing is. */
static bool hear(struct rk_launch *launch, struct rk_outcome *outcome)
{
    struct datagram datagram;
    int error = receive(launch->connection, &datagram);

    if (error == EAGAIN) {
        return false;
    }
    if (error != 0) {
        return failed(outcome, error);
    }
    understand(launch, &datagram, outcome);
    while (datagram.count > 0) {
        close(datagram.descriptors[--datagram.count]);
    }
    return true;
}

static bool await_entrance(struct rk_launch *launch, struct rk_outcome *outcome)
{
    if (hear(launch, outcome)) {
        return true;
    }
    return left_ns(launch) == 0 && lost(outcome, RK_LOSS_SILENT);
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
        rk_say(launch, "nsenter --target ");
        rk_add_number(launch->command, launch->client.guard_pid);
        rk_say(launch, " --user --mount --pid");
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
    struct pollfd helper = { launch->running.pidfd, POLLIN, 0 };
    struct rk_slip slip;
    bool ended = poll(&helper, 1, 0) > 0;

    if (!ended && left_ns(launch) > 0) {
        return false;
    }
    rk_finish(&launch->running, ended, &slip, outcome, &launch->app);
    launch->at = slip.at;
    if (outcome->result == RK_REFUSED) {
        say_last(launch, (enum rk_helper_state)slip.last);
    }
    return true;
}

static bool report_app(struct rk_launch *launch, struct rk_outcome *outcome)
{
    struct rk_pieces message;

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
    int error = send_message(launch->connection, &message, launch->app);
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
    case RK_ENDED:
    case RK_STATE_COUNT:
        break;
    }
    return -1;
}

int rk_wait_ms(const struct rk_launch *launch)
{
    uint64_t left_ms = (left_ns(launch) + NS_PER_MS - 1) / NS_PER_MS;

    switch ((enum rk_state)launch->client.state) {
    case RK_CONNECT:
        return left_ms < RETRY_MS ? (int)left_ms : RETRY_MS;
    case RK_AWAIT_ENTRANCE:
    case RK_AWAIT_APP:
        /* At most an hour. */
        return (int)left_ms;
    case RK_SEND_REQUEST:
    case RK_FORK_HELPER:
    case RK_REPORT_APP:
    case RK_ENDED:
    case RK_STATE_COUNT:
        break;
    }
    return 0;
}

void rk_wait(const struct rk_launch *launch)
{
    struct pollfd ready = { rk_waits_for(launch), POLLIN, 0 };

    /* Interrupted or not: whoever goes on looks again. */
    poll(&ready, 1, rk_wait_ms(launch));
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
    close_it(&launch->connection);
    close_it(&launch->entry.null);
    if (!succeeded) {
        if (launch->app >= 0) {
            rk_end(launch->app);
        }
        close_it(&launch->app);
        close_it(&launch->entry.guard);
    }
}
