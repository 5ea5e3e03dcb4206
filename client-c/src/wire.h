/*
 * The messages that a client sends and reads, as bytes: protocol/src/wire.rs and message.rs.
 * One datagram is one message: the version in one byte, then postcard
 * (https://postcard.jamesmunns.com/wire-format). No libc call lives here, and nothing is
 * allocated.
 */
#ifndef RK_WIRE_H
#define RK_WIRE_H

#include <sys/uio.h>

#include "machine.h"
#include "request.h"
#include "rocker.h"

#define RK_WIRE_VERSION 1

/* The longest message. */
#define RK_MESSAGE_MAX 32768

/* The longest message that a client reads: a living rocker, with the path of its package. Steps
 * come only to who asks for a trace. */
#define RK_ANSWER_MAX 4160

/* Longest filter in an entrance that is not of the caller's own making: see protocol's limits. */
#define RK_FILTER_MAX 896

/* Longest text of a command in a failure. */
#define RK_COMMAND_MAX 512

/* Version, sender, variant, and every number of a request at its longest. */
#define RK_NUMBERS_MAX 192

/* A message to be sent, in pieces: the numbers in between are in `numbers`, of so much room, the
 * paths where the caller has them. So it is never copied, and not to be moved. */
struct rk_pieces {
    uint8_t *numbers;
    size_t room;
    size_t used;
    size_t length;
    unsigned count;
    struct iovec pieces[2 * (5 + RK_OVERLAY_DIRS_MAX) + 1 + RK_DEVICES_MAX + 1];
};

/* Room for a message that is to be written. */
static inline struct rk_pieces rk_pieces(uint8_t *numbers, size_t room)
{
    return (struct rk_pieces){ .numbers = numbers, .room = room };
}

/* root.1. `out->length` may be more than RK_MESSAGE_MAX: then it cannot be sent. */
void rk_encode_launch(const struct rk_request *request, struct rk_pieces *out);

/* root.3 and root.10: the name of a living rocker, of RK_NAME_LEN digits. */
void rk_encode_attach(const char *name, struct rk_pieces *out);
void rk_encode_kill(const char *name, struct rk_pieces *out);

/* For all living rockers. */
void rk_encode_list(struct rk_pieces *out);

/* enter.4; one descriptor goes with it. */
void rk_encode_app_started(struct rk_pieces *out);

/* exec.0, also as the greeting that says that orders will come. */
void rk_encode_ping(struct rk_pieces *out);

/* Whether it may be a rocker's name. */
bool rk_is_name(struct rk_path text);

/* Whether it is UTF-8, as texts have to be. */
bool rk_is_text(struct rk_path bytes);

/*
 * How many bytes belong together here, of one at least, by the Unicode Standard, table 3-7: a
 * character, or what no more than begins one and is to be shown as one U+FFFD.
 */
size_t rk_utf8_length(const char *text, size_t left, bool *is_whole);

/* By their place in message.rs. */
enum rk_sender { RK_FROM_CLIENT, RK_FROM_MASTER, RK_FROM_GUARD };

enum rk_kind {
    RK_NOTHING,     /* no message: lost, see `loss` */
    RK_ENTERING,    /* Entrance: name, pid, rest: the filter; a pidfd, and what is with it */
    RK_FAILURE,     /* Failed: error, rest: the command, UTF-8 without NUL at its end; the last */
    RK_STARTED,     /* Started: id, pid; one descriptor */
    RK_NOT_STARTED, /* ExecFailed: id, error, rest: the command */
    RK_EXITED,      /* Exited: id, report */
    RK_PONG,        /* Pong */
    RK_OBEYED,      /* Obeyed: id */
    RK_OPENED,      /* Opened: id, errnos; one descriptor for each of them that is 0 */
    RK_ROCKER,      /* Rocker: info, whose package is in `rest`, without its NUL */
    RK_LIST_END,    /* End */
    RK_GONE         /* Gone */
};

struct rk_message {
    uint8_t kind; /* enum rk_kind */
    uint8_t loss; /* enum rk_loss */
    uint8_t descriptors;
    uint8_t reserved;
    uint32_t pid;
    struct rk_error error;
    char name[RK_NAME_LEN + 1];
    /* In the datagram. */
    struct rk_path rest;
    uint32_t id;
    RockerReport report;
    uint16_t errnos[ROCKER_FILES_MAX];
    uint32_t files;
    RockerInfo info;
};

/* Reads one datagram of a launch; whatever it holds, it gives a message or a loss. */
void rk_decode(const uint8_t *datagram, size_t length, struct rk_message *message);

/* The same of an answer to a question. */
void rk_decode_told(const uint8_t *datagram, size_t length, struct rk_message *message);

#endif
