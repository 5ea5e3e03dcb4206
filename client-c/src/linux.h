/*
 * Does what the client's machine asks for: the socket, the descriptors, the clock.
 */
#ifndef RK_LINUX_H
#define RK_LINUX_H

#include "launch.h"

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t rk_now_ns(void);

/* Does the action of the machine's state. False: it would have to wait. */
bool rk_perform(struct rk_launch *launch, struct rk_outcome *outcome);

/* What it would wait for, for reading; -1: nothing but the time. */
int rk_waits_for(const struct rk_launch *launch);

/* How long, in milliseconds: until the deadline, or until it is worth another try. */
int rk_wait_ms(const struct rk_launch *launch);

/* Waits for it. */
void rk_wait(const struct rk_launch *launch);

/* Closes everything; an App that did not get past enter.4 ends here. Of a launch that has
 * succeeded both pidfds are left, in `app` and `entry.guard`. */
void rk_release(struct rk_launch *launch);

#endif
