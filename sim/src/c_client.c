/*
 * What Rust cannot see of the C client's headers: where the fields lie, and which numbers the
 * names stand for. For the tests of c_client.rs, which has the same lists in the same order.
 */
#include "helper.h"
#include "order_wire.h"
#include "orders.h"

/* The n-th entry of a list; SIZE_MAX behind the last one. */
size_t rk_sim_layout(size_t n);
size_t rk_sim_number(size_t n);

#define IN(type, field) offsetof(type, field)
#define AT(type, field) IN(struct type, field)

size_t rk_sim_layout(size_t n)
{
    static const size_t list[] = {
        sizeof(struct rk_error), AT(rk_error, fault), AT(rk_error, step),
        AT(rk_error, os_errno), AT(rk_error, rule), AT(rk_error, item), AT(rk_error, index),
        AT(rk_error, loss),

        sizeof(struct rk_outcome), AT(rk_outcome, result), AT(rk_outcome, loss),
        AT(rk_outcome, os_errno), AT(rk_outcome, pid), AT(rk_outcome, error),
        AT(rk_outcome, name),

        sizeof(struct rk_client), AT(rk_client, state), AT(rk_client, purpose),
        AT(rk_client, reserved),
        AT(rk_client, guard_pid), AT(rk_client, app_pid), AT(rk_client, error),
        AT(rk_client, name),

        sizeof(struct rk_helper), AT(rk_helper, state), AT(rk_helper, reserved),
        AT(rk_helper, app_pid), AT(rk_helper, error),

        sizeof(struct rk_path), AT(rk_path, bytes), AT(rk_path, length),

        sizeof(struct rk_request), AT(rk_request, app_id), AT(rk_request, uid),
        AT(rk_request, gid), AT(rk_request, package), AT(rk_request, exec_dir),
        AT(rk_request, data_dir), AT(rk_request, overlay_all), AT(rk_request, overlays),
        AT(rk_request, overlay_index), AT(rk_request, seccomp),
        AT(rk_request, user_namespaces), AT(rk_request, commanded), AT(rk_request, stays),
        AT(rk_request, host_dev), AT(rk_request, is_volatile), AT(rk_request, landlock),
        AT(rk_request, has_inside),
        AT(rk_request, inside_uid), AT(rk_request, inside_gid), AT(rk_request, filter),
        AT(rk_request, overlay_dirs),
        AT(rk_request, timeout_ms), AT(rk_request, limits), AT(rk_request, devices),

        sizeof(struct rk_limits), AT(rk_limits, memory), AT(rk_limits, swap),
        AT(rk_limits, has_swap), AT(rk_limits, pids), AT(rk_limits, cpu_millis),
        AT(rk_limits, cpu_weight), AT(rk_limits, cpus), AT(rk_limits, io_read),
        AT(rk_limits, io_write),

        sizeof(struct iovec), AT(iovec, iov_base), AT(iovec, iov_len),

        sizeof(struct rk_pieces), AT(rk_pieces, numbers), AT(rk_pieces, room),
        AT(rk_pieces, used), AT(rk_pieces, length), AT(rk_pieces, count), AT(rk_pieces, pieces),

        sizeof(RockerUsage), IN(RockerUsage, memory), IN(RockerUsage, memory_peak),
        IN(RockerUsage, pids), IN(RockerUsage, pids_peak), IN(RockerUsage, cpu_us),
        IN(RockerUsage, read), IN(RockerUsage, written),

        sizeof(RockerReport), IN(RockerReport, status), IN(RockerReport, signal),
        IN(RockerReport, verdict), IN(RockerReport, syscall), IN(RockerReport, user_us), IN(RockerReport, system_us),
        IN(RockerReport, wall_us), IN(RockerReport, peak_kib), IN(RockerReport, usage),

        sizeof(struct rk_message), AT(rk_message, kind), AT(rk_message, loss),
        AT(rk_message, descriptors), AT(rk_message, reserved), AT(rk_message, pid),
        AT(rk_message, error), AT(rk_message, name), AT(rk_message, rest),
        AT(rk_message, id), AT(rk_message, report), AT(rk_message, errnos), AT(rk_message, files), AT(rk_message, info),

        sizeof(RockerInfo), IN(RockerInfo, guard_pname), IN(RockerInfo, guard_pid),
        IN(RockerInfo, app_id), IN(RockerInfo, uid), IN(RockerInfo, age_ms),
        IN(RockerInfo, package),

        sizeof(RockerProgram), IN(RockerProgram, size), IN(RockerProgram, path),
        IN(RockerProgram, argv), IN(RockerProgram, envp), IN(RockerProgram, cwd),
        IN(RockerProgram, stdio), IN(RockerProgram, fds_count), IN(RockerProgram, fds),
        IN(RockerProgram, keep_session), IN(RockerProgram, terminal),

        sizeof(RockerRlimit), IN(RockerRlimit, resource), IN(RockerRlimit, soft),
        IN(RockerRlimit, hard),

        sizeof(RockerExec), IN(RockerExec, size), IN(RockerExec, data), IN(RockerExec, wall_ms),
        IN(RockerExec, grace_ms),
        IN(RockerExec, rlimits_count), IN(RockerExec, rlimits), IN(RockerExec, program_fd),
        IN(RockerExec, sync), IN(RockerExec, filter_count), IN(RockerExec, filter),
        IN(RockerExec, cgroups_count), IN(RockerExec, cgroups),

        sizeof(RockerEvent), IN(RockerEvent, kind), IN(RockerEvent, id), IN(RockerEvent, data),
        IN(RockerEvent, pid), IN(RockerEvent, pidfd), IN(RockerEvent, report),
        IN(RockerEvent, error), IN(RockerEvent, error.subject), IN(RockerEvent, files_count),
        IN(RockerEvent, files),

        sizeof(RockerFile), IN(RockerFile, path), IN(RockerFile, how), IN(RockerFile, mode),

        sizeof(RockerPlace), IN(RockerPlace, kind), IN(RockerPlace, mode),
        IN(RockerPlace, source), IN(RockerPlace, target), IN(RockerPlace, bytes),

        sizeof(RockerConf), IN(RockerConf, size), IN(RockerConf, root),
        IN(RockerConf, empty_root), IN(RockerConf, places), IN(RockerConf, places_count),
        IN(RockerConf, unshare_cgroup), IN(RockerConf, work_dir), IN(RockerConf, host_name),
        IN(RockerConf, domain_name), IN(RockerConf, init), IN(RockerConf, init_ms),

        sizeof(struct rk_order), AT(rk_order, id), AT(rk_order, stage), AT(rk_order, kind),
        AT(rk_order, files), AT(rk_order, apart), AT(rk_order, data), AT(rk_order, error),
        AT(rk_order, report),

        sizeof(struct rk_orders), AT(rk_orders, last_id), AT(rk_orders, pings),
        AT(rk_orders, ping_id), AT(rk_orders, signals), AT(rk_orders, lost_order),
        AT(rk_orders, reserved), AT(rk_orders, lost),
        AT(rk_orders, orders), AT(rk_orders, last_words),
    };

    return n < sizeof(list) / sizeof(*list) ? list[n] : SIZE_MAX;
}

