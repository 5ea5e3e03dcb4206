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
 * Or many programs in one rocker, started by its guard:            ROCKER_open(), ROCKER_exec()
 * All living rockers, and the end of one:                          ROCKER_list(), ROCKER_kill_named()
 *
 * The library keeps no state between calls, allocates no memory, prints nothing, installs no
 * signal handler and leaves no descriptor open but those that it returns. All functions may be
 * called by any number of threads at once, on objects of their own. Every descriptor that it
 * makes is close-on-exec. Link with -lrocker_client.
 *
 * It asks for no trace of a launch, whose length nobody knows before: see "rocker run --trace", and
 * ROCKER_strerror() for the step that failed.
 *
 * The calling process needs the master's permission to ask for a rocker, and to enter one
 * CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID; to give orders it needs no privilege. An App has none
 * of the caller's.
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
 * and the descriptors 0 to 2 alone, on a stack of 8 MiB or the caller's. It ends by _exit(2):
 * what it leaves in a stdio buffer is lost, and what the caller has left in one is there twice;
 * fflush(3) on both sides.
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

/* What all processes of a rocker may use together. 0 and NULL: as much as there is. Each limit
 * takes a cgroup controller of the host's: a launch fails without it. */
typedef struct {
    size_t size;
    /* The processors to run on, as "0-1,3". */
    const char *cpus;
    /* Processor time, in thousandths of one processor, from 10 on. */
    uint32_t cpu_millis;
    /* Share of the processors where others want them too: 1 to 10000, others have 100. */
    uint32_t cpu_weight;
    /* Processes and threads. An App needs one more for a moment, when it starts. */
    uint32_t pids;
    /* Not 0: `swap` is a limit, also if that is 0. */
    uint32_t has_swap;
    /* Bytes of swap; it goes with a limit of memory only. */
    uint64_t swap;
    /* Bytes of memory, at least 1 MiB. */
    uint64_t memory;
    /* Bytes a second that are read from the disk of the package, and from that of the data dir if
     * it is another; at least 64 KiB. What the host has in memory is not read from there. */
    uint64_t io_read;
    /* Bytes a second that are written there; with cgroups of version 2 only. */
    uint64_t io_write;
} RockerLimits;

/* None. */
static inline RockerLimits ROCKER_limits_new(void)
{
    RockerLimits limits = { sizeof(RockerLimits), NULL, 0, 0, 0, 0, 0, 0, 0, 0 };
    return limits;
}

/* Of <linux/filter.h>. */
struct sock_filter;

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
    /* ROCKER_UNCONFINED, ROCKER_SECCOMP_LOG, ROCKER_USER_NAMESPACES and ROCKER_HOST_DEV, which the
     * master's policy must allow, ROCKER_STAYS, ROCKER_VOLATILE and ROCKER_LANDLOCK. No other. */
    unsigned long flags;
    /* What all processes in the rocker may use together. NULL: as much as there is. */
    const RockerLimits *limits;
    /* Which system calls the App may make, instead of those of the default list, if the policy
     * allows that: 1 to 4096 instructions (seccomp(2)), and no more than fit into a request of
     * 32 KiB, which allow execve(2). NULL and 0: the default. */
    const struct sock_filter *filter;
    unsigned filter_count;
    /* What the App's uid and gid are called inside a rocker that takes orders; 0 is no more than
     * any other there, for no program has a capability. -1: what they are. */
    int inside_uid;
    int inside_gid;
    /* Devices of the host's that the App finds in its own /dev, at the same paths, if the policy
     * allows that: at most 32 below /dev, or links there that lead to one, with the owner and the
     * mode that they have now. Ended by NULL. NULL: none. With ROCKER_HOST_DEV it has them all. */
    const char *const *devices;
} RockerOptions;

/* The App may make any system call: it gets no filter. */
#define ROCKER_UNCONFINED 1ul
/* The App may make user namespaces of its own. */
#define ROCKER_USER_NAMESPACES 2ul
/* A rocker that takes orders outlives the connection that gives them: it ends with the last of
 * its processes then, as one that is entered does. */
#define ROCKER_STAYS 4ul
/* The App sees the host's /dev, which the policy must allow, and not one of the rocker's own: null,
 * zero, full, random, urandom, tty, and terminals and 64 MiB of shared memory of nobody else's. */
