/*
 * What a caller asks for (root.1), and the rules it must keep: protocol/src/request.rs. No libc
 * call lives here.
 */
#ifndef RK_REQUEST_H
#define RK_REQUEST_H

#include <stddef.h>

#include "error.h"

#define RK_PATH_MAX 4095
#define RK_OVERLAY_DIRS_MAX 16
#define RK_TIMEOUT_MS_DEFAULT 5000
#define RK_TIMEOUT_MS_MAX 3600000
#define RK_CGROUPS_MAX 5
#define RK_MEMORY_MIN (1 << 20)
#define RK_PIDS_MAX (1 << 22)
#define RK_CPU_MILLIS_MIN 10
#define RK_CPU_MILLIS_MAX 1000000
#define RK_CPU_WEIGHT_MAX 10000
#define RK_CPUS_MAX 256
#define RK_IO_MIN (64 << 10)
#define RK_DEVICES_MAX 32

/* `BPF_MAXINSNS`, and the size of each: `struct sock_filter`. */
#define RK_INSTRUCTIONS_MAX 4096
#define RK_INSTRUCTION 8

/* Which system calls the App may make. */
enum rk_seccomp { RK_SECCOMP_DEFAULT, RK_SECCOMP_UNCONFINED, RK_SECCOMP_LOG, RK_SECCOMP_FILTER };

/* Bytes of the caller's. NULL: there is none. */
struct rk_path {
    const char *bytes;
    size_t length;
};

/* Up to the NUL; of a longer path no more than is needed to see that it is too long. */
struct rk_path rk_path(const char *text);

/* What all processes of a rocker may use together. 0, but for swap: as much as there is. */
struct rk_limits {
    uint64_t memory;
    uint64_t swap;
    uint32_t has_swap;
    uint32_t pids;
    uint32_t cpu_millis;
    uint32_t cpu_weight;
    struct rk_path cpus;
    uint64_t io_read;
    uint64_t io_write;
};

struct rk_request {
    uint32_t app_id;
    uint32_t uid;
    uint32_t gid;
    struct rk_path package;
    struct rk_path exec_dir;
    struct rk_path data_dir;
    uint8_t overlay_all;
    uint8_t overlays;
    /* Where each one stood in the caller's array, for errors. */
    uint8_t overlay_index[RK_OVERLAY_DIRS_MAX];
    uint8_t seccomp; /* enum rk_seccomp */
    uint8_t user_namespaces;
    /* It takes orders; and does not end with the connection that gives them. */
    uint8_t commanded;
    uint8_t stays;
    /* It sees the host's /dev. */
    uint8_t host_dev;
    uint8_t is_volatile;
    /* Its programs are bound by Landlock. */
    uint8_t landlock;
    /* The App's ids inside are these. */
    uint8_t has_inside;
    uint32_t inside_uid;
    uint32_t inside_gid;
    /* Of RK_SECCOMP_FILTER. */
    struct rk_path filter;
    struct rk_path overlay_dirs[RK_OVERLAY_DIRS_MAX];
    uint32_t timeout_ms;
    struct rk_limits limits;
    /* What it sees in a /dev of its own beside what everybody does. Ended by NULL; or NULL. */
    const char *const *devices;
};

/* Which rule for paths it breaks; RK_RULE_COUNT: none. */
enum rk_rule rk_path_rule(struct rk_path path);

/* Every rule that can be checked without looking at a file system; RK_NO_FAULT if it keeps
 * them all. */
struct rk_error rk_request_check(const struct rk_request *request);

#endif
