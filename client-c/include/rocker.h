/*
 * librocker_client: starts an App in a rocker, as a child of the calling process.
 *
 *     RockerRequest req = ROCKER_request_new();
 *     req.uid = req.gid = 1000;
 *     req.app_pkg_path = "/apps/hello.sqfs";
 *     RockerResult res = ROCKER_enter_rocker(&req, run_my_app, my_args);
 *     if (ROCKER_ERR_success == res.err_no) waitpid(res.app_pid, &status, 0);
 *
 * Or a program instead of a function, with pidfds and words:       ROCKER_spawn()
 * Or from a poll loop, without ever waiting:                       ROCKER_launch_begin()
 *
 * The library keeps no state between calls, allocates no memory, prints nothing, installs no
 * signal handler and leaves no descriptor open but those that it returns. All functions may be
 * called by any number of threads at once, on objects of their own. Every descriptor that it
 * makes is close-on-exec. Link with -lrocker_client.
 *
 * The calling process needs CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID to enter a rocker, and the
 * master's permission to ask for one. An App has none of the caller's privileges.
 */
#ifndef ROCKER_H
#define ROCKER_H

#include <stddef.h>
#include <stdint.h>

#include "rocker_err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ROCKER_API __attribute__((visibility("default")))

/* What every documented function returns: data, not a pointer. */
typedef struct {
    /* Self-descriptive error number. */
    ROCKER_ERR err_no;
    /* The App: a child of the caller, who waits for it. 0 without one. */
    int app_pid;
    /* The guard: PID 1 inside, this outside. Kill it and everything in the rocker is gone. */
    int guard_pid;
    /* The guard's name: random, unique, ended by NUL. Compare it before you kill by pid. */
    char guard_pname[16];
} RockerResult;

/* What to start, and where. -1 and NULL mean "not set". */
typedef struct {
    /* The caller's own number for the App, which ROCKER only shows. Not set: 0. */
    int app_id;
    /* The App's user; never root. Not set: the caller's. */
    int uid;
    /* The App's only group; never root's. Not set: the caller's. */
    int gid;

    /* The squashfs package. Required. This and all other paths are absolute, at most 4095
     * bytes long, without ".." and control characters. */
    char *app_pkg_path;
    /* Where it is mounted, as the App sees it. Not set: /run/rocker/app. */
    char *app_exec_dir;
    /* Where the overlays keep what the App writes; it exists already. Not set: nowhere, so
     * that nothing can be overlaid. */
    char *app_data_dir;
    /* Directories that the App sees as its own to write to. Not set: one less. */
    char *app_overlay_dirs[16];
} RockerRequest;

/* A request in which nothing is set. */
ROCKER_API RockerRequest ROCKER_request_new(void);

/*
 * Starts a rocker and calls `app` in it, in a new process that is the caller's child; what it
 * returns becomes that process's exit status. Returns when the App runs, or cannot.
 *
 * The App begins as a copy of the calling process, as after fork(2), with the ids of the
 * request, without privileges, in the exec dir, in a session of its own, with default signals
 * and the descriptors 0 to 2 alone. It ends by _exit(2): what it leaves in a stdio buffer is
 * lost, and what the caller has left in one is there twice; fflush(3) on both sides.
 *
 * In a process with several threads `app` may call async-signal-safe functions only
 * (signal-safety(7)), execve(2) among them, and no function of this library: another thread may
 * have held a lock, of malloc for example, when the copy was made. With one thread it may do
 * anything but return to a frame of the caller's (longjmp, exceptions). pthread_atfork handlers
 * do not run. All of the caller's memory, secrets too, is there for `app` to read; to run code
 * that is not trusted, use ROCKER_spawn().
 */
ROCKER_API RockerResult ROCKER_enter_rocker(RockerRequest *req, int (*app)(void *),
                                            void *app_args);

/*
 * What the kernel calls the process `pid`, in `guard_pname`, and `pid` in `guard_pid`; from
 * /proc/<pid>/stat. ROCKER_kill_guard() does this and the kill without a race.
 */
ROCKER_API RockerResult ROCKER_get_guardname(int pid);

/* --- Beyond the documented API. -------------------------------------------------------------- */

/* Of the structs with a `size` more fields may follow: make them with their _new(). */

