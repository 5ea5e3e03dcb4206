/*
 * What can be asked of the master beside a launch: who lives, and root.10 by name. A question is a
 * launch of which no rocker comes.
 */
#include "linux.h"

static struct rk_launch *in(RockerLaunch *launch)
{
    return (struct rk_launch *)(void *)launch->opaque;
}

static ROCKER_ERR ask(struct rk_launch *launch, RockerError *error)
{
    while (!rk_go_on(launch)) {
        rk_wait(launch);
    }
    return rk_settle(launch, RK_TO_LIST, error);
}

static void begin_list(struct rk_launch *launch, rk_each *each, void *data,
                       const RockerOptions *options)
{
    rk_begin_question(launch, RK_TO_LIST, NULL, options);
    launch->each = each;
    launch->each_data = data;
}

ROCKER_ERR ROCKER_list(void (*each)(void *, const RockerInfo *), void *data,
                       const RockerOptions *options, RockerError *error)
{
    struct rk_launch launch;

    begin_list(&launch, each, data, options);
    return ask(&launch, error);
}

void ROCKER_launch_begin_list(RockerLaunch *launch, void (*each)(void *, const RockerInfo *),
                              void *data, const RockerOptions *options)
{
    begin_list(in(launch), each, data, options);
}

ROCKER_ERR ROCKER_kill_named(const char *guard_pname, const RockerOptions *options,
                             RockerError *error)
{
    struct rk_launch launch;

    rk_begin_question(&launch, RK_TO_KILL, guard_pname, options);
    return ask(&launch, error);
}

void ROCKER_launch_begin_kill(RockerLaunch *launch, const char *guard_pname,
                              const RockerOptions *options)
{
    rk_begin_question(in(launch), RK_TO_KILL, guard_pname, options);
}

ROCKER_ERR ROCKER_launch_end_question(RockerLaunch *launch, RockerError *error)
{
    return rk_settle(in(launch), RK_TO_LIST, error);
}
