/* Waiting for a rocker's end, signals in hand. No threads, no handlers: one poll. */
#ifndef RK_VIGIL_H
#define RK_VIGIL_H

#include <rocker.h>
#include <stdint.h>

/* Signals as something to read. */
struct rk_signals {
    int fd;
    uint64_t before;
};

/* From here on they interrupt nothing. 0, or a negative errno. */
int rk_take_signals(struct rk_signals *signals);

/* As it was. */
void rk_return_signals(struct rk_signals *signals);

/*
 * root.8 and root.9: the App's status, once all of its rocker is gone. 0, or a negative errno. For
 * the reasons see client-rs/src/cli/vigil.rs, which does the same.
 */
int rk_until_gone(const Rocker *rocker, const struct rk_signals *signals, int *status);

#endif
