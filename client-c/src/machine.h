/*
 * The client: one launch as the caller's process sees it, root.1 to enter.4, or to exec.0 for a
 * rocker that takes orders, or the way to a living one (root.3). It says what comes next and never does it; no libc call lives here.
 * The same machine as client-rs/src/machine.rs.
 */
#ifndef RK_MACHINE_H
#define RK_MACHINE_H

#include "error.h"

#define RK_NAME_LEN 15

/* What it is for: a rocker to be entered, one that takes orders, or one that lives already; or a
 * question, of which no rocker comes. */
enum rk_purpose { RK_TO_ENTER, RK_TO_ORDER, RK_TO_ATTACH, RK_TO_KILL, RK_TO_LIST };

/* Where a launch stands, in the order of the diagrams. The state is the action, too. */
enum rk_state {
    RK_CONNECT,        /* root.1, its first half: reach the master       */
    RK_SEND_REQUEST,   /* root.1; root.3 to attach, root.10 to kill       */
    RK_AWAIT_ENTRANCE, /* enter.0: the guard's pidfd, or a failure; same  */
    RK_FORK_HELPER,    /* enter.1                                         */
    RK_AWAIT_APP,      /* enter.3; enter.2 is the helper's                */
    RK_REPORT_APP,     /* enter.4                                         */
    RK_GREET,          /* exec.0, instead of enter.1 to enter.4           */
    RK_ENDED,          /* root.7, or why not                              */
    RK_STATE_COUNT
};

/* What can come of an action. */
enum rk_result {
    RK_DONE,
    RK_ENTRANCE, /* the guard sent it: name, pid          */
    RK_APP,      /* the App runs: pid                     */
    RK_FAILED,   /* the kernel refused it: os_errno       */
    RK_LOST,     /* master, guard or helper: loss         */
    RK_REFUSED   /* what one of them reports: error       */
};

struct rk_outcome {
    uint8_t result; /* enum rk_result */
    uint8_t loss;
    uint16_t os_errno;
    uint32_t pid;
    struct rk_error error;
    char name[RK_NAME_LEN + 1];
};
_Static_assert(sizeof(struct rk_outcome) == 32, "sim writes it through FFI");

struct rk_client {
    uint8_t state;   /* enum rk_state */
    uint8_t purpose; /* enum rk_purpose */
    uint8_t reserved[2];
    uint32_t guard_pid;         /* from RK_FORK_HELPER on */
    uint32_t app_pid;           /* from RK_REPORT_APP on  */
    struct rk_error error;      /* in RK_ENDED; no fault: it has succeeded */
    char name[RK_NAME_LEN + 1]; /* from RK_FORK_HELPER on; ended by NUL */
};
_Static_assert(sizeof(struct rk_client) == 36, "sim reads it through FFI");

void rk_client_init(struct rk_client *client, enum rk_purpose purpose);

/* The arrow; RK_NO_STEP when the launch has ended. */
uint8_t rk_client_step(const struct rk_client *client);

/* The next state. False, and nothing changes, for what cannot come of the action: a bug. */
bool rk_client_advance(struct rk_client *client, const struct rk_outcome *outcome);

#endif
