#define _GNU_SOURCE
#include "enter.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch.h"
#include "linux.h"

/* Newer than the oldest C library that this is built with. */
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_landlock_restrict_self
#define SYS_landlock_restrict_self 446
#endif
/* Where ids of 16 bits came first. */
#ifdef SYS_setgroups32
#define RK_SETGROUPS SYS_setgroups32
#define RK_SETRESUID SYS_setresuid32
#define RK_SETRESGID SYS_setresgid32
#define RK_GETRESUID SYS_getresuid32
#define RK_GETRESGID SYS_getresgid32
#else
#define RK_SETGROUPS SYS_setgroups
#define RK_SETRESUID SYS_setresuid
#define RK_SETRESGID SYS_setresgid
#define RK_GETRESUID SYS_getresuid
#define RK_GETRESGID SYS_getresgid
#endif
#ifndef RK_ONE_LAUNCH
#define RK_ONE_LAUNCH 0
#endif
enum { RK_P_PIDFD = 3, RK_JOIN_SESSION_KEYRING = 1, RK_SIGNAL_MAX = 64, RK_SIGNAL_SET = 8 };
enum { RK_SET_MODE_FILTER = 1 };

/*
 * Code of the children. They have the stack canary of a thread that may end meanwhile, and no
 * shadow of a sanitizer's.
 */
#if defined(__has_attribute)
#if __has_attribute(no_stack_protector)
#define RK_CHILD \
    __attribute__((no_stack_protector, no_sanitize("address"), no_sanitize("undefined")))
#endif
#endif
#ifndef RK_CHILD
#define RK_CHILD
#endif

/* The App's status when it could not even get rid of the caller's descriptors. */
enum { STATUS_ROCKER = 125 };

static long as_long(const volatile void *pointer)
{
    return (long)(intptr_t)pointer;
}

/* --- The App. --------------------------------------------------------------------------------- */

/* What the App needs to start a program, and why it could not. */
struct start {
    const struct rk_entry *entry;
    uint16_t failed;
    uint8_t at; /* enum rk_at */
};

/* Linux 5.9; without 5.8 there is no entering by pidfd either. */
RK_CHILD static long close_from(int first)
{
    return rk_call(SYS_close_range, first, (long)UINT_MAX, 0, 0, 0);
}

/* The descriptor that the program is to find under this number; -1: what is there already. */
RK_CHILD static int source_of(const struct rk_entry *entry, int target)
{
    int source = target < 3 ? entry->program->stdio[target] : entry->program->fds[target - 3];

    return target < 3 && source == ROCKER_STDIO_NULL ? entry->null : source;
}

/* Brings each descriptor to the number it is wanted under, and closes all others. */
RK_CHILD static long place_descriptors(const struct rk_entry *entry)
{
    int moved[3 + ROCKER_FDS_MAX];
    int count = 3 + (int)entry->program->fds_count;

    /* First out of the way of all targets, so that no move hits the source of a later one. */
    for (int target = 0; target < count; target++) {
        int source = source_of(entry, target);
        moved[target] = source;
        if (source >= 0) {
            long made = rk_call(SYS_fcntl, source, F_DUPFD_CLOEXEC, count, 0, 0);
            if (made < 0) {
                return made;
            }
            moved[target] = (int)made;
        }
    }
    for (int target = 0; target < count; target++) {
        if (moved[target] >= 0) {
            long placed = rk_call(SYS_dup3, moved[target], target, 0, 0, 0);
            if (placed < 0) {
                return placed;
            }
        }
    }
    return close_from(count);
}

/*
 * What the caller ignores or handles means nothing to the App; what it blocks neither. The mask
 * goes last: no handler of the caller's runs in a process that shares its memory.
 */
RK_CHILD static void reset_signals(void)
{
    /* The kernel's struct sigaction on any machine is no longer. All zeros are SIG_DFL, no flags
     * and an empty mask. */
    static const uint64_t zeros[4];

    for (int signal = 1; signal <= RK_SIGNAL_MAX; signal++) {
        rk_call(SYS_rt_sigaction, signal, as_long(zeros), 0, RK_SIGNAL_SET, 0);
    }
    rk_call(SYS_rt_sigprocmask, SIG_SETMASK, as_long(zeros), 0, RK_SIGNAL_SET, 0);
}