#define ROCKER_HOST_DEV 8ul
/* What the App writes to its overlays may be lost if the machine crashes: then nobody waits for a
 * disk, neither the App in fsync(2) nor whoever waits for the rocker to be gone. After a crash, or a
 * shutdown, a launch with the same data dir is an error: what is in it may be anything. A launch
 * without this makes it durable again, in time. Takes Linux 5.10. */
#define ROCKER_VOLATILE 16ul
/* The App may make any system call; the kernel's log tells of those that are not on the default
 * list. */
#define ROCKER_SECCOMP_LOG 32ul
/* Landlock bounds each program in the rocker as a second wall (landlock(7)). Then it can write only
 * to its overlays, to what its configuration gives it to write to, to its /dev and /proc, and to
 * what it has open from the start, whatever directory of the host's it may get hold of; and it can
 * connect to no abstract socket but those of its own and its children's. Takes Linux 6.12, and
 * fails without. */
#define ROCKER_LANDLOCK 64ul

/* Nothing set. */
static inline RockerOptions ROCKER_options_new(void)
{
    RockerOptions options = { sizeof(RockerOptions), NULL, -1, -1, 0,  0,
                              NULL,                  NULL, 0,  -1, -1, NULL };
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
    /* Not 0: descriptor 0, a terminal that controls no other session, controls the program's: what
     * is typed there, such as ^C, becomes signals. Its size is the terminal's own: whoever has the
     * other end sets it (TIOCSWINSZ), and the kernel tells the program (SIGWINCH). Not with
     * keep_session. */
    int terminal;
} RockerProgram;

/* Most of `fds`. */
#define ROCKER_FDS_MAX 64

/* Nothing set; all three of stdio are the caller's. */
static inline RockerProgram ROCKER_program_new(const char *path)
{
    RockerProgram program = { sizeof(RockerProgram), path, NULL, NULL, NULL,
                              { -1, -1, -1 },        0,    NULL, 0,    0 };
    return program;
}

/*
 * A living rocker. Its descriptors are the caller's to close: ROCKER_close().
 *
 * As any child, an App can leave its parent more to wait for than itself: children of its parent's
 * (CLONE_PARENT, which the default filter refuses), and threads and children whose tracer its
 * parent is at their wish (PTRACE_TRACEME). A guard that has ended is not gone, nor an App with such
 * a thread, before somebody has waited for them. Who has Apps that it does not trust reaps as an
 * init does, at each SIGCHLD: waitpid(-1, &status, WNOHANG | __WALL) until that finds nobody, but
 * not while a launch is under way.
 */
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
    /* The arrow in the diagrams: the diagram (root 0, prepare 1, overlay 2, enter 3, exec 4) in
     * the high four bits, the number in the low four. prepare.3 is 0x13. */
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
    int order;
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

/* --- Living rockers. ------------------------------------------------------------------------- */

/* A living rocker, whoever has launched it. */
typedef struct {
    /* As in RockerResult. */
    char guard_pname[16];
    int guard_pid;
    /* The launcher's own number for the App, and the App's user. */
    uint32_t app_id;
    uint32_t uid;
    /* Milliseconds since its guard was made. */
    uint64_t age_ms;
    /* What it was made from. */
    const char *package;
} RockerInfo;

/*
 * Calls `each` for every living rocker that the master shows to this user: its own, and to root
 * all. What `info` points to is there for as long as the call. Of `options`, which may be NULL,
 * count connection, socket_path and timeout_ms. On failure `each` may have been called for some.
 */
ROCKER_API ROCKER_ERR ROCKER_list(void (*each)(void *data, const RockerInfo *info), void *data,
                                  const RockerOptions *options, RockerError *error);

/*
 * root.10: has the master kill the rocker of this name, if it lets this user: root, and whoever has
 * launched it. Returns when all of it is gone, which is not before its App's parent has waited for
 * it; after timeout_ms it fails, though the rocker may be dead. Of `options` count the same.
 */
ROCKER_API ROCKER_ERR ROCKER_kill_named(const char *guard_pname, const RockerOptions *options,
                                        RockerError *error);

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
    uint64_t opaque[288];
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

/* The same for ROCKER_list(), which calls `each` from within ROCKER_launch_go_on(), and for
 * ROCKER_kill_named(). The name stays as it is, too. */
ROCKER_API void ROCKER_launch_begin_list(RockerLaunch *launch,
                                         void (*each)(void *data, const RockerInfo *info),
                                         void *data, const RockerOptions *options);
