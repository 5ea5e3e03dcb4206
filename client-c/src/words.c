#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <string.h>

#include "launch.h"

/* --- Texts with an end. ----------------------------------------------------------------------- */

void rk_add(char *text, const char *more, size_t length)
{
    static const char ellipsis[] = "...";
    const size_t limit = RK_COMMAND_MAX - (sizeof(ellipsis) - 1);
    size_t used = strlen(text);

    if (used > limit) {
        return;
    }
    size_t fits = length;
    if (fits > limit - used) {
        /* Cut between characters. */
        for (fits = limit - used; fits > 0 && ((unsigned char)more[fits] & 0xc0) == 0x80;) {
            fits--;
        }
    }
    for (size_t i = 0; i < fits; i++) {
        /* A NUL in a command would end it. */
        text[used + i] = more[i] != '\0' ? more[i] : '?';
    }
    text[used + fits] = '\0';
    if (fits < length) {
        memcpy(text + used + fits, ellipsis, sizeof(ellipsis));
    }
}

void rk_add_number(char *text, uint64_t number)
{
    char digits[20];
    size_t at = sizeof(digits);

    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    rk_add(text, digits + at, sizeof(digits) - at);
}

void rk_say(struct rk_launch *launch, const char *text)
{
    rk_add(launch->command, text, strlen(text));
}

/* --- What the numbers mean. ------------------------------------------------------------------- */

/*
 * Lists of words, each ended by NUL, in the order of the numbers: a table of pointers would have
 * to be relocated at each start, and one of arrays would be mostly room.
 */
const char *rk_nth(const char *words, unsigned number)
{
    for (; number > 0 && *words != '\0'; number--) {
        words += strlen(words) + 1;
    }
    return words;
}

/* To follow the word "cannot", for every arrow: protocol/src/step.rs. */
static const char purposes[] =
    "start the App\0"
    "request a rocker\0"
    "make the rocker\0"
    "hand over to the guard\0"
    "prepare the rocker\0"
    "send the entrance\0"
    "start the App in its rocker\0"
    "return the pids\0"
    "stop the App\0"
    "wait for the end of the rocker\0"
    "kill the guard\0"
    "notice the guard's end\0"
    "end the rocker\0"
    "kill what is left in the rocker\0"
    "unmount the overlays\0"
    "free what the rocker held\0"
    "clone the guard\0"
    "find a free loop device\0"
    "bind the package to a loop device\0"
    "mount the package\0"
    "build the overlay\0"
    "mount /proc\0"
    "enter a user namespace\0"
    "report the rocker prepared\0"
    "set the id maps\0"
    "release the guard\0"
    "find the directories to overlay\0"
    "overlay a directory\0"
    "receive the entrance\0"
    "fork the helper\0"
    "enter the rocker\0"
    "start the App\0"
    "report the App to the guard\0"
    "request a program\0"
    "start the program\0"
    "report the program started\0"
    "report the program's end\0";

/* Of a master of another release, or of no error at all. */
static bool is_step(int step)
{
    return step >= 0 && step <= UINT8_MAX && rk_is_step((uint8_t)step);
}

static const char *purpose_of(int step)
{
    unsigned number = 0;

    if (!is_step(step)) {
        return "do what is unknown here";
    }
    for (int arrow = 0; arrow < step; arrow++) {
        number += rk_is_step((uint8_t)arrow);
    }
    return rk_nth(purposes, number);
}

/* enum rk_kind_of_order, from RK_FILES on: client-rs/src/{files,conf,error}.rs. */
static const char orders[] =
    "open a file inside\0"
    "delete a file inside\0"
    "make a link inside\0"
    "set up what the App sees\0"
    "make the rocker as new\0"
    "ask the master\0";

static const char diagrams[] = "root\0prepare\0overlay\0enter\0exec\0";

/* enum rk_item */
static const char items[] =
    "request\0package\0exec dir\0data dir\0overlay dir\0uid\0gid\0deadline\0rocker\0program\0file\0"
    "system call filter\0user namespaces\0"
    "memory limit\0swap limit\0process limit\0cpu limit\0cpu weight\0cpus\0/dev\0device\0"
    "read limit\0write limit\0volatile\0";

