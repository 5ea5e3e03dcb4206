/*
 * Where a launch failed, never with which errno: see ROCKER_strerror() for that.
 */
#ifndef ROCKER_ERR_H
#define ROCKER_ERR_H

/* Self-descriptive error number. */
typedef enum {
    /* A code that this library does not know. */
    ROCKER_ERR_unknown = -1,
#define ROCKER_ERR_unknown ROCKER_ERR_unknown
    ROCKER_ERR_success = 0,
#define ROCKER_ERR_success ROCKER_ERR_success
    /* The kernel refused something of the library's own, before root.1: /dev/null could not be
     * opened. */
    ROCKER_ERR_sys,
#define ROCKER_ERR_sys ROCKER_ERR_sys
    /* The request breaks a rule, or the master's policy does not allow it. */
    ROCKER_ERR_param_invalid,
#define ROCKER_ERR_param_invalid ROCKER_ERR_param_invalid
    /* The path of the master's socket is no path for a socket: empty, or too long. */
    ROCKER_ERR_server_unaddr_invalid,
#define ROCKER_ERR_server_unaddr_invalid ROCKER_ERR_server_unaddr_invalid
    /* No socket of our own could be made. */
    ROCKER_ERR_gen_local_addr_failed,
#define ROCKER_ERR_gen_local_addr_failed ROCKER_ERR_gen_local_addr_failed
    /* root.1: the master could not be reached, or the request not be sent. */
    ROCKER_ERR_send_req_failed,
#define ROCKER_ERR_send_req_failed ROCKER_ERR_send_req_failed
    /* enter.0: no answer, or none that could be understood. */
    ROCKER_ERR_recv_resp_failed,
#define ROCKER_ERR_recv_resp_failed ROCKER_ERR_recv_resp_failed
    /* prepare.0 to prepare.9: master or guard report a failure. */
    ROCKER_ERR_build_rocker_failed,
#define ROCKER_ERR_build_rocker_failed ROCKER_ERR_build_rocker_failed
    /* enter.1, enter.2, enter.4: the rocker could not be entered. */
    ROCKER_ERR_enter_rocker_failed,
#define ROCKER_ERR_enter_rocker_failed ROCKER_ERR_enter_rocker_failed
    /* enter.3: the App could not be started. */
    ROCKER_ERR_app_exec_failed,
#define ROCKER_ERR_app_exec_failed ROCKER_ERR_app_exec_failed
    /* No process has this pid, or /proc is not there. */
    ROCKER_ERR_get_guardname_failed
#define ROCKER_ERR_get_guardname_failed ROCKER_ERR_get_guardname_failed
} ROCKER_ERR;

#endif