ROCKER_API void ROCKER_launch_begin_kill(RockerLaunch *launch, const char *guard_pname,
                                         const RockerOptions *options);

/* What came of it; one that is not over is given up. */
ROCKER_API ROCKER_ERR ROCKER_launch_end_question(RockerLaunch *launch, RockerError *error);

/* --- A rocker that takes orders. ------------------------------------------------------------- */

/*
 *     RockerOpen open;
 *     RockerReport report;
 *     ROCKER_open(&req, NULL, &open, NULL);
 *     ROCKER_run(&open, &program, NULL, &report, NULL);
 *     puts(ROCKER_verdict_name(report.verdict));
 *     ROCKER_end(&open, -1);
 *
 * The rocker's guard starts the programs, as often as is wanted, and tells how each one ended.
 * They are the guard's children and not the caller's, who needs no privilege and enters nothing.
 *
 * An order is given without waiting and has a number; what comes of it are events:
 *
 *     ROCKER_exec(&open, &program, NULL, &id, NULL);
 *     struct pollfd wait = { open.connection, POLLIN, 0 };    and as many other rockers
 *     poll(&wait, 1, -1);
 *     while (ROCKER_next(&open, &event)) ...                  started, then ended; or failed
 *
 * Or ROCKER_await(), which waits for those of one order.
 */

/* An open rocker: memory of the caller's, of one thread at a time. ROCKER_end() ends it. */
typedef struct {
    /* As in RockerResult. */
    int guard_pid;
    char guard_pname[16];
    /* A pidfd of the guard: readable when all of the rocker is gone. */
    int guard_pidfd;
    /* To poll for reading: the guard has something to say. Nothing else is to be done with it. */
    int connection;
    uint64_t opaque[1408];
} RockerOpen;

/* Most descriptors of a program that a guard starts: stdio and all others. */
#define ROCKER_EXEC_FDS_MAX 16

/* A limit of setrlimit(2): RLIMIT_*, and in its unit there; UINT64_MAX is none. */
typedef struct {
    int resource;
    uint64_t soft;
    uint64_t hard;
} RockerRlimit;

/* How a guard is to run a program, beyond what RockerProgram says. */
typedef struct {
    size_t size;
    /* Comes with every event of the program; the library does not look at it. */
    void *data;
    /* It is killed, with its process group, after so many milliseconds. 0: never. */
    unsigned wall_ms;
    /* At that time it gets SIGTERM first, and is killed so many milliseconds later. */
    unsigned grace_ms;
    /* At most 16. What is not among them is as the master has it. */
    unsigned rlimits_count;
    const RockerRlimit *rlimits;
    /* The program itself, as an open file: then RockerProgram.path is only what it is called.
     * -1: it is a path inside the rocker. */
    int program_fd;
    /* Not 0: the program is started, and waits for ROCKER_go() before it executes. So its caller
     * knows its pid by then, and may put it where it is to be. Its time runs meanwhile, a signal
     * reaches it, and it ends with the connection. What cannot be executed then is told by
     * ROCKER_EVENT_failed in place of its end. */
    int sync;
    /* Which system calls it may make of those that the rocker lets it: 1 to 4096 instructions
     * (seccomp(2)), which allow execve(2). SECCOMP_RET_USER_NOTIF in it means that the program is
     * killed, with ROCKER_VERDICT_disallowed_syscall and the number in RockerReport.syscall. NULL
     * and 0: all of them. */
    unsigned filter_count;
    const struct sock_filter *filter;
    /* The program is in these control groups before it executes, instead of the rocker's: each a
     * cgroup.procs that the caller has opened for writing, of version 1 or 2; once for each
     * hierarchy. What the caller may do counts, as if it wrote the pid there by itself. Together
     * with program_fd and the program's own, at most ROCKER_EXEC_FDS_MAX.
     *
     * Nobody waits for it to get there: ROCKER_EVENT_started may come before, and what cannot be
     * executed is told by ROCKER_EVENT_failed in place of its end. In a group that is frozen it
     * executes when that thaws. In one of version 1 it does not even die before: not when it is
     * killed or late, and the rocker's end, too, waits for whoever has frozen it to thaw it. */
    unsigned cgroups_count;
    const int *cgroups;
} RockerExec;