/* enum rk_rule: protocol/src/error.rs. */
static const char rules[] =
    "it is empty\0"
    "the path must be absolute\0"
    "the path must not contain \"..\"\0"
    "it contains a NUL or another control character\0"
    "it is too long\0"
    "at most 16 of them are possible\0"
    "this place belongs to the host and stays so\0"
    "overlays need a data dir to keep their layers in\0"
    "an App never runs as root (id 0)\0"
    "4294967295 (-1) is not an id\0"
    "it must lie between 1 ms and 1 hour\0"
    "the master's policy does not allow it to this caller; root can, by default in "
    "/etc/rocker/master.toml\0"
    "the caller sits in another user namespace than the master\0"
    "it is not a file of the kind needed here\0"
    "it is not a squashfs image; build one with \"rocker pack\"\0"
    "it is a squashfs of an unknown version or compression\0"
    "the image is truncated, or its length is no multiple of 512\0"
    "another rocker uses it, or a master still keeps its overlays\0"
    "its .rocker directory was not made by ROCKER\0"
    "too many rockers; see max_rockers in the master's configuration\0"
    "no living rocker has this name\0"
    "it is not a row of 1 to 4096 instructions of 8 bytes\0"
    "it must be at least 1 MiB\0"
    "a limit of swap needs a limit of memory\0"
    "it must be a list of processors, such as 0-1,3\0"
    "the host has no such processor, or the master may not use it\0"
    "no cgroup controller sees to that here, see \"rocker doctor\"\0"
    "the master's policy has no [[allow]] for this caller's uid; root can add one, "
    "by default in /etc/rocker/master.toml\0"
    "the host has no such device\0"
    "it is there already\0"
    "it is no device, or not on the file system of /dev\0"
    "its file system has no disk of its own, so reading and writing cannot be limited\0"
    "only cgroups of version 2, with memory and io, hold what is written to disks\0"
    "it must lie between 1 and 4194304\0"
    "it must lie between 0.01 and 1000 processors\0"
    "it must lie between 1 and 10000\0"
    "it must be at least 64 KiB a second\0"
    "a time must lie between 1 ms and 49 days\0"
    "it is about overlays, and there is none\0"
    "ids inside, and limits of who is not root, are for rockers that take orders\0"
    "it must belong to the caller; name one that does\0"
    "the App's uid and gid may neither read nor write it; give it one that may\0"
    "there is no such directory; make it: install -d -o UID DIR\0"
    "it is not a directory\0";

/* enum rk_loss */
static const char losses[] =
    "the peer closed the connection\0"
    "no answer before the deadline\0"
    "the peer broke the protocol\0"
    "the peer speaks another version of the protocol; install client, master and guard of the "
    "same release\0";

/* --- What to do about it: client-rs/src/error.rs. --------------------------------------------- */

static const char *exec_hint(int os_errno, const char *command)
{
    switch (os_errno) {
    case ENOENT:
        return strncmp(command, "exec ", 5) == 0 && strchr(command, '/') == NULL
                   ? "a name without / is looked up in PATH; ./NAME is the package's"
                   : "the rocker holds no such program, or not its interpreter or loader";
    case EACCES:
        return "it is not executable for the App's uid";
    case ENOEXEC:
        return "it is neither a program for this machine nor a script with #!";
    default:
        return NULL;
    }
}

static const char *overlay_hint(int os_errno)
{
    switch (os_errno) {
    case ENODEV:
        return "this kernel has no overlay";
    case EINVAL:
        return "the data dir's file system cannot hold an upper layer";
    case EROFS:
        return "the data dir is read-only";
    case ENOSPC:
        return "the data dir's file system is full";
    default:
        return NULL;
    }
}

static const char *mount_hint(int os_errno)
{
    switch (os_errno) {
    case ENOENT:
        return "create the exec dir, or overlay a directory above it";
    case ENOTDIR:
        return "the exec dir must be a directory";
    case ENODEV:
        return "this kernel has no squashfs";
    case EINVAL:
        return "the image is damaged, or its length is no multiple of 512";
    default:
        return NULL;
    }
}

