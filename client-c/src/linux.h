/*
 * Does what the client's machine asks for: the socket, the descriptors, the clock.
 */
#ifndef RK_LINUX_H
#define RK_LINUX_H

#include "launch.h"

#define RK_NS_PER_MS 1000000

/* Most descriptors that come with one message: protocol's DESCRIPTORS_MAX. */
#define RK_DESCRIPTORS_MAX 16

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t rk_now_ns(void);

/* A datagram with its descriptors. */
struct rk_datagram {
    size_t length;
    bool whole;
    unsigned count;
    int descriptors[RK_DESCRIPTORS_MAX];
    /* And a NUL. */
    uint8_t bytes[RK_ANSWER_MAX + 1];
};

/* 0, or an errno: EMSGSIZE if it is too long. Never waits: a peer that does not read is the
 * peer's problem. */
int rk_send(int connection, struct rk_pieces *message, const int *descriptors, unsigned count);

/* 0, EAGAIN if there is none, or another errno. */
int rk_receive(int connection, struct rk_datagram *datagram);

/* Closes what descriptors are left in it. */
void rk_drop(struct rk_datagram *datagram);

/* Waits at most so long, -1: for ever, until `fd` is readable; if that is negative, only for the
 * time. False if it is not: it may have been interrupted, so whoever goes on looks again. */
bool rk_wait_for(int fd, int at_most_ms);

/* How many milliseconds are left until then, rounded up; -1 if it is UINT64_MAX. */
int rk_left_ms(uint64_t deadline_ns);

/* Closes it, if there is one. */
void rk_close(int *fd);

/* /dev/null, of the host; -1, and an errno, if it cannot be opened. */
int rk_open_null(void);

/* Does the action of the machine's state. False: it would have to wait. */
bool rk_perform(struct rk_launch *launch, struct rk_outcome *outcome);

/* What it would wait for, for reading; -1: nothing but the time. */
int rk_waits_for(const struct rk_launch *launch);

/* How long, in milliseconds: until the deadline, or until it is worth another try. */
int rk_wait_ms(const struct rk_launch *launch);

/* Waits for it. */
void rk_wait(const struct rk_launch *launch);

/* Closes everything; an App that did not get past enter.4 ends here. Of a launch that has
 * succeeded both pidfds are left, in `app` and `entry.guard`, or the guard's and the connection
 * if the rocker takes orders. */
void rk_release(struct rk_launch *launch);

#endif