/* Nothing set. */
static inline RockerExec ROCKER_exec_new(void)
{
    RockerExec exec = { sizeof(RockerExec), NULL, 0, 0, 0, NULL, -1, 0, 0, NULL, 0, NULL };
    return exec;
}

/* What to make of a program's end. */
typedef enum {
    /* Status 0. */
    ROCKER_VERDICT_normal,
    /* RockerExec.wall_ms, or RLIMIT_CPU. */
    ROCKER_VERDICT_time_limit_exceeded,
    /* More memory than allowed. */
    ROCKER_VERDICT_memory_limit_exceeded,
    /* RLIMIT_FSIZE */
    ROCKER_VERDICT_output_limit_exceeded,
    /* A system call that its filter forbids. */
    ROCKER_VERDICT_disallowed_syscall,
    /* Another signal. */
    ROCKER_VERDICT_signalled,
    /* Another status than 0. */
    ROCKER_VERDICT_nonzero_exit_status,
    /* It could not be watched to its end. */
    ROCKER_VERDICT_runner_error,
    /* The kernel was out of memory and chose it. */
    ROCKER_VERDICT_out_of_memory,
    /* Killed by ROCKER_signal(). */
    ROCKER_VERDICT_cancelled
} ROCKER_VERDICT;

/* In words, "time limit exceeded"; never NULL. */
ROCKER_API const char *ROCKER_verdict_name(ROCKER_VERDICT verdict);

/* What ROCKER_UNKNOWN stands for: there is no cgroup, for no limit was asked for, or this kernel
 * does not tell. */
#define ROCKER_UNKNOWN UINT64_MAX

/* What all processes of a rocker have used together, from its beginning, as its cgroup counts it
 * (cgroups(7)). */
typedef struct {
    /* Bytes of memory now, cached files among them; and the most at once. */
    uint64_t memory;
    uint64_t memory_peak;
    /* Processes and threads now, the guard among them; and the most at once, from Linux 6.11 on. */
    uint64_t pids;
    uint64_t pids_peak;
    /* Processor time in microseconds, that of children nobody has waited for among it; with
     * cgroups of version 1 only if it was limited, and cpu and cpuacct are one hierarchy. */
    uint64_t cpu_us;
    /* Bytes read from block devices, and written to them. */
    uint64_t read;
    uint64_t written;
} RockerUsage;

/* A program's end. */
typedef struct {
    /* Its exit status; -1 if it ended by a signal. */
    int status;
    /* The signal that ended it; 0 if none did. */
    int signal;
    ROCKER_VERDICT verdict;
    /* The number of the system call, of this machine's own (<sys/syscall.h>), for which it was
     * killed by its own filter; -1 if it was not. This library has no names for them, which take
     * more room than all of its code: see ausyscall(8), seccomp_syscall_resolve_num_arch(3). */
    int syscall;
    /* Processor time outside the kernel, of it and all its descendants that were waited for, in
     * microseconds; and the same in the kernel. */
    uint64_t user_us;
    uint64_t system_us;
    /* From its start to its end, in microseconds. */
    uint64_t wall_us;
    /* Most memory that it, or one of those descendants, had at once, in KiB. */
    uint64_t peak_kib;
    /* What all of the rocker has used so far. */
    RockerUsage usage;
} RockerReport;

typedef enum {
    /* The guard is lost, and no other event will come: `error`, in the guard's own words if it had
     * any. */
    ROCKER_EVENT_lost,
    /* exec.2: the program runs: `pid`, `pidfd`. */
    ROCKER_EVENT_started,
    /* The order was not carried out: `error`. At exec.3 it is in place of a program's end. */
    ROCKER_EVENT_failed,
    /* exec.3: the program has ended: `report`. */
    ROCKER_EVENT_ended,
    /* The guard is there, and listens. */
    ROCKER_EVENT_pong,
    /* The order was carried out. */
    ROCKER_EVENT_done,
    /* The same, of ROCKER_open_files(): `files`. */
    ROCKER_EVENT_opened
} ROCKER_EVENT;

/* Most files of one order. */
#define ROCKER_FILES_MAX 16

/* What has come of an order. Of the fields below `data` those are set that its kind names. */
typedef struct {
    ROCKER_EVENT kind;
    /* The order's number; 0 if the guard is lost. */
    unsigned id;
    /* RockerExec.data; NULL for other orders. */
    void *data;
    /* The program's pid inside the rocker. */
    int pid;
    /* The program's pidfd, which is the caller's to close: readable when it has ended, which is
     * before that is told here. -1 without. */
    int pidfd;
    RockerReport report;
    RockerError error;
    /* For each file its descriptor, which is the caller's to close; or, negative, the errno. */
    unsigned files_count;
    int files[ROCKER_FILES_MAX];
} RockerEvent;

