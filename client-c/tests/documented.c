/*
 * An AppMaster that knows the documented API and no more; it is C, and C++ as well. Nothing of
 * it starts: its request names no package.
 */
#define _POSIX_C_SOURCE 200809L
#include <rocker.h>
#include <rocker_err.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int start_my_APP(void *args)
{
    return args != NULL;
}

int main(void)
{
    char exec_dir[] = "/var/your_APP/execdir";
    char data_dir[] = "/var/your_APP/datadir";
    char usr[] = "/usr";

    RockerRequest req = ROCKER_request_new();
    req.app_id = 1000;
    req.uid = 1000;
    req.gid = 1000;
    req.app_exec_dir = exec_dir;
    req.app_data_dir = data_dir;
    req.app_overlay_dirs[0] = usr;

    RockerResult res = ROCKER_enter_rocker(&req, start_my_APP, NULL);
    if (ROCKER_ERR_success == res.err_no) {
        kill(res.guard_pid, SIGKILL);
        return 1;
    }
    RockerResult res2 = ROCKER_get_guardname((int)getpid());
    switch (res.err_no) {
    case ROCKER_ERR_param_invalid:
        break;
    case ROCKER_ERR_unknown:
    case ROCKER_ERR_success:
    case ROCKER_ERR_sys:
    case ROCKER_ERR_server_unaddr_invalid:
    case ROCKER_ERR_gen_local_addr_failed:
    case ROCKER_ERR_send_req_failed:
    case ROCKER_ERR_recv_resp_failed:
    case ROCKER_ERR_build_rocker_failed:
    case ROCKER_ERR_enter_rocker_failed:
    case ROCKER_ERR_app_exec_failed:
    case ROCKER_ERR_get_guardname_failed:
        return 1;
    }
    printf("%d %d %d %s\n", (int)res2.err_no, res.app_pid, (int)strlen(res.guard_pname),
           res2.guard_pname);
    return ROCKER_ERR_success == res2.err_no ? 0 : 1;
}
