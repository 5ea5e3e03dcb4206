/*
 * One launch: the machine, and what its driver holds. It lies in the caller's RockerLaunch.
 */
#ifndef RK_LAUNCH_H
#define RK_LAUNCH_H

#include "enter.h"
#include "wire.h"

struct rk_launch {
    struct rk_client client;
    struct rk_request request;
    struct rk_entry entry;
    struct rk_running running;
    const char *socket_path;
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
void rk_add_number(char *text, uint32_t number);

/* Adds to `command`. */
void rk_say(struct rk_launch *launch, const char *text);

#endif