/* Starts a rocker that takes orders. `options` and `error` may be NULL. On failure nothing is
 * left, and `open` has no pid and no descriptors. */
ROCKER_API ROCKER_ERR ROCKER_open(const RockerRequest *req, const RockerOptions *options,
                                  RockerOpen *open, RockerError *error);

/* The same in a poll loop: ROCKER_launch_go_on() as for a program, and then its end. */
ROCKER_API void ROCKER_launch_begin_open(RockerLaunch *launch, const RockerRequest *req,
                                         const RockerOptions *options);

/*
 * Attaches to the living rocker of this name, however it was started and by whom, as long as the
 * master lets this user: root, and whoever has launched it. At most 8 can at once. Of `options`,
 * which may be NULL, count connection, socket_path and timeout_ms.
 *
 * Programs that are started over it end with it; the rocker and its other programs do not: it is to
 * be left, with ROCKER_leave(). ROCKER_end() kills everybody's programs, and waits until the rocker
 * is gone.
 */
ROCKER_API ROCKER_ERR ROCKER_attach(const char *guard_pname, const RockerOptions *options,
                                    RockerOpen *open, RockerError *error);

/* The same in a poll loop. The name stays as it is, too. */
ROCKER_API void ROCKER_launch_begin_attach(RockerLaunch *launch, const char *guard_pname,
                                           const RockerOptions *options);

/* The result, as of ROCKER_open(); a launch that is not over is given up. */
ROCKER_API ROCKER_ERR ROCKER_launch_end_open(RockerLaunch *launch, RockerOpen *open,
                                             RockerError *error);

/*
 * exec.0: has a program started, with the ids of the request, and does not wait; `id` is the
 * order's number. Then ROCKER_EVENT_started comes and, once, ROCKER_EVENT_ended; or
 * ROCKER_EVENT_failed, of one with RockerExec.sync or cgroups in place of its end.
 *
 * All descriptors of `program` are duplicated before this returns. Its argv must begin with its
 * path, and a guard always gives it a session of its own. The whole order has room for 32 KiB of
 * strings and filter. `exec` and `error` may be NULL.
 *
 * If the guard has so much to read already that this would have to wait, it fails with EAGAIN. It
 * does so, too, for more than 64 programs that run, or whose end was not yet asked for.
 */
ROCKER_API ROCKER_ERR ROCKER_exec(RockerOpen *open, const RockerProgram *program,
                                  const RockerExec *exec, unsigned *id, RockerError *error);

/*
 * Takes over a program that its launcher has left in a rocker with ROCKER_STAYS, the oldest first:
 * its events come here from now on, with `data`, and it gets signals from here. It goes on, and can
 * be taken over again, when this is left. ROCKER_EVENT_started, or ROCKER_EVENT_failed: ESRCH if
 * there is none, since its launcher is there, or it has ended; EBUSY if others have taken over all
 * there are.
 */
ROCKER_API ROCKER_ERR ROCKER_adopt(RockerOpen *open, void *data, unsigned *id, RockerError *error);

/* Sends a program a signal, 1 to 64; SIGKILL is for all of its process group. Without an id (0)
 * it is for every process in the rocker but the guard. That there is none is no error. */
ROCKER_API ROCKER_ERR ROCKER_signal(RockerOpen *open, unsigned id, int signal,
                                    RockerError *error);

/* Lets a program execute that waits for it (RockerExec.sync). No event of its own comes of it.
 * That it has ended, or goes already, is no error. */
ROCKER_API ROCKER_ERR ROCKER_go(RockerOpen *open, unsigned id, RockerError *error);

/* Asks whether the guard is there and listens. ROCKER_EVENT_pong answers the latest question:
 * those that it overtakes are answered by it as well. */
ROCKER_API ROCKER_ERR ROCKER_ping(RockerOpen *open, unsigned *id, RockerError *error);

