/* Why a launch failed: the shape and the numbers of protocol/src/error.rs and step.rs. */
#ifndef RK_ERROR_H
#define RK_ERROR_H

#include <stdbool.h>
#include <stdint.h>

/* The arrows of the diagrams that this library takes or is told of by name; others arrive as
 * numbers. High digit: root, prepare, overlay, enter, exec. */
enum rk_step {
    RK_REQUEST_ROCKER = 0x01,
    RK_CREATE_GUARD = 0x02,
    RK_HAND_OVER = 0x03,
    RK_KILL_GUARD = 0x0a,
    RK_CLONE_GUARD = 0x10,
    RK_CREATE_LOOP = 0x11,
    RK_BIND_PACKAGE = 0x12,
    RK_MOUNT_PACKAGE = 0x13,
    RK_BUILD_OVERLAY = 0x14,
    RK_UNSHARE_USER = 0x16,
    RK_MOUNT_OVERLAY = 0x21,
    RK_AWAIT_ENTRANCE_STEP = 0x30,
    RK_FORK_HELPER_STEP = 0x31,
    RK_JOIN_NAMESPACES_STEP = 0x32,
    RK_RUN_APP = 0x33,
    RK_REPORT_APP_STEP = 0x34,
    RK_REQUEST_EXEC = 0x40,
    RK_START_PROGRAM = 0x41,
    RK_REPORT_EXIT = 0x43,
    RK_NO_STEP = 0xff
};

/* Whether a diagram has this arrow. */
bool rk_is_step(uint8_t step);

/* Whose fault it was. */
enum rk_fault { RK_NO_FAULT, RK_INVALID, RK_FAILED_FAULT, RK_LOST_FAULT };

enum rk_rule {
    RK_RULE_EMPTY,
    RK_RULE_RELATIVE,
    RK_RULE_PARENT_DIR,
    RK_RULE_CONTROL_BYTE,
    RK_RULE_TOO_LONG,
    RK_RULE_TOO_MANY,
    RK_RULE_FORBIDDEN,
    RK_RULE_NO_DATA_DIR,
    RK_RULE_ROOT,
    RK_RULE_NO_SUCH_ID,
    RK_RULE_OUT_OF_RANGE,
    RK_RULE_NOT_ALLOWED,
    RK_RULE_FOREIGN_NAMESPACE,
    RK_RULE_WRONG_TYPE,
    RK_RULE_NOT_SQUASHFS,
    RK_RULE_UNKNOWN_FORMAT,
    RK_RULE_TRUNCATED,
    RK_RULE_IN_USE,
    RK_RULE_NOT_OURS,
    RK_RULE_TOO_MANY_ROCKERS,
    RK_RULE_NO_SUCH_ROCKER,
    RK_RULE_NOT_A_FILTER,
    RK_RULE_MEMORY_OUT_OF_RANGE,
    RK_RULE_NO_MEMORY_LIMIT,
    RK_RULE_NOT_CPUS,
    RK_RULE_NO_SUCH_CPU,
    RK_RULE_NO_CONTROLLER,
    RK_RULE_NOT_LISTED,
    RK_RULE_NO_SUCH_DEVICE,
    RK_RULE_ALREADY_THERE,
    RK_RULE_NOT_A_DEVICE,
    RK_RULE_NO_DISK,
    RK_RULE_NOT_HELD,
    RK_RULE_PIDS_OUT_OF_RANGE,
    RK_RULE_CPU_OUT_OF_RANGE,
    RK_RULE_CPU_WEIGHT_OUT_OF_RANGE,
    RK_RULE_IO_OUT_OF_RANGE,
    RK_RULE_TIME_OUT_OF_RANGE,
    RK_RULE_NO_OVERLAYS,
    RK_RULE_NOT_COMMANDED,
    RK_RULE_NOT_THE_CALLERS,
    RK_RULE_OUT_OF_REACH,
    RK_RULE_NO_SUCH_DIR,
    RK_RULE_NOT_A_DIR,
    RK_RULE_COUNT
};

enum rk_item {
    RK_ITEM_REQUEST,
    RK_ITEM_PACKAGE,
    RK_ITEM_EXEC_DIR,
    RK_ITEM_DATA_DIR,
    RK_ITEM_OVERLAY_DIR,
    RK_ITEM_UID,
    RK_ITEM_GID,
    RK_ITEM_TIMEOUT,
    RK_ITEM_NAME,
    RK_ITEM_PROGRAM,
    RK_ITEM_FILE,
    RK_ITEM_SECCOMP,
    RK_ITEM_USER_NAMESPACES,
    RK_ITEM_MEMORY,
    RK_ITEM_SWAP,
    RK_ITEM_PIDS,
    RK_ITEM_CPU,
    RK_ITEM_CPU_WEIGHT,
    RK_ITEM_CPUS,
    RK_ITEM_DEV,
    RK_ITEM_DEVICE,
    RK_ITEM_IO_READ,
    RK_ITEM_IO_WRITE,
    RK_ITEM_VOLATILE,
    RK_ITEM_COUNT
};

enum rk_loss { RK_LOSS_DIED, RK_LOSS_SILENT, RK_LOSS_GARBAGE, RK_LOSS_VERSION, RK_LOSS_COUNT };

/* What was ordered of a guard, which has one step for all orders; or asked of the master, which has
 * one for all questions. */
enum rk_kind_of_order {
    RK_PROGRAM, /* or a rocker: the step says what could not be done */
    RK_FILES,
    RK_DELETE,
    RK_SYMLINK,
    RK_CONFIGURE,
    RK_RESET,
    RK_QUESTION
};

struct rk_error {
    uint8_t fault; /* enum rk_fault */
    uint8_t step;  /* of RK_FAILED_FAULT and RK_LOST_FAULT */
    uint16_t os_errno;
    uint8_t rule;
    uint8_t item;
    uint8_t index; /* of RK_ITEM_OVERLAY_DIR and RK_ITEM_DEVICE */
    uint8_t loss;
};
_Static_assert(sizeof(struct rk_error) == 8, "sim reads it through FFI");

static inline struct rk_error rk_invalid(enum rk_rule rule, enum rk_item item, uint8_t index)
{
    struct rk_error error = { .fault = RK_INVALID,
                              .step = RK_REQUEST_ROCKER,
                              .rule = (uint8_t)rule,
                              .item = (uint8_t)item,
                              .index = index };
    return error;
}

static inline struct rk_error rk_failed(uint8_t step, uint16_t os_errno)
{
    struct rk_error error = { .fault = RK_FAILED_FAULT, .step = step, .os_errno = os_errno };
    return error;
}

static inline struct rk_error rk_lost(uint8_t step, enum rk_loss how)
{
    struct rk_error error = { .fault = RK_LOST_FAULT, .step = step, .loss = (uint8_t)how };
    return error;
}

#endif