/* How to launch. */
typedef struct {
    size_t size;
    /* Where the master listens. NULL: /run/rocker/master.sock. */
    const char *socket_path;
    /* A connection to a master that there is already, a SOCK_SEQPACKET socket on which nothing
     * has been said; the launch owns it from now on, and closes it. -1: connect. */
    int connection;
    /* The launch as a whole takes at most so long: 1 ms to 1 hour. -1: 5000. */
    int timeout_ms;
    /* Not 0: overlay every directory in / but /proc, /sys, /dev and /run, instead of
     * app_overlay_dirs. */
    int overlay_all;
    /* ROCKER_UNCONFINED and ROCKER_USER_NAMESPACES, which the master's policy must allow. */
    unsigned long flags;
} RockerOptions;

/* The App may make any system call: it gets no filter. */
#define ROCKER_UNCONFINED 1ul
/* The App may make user namespaces of its own. */
#define ROCKER_USER_NAMESPACES 2ul

/* Nothing set. */
static inline RockerOptions ROCKER_options_new(void)
{
    RockerOptions options = { sizeof(RockerOptions), NULL, -1, -1, 0, 0 };
    return options;
}

/* For RockerProgram.stdio: the caller's own, or /dev/null. */
#define ROCKER_STDIO_INHERIT (-1)
#define ROCKER_STDIO_NULL (-2)

/*
 * A program to execute. Nothing is handed down that is not named here: the environment is empty
 * but for `envp`, the descriptors are 0 to 2 and `fds`, signals are as at boot.
 */
typedef struct {
    size_t size;
    /* A name without a slash is looked up in the PATH of `envp`, else in /bin:/usr/bin, inside
     * the rocker; a relative path begins at the working directory. Required. */
    const char *path;
    /* Ended by NULL, its own name first. NULL: only the name. */
    char *const *argv;
    /* Ended by NULL. NULL: empty. */
    char *const *envp;
    /* The working directory, as seen inside: absolute, or below the exec dir. NULL: the exec
     * dir. */
    const char *cwd;
    /* Where 0, 1 and 2 lead: a descriptor, or one of the above. */
    int stdio[3];
    /* So many descriptors more, which the program finds as 3, 4, ... */
    unsigned fds_count;
    const int *fds;
    /* Not 0: stays in the caller's session. It can then push characters into the caller's
     * terminal, where the kernel still allows that (TIOCSTI). */
    int keep_session;
} RockerProgram;

/* Most of `fds`. */
#define ROCKER_FDS_MAX 64

/* Nothing set; all three of stdio are the caller's. */
static inline RockerProgram ROCKER_program_new(const char *path)
{
    RockerProgram program = { sizeof(RockerProgram), path, NULL, NULL, NULL,
                              { -1, -1, -1 },        0,    NULL, 0 };
    return program;
}

/* A living rocker. Its descriptors are the caller's to close: ROCKER_close(). */
typedef struct {
    /* As in RockerResult. */
    int app_pid;
    int guard_pid;
    char guard_pname[16];
    /* A pidfd of the App: readable when it has ended. */
    int app_pidfd;
    /* A pidfd of the guard: readable when all of the rocker is gone, which is not before the
     * caller has waited for the App. */
    int guard_pidfd;
} Rocker;

/* Why it failed, for programs; ROCKER_strerror() has the words. */
typedef struct {
    /* As in RockerResult. */
    ROCKER_ERR err_no;
    /* The arrow in the diagrams: the diagram (root 0, prepare 1, overlay 2, enter 3) in the
     * high four bits, the number in the low four. prepare.3 is 0x13. */
    int step;
    /* The kernel's answer at that step; 0 if it was not the kernel. */
    int os_errno;
    /* Not 0 if it was not the program's start but its execution that failed. */
    int at_exec;
    /* For ROCKER_strerror(). */
    int fault;
    int rule;
    int item;
    int index;
    int loss;
    /* The path or value that breaks a rule. */
    char subject[520];
    /* The shell command that would fail the same way. */
    char command[520];
} RockerError;

/* Room for any line of ROCKER_strerror() but those with the longest paths. */
#define ROCKER_STRERROR_MAX 1024

/*
 * Writes one line that names step, path and reason, ended by NUL, cut if `size` is too small:
 * "cannot mount the package (prepare.3): mount -t squashfs /dev/loop8 /app: Invalid argument".
 * Returns the length of the whole line, as snprintf(3) does.
 */