/* How a file is opened; the numbers are ROCKER's own. */
#define ROCKER_FILE_READ 1u
#define ROCKER_FILE_WRITE 2u
/* Makes it if it is not there, with `mode`. */
#define ROCKER_FILE_CREATE 4u
/* With that: fails if anything is there, be it a link. */
#define ROCKER_FILE_EXCLUSIVE 8u
/* Empties it. */
#define ROCKER_FILE_TRUNCATE 16u
/* Writes to its end, whatever others do. */
#define ROCKER_FILE_APPEND 32u
/* Only a directory will do. */
#define ROCKER_FILE_DIRECTORY 64u
/* A link at the end of the path will not do. */
#define ROCKER_FILE_NO_FOLLOW 128u
/* Neither opening nor what is done afterwards waits (O_NONBLOCK). */
#define ROCKER_FILE_NON_BLOCKING 256u
/* A fifo, a socket or a device will do. Else they are refused (EACCES), so that nobody waits for
 * what an App has put in a file's place. */
#define ROCKER_FILE_ANY_KIND 512u

/* A file in a rocker. */
typedef struct {
    /* As its programs see it: absolute, or below the work dir, out of which no link then leads. */
    const char *path;
    /* ROCKER_FILE_*. Neither to be read nor written: to be read. */
    unsigned how;
    /* Who may do what with it, if it is made: at most 0777, less 0022. */
    unsigned mode;
} RockerFile;

/*
 * Opens files in the rocker, with the App's rights; ROCKER_EVENT_opened says for each what came of
 * it. The guard never waits: EAGAIN for a file on which a process of the rocker has a lease. Magic
 * links (/proc/PID/fd) are not followed (ELOOP), files of a proc not opened (EACCES), and a path
 * below the work dir leads nowhere else (EXDEV).
 */
ROCKER_API ROCKER_ERR ROCKER_open_files(RockerOpen *open, const RockerFile *files, unsigned count,
                                        unsigned *id, RockerError *error);

/* Deletes a file, a link or an empty directory in the rocker, or, if `tree` is not 0, a directory
 * with all that is in it, with the App's rights. ROCKER_EVENT_done, or ROCKER_EVENT_failed: ETIME
 * if a tree takes more than a second; then some of it is gone, and the caller may order the rest.
 * What is mounted below is not touched: EBUSY. */
ROCKER_API ROCKER_ERR ROCKER_delete(RockerOpen *open, const char *path, int tree, unsigned *id,
                                    RockerError *error);

/* Makes a symbolic link at `path` that leads to `target`, with the App's rights. Events as of
 * ROCKER_delete(). */
ROCKER_API ROCKER_ERR ROCKER_symlink(RockerOpen *open, const char *target, const char *path,
                                     unsigned *id, RockerError *error);

/* What is put in a place of a rocker; which fields of RockerPlace it takes. */
typedef enum {
    /* `source`, a file or directory of the rocker's, with what is mounted below it. It is meant as
     * it is before any of this. Set user ids and devices in it are inert. */
    ROCKER_PLACE_bind,
    /* The same for reading only. */
    ROCKER_PLACE_bind_ro,
    /* An empty directory in memory, of at most so many `bytes` and a file for each 1024 of them,
     * with the permissions `mode`; 0: 01777, everybody may make files. */
    ROCKER_PLACE_tmpfs,
    /* The directory as it is, but what the App writes there goes to memory, at most so many
     * `bytes`. Permissions still count, but the directory itself is the App's own, and what is
     * mounted below it is not seen. */
    ROCKER_PLACE_overlay,
    /* The rocker's /proc, for another `/`. */
    ROCKER_PLACE_proc,
    /* A small /dev: null, zero, full, random, urandom, tty, fd, stdin, stdout, stderr, terminals of
     * its own, and so many `bytes` of shared memory. */
    ROCKER_PLACE_dev,
    /* A symbolic link that leads to `source`. */
    ROCKER_PLACE_link,
    /* A file reads as empty, a directory is. One that is not there hides nothing. */
    ROCKER_PLACE_mask
} ROCKER_PLACE;

/* A place. */
typedef struct {
    ROCKER_PLACE kind;
    unsigned mode;
    /* Absolute, but for where a link leads. */
    const char *source;
    /* Where it is: absolute, below the new `/`. It is there already, or lies in what an earlier
     * place has put there, where it is made. No link is followed to it. */
    const char *target;
    uint64_t bytes;
} RockerPlace;

