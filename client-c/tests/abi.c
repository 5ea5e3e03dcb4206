/*
 * What a compiled AppMaster relies on: sizes, places and values. Most of it is checked by the
 * compiler, also with -m32 and without a C library (-ffreestanding).
 */
#include "rocker.h"

#define WORD sizeof(void *)
#define AT(type, member, place) \
    _Static_assert(offsetof(type, member) == (place), #type "." #member)
#define SIZE(type, wide, narrow) \
    _Static_assert(sizeof(type) == (WORD == 8 ? (wide) : (narrow)), "size of " #type)
/* The same by how numbers of 64 bit lie in a struct, which not all of 32 bit do alike. */
#define LONG _Alignof(struct { uint64_t number; })
#define SIZE_BY_LONG(type, wide, narrow) \
    _Static_assert(sizeof(type) == (LONG == 8 ? (wide) : (narrow)), "size of " #type)

/* As documented, with nothing before, between or after. */
SIZE(RockerResult, 28, 28);
AT(RockerResult, err_no, 0);
AT(RockerResult, app_pid, 4);
AT(RockerResult, guard_pid, 8);
AT(RockerResult, guard_pname, 12);
_Static_assert(sizeof(((RockerResult *)0)->guard_pname) == 16, "a name and its NUL");

SIZE(RockerRequest, 168, 88);
AT(RockerRequest, app_id, 0);
AT(RockerRequest, uid, 4);
AT(RockerRequest, gid, 8);
AT(RockerRequest, app_pkg_path, WORD == 8 ? 16 : 12);
AT(RockerRequest, app_exec_dir, WORD == 8 ? 24 : 16);
AT(RockerRequest, app_data_dir, WORD == 8 ? 32 : 20);
AT(RockerRequest, app_overlay_dirs, WORD == 8 ? 40 : 24);

/* More fields may follow in these, and then their sizes tell. */
SIZE(RockerOptions, 80, 48);
AT(RockerOptions, socket_path, WORD);
AT(RockerOptions, connection, 2 * WORD);
AT(RockerOptions, timeout_ms, 2 * WORD + 4);
AT(RockerOptions, overlay_all, 2 * WORD + 8);
/* Where it ended before: sizes tell. */
AT(RockerOptions, flags, WORD == 8 ? 32 : 20);
AT(RockerOptions, limits, WORD == 8 ? 40 : 24);
AT(RockerOptions, filter, WORD == 8 ? 48 : 28);
AT(RockerOptions, filter_count, WORD == 8 ? 56 : 32);
AT(RockerOptions, inside_uid, WORD == 8 ? 60 : 36);
AT(RockerOptions, inside_gid, WORD == 8 ? 64 : 40);
AT(RockerOptions, devices, WORD == 8 ? 72 : 44);

SIZE(RockerLimits, 64, 56);
AT(RockerLimits, cpus, WORD);
AT(RockerLimits, cpu_millis, 2 * WORD);
AT(RockerLimits, cpu_weight, 2 * WORD + 4);
AT(RockerLimits, pids, 2 * WORD + 8);
AT(RockerLimits, has_swap, 2 * WORD + 12);
AT(RockerLimits, swap, 2 * WORD + 16);
AT(RockerLimits, memory, 2 * WORD + 24);
AT(RockerLimits, io_read, 2 * WORD + 32);
AT(RockerLimits, io_write, 2 * WORD + 40);

SIZE(RockerProgram, 72, 48);
AT(RockerProgram, path, WORD);
AT(RockerProgram, argv, 2 * WORD);
AT(RockerProgram, envp, 3 * WORD);
AT(RockerProgram, cwd, 4 * WORD);
AT(RockerProgram, stdio, 5 * WORD);
AT(RockerProgram, fds_count, 5 * WORD + 12);
AT(RockerProgram, fds, 5 * WORD + 16);
AT(RockerProgram, keep_session, 6 * WORD + 16);
AT(RockerProgram, terminal, 6 * WORD + 20);

SIZE(Rocker, 32, 32);
AT(Rocker, app_pid, 0);
AT(Rocker, guard_pid, 4);
AT(Rocker, guard_pname, 8);
AT(Rocker, app_pidfd, 24);
AT(Rocker, guard_pidfd, 28);

SIZE_BY_LONG(RockerInfo, 48, 40);
AT(RockerInfo, guard_pname, 0);
AT(RockerInfo, guard_pid, 16);
AT(RockerInfo, app_id, 20);
AT(RockerInfo, uid, 24);
AT(RockerInfo, age_ms, LONG == 8 ? 32 : 28);
AT(RockerInfo, package, LONG == 8 ? 40 : 36);

SIZE(RockerError, 1080, 1080);
AT(RockerError, err_no, 0);
AT(RockerError, step, 4);
AT(RockerError, os_errno, 8);
AT(RockerError, at_exec, 12);
AT(RockerError, fault, 16);
AT(RockerError, rule, 20);
AT(RockerError, item, 24);
AT(RockerError, index, 28);
AT(RockerError, loss, 32);
AT(RockerError, order, 36);
AT(RockerError, subject, 40);
AT(RockerError, command, 560);

SIZE(RockerLaunch, 2304, 2304);

SIZE_BY_LONG(RockerOpen, 11296, 11292);
AT(RockerOpen, guard_pid, 0);
AT(RockerOpen, guard_pname, 4);
AT(RockerOpen, guard_pidfd, 20);
AT(RockerOpen, connection, 24);
AT(RockerOpen, opaque, LONG == 8 ? 32 : 28);

SIZE_BY_LONG(RockerRlimit, 24, 20);
AT(RockerRlimit, resource, 0);
AT(RockerRlimit, soft, LONG == 8 ? 8 : 4);
AT(RockerRlimit, hard, LONG == 8 ? 16 : 12);

SIZE(RockerExec, 80, 48);
AT(RockerExec, data, WORD);
AT(RockerExec, wall_ms, 2 * WORD);
AT(RockerExec, grace_ms, 2 * WORD + 4);
AT(RockerExec, rlimits_count, 2 * WORD + 8);
AT(RockerExec, rlimits, WORD == 8 ? 32 : 20);
AT(RockerExec, program_fd, WORD == 8 ? 40 : 24);
AT(RockerExec, sync, WORD == 8 ? 44 : 28);
AT(RockerExec, filter_count, WORD == 8 ? 48 : 32);
AT(RockerExec, filter, WORD == 8 ? 56 : 36);
AT(RockerExec, cgroups_count, WORD == 8 ? 64 : 40);
AT(RockerExec, cgroups, WORD == 8 ? 72 : 44);

SIZE(RockerUsage, 56, 56);
AT(RockerUsage, memory, 0);
AT(RockerUsage, memory_peak, 8);
AT(RockerUsage, pids, 16);
AT(RockerUsage, pids_peak, 24);
AT(RockerUsage, cpu_us, 32);
AT(RockerUsage, read, 40);
AT(RockerUsage, written, 48);

SIZE(RockerReport, 104, 104);
AT(RockerReport, status, 0);
AT(RockerReport, signal, 4);
AT(RockerReport, verdict, 8);
AT(RockerReport, syscall, 12);
AT(RockerReport, user_us, 16);
AT(RockerReport, system_us, 24);
AT(RockerReport, wall_us, 32);
AT(RockerReport, peak_kib, 40);
AT(RockerReport, usage, 48);

SIZE_BY_LONG(RockerEvent, 1280, 1272);
AT(RockerEvent, kind, 0);
AT(RockerEvent, id, 4);
AT(RockerEvent, data, 8);
AT(RockerEvent, pid, 8 + WORD);
AT(RockerEvent, pidfd, 12 + WORD);
AT(RockerEvent, report, LONG == 8 ? 24 : 20);
AT(RockerEvent, error, LONG == 8 ? 128 : 124);
AT(RockerEvent, files_count, LONG == 8 ? 1208 : 1204);
AT(RockerEvent, files, LONG == 8 ? 1212 : 1208);

SIZE(RockerFile, 16, 12);
AT(RockerFile, path, 0);
AT(RockerFile, how, WORD);
AT(RockerFile, mode, WORD + 4);

SIZE(RockerPlace, 32, 24);
AT(RockerPlace, kind, 0);
AT(RockerPlace, mode, 4);
AT(RockerPlace, source, 8);
AT(RockerPlace, target, 8 + WORD);
AT(RockerPlace, bytes, 8 + 2 * WORD);

SIZE(RockerConf, 80, 48);
AT(RockerConf, root, WORD);
AT(RockerConf, empty_root, 2 * WORD);
AT(RockerConf, places, 2 * WORD + 8);
AT(RockerConf, places_count, 3 * WORD + 8);
AT(RockerConf, unshare_cgroup, 3 * WORD + 12);
AT(RockerConf, work_dir, 3 * WORD + 16);
AT(RockerConf, host_name, 4 * WORD + 16);
AT(RockerConf, domain_name, 5 * WORD + 16);
AT(RockerConf, init, 6 * WORD + 16);
AT(RockerConf, init_ms, 7 * WORD + 16);

#define CODE(name, value) \
    _Static_assert(ROCKER_ERR_##name == (value), "ROCKER_ERR_" #name)
CODE(unknown, -1);
CODE(success, 0);
CODE(sys, 1);
CODE(param_invalid, 2);
CODE(server_unaddr_invalid, 3);
CODE(gen_local_addr_failed, 4);
CODE(send_req_failed, 5);
CODE(recv_resp_failed, 6);
CODE(build_rocker_failed, 7);
CODE(enter_rocker_failed, 8);
CODE(app_exec_failed, 9);
CODE(get_guardname_failed, 10);
_Static_assert(sizeof(ROCKER_ERR) == sizeof(int), "it is returned as one");

_Static_assert(ROCKER_EVENT_lost == 0 && ROCKER_EVENT_started == 1 && ROCKER_EVENT_failed == 2
                   && ROCKER_EVENT_ended == 3 && ROCKER_EVENT_pong == 4
                   && ROCKER_EVENT_done == 5 && ROCKER_EVENT_opened == 6,
               "they are compiled into AppMasters");
_Static_assert(ROCKER_VERDICT_normal == 0 && ROCKER_VERDICT_time_limit_exceeded == 1
                   && ROCKER_VERDICT_memory_limit_exceeded == 2
                   && ROCKER_VERDICT_output_limit_exceeded == 3
                   && ROCKER_VERDICT_disallowed_syscall == 4 && ROCKER_VERDICT_signalled == 5
                   && ROCKER_VERDICT_nonzero_exit_status == 6 && ROCKER_VERDICT_runner_error == 7
                   && ROCKER_VERDICT_out_of_memory == 8 && ROCKER_VERDICT_cancelled == 9,
               "they are compiled into AppMasters");

_Static_assert(ROCKER_PLACE_bind == 0 && ROCKER_PLACE_bind_ro == 1 && ROCKER_PLACE_tmpfs == 2
                   && ROCKER_PLACE_overlay == 3 && ROCKER_PLACE_proc == 4
                   && ROCKER_PLACE_dev == 5 && ROCKER_PLACE_link == 6 && ROCKER_PLACE_mask == 7,
               "they are compiled into AppMasters");

/* Each is a macro, too, so that the preprocessor can ask for it. */
#if !defined ROCKER_ERR_unknown || !defined ROCKER_ERR_success || !defined ROCKER_ERR_sys \
    || !defined ROCKER_ERR_param_invalid || !defined ROCKER_ERR_server_unaddr_invalid \
    || !defined ROCKER_ERR_gen_local_addr_failed || !defined ROCKER_ERR_send_req_failed \
    || !defined ROCKER_ERR_recv_resp_failed || !defined ROCKER_ERR_build_rocker_failed \
    || !defined ROCKER_ERR_enter_rocker_failed || !defined ROCKER_ERR_app_exec_failed \
    || !defined ROCKER_ERR_get_guardname_failed
#error "a documented name is no macro"
#endif

_Static_assert(ROCKER_STDIO_INHERIT == -1 && ROCKER_STDIO_NULL == -2 && ROCKER_FDS_MAX == 64
                   && ROCKER_EXEC_FDS_MAX == 16 && ROCKER_FILES_MAX == 16,
               "they are compiled into AppMasters");

/* The documented prototypes, and those of today. */
_Static_assert(_Generic(&ROCKER_enter_rocker,
                        RockerResult (*)(RockerRequest *, int (*)(void *), void *): 1)
                   && _Generic(&ROCKER_get_guardname, RockerResult (*)(int): 1)
                   && _Generic(&ROCKER_request_new, RockerRequest (*)(void): 1),
               "as documented");

#if __STDC_HOSTED__

#include "tap.h"

/* With the library that is linked. */
static void test_request_new_sets_nothing(void)
{
    RockerRequest req;

    memset(&req, 0xa5, sizeof(req));
    req = ROCKER_request_new();
    CHECK_IS(req.app_id, -1);
    CHECK_IS(req.uid, -1);
    CHECK_IS(req.gid, -1);
    CHECK(req.app_pkg_path == NULL && req.app_exec_dir == NULL && req.app_data_dir == NULL);
    for (int i = 0; i < 16; i++) {
        CHECK(req.app_overlay_dirs[i] == NULL);
    }
}

static void test_options_new_sets_nothing(void)
{
    const RockerOptions options = ROCKER_options_new();

    CHECK_IS(options.size, sizeof(options));
    CHECK(options.socket_path == NULL);
    CHECK_IS(options.connection, -1);
    CHECK_IS(options.timeout_ms, -1);
    CHECK_IS(options.overlay_all, 0);
    CHECK_IS(options.flags, 0);
    CHECK(options.limits == NULL && options.filter == NULL && options.filter_count == 0);
    CHECK(options.inside_uid == -1 && options.inside_gid == -1 && options.devices == NULL);
}

static void test_program_new_sets_the_path(void)
{
    const RockerProgram program = ROCKER_program_new("x");

    CHECK_IS(program.size, sizeof(program));
    CHECK_TEXT(program.path, "x");
    CHECK(program.argv == NULL && program.envp == NULL && program.cwd == NULL);
    CHECK(program.fds_count == 0 && program.fds == NULL);
    CHECK(program.keep_session == 0 && program.terminal == 0);
    for (int i = 0; i < 3; i++) {
        CHECK_IS(program.stdio[i], ROCKER_STDIO_INHERIT);
    }
}

static void test_exec_new_sets_nothing(void)
{
    const RockerExec exec = ROCKER_exec_new();

    CHECK_IS(exec.size, sizeof(exec));
    CHECK(exec.data == NULL && exec.rlimits == NULL && exec.rlimits_count == 0);
    CHECK(exec.wall_ms == 0 && exec.grace_ms == 0 && exec.program_fd == -1);
    CHECK(exec.cgroups == NULL && exec.cgroups_count == 0);
    CHECK(exec.sync == 0 && exec.filter == NULL && exec.filter_count == 0);
}

static void test_conf_new_sets_nothing(void)
{
    const RockerConf conf = ROCKER_conf_new();

    CHECK_IS(conf.size, sizeof(conf));
    CHECK(conf.root == NULL && conf.empty_root == 0);
    CHECK(conf.places == NULL && conf.places_count == 0 && conf.unshare_cgroup == 0);
    CHECK(conf.work_dir == NULL && conf.host_name == NULL && conf.domain_name == NULL);
    CHECK(conf.init == NULL && conf.init_ms == 0);
}

static const struct test tests[] = {
    TEST(test_request_new_sets_nothing),
    TEST(test_options_new_sets_nothing),
    TEST(test_program_new_sets_the_path),
    TEST(test_exec_new_sets_nothing),
    TEST(test_conf_new_sets_nothing),
};

TAP_MAIN(tests)

#endif