/* `dir` up to a colon or its end, then `name`; false if that is no path. */
RK_CHILD static bool join(char *path, const char *dir, const char *name)
{
    size_t length = 0;

    for (; *dir != '\0' && *dir != ':'; dir++) {
        if (length == RK_PATH_MAX) {
            return false;
        }
        path[length++] = *dir;
    }
    if (length == 0) {
        /* An empty entry is the working directory. */
        path[length++] = '.';
    }
    for (const char *from = "/"; from != NULL; from = from == name ? NULL : name) {
        for (const char *at = from; *at != '\0'; at++) {
            if (length == RK_PATH_MAX) {
                return false;
            }
            path[length++] = *at;
        }
    }
    path[length] = '\0';
    return true;
}

/* Where a name is looked up: the App's own PATH, or that of execvp(3) for those without. */
RK_CHILD static const char *path_of(char *const *envp)
{
    for (; *envp != NULL; envp++) {
        const char *at = *envp;
        if (at[0] == 'P' && at[1] == 'A' && at[2] == 'T' && at[3] == 'H' && at[4] == '=') {
            return at + 5;
        }
    }
    return "/bin:/usr/bin";
}

/* As execvp(3) does, but with a PATH of the App's own, and no shell for what is neither a
 * program nor a script. Why it could not. */
RK_CHILD static uint16_t execute(const struct rk_entry *entry)
{
    static char *const empty[] = { NULL };
    const char *name = entry->program->path;
    char *const *envp = entry->program->envp != NULL ? entry->program->envp : empty;
    const char *dir = path_of(envp);
    char path[RK_PATH_MAX + 1];
    uint16_t last = ENOENT;
    bool denied = false;

    for (const char *at = name; *at != '\0'; at++) {
        if (*at == '/') {
            return (uint16_t)-rk_call(SYS_execve, as_long(name), as_long(entry->argv),
                                      as_long(envp), 0, 0);
        }
    }
    for (;; dir++) {
        if (join(path, dir, name)) {
            last = (uint16_t)-rk_call(SYS_execve, as_long(path), as_long(entry->argv),
                                      as_long(envp), 0, 0);
        } else {
            last = ENAMETOOLONG;
        }
        switch (last) {
        case EACCES:
            /* Found, but not for us: what to say if no later one is better. */
            denied = true;
            break;
        case ENOENT:
        case ENOTDIR:
        case ENODEV:
        case ESTALE:
        case ETIMEDOUT:
            break;
        default:
            return last;
        }
        while (*dir != '\0' && *dir != ':') {
            dir++;
        }
        if (*dir == '\0') {
            return denied ? EACCES : last;
        }
    }
}

/* seccomp(2): the last thing before the App's own code, so that it has to allow nothing else. */
RK_CHILD static long install_filter(const struct rk_entry *entry)
{
    /* struct sock_fprog */
    const struct {
        uint16_t instructions;
        const void *at;
    } program = { entry->filter_size / 8, entry->filter };

    return program.instructions == 0
               ? 0
               : rk_call(SYS_seccomp, RK_SET_MODE_FILTER, 0, as_long(&program), 0, 0);
}

/* The App's process until it executes. It comes back only if it cannot, and then exits. */
RK_CHILD static int app_main(void *argument)
{
    struct start *start = argument;
    long done = place_descriptors(start->entry);

    if (done < 0) {
        start->failed = (uint16_t)-done;
        return STATUS_ROCKER;
    }
    if (!start->entry->program->keep_session) {
        /* Refused only to the leader of a process group, which a new process never is. */
        rk_call(SYS_setsid, 0, 0, 0, 0, 0);
    }
    if (start->entry->program->terminal) {
        done = rk_call(SYS_ioctl, 0, TIOCSCTTY, 0, 0, 0);
        if (done < 0) {
            start->failed = (uint16_t)-done;
            return STATUS_ROCKER;
        }
    }
    reset_signals();
    done = install_filter(start->entry);
    start->at = done < 0 ? RK_AT_FILTER : RK_AT_EXEC;
    start->failed = done < 0 ? (uint16_t)-done : execute(start->entry);
    return STATUS_ROCKER;
}