ROCKER_API size_t ROCKER_strerror(const RockerError *error, char *line, size_t size);

/* The documented name of a code without its prefix, "success" for 0; never NULL. */
ROCKER_API const char *ROCKER_err_name(ROCKER_ERR code);

/*
 * As ROCKER_enter_rocker(), with pidfds and words. `options` and `error` may be NULL.
 * On failure nothing is left, and `rocker` has no pids and no descriptors.
 */
ROCKER_API ROCKER_ERR ROCKER_enter(const RockerRequest *req, const RockerOptions *options,
                                   int (*app)(void *), void *app_args, Rocker *rocker,
                                   RockerError *error);

/*
 * Executes a program in a new rocker, as the caller's child. It costs the same however large
 * the caller is, and any number of threads may do it.
 */
ROCKER_API ROCKER_ERR ROCKER_spawn(const RockerRequest *req, const RockerOptions *options,
                                   const RockerProgram *program, Rocker *rocker,
                                   RockerError *error);

/* root.10: kills the guard, and with it every process in the rocker. 0, or an errno; that it
 * has ended already is none. */
ROCKER_API int ROCKER_kill(const Rocker *rocker);

/* root.8: sends the App a signal. 0, or an errno; that it has ended already is none. */
ROCKER_API int ROCKER_signal_app(const Rocker *rocker, int signal);

/* root.10 for a caller that kept pid and name only: kills the process `guard_pid` if it has
 * this name, and no later process of that pid. 0, or an errno: ESRCH if there is no such guard. */
ROCKER_API int ROCKER_kill_guard(int guard_pid, const char *guard_pname);

/* Closes both pidfds. The rocker lives on. */
ROCKER_API void ROCKER_close(Rocker *rocker);

/* --- A launch in the caller's own poll loop. ------------------------------------------------- */

/*
 *     RockerLaunch launch;
 *     ROCKER_launch_begin(&launch, &req, NULL, &program);
 *     while (!ROCKER_launch_go_on(&launch)) {
 *         struct pollfd wait = { ROCKER_launch_fd(&launch), POLLIN, 0 };
 *         poll(&wait, 1, ROCKER_launch_wait_ms(&launch));
 *     }
 *     ROCKER_launch_end(&launch, &rocker, &error);
 *
 * Request, options, program and all they point to stay as they are until the launch has ended.
 */

/* A launch under way: memory of the caller's, not to be moved or copied. */
typedef struct {
    uint64_t opaque[256];
} RockerLaunch;

/* Begins the launch of a program; does not wait. Every launch that was begun is to be ended. */
ROCKER_API void ROCKER_launch_begin(RockerLaunch *launch, const RockerRequest *req,
                                    const RockerOptions *options, const RockerProgram *program);

/* The same for a function, as ROCKER_enter_rocker() calls it. */
ROCKER_API void ROCKER_launch_begin_enter(RockerLaunch *launch, const RockerRequest *req,
                                          const RockerOptions *options, int (*app)(void *),
                                          void *app_args);

/* Does what can be done without waiting. 1 when the launch is over, 0 when it has to wait. */
ROCKER_API int ROCKER_launch_go_on(RockerLaunch *launch);

/* What to wait for, for reading; -1 for nothing but the time. It may be another one after each
 * ROCKER_launch_go_on(). */
ROCKER_API int ROCKER_launch_fd(const RockerLaunch *launch);

/* After how many milliseconds to go on even if nothing can be read; for poll(2). */
ROCKER_API int ROCKER_launch_wait_ms(const RockerLaunch *launch);

/* The result, as of ROCKER_spawn(); a launch that is not over is given up. */
ROCKER_API ROCKER_ERR ROCKER_launch_end(RockerLaunch *launch, Rocker *rocker,
                                        RockerError *error);

/* --- Versions. ------------------------------------------------------------------------------- */

#define ROCKER_VERSION "0.1.0"

/* Of the library that is linked, as ROCKER_VERSION is of this header. */
ROCKER_API const char *ROCKER_version(void);

/* Of the protocol; client and master must have the same. */
ROCKER_API int ROCKER_wire_version(void);

#ifdef __cplusplus
}
#endif

#endif
