/*
 * One launch: the machine, and what its driver holds. It lies in the caller's RockerLaunch.
 */
#ifndef RK_LAUNCH_H
#define RK_LAUNCH_H

#include "enter.h"
#include "wire.h"

/* What is called for each living rocker. */
typedef void rk_each(void *data, const RockerInfo *info);

struct rk_launch {
    struct rk_client client;
    struct rk_request request;
    struct rk_entry entry;
    struct rk_running running;
    const char *socket_path;
    /* Of RK_TO_ATTACH and RK_TO_KILL: the rocker's. */
    const char *guard_name;
    /* Of RK_TO_LIST. */
    rk_each *each;
    void *each_data;
    char *name_only[2];
    /* CLOCK_MONOTONIC, nanoseconds. */
    uint64_t deadline_ns;
    /* Descriptors; -1: none. The guard's is in `entry`. */
    int connection;
    int app;
    /* The connection was given. */
    uint8_t given;
    uint8_t at; /* enum rk_at */
    /* ROCKER_ERR_*, where `client.error` cannot say it; else 0. */
    int8_t code;
    /* RockerError.command */
    char command[520];
    /* The App's, of `entry.filter_size` bytes. */
    char filter[RK_FILTER_MAX];
};
_Static_assert(sizeof(struct rk_launch) <= sizeof(RockerLaunch), "RockerLaunch holds it");
_Static_assert(_Alignof(struct rk_launch) <= _Alignof(RockerLaunch), "RockerLaunch holds it");

/* Adds to `text`, of 520 bytes: cut at RK_COMMAND_MAX bytes, and then ended by "...". */
void rk_add(char *text, const char *more, size_t length);
void rk_add_number(char *text, uint64_t number);

/* Adds to `command`. */
void rk_say(struct rk_launch *launch, const char *text);

/* The n-th of a list of words, each ended by NUL. */
const char *rk_nth(const char *words, unsigned number);

/* Begins a launch of what `entry` names; NULL: of a rocker that takes orders. */
void rk_begin_launch(struct rk_launch *launch, const RockerRequest *req,
                     const RockerOptions *options, const struct rk_entry *entry);

/* Begins to attach to the living rocker of this name, to kill it, or, of no name, to list them. */
void rk_begin_question(struct rk_launch *launch, enum rk_purpose purpose, const char *name,
                       const RockerOptions *options);

/* Does what can be done without waiting. False: it has to wait. */
bool rk_go_on(struct rk_launch *launch);

/* The end of a launch of this kind, over or not: of an App (RK_TO_ENTER), of a rocker that takes
 * orders (RK_TO_ORDER, or RK_TO_ATTACH), or of a question; it has failed if it is of another one.
 * What it has come to is told in `error`, if there is one. */
ROCKER_ERR rk_settle(struct rk_launch *launch, enum rk_purpose wanted, RockerError *error);

/* What is wrong with a program, in words of the header; NULL: nothing. */
const char *rk_misuse_of(const RockerProgram *program);

/* In words of the header, but for the subject. `code`: ROCKER_ERR_*, where `error` cannot say it;
 * else 0. `command` is one of 520 bytes. */
void rk_tell(const struct rk_error *error, int code, const char *command, RockerError *told);

#endif