static const char *entering_hint(int os_errno)
{
    switch (os_errno) {
    case EPERM:
        return "entering a rocker needs CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID; run as root";
    case EINVAL:
    case ENOSYS:
        return "entering by pidfd needs Linux 5.8 or later";
    case ESRCH:
        return "the guard has ended";
    default:
        return NULL;
    }
}

static const char *failure_hint(int step, int e)
{
    switch (step) {
    case RK_REQUEST_ROCKER:
        return e == ENOENT || e == ECONNREFUSED ? "start rocker-master, or name its socket"
               : e == EACCES
                   ? "this user may not reach the master's socket; root can add an [[allow]], "
                     "by default in /etc/rocker/master.toml"
                   : NULL;
    case RK_CREATE_GUARD:
        return e == ELOOP ? "links are followed for root alone, and only root's" : NULL;
    case RK_CLONE_GUARD:
        return e == ENOSPC ? "see user.max_{pid,mnt,ipc}_namespaces"
               : e == EINVAL ? "this kernel lacks pid or ipc namespaces" : NULL;
    case RK_CREATE_LOOP:
    case RK_BIND_PACKAGE:
        return e == ENOENT || e == ENXIO || e == ENODEV ? "is the kernel's loop driver there?"
               : e == EBUSY ? "no loop device is to be had" : NULL;
    case RK_MOUNT_PACKAGE:
        return mount_hint(e);
    case RK_BUILD_OVERLAY:
    case RK_MOUNT_OVERLAY:
        return overlay_hint(e);
    case RK_UNSHARE_USER:
        return e == ENOSPC || e == EPERM ? "see user.max_user_namespaces" : NULL;
    case RK_FORK_HELPER_STEP:
        return e == EAGAIN ? "too many processes: see ulimit -u and pid_max" : NULL;
    case RK_JOIN_NAMESPACES_STEP:
        return entering_hint(e);
    case RK_RUN_APP:
        return e == EAGAIN ? "too many processes: see --pids and ulimit -u" : NULL;
    case RK_HAND_OVER:
        return e == EPERM || e == ENOSYS
                   ? "the master needs CAP_SYS_PTRACE and pidfd_getfd(2) for that; see "
                     "kernel.yama.ptrace_scope"
               : e == EAGAIN ? "too many wait for its guard already; try again" : NULL;
    default:
        return NULL;
    }
}

static const char *loss_hint(int step, int how)
{
    if (how == RK_LOSS_DIED && (step == RK_REQUEST_ROCKER || step == RK_AWAIT_ENTRANCE_STEP)) {
        return "the master's log may say why";
    }
    if (how == RK_LOSS_SILENT && step == RK_AWAIT_ENTRANCE_STEP) {
        return "the master is stuck or the machine overloaded; a longer timeout may help";
    }
    if (how == RK_LOSS_SILENT && step == RK_KILL_GUARD) {
        return "it is dead but not gone before the App's parent has waited for the App";
    }
    return NULL;
}

/* --- One line. -------------------------------------------------------------------------------- */

struct line {
    char *text;
    size_t size;
    size_t length;
};

static void put(struct line *line, char byte)
{
    if (line->length + 1 < line->size) {
        line->text[line->length] = byte;
    }
    line->length++;
}

static void put_text(struct line *line, const char *text)
{
    for (; *text != '\0'; text++) {
        put(line, *text);
    }
}

static void put_number(struct line *line, int number)
{
    char digits[520] = "";

    rk_add_number(digits, (uint32_t)number);
    put_text(line, digits);
}

/* Whatever the bytes, it stays one line: control characters are escaped. */
static void put_printable(struct line *line, const char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '\t' || byte == '\n' || byte == '\r') {
            put(line, '\\');
            put(line, byte == '\t' ? 't' : byte == '\n' ? 'n' : 'r');
        } else if (byte < 0x20 || byte == 0x7f) {
            put_text(line, "\\u{");
            if (byte >= 0x10) {
                put(line, (char)('0' + (byte >> 4)));
            }
            put(line, "0123456789abcdef"[byte & 0xf]);
            put(line, '}');
        } else {
            put(line, *text);
        }
    }
}

