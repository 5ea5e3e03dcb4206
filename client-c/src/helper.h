/*
 * The helper: the client's forked child. It enters the rocker (enter.2), becomes who the App is
 * to be, and starts the App as its own brother (enter.3), in the order that the kernel forces:
 * groups can be dropped only outside, ids can be taken only inside, and the capability to do
 * either goes last. The same machine as client-rs/src/helper.rs.
 */
#ifndef RK_HELPER_H
#define RK_HELPER_H

#include "machine.h"

/* Where the helper stands. The state is the action, too. */
enum rk_helper_state {
    RK_DROP_GROUPS,     /* enter.2, before a namespace is joined: inside they could not go */
    RK_JOIN_NAMESPACES, /* enter.2 */
    RK_TAKE_IDS,        /* enter.3: from here on nothing of the caller's identity is left  */
    RK_DROP_PRIVILEGES, /* enter.3 */
    RK_ENTER_DIRECTORY, /* enter.3 */
    RK_START_APP,       /* enter.3 */
    RK_HELPER_ENDED,    /* the App's pid as the caller sees it, or why there is none */
    RK_HELPER_STATE_COUNT
};

struct rk_helper {
    uint8_t state; /* enum rk_helper_state */
    uint8_t reserved[3];
    uint32_t app_pid;
    struct rk_error error;
};
_Static_assert(sizeof(struct rk_helper) == 16, "sim reads it through FFI");

void rk_helper_init(struct rk_helper *helper);

/* The arrow; RK_NO_STEP when it has ended. */
uint8_t rk_helper_step(const struct rk_helper *helper);

/* The next state; of the outcomes it knows RK_DONE, RK_APP and RK_FAILED. False, and nothing
 * changes, for what cannot come of the action: a bug. */
bool rk_helper_advance(struct rk_helper *helper, const struct rk_outcome *outcome);

#endif
