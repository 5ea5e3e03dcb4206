/*
 * The documented example: starts an App, waits until somebody presses enter, and cleans up.
 *
 *     cc -Iclient-c/include client-c/examples/sample.c target/client-c/librocker_client.a
 */
#define _POSIX_C_SOURCE 200809L
#include <rocker.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Defined by the caller: what runs in the rocker, as the caller's child. */
static int start_your_APP(void *args)
{
    printf("%s runs as user %d\n", (const char *)args, (int)getuid());
    fflush(stdout);
    pause();
    return 0;
}

int main(void)
{
    char your_args[] = "your APP";
    sigset_t children;
    int signal;
    int status;

    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_BLOCK, &children, NULL);

    /* An empty request, and what is asked for. */
    RockerRequest req = ROCKER_request_new();
    req.app_id = 1000;
    req.uid = 1000;
    req.gid = 1000;
    req.app_pkg_path = "/tmp/your_APP.squashfs";
    req.app_exec_dir = "/var/your_APP/execdir";
    req.app_data_dir = "/var/your_APP/datadir";
    char *dirs[] = { "/usr", "/var", "/etc", "/home", "/root" };
    memcpy(req.app_overlay_dirs, dirs, sizeof(dirs));

    /* The App runs in its rocker when this returns. */
    RockerResult res = ROCKER_enter_rocker(&req, start_your_APP, your_args);
    if (ROCKER_ERR_success != res.err_no) {
        fprintf(stderr, "no rocker: %s\n", ROCKER_err_name(res.err_no));
        return 1;
    }
    printf("App %d, guard %d called %s\n", res.app_pid, res.guard_pid, res.guard_pname);
    fflush(stdout);
    getchar();

    /* The guard is known by its name: what has its pid today may be another process. */
    RockerResult res2 = ROCKER_get_guardname(res.guard_pid);
    if (ROCKER_ERR_success == res2.err_no && 0 == strcmp(res.guard_pname, res2.guard_pname)) {
        printf("pid %d is %s still\n", res2.guard_pid, res2.guard_pname);
        kill(res.guard_pid, SIGKILL);
    }

    /* Several children that end are one signal: what counts is what waitpid says. */
    do {
        sigwait(&children, &signal);
    } while (waitpid(res.app_pid, &status, WNOHANG) == 0);
    printf("App %d was ended by signal %d\n", res.app_pid, WTERMSIG(status));
    return 0;
}