size_t rk_sim_number(size_t n)
{
    static const size_t list[] = {
        /* protocol/src/error.rs */
        RK_RULE_EMPTY, RK_RULE_RELATIVE, RK_RULE_PARENT_DIR, RK_RULE_CONTROL_BYTE,
        RK_RULE_TOO_LONG, RK_RULE_TOO_MANY, RK_RULE_FORBIDDEN, RK_RULE_NO_DATA_DIR, RK_RULE_ROOT,
        RK_RULE_NO_SUCH_ID, RK_RULE_OUT_OF_RANGE, RK_RULE_NOT_ALLOWED, RK_RULE_FOREIGN_NAMESPACE,
        RK_RULE_WRONG_TYPE, RK_RULE_NOT_SQUASHFS, RK_RULE_UNKNOWN_FORMAT, RK_RULE_TRUNCATED,
        RK_RULE_IN_USE, RK_RULE_NOT_OURS, RK_RULE_TOO_MANY_ROCKERS, RK_RULE_NO_SUCH_ROCKER,
        RK_RULE_NOT_A_FILTER, RK_RULE_MEMORY_OUT_OF_RANGE, RK_RULE_NO_MEMORY_LIMIT,
        RK_RULE_NOT_CPUS, RK_RULE_NO_SUCH_CPU, RK_RULE_NO_CONTROLLER, RK_RULE_NOT_LISTED,
        RK_RULE_NO_SUCH_DEVICE, RK_RULE_ALREADY_THERE, RK_RULE_NOT_A_DEVICE, RK_RULE_NO_DISK,
        RK_RULE_NOT_HELD, RK_RULE_PIDS_OUT_OF_RANGE, RK_RULE_CPU_OUT_OF_RANGE, RK_RULE_CPU_WEIGHT_OUT_OF_RANGE,
        RK_RULE_IO_OUT_OF_RANGE, RK_RULE_TIME_OUT_OF_RANGE, RK_RULE_NO_OVERLAYS, RK_RULE_NOT_COMMANDED,
        RK_RULE_NOT_THE_CALLERS, RK_RULE_OUT_OF_REACH, RK_RULE_NO_SUCH_DIR, RK_RULE_NOT_A_DIR,
        RK_RULE_COUNT,

        RK_ITEM_REQUEST, RK_ITEM_PACKAGE, RK_ITEM_EXEC_DIR, RK_ITEM_DATA_DIR,
        RK_ITEM_OVERLAY_DIR, RK_ITEM_UID, RK_ITEM_GID, RK_ITEM_TIMEOUT, RK_ITEM_NAME,
        RK_ITEM_PROGRAM, RK_ITEM_FILE, RK_ITEM_SECCOMP, RK_ITEM_USER_NAMESPACES, RK_ITEM_MEMORY,
        RK_ITEM_SWAP, RK_ITEM_PIDS, RK_ITEM_CPU, RK_ITEM_CPU_WEIGHT, RK_ITEM_CPUS, RK_ITEM_DEV,
        RK_ITEM_DEVICE, RK_ITEM_IO_READ, RK_ITEM_IO_WRITE, RK_ITEM_VOLATILE, RK_ITEM_COUNT,

        RK_LOSS_DIED, RK_LOSS_SILENT, RK_LOSS_GARBAGE, RK_LOSS_VERSION, RK_LOSS_COUNT,

        /* protocol/src/step.rs */
        RK_REQUEST_ROCKER, RK_HAND_OVER, RK_KILL_GUARD, RK_CLONE_GUARD, RK_CREATE_LOOP, RK_BIND_PACKAGE,
        RK_MOUNT_PACKAGE, RK_BUILD_OVERLAY, RK_UNSHARE_USER, RK_MOUNT_OVERLAY,
        RK_AWAIT_ENTRANCE_STEP, RK_FORK_HELPER_STEP, RK_JOIN_NAMESPACES_STEP, RK_RUN_APP,
        RK_REPORT_APP_STEP, RK_REQUEST_EXEC, RK_START_PROGRAM, RK_REPORT_EXIT, RK_NO_STEP,

        /* c_client.rs */
        RK_NO_FAULT, RK_INVALID, RK_FAILED_FAULT, RK_LOST_FAULT, RK_DONE, RK_ENTRANCE, RK_APP,
        RK_FAILED, RK_LOST, RK_REFUSED, RK_NOTHING, RK_ENTERING, RK_FAILURE,
        RK_STARTED, RK_NOT_STARTED, RK_EXITED, RK_PONG, RK_OBEYED, RK_OPENED,
        RK_ROCKER, RK_LIST_END, RK_GONE,
        RK_TO_ENTER, RK_TO_ORDER, RK_TO_ATTACH, RK_TO_KILL, RK_TO_LIST, RK_SECCOMP_DEFAULT, RK_SECCOMP_UNCONFINED,
        RK_SECCOMP_LOG, RK_SECCOMP_FILTER,

        /* client-rs/src/machine.rs, helper.rs */
        RK_CONNECT, RK_SEND_REQUEST, RK_AWAIT_ENTRANCE, RK_FORK_HELPER, RK_AWAIT_APP,
        RK_REPORT_APP, RK_GREET, RK_ENDED, RK_STATE_COUNT, RK_DROP_GROUPS, RK_JOIN_NAMESPACES, RK_TAKE_IDS,
        RK_DROP_PRIVILEGES, RK_ENTER_DIRECTORY, RK_START_APP, RK_HELPER_ENDED,
        RK_HELPER_STATE_COUNT,

        RK_TELL, RK_KEEP, RK_FORGET, RK_DENY, RK_NO_ORDER, RK_ASKED, RK_RUNS, RK_OVER,
        ROCKER_EVENT_lost, ROCKER_EVENT_started, ROCKER_EVENT_failed, ROCKER_EVENT_ended,
        ROCKER_EVENT_pong, ROCKER_EVENT_done, ROCKER_EVENT_opened, RK_PROGRAM, RK_FILES, RK_DELETE,
        RK_SYMLINK, RK_CONFIGURE, RK_RESET,

        /* protocol/src/program.rs */
        ROCKER_VERDICT_normal, ROCKER_VERDICT_time_limit_exceeded,
        ROCKER_VERDICT_memory_limit_exceeded, ROCKER_VERDICT_output_limit_exceeded,
        ROCKER_VERDICT_disallowed_syscall, ROCKER_VERDICT_signalled,
        ROCKER_VERDICT_nonzero_exit_status, ROCKER_VERDICT_runner_error,
        ROCKER_VERDICT_out_of_memory, ROCKER_VERDICT_cancelled,

        /* protocol/src/limits.rs, wire.rs */
        RK_NAME_LEN, RK_PATH_MAX, RK_OVERLAY_DIRS_MAX, RK_TIMEOUT_MS_DEFAULT, RK_TIMEOUT_MS_MAX,
        RK_MESSAGE_MAX, RK_COMMAND_MAX, RK_FILTER_MAX, RK_WIRE_VERSION, RK_PROGRAMS_MAX,
        RK_RLIMITS_MAX, ROCKER_FILES_MAX, RK_INSTRUCTIONS_MAX, RK_INSTRUCTION,
        RK_HOST_NAME_MAX,

        /* protocol/src/files.rs */
        ROCKER_FILE_READ, ROCKER_FILE_WRITE, ROCKER_FILE_CREATE, ROCKER_FILE_EXCLUSIVE,
        ROCKER_FILE_TRUNCATE, ROCKER_FILE_APPEND, ROCKER_FILE_DIRECTORY, ROCKER_FILE_NO_FOLLOW,
        ROCKER_FILE_NON_BLOCKING, ROCKER_FILE_ANY_KIND,

        ROCKER_PLACE_bind, ROCKER_PLACE_bind_ro, ROCKER_PLACE_tmpfs, ROCKER_PLACE_overlay,
        ROCKER_PLACE_proc, ROCKER_PLACE_dev, ROCKER_PLACE_link, ROCKER_PLACE_mask,
    };

    return n < sizeof(list) / sizeof(*list) ? list[n] : SIZE_MAX;
}
