/*
 * enter.1 to enter.3: makes the helper, and within it the App, as client-rs/src/enter.rs does.
 *
 * The helper shares the caller's memory, on a stack of its own, so that it costs the same however
 * large the caller is. An App that is a program shares it, too, until it executes. One that is a
 * function is a copy, as by fork(2), in which it lives on: on the helper's stack, which is as
 * large as that of a main thread then.
 *
 * In both the helper shares the caller's descriptor table. CLONE_PIDFD therefore puts the App's
 * pidfd straight into the caller's table, made by the same call that makes the App: nobody can
 * reap the App first, whatever the caller does with SIGCHLD. The App has a table of its own, and
 * empties it.
 *
 * Taking the App's ids makes the memory that is shared undumpable, which is right as long as it
 * lasts: nobody of that uid may look at it. But it is to be as it was afterwards, and that
 * cannot be done while another thread's helper is at work in it. So one helper at a time shares
 * the memory of a process. Whoever finds one at work makes copies, as by fork(2), instead; so
 * does who calls a function but goes on meanwhile, in a malloc for example; and whose helper joins
 * control groups: if their memory runs out while it is in them, the kernel ends whoever has the
 * most, and with it all that share its memory.
 */
#ifndef RK_ENTER_H
#define RK_ENTER_H

#include <sys/types.h>

#include "helper.h"
#include "request.h"
#include "rocker.h"

/* What is started, and as whom. All that it points to is the caller's. */
struct rk_entry {
    uint32_t uid;
    uint32_t gid;
    const char *exec_dir;
    /* NULL for a function. */
    const RockerProgram *program;
    char *const *argv;
    int (*function)(void *);
    void *argument;
    /* The thread that calls waits for it, and its memory does not change: a function's copy is
     * consistent whenever the helper makes it. */
    uint8_t waits;
    /* What RockerProgram.stdio means by ROCKER_STDIO_NULL; -1 without. */
    int null;
    /* The App's filter, as the guard has it. */
    const void *filter;
    uint16_t filter_size;
    /* The entrance. */
    int guard;
    /* cgroup.procs of the rocker's cgroups, opened by the master. */
    unsigned cgroups_count;
    int cgroups[RK_CGROUPS_MAX];
    /* What the App puts in force for itself (landlock(7)); -1: nothing. */
    int ruleset;
};

/* How far the App's own start came. */
enum rk_at { RK_AT_DESCRIPTORS, RK_AT_FILTER, RK_AT_EXEC };

/* What helper and kernel write, and the caller reads when the helper is gone. */
struct rk_slip {
    /* Written by the kernel as it makes the App, before the App's first instruction. */
    int app_pidfd;
    struct rk_helper helper;
    /* enum rk_helper_state: the last thing that was done. */
    uint8_t last;
    uint8_t at; /* enum rk_at */
};

/* A helper, and the memory it uses. */
struct rk_running {
    /* Its pidfd; -1 without one. */
    int pidfd;
    /* Holds the lock of who shares the caller's memory; -1: none. */
    int lock;
    /* It shares the caller's memory, and is no copy. */
    bool shares;
    uint8_t was_dumpable;
    int units;
    void *pages;
};

/* enter.1: makes the helper, which goes to work at once. 0, or an errno. `entry` stays where it
 * is until the helper is gone. */
uint16_t rk_start(const struct rk_entry *entry, struct rk_running *running);

/* enter.3: what a helper left that has ended, or, killed here, is to end. `*app` is the App's
 * pidfd, or -1. */
void rk_finish(struct rk_running *running, bool in_time, struct rk_slip *slip,
               struct rk_outcome *outcome, int *app);

/* Kills, waits for the end for a second at most, and takes the zombie away if it is the
 * caller's. False if the kernel does not let go of it. */
bool rk_end(int pidfd);

#endif
