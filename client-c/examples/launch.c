/*
 * The least of an AppMaster: one App, from its start until everything of it is gone.
 *
 *     launch SOCKET PACKAGE EXEC_DIR DATA_DIR UID PROGRAM [OVERLAID_DIR]...
 *
 * Ends with the App's exit status; with 128 and its signal, if one has ended it; with 125 and a
 * line, if there is no rocker.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <rocker.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

int main(int argc, char **argv)
{
    RockerRequest req = ROCKER_request_new();
    const int dirs_max = (int)(sizeof(req.app_overlay_dirs) / sizeof(*req.app_overlay_dirs));
    if (argc < 7 || argc - 7 > dirs_max) {
        fprintf(stderr, "usage: %s SOCKET PACKAGE EXEC_DIR DATA_DIR UID PROGRAM [DIR]...\n",
                argv[0]);
        return 125;
    }
    RockerOptions options = ROCKER_options_new();
    options.socket_path = argv[1];
    req.app_pkg_path = argv[2];
    req.app_exec_dir = argv[3];
    req.app_data_dir = argv[4];
    req.uid = req.gid = atoi(argv[5]);
    for (int i = 7; i < argc; i++) {
        req.app_overlay_dirs[i - 7] = argv[i];
    }

    RockerProgram program = ROCKER_program_new(argv[6]);
    Rocker rocker;
    RockerError error;
    if (ROCKER_ERR_success != ROCKER_spawn(&req, &options, &program, &rocker, &error)) {
        char line[ROCKER_STRERROR_MAX];
        ROCKER_strerror(&error, line, sizeof(line));
        fprintf(stderr, "launch: %s\n", line);
        return 125;
    }

    int status = 0;
    waitpid(rocker.app_pid, &status, 0);
    /* Its guard ends when nothing runs in the rocker any more. */
    struct pollfd gone = { rocker.guard_pidfd, POLLIN, 0 };
    poll(&gone, 1, -1);
    ROCKER_close(&rocker);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