static void put_step(struct line *line, int step)
{
    if (!is_step(step)) {
        put_text(line, "step ");
        put_number(line, step);
        return;
    }
    put_text(line, rk_nth(diagrams, (unsigned)step >> 4));
    put(line, '.');
    put_number(line, step & 0xf);
}

static void put_invalid(struct line *line, const RockerError *error)
{
    put_text(line, rk_nth(items, (unsigned)error->item));
    if (error->subject[0] != '\0') {
        put(line, ' ');
        put_printable(line, error->subject);
    } else if (error->item == RK_ITEM_OVERLAY_DIR || error->item == RK_ITEM_DEVICE) {
        put(line, ' ');
        put_number(line, error->index);
    }
    put_text(line, ": ");
    put_text(line, rk_nth(rules, (unsigned)error->rule));
    if (error->command[0] != '\0') {
        put_text(line, ": ");
        put_printable(line, error->command);
    }
}

static void put_errno(struct line *line, int os_errno)
{
    char words[128];

    if (strerror_r(os_errno, words, sizeof(words)) == 0) {
        put_text(line, words);
    } else {
        put_text(line, "errno ");
        put_number(line, os_errno);
    }
}

/* What could not be done, and at which step. */
static void put_task(struct line *line, const RockerError *error)
{
    bool is_question = error->order == RK_QUESTION && error->step == RK_REQUEST_ROCKER;
    bool is_order = error->order > RK_PROGRAM && error->step == RK_START_PROGRAM;

    put_text(line, "cannot ");
    put_text(line, is_question || is_order ? rk_nth(orders, (unsigned)error->order - 1)
                                           : purpose_of(error->step));
    if (!is_question) {
        put_text(line, " (");
        put_step(line, error->step);
        put(line, ')');
    }
    /* A question is nobody's step: no rocker was requested. */
    put_text(line, ": ");
}

static void put_failure(struct line *line, const RockerError *error)
{
    const char *hint;

    put_task(line, error);
    if (error->command[0] != '\0') {
        put_printable(line, error->command);
        put_text(line, ": ");
    }
    if (error->fault == RK_LOST_FAULT) {
        put_text(line, rk_nth(losses, (unsigned)error->loss));
        hint = loss_hint(error->step, error->loss);
    } else {
        put_errno(line, error->os_errno);
        hint = error->at_exec ? exec_hint(error->os_errno, error->command)
                              : failure_hint(error->step, error->os_errno);
    }
    if (hint != NULL) {
        put_text(line, ": ");
        put_text(line, hint);
    }
}

size_t ROCKER_strerror(const RockerError *error, char *text, size_t size)
{
    struct line line = { text, size, 0 };

    switch (error->fault) {
    case RK_NO_FAULT:
        put_text(&line, "success");
        break;
    case RK_INVALID:
        put_invalid(&line, error);
        break;
    default:
        put_failure(&line, error);
        break;
    }
    if (size > 0) {
        text[line.length < size ? line.length : size - 1] = '\0';
    }
    return line.length;
}

/* From ROCKER_ERR_unknown, which is -1, on. */
static const char codes[] =
    "unknown\0"
    "success\0"
    "sys\0"
    "param_invalid\0"
    "server_unaddr_invalid\0"
    "gen_local_addr_failed\0"
    "send_req_failed\0"
    "recv_resp_failed\0"
    "build_rocker_failed\0"
    "enter_rocker_failed\0"
    "app_exec_failed\0"
    "get_guardname_failed\0";

const char *ROCKER_err_name(ROCKER_ERR code)
{
    bool known = code >= ROCKER_ERR_success && code <= ROCKER_ERR_get_guardname_failed;

    return rk_nth(codes, known ? (unsigned)code + 1 : 0);
}