/* The App's process when it is a function. */
static _Noreturn void call(const struct rk_entry *entry)
{
    /* As execve(2) would: descriptors marked close-on-exec are not the App's. */
    for (int fd = 0; fd < 3; fd++) {
        long flags = rk_call(SYS_fcntl, fd, F_GETFD, 0, 0, 0);
        if (flags >= 0 && (flags & FD_CLOEXEC)) {
            rk_call(SYS_close, fd, 0, 0, 0, 0);
        }
    }
    if (close_from(3) < 0) {
        _exit(STATUS_ROCKER);
    }
    /* The new ids have made it undumpable, and with that /proc/self root's. Now that nothing of
     * the host's is open, it can have its own back. */
    rk_call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
    rk_call(SYS_setsid, 0, 0, 0, 0, 0);
    reset_signals();
    if (install_filter(entry) < 0) {
        _exit(STATUS_ROCKER);
    }
    _exit(entry->function(entry->argument));
}

/* --- The helper. ------------------------------------------------------------------------------ */

/* What the helper has with it. */
struct luggage {
    const struct rk_entry *entry;
    struct rk_slip *slip;
    void *app_stack;
};

/*
 * Keys of the caller's would stay the App's through everything that follows: whoever has a
 * session keyring possesses what is in it, whatever its ids (session-keyring(7)). So it gets an
 * empty one, while that still counts against the caller's quota.
 */
RK_CHILD static long leave_session_keyring(void)
{
    long joined = rk_call(SYS_keyctl, RK_JOIN_SESSION_KEYRING, 0, 0, 0, 0);

    /* A kernel without keys has none to leave. */
    return joined < 0 && joined != -ENOSYS ? joined : 0;
}

RK_CHILD static long drop_groups(void)
{
    long left = leave_session_keyring();

    return left < 0 ? left : rk_call(RK_SETGROUPS, 0, 0, 0, 0, 0);
}