/* A rocker as its programs will see it. */
typedef struct {
    size_t size;
    /* This directory of the rocker's becomes `/`, with what is mounted below it: the exec dir, for
     * an App that brings all it needs. NULL: `/` as it is. */
    const char *root;
    /* Instead of that: `/` is an empty directory in memory, of at most so many bytes, to which only
     * what is named in `places` comes. 0: it is not. */
    uint64_t empty_root;
    /* Made in this order, with the App's rights. No program has the privilege to change them. */
    const RockerPlace *places;
    unsigned places_count;
    /* Not 0: programs see the rocker's control groups as the top of all. */
    int unshare_cgroup;
    /* Where programs start, and relative paths of orders begin. NULL: the exec dir, or `/` where
     * that is another one. */
    const char *work_dir;
    /* What the machine is called inside, and its NIS domain: UTF-8, at most 64 bytes. NULL: as
     * outside. */
    const char *host_name;
    const char *domain_name;
    /* A program that has to end well, within so many milliseconds, before the first order and after
     * each reset. Of it path, argv and envp count. NULL and 0: none. */
    const RockerProgram *init;
    unsigned init_ms;
} RockerConf;

/* The rocker as it is. */
static inline RockerConf ROCKER_conf_new(void)
{
    RockerConf conf = { sizeof(RockerConf), NULL, 0, NULL, 0, 0, NULL, NULL, NULL, NULL, 0 };
    return conf;
}

/*
 * Makes the rocker look like this: once, and before its first program. ROCKER_EVENT_done; or
 * ROCKER_EVENT_failed if it was refused as a whole, and nothing has changed (EBUSY: a program has
 * run; EEXIST: this was done before; EPERM: a rocker that was not made for orders). After any other
 * failure the rocker ends, for nothing runs in one that is half of what was asked for:
 * ROCKER_EVENT_lost names part and path. All of it has room for 32 KiB of paths and strings.
 *
 * Technically the guard mounts in a mount namespace that belongs to the rocker's user namespace,
 * with the App's ids and no right that the App has not. It gets a new IPC namespace with it, so
 * that shared memory goes at a reset, too.
 */
ROCKER_API ROCKER_ERR ROCKER_configure(RockerOpen *open, const RockerConf *conf, unsigned *id,
                                       RockerError *error);

/*
 * Ends every program, which is told like any end, and makes the rocker what it was after
 * ROCKER_configure(), or at its beginning without one: memory is empty again, what was mounted is
 * mounted anew, the init program has run. Not touched are the host's own directories, and the
 * layers in the data dir.
 *
 * ROCKER_EVENT_done; or ROCKER_EVENT_failed: ETIME if some process cannot be killed within 5 s, and
 * then nothing else was done. After any other failure the rocker ends: ROCKER_EVENT_lost.
 */
ROCKER_API ROCKER_ERR ROCKER_reset(RockerOpen *open, unsigned *id, RockerError *error);

/* The next event, without waiting: 1, or 0 if there is none. Before polling, ask until there is
 * none: a descriptor is not readable for what ROCKER_await() has read and not told. */
ROCKER_API int ROCKER_next(RockerOpen *open, RockerEvent *event);

/*
 * The next event of one order, for which this waits so many milliseconds; -1: for ever. 1, or 0
 * if none came in time. That the guard is lost is an event of every order.
 *
 * The ends of other programs are kept for later. But answers come in the order of the orders: as
 * long as another order is unanswered this fails (ROCKER_EVENT_failed) at once, as it does for an
 * order of which nothing more will come.
 */
ROCKER_API int ROCKER_await(RockerOpen *open, unsigned id, int timeout_ms, RockerEvent *event);

/* Runs a program to its end: ROCKER_exec() and ROCKER_await() for its events; one that waits goes
 * at once. `report` is all zeros on failure. A guard that does not answer within 10 s is taken for
 * lost. */
ROCKER_API ROCKER_ERR ROCKER_run(RockerOpen *open, const RockerProgram *program,
                                 const RockerExec *exec, RockerReport *report,
                                 RockerError *error);

/* Ends the rocker with all that runs in it, and waits so many milliseconds until everything is
 * gone; -1: for ever. 0, or ETIMEDOUT. In any case `open` is over, and its descriptors closed. */
ROCKER_API int ROCKER_end(RockerOpen *open, int timeout_ms);

/* Closes both descriptors, and does nothing else: a rocker with ROCKER_STAYS lives on, and so does
 * one that was attached to; any other one ends in its own time. */
ROCKER_API void ROCKER_leave(RockerOpen *open);

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