/* Nothing of the caller's identity may be left: not in the saved ids, not in those for files. */
RK_CHILD static long take_ids(uint32_t uid, uint32_t gid)
{
    uint32_t users[3];
    uint32_t groups[3];
    const long user = (long)uid;
    const long group = (long)gid;
    long result = rk_call(RK_SETRESGID, group, group, group, 0, 0);

    if (result == 0) {
        result = rk_call(RK_SETRESUID, user, user, user, 0, 0);
    }
    if (result == 0) {
        /* The kernel has done so unless fs.suid_dumpable says otherwise: nobody of that uid may
         * look into memory that still is the caller's. */
        result = rk_call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
    if (result < 0) {
        return result;
    }
    rk_call(RK_GETRESUID, as_long(&users[0]), as_long(&users[1]), as_long(&users[2]), 0, 0);
    rk_call(RK_GETRESGID, as_long(&groups[0]), as_long(&groups[1]), as_long(&groups[2]), 0, 0);
    for (int i = 0; i < 3; i++) {
        if (users[i] != uid || groups[i] != gid) {
            return -EPERM;
        }
    }
    return 0;
}

/* SECBIT_*: no id brings capabilities, no program does, and nobody changes that. */
enum { RK_SECURE = 0xef };

/* Empties all five sets, and sets no_new_privs, so that no program it executes brings a
 * capability back: protocol/src/privileges.rs. */
RK_CHILD static long drop_privileges(int ruleset)
{
    /* As capset(2) has them: _LINUX_CAPABILITY_VERSION_3. */
    struct {
        uint32_t version;
        int32_t pid;
    } header = { 0x20080522, 0 };
    const uint32_t none[6] = { 0 };
    long result = rk_call(SYS_prctl, PR_SET_SECUREBITS, RK_SECURE, 0, 0, 0);

    for (int capability = 0; result == 0 && capability < 64; capability++) {
        result = rk_call(SYS_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0);
    }
    /* The first number that this kernel has no capability for. */
    if (result == 0 || result == -EINVAL) {
        /* What is not inheritable is not ambient either. */
        result = rk_call(SYS_capset, as_long(&header), as_long(none), 0, 0, 0);
    }
    if (result == 0) {
        result = rk_call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
    /* What this process may not do, the App may not. */
    return result < 0 || ruleset < 0
               ? result
               : rk_call(SYS_landlock_restrict_self, ruleset, 0, 0, 0, 0);
}

/* Where the program says, which may be below the exec dir; else there. */
RK_CHILD static long enter_directory(const struct rk_entry *entry)
{
    const char *cwd = entry->program != NULL ? entry->program->cwd : NULL;
    long result = 0;

    if (cwd == NULL || cwd[0] != '/') {
        result = rk_call(SYS_chdir, as_long(entry->exec_dir), 0, 0, 0, 0);
    }
    return cwd == NULL || result < 0 ? result : rk_call(SYS_chdir, as_long(cwd), 0, 0, 0, 0);
}

/* The App's pid, or why there is none. */
RK_CHILD static long start_app(const struct luggage *luggage)
{
    struct start start = { luggage->entry, 0, 0 };
    int *pidfd = &luggage->slip->app_pidfd;
    long flags = CLONE_PARENT | CLONE_PIDFD | SIGCHLD;
    long pid;

    if (luggage->entry->program != NULL) {
        /* CLONE_VFORK keeps this process here, and with it `start` and the stack, until the App
         * has executed or exited. If this process is killed meanwhile, the caller sees to it
         * that the App is gone before it frees the stacks. */
        pid = rk_clone(flags | CLONE_VM | CLONE_VFORK, luggage->app_stack, pidfd, app_main,
                       &start);
    } else {
        pid = rk_call(SYS_clone, flags, 0, as_long(pidfd), 0, 0);
        if (pid == 0) {
            call(luggage->entry);
        }
    }
    if (pid < 0) {
        /* The kernel may have written a number there that it has taken back since. */
        *pidfd = -1;
        return pid;
    }
    luggage->slip->at = start.at;
    return start.failed != 0 ? -(long)start.failed : pid;
}

/* The App is born where its parent is. */
RK_CHILD static long join_rocker(const struct rk_entry *entry)
{
    for (unsigned i = 0; i < entry->cgroups_count; i++) {
        long joined = rk_call(SYS_write, entry->cgroups[i], as_long("0"), 1, 0, 0);
        if (joined < 0) {
            return joined;
        }
    }
    return rk_call(SYS_setns, entry->guard,
                   CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC, 0, 0, 0);
}

RK_CHILD static long perform(const struct luggage *luggage, enum rk_helper_state action)
{
    switch (action) {
    case RK_DROP_GROUPS:
        return drop_groups();
    case RK_JOIN_NAMESPACES:
        return join_rocker(luggage->entry);
    case RK_TAKE_IDS:
        return take_ids(luggage->entry->uid, luggage->entry->gid);
    case RK_DROP_PRIVILEGES:
        return drop_privileges(luggage->entry->ruleset);
    case RK_ENTER_DIRECTORY:
        return enter_directory(luggage->entry);
    case RK_START_APP:
        return start_app(luggage);
    case RK_HELPER_ENDED:
    case RK_HELPER_STATE_COUNT:
        break;
    }
    return -EINVAL;
}

/* The helper's process, from its first line to its exit status. */
RK_CHILD static int helper_main(void *argument)
{
    const struct luggage *luggage = argument;
    struct rk_slip *slip = luggage->slip;
    struct rk_helper helper;

    rk_helper_init(&helper);
    while (rk_helper_step(&helper) != RK_NO_STEP) {
        struct rk_outcome outcome = { .result = RK_DONE };
        slip->last = helper.state;
        long result = perform(luggage, (enum rk_helper_state)helper.state);
        if (result < 0) {
            outcome.result = RK_FAILED;
            outcome.os_errno = (uint16_t)-result;
        } else if (helper.state == RK_START_APP) {
            outcome.result = RK_APP;
            outcome.pid = (uint32_t)result;
        }
        rk_helper_advance(&helper, &outcome);
    }
    slip->helper = helper;
    return 0;
}

/* --- The caller. ------------------------------------------------------------------------------ */

/* A multiple of every page size there is. Only what is touched is ever there. */
#define UNIT ((size_t)64 * 1024)

/* Slip and luggage, then two stacks above a gap: a helper that ran out of its own would have the
 * App's, which is of use only while the helper waits. The helper's becomes a callback's, and is as
 * large as that of a main thread then. */
enum { SLIP, GAP, APP_STACK, HELPER_STACK, CALLBACK_UNITS = 128 };

static void *unit(void *pages, int number)
{
    return (char *)pages + (size_t)number * UNIT;
}

#if RK_ONE_LAUNCH
/* For a program's only launch: what runs on both stacks takes 4.5 KiB (gcc -fstack-usage), and needs
 * no gap. */
static char own_pages[(HELPER_STACK + 1) * UNIT] __attribute__((aligned(16)));
#else
static void *const own_pages = NULL;
#endif

static void *make_pages(bool shares, int units)
{
    if (RK_ONE_LAUNCH && shares && units == HELPER_STACK + 1) {
        return own_pages;
    }
    /* What is a copy of the caller has to write where the caller can read it. */
    int flags = (shares ? MAP_PRIVATE : MAP_SHARED) | MAP_ANONYMOUS | MAP_NORESERVE;
    void *pages = mmap(NULL, (size_t)units * UNIT, PROT_READ | PROT_WRITE, flags, -1, 0);

    if (pages == MAP_FAILED) {
        return NULL;
    }
    long closed = rk_call(SYS_mprotect, as_long(unit(pages, GAP)), UNIT, PROT_NONE, 0, 0);
    if (closed < 0) {
        munmap(pages, (size_t)units * UNIT);
        errno = (int)-closed;
        return NULL;
    }
    return pages;
}

static void free_pages(const struct rk_running *running)
{
    if (running->pages != own_pages) {
        munmap(running->pages, (size_t)running->units * UNIT);
    }
}

/* One helper at a time shares this process's memory: it holds the lock on a file of /proc that
 * stands for the process, whatever library in it asks. A program that is built with RK_ONE_LAUNCH
 * makes one launch in all its life. False: there is a helper, or there is no /proc. */
static bool may_share(struct rk_running *running)
{
    if (RK_ONE_LAUNCH) {
        return RK_SHARES;
    }
    if (!RK_SHARES) {
        return false;
    }
    long lock = rk_call(SYS_openat, AT_FDCWD, as_long("/proc/self/status"),
                        O_RDONLY | O_CLOEXEC, 0, 0);
    if (lock >= 0 && rk_call(SYS_flock, lock, LOCK_EX | LOCK_NB, 0, 0, 0) < 0) {
        close((int)lock);
        return false;
    }
    running->lock = (int)lock;
    return lock >= 0;
}

static void unlock_memory(struct rk_running *running, bool alone)
{
    if (running->shares && alone && running->was_dumpable) {
        rk_call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
    }
    if (running->lock >= 0) {
        close(running->lock);
    }
    running->lock = -1;
    running->shares = false;
}

/*
 * The children are born with all signals blocked, so that no handler of the caller's runs in
 * them. By the kernel's call: the C library's leaves out two that it keeps for itself.
 */
static long clone_helper(const struct luggage *luggage, bool shares, int *pidfd, void *stack)
{
    const uint64_t all = UINT64_MAX;
    uint64_t before = 0;
    long flags = CLONE_FILES | CLONE_PIDFD | SIGCHLD;
    union {
        const struct luggage *in;
        void *out;
    } argument = { luggage };
    long pid;

    rk_call(SYS_rt_sigprocmask, SIG_SETMASK, as_long(&all), as_long(&before), RK_SIGNAL_SET, 0);
    if (shares) {
        pid = rk_clone(flags | CLONE_VM, stack, pidfd, helper_main, argument.out);
    } else {
        pid = rk_call(SYS_clone, flags, 0, as_long(pidfd), 0, 0);
        if (pid == 0) {
            _exit(helper_main(argument.out));
        }
    }
    rk_call(SYS_rt_sigprocmask, SIG_SETMASK, as_long(&before), 0, RK_SIGNAL_SET, 0);
    return pid;
}

uint16_t rk_start(const struct rk_entry *entry, struct rk_running *running)
{
    *running = (struct rk_running){ .pidfd = -1, .lock = -1 };
    if (entry->cgroups_count == 0 && (entry->program != NULL || entry->waits)) {
        running->shares = may_share(running);
    }
    running->units = HELPER_STACK + (entry->program != NULL ? 1 : CALLBACK_UNITS);
    const bool shares = running->shares;
    running->was_dumpable = rk_call(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0) == 1;
    running->pages = make_pages(shares, running->units);
    if (running->pages == NULL) {
        uint16_t failed = (uint16_t)errno;
        unlock_memory(running, false);
        return failed;
    }
    struct rk_slip *slip = unit(running->pages, SLIP);
    struct luggage *luggage = (struct luggage *)(void *)(slip + 1);
    *slip = (struct rk_slip){ .app_pidfd = -1 };
    *luggage = (struct luggage){ entry, slip, unit(running->pages, HELPER_STACK) };
    void *stack = unit(running->pages, running->units);
    long pid = clone_helper(luggage, shares, &running->pidfd, stack);
    if (pid < 0) {
        running->pidfd = -1;
        free_pages(running);
        unlock_memory(running, false);
        return (uint16_t)-pid;
    }
    return 0;
}

/* 0, or a negative errno; whether it has ended or not. */
static long wait_for(int pidfd, int options)
{
    return rk_call(SYS_waitid, RK_P_PIDFD, pidfd, 0, WEXITED | WNOHANG | options, 0);
}

enum { END_MS = 1000, NS_PER_MS = 1000000 };

/* Somebody may have: a caller that ignores SIGCHLD, or another thread that waits for any. */
static void reap(int pidfd)
{
    wait_for(pidfd, 0);
}

bool rk_end(int pidfd)
{
    const uint64_t until_ns = rk_now_ns() + (uint64_t)END_MS * NS_PER_MS;
    struct pollfd gone = { pidfd, POLLIN, 0 };
    int ready;

    rk_call(SYS_pidfd_send_signal, pidfd, SIGKILL, 0, 0, 0);
    do {
        /* A signal of the caller's is no reason to begin the second anew. */
        uint64_t now_ns = rk_now_ns();
        ready = poll(&gone, 1, now_ns < until_ns ? (int)((until_ns - now_ns) / NS_PER_MS) : 0);
    } while (ready < 0 && errno == EINTR);
    reap(pidfd);
    return ready > 0;
}

/* The App's pidfd, if the kernel got as far as to make it. A clone that fails after that takes
 * it back, and a helper that is killed in that very call does not say so: so it is asked first
 * whether it is a pidfd at all. */
static int app_of(const struct rk_slip *slip)
{
    if (slip->app_pidfd < 0) {
        return -1;
    }
    long asked = wait_for(slip->app_pidfd, WNOWAIT);
    return asked == -EBADF || asked == -EINVAL ? -1 : slip->app_pidfd;
}

void rk_finish(struct rk_running *running, bool in_time, struct rk_slip *slip,
               struct rk_outcome *outcome, int *app)
{
    bool gone = in_time || rk_end(running->pidfd);

    reap(running->pidfd);
    close(running->pidfd);
    running->pidfd = -1;
    *slip = *(const volatile struct rk_slip *)unit(running->pages, SLIP);
    *app = app_of(slip);
    *outcome = (struct rk_outcome){ .result = RK_LOST,
                                    .loss = in_time ? RK_LOSS_DIED : RK_LOSS_SILENT };
    if (in_time && slip->helper.state == RK_HELPER_ENDED) {
        if (slip->helper.error.fault == RK_NO_FAULT) {
            outcome->result = RK_APP;
            outcome->pid = slip->helper.app_pid;
        } else {
            outcome->result = RK_REFUSED;
            outcome->error = slip->helper.error;
        }
    }
    /* What could not be executed is on its way out, and nobody is to find its zombie; and the
     * App of a helper that was killed on its way may be under way as well, in our memory. */
    if (outcome->result != RK_APP && *app >= 0) {
        gone &= rk_end(*app);
        close(*app);
        *app = -1;
    }
    if (gone) {
        free_pages(running);
    }
    /* What the kernel does not let go of keeps what it stands on, and our memory stays closed. */
    running->pages = NULL;
    unlock_memory(running, gone);
}
