#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../src/arch.h"
#include "../src/launch.h"
#include "identity.h"
#include "run.h"
#include "text.h"

/* man 2 openat2: newer than the oldest C library that this is built with. */
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
enum { RK_RESOLVE_NO_SYMLINKS = 0x04 };

static const char default_socket[] = "/run/rocker/master.sock";
static const char data_dirs[] = "/var/lib/rocker";
static const char path_variable[] =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* Some texts as one. NULL: there is no room. */
static char *join(struct rk_plan *plan, const char *const *parts)
{
    char *text = plan->room + plan->used;

    for (; *parts != NULL; parts++) {
        size_t length = strlen(*parts);
        if (length >= RK_ROOM - plan->used) {
            return NULL;
        }
        memcpy(plan->room + plan->used, *parts, length);
        plan->used += length;
    }
    plan->room[plan->used++] = '\0';
    return text;
}

#define JOIN(plan, ...) join(plan, (const char *const[]){ __VA_ARGS__, NULL })

/* --- Places. ---------------------------------------------------------------------------------- */

/* Whether a path is absolute, and already as std::path::absolute() would make it. */
static bool is_absolute(const char *path)
{
    for (const char *part = path; *part != '\0';) {
        if (*part++ != '/' || *part == '/' || *part == '\0' ||
            (*part == '.' && (part[1] == '/' || part[1] == '\0'))) {
            return false;
        }
        while (*part != '/' && *part != '\0') {
            part++;
        }
    }
    return *path != '\0';
}

/* Where an open file lies, without links and dots: the kernel knows. NULL: who can say? */
static char *path_of(struct rk_plan *plan, int fd)
{
    /* What it has behind the path of what is deleted: proc_pid_fd(5). */
    static const char deleted[] = " (deleted)";
    const ssize_t tail = sizeof(deleted) - 1;
    char link[sizeof(((RockerError *)0)->command)] = "/proc/self/fd/";
    char path[4096];

    rk_add_number(link, (unsigned)fd);
    ssize_t length = readlink(link, path, sizeof(path) - 1);
    if (length <= 0 || length >= (ssize_t)sizeof(path) - 1 || path[0] != '/') {
        return NULL;
    }
    path[length] = '\0';
    bool is_gone = length > tail && strcmp(path + length - tail, deleted) == 0;
    return is_gone ? NULL : JOIN(plan, path);
}

/* Whether there may be a ".." on the way. */
static bool goes_up(const char *path)
{
    while (*path != '\0' && !(path[0] == '/' && path[1] == '.' && path[2] == '.')) {
        path++;
    }
    return *path != '\0';
}

/* Opens a path, and tells the path without links: the same one, of the caller's words, if there are
 * neither links nor dots in it. To ask /proc takes more time than all else here. */
static int open_path(struct rk_plan *plan, const char *path, int flags, char **resolved)
{
    const struct {
        uint64_t flags, mode, resolve;
    } how = { .flags = (unsigned)flags, .resolve = RK_RESOLVE_NO_SYMLINKS };

    if (is_absolute(path) && !goes_up(path)) {
        long fd = rk_call(SYS_openat2, AT_FDCWD, (long)path, (long)&how, sizeof(how), 0);
        if (fd >= 0) {
            *resolved = (char *)path;
            return (int)fd;
        }
    }
    int fd = open(path, flags);
    *resolved = fd >= 0 ? path_of(plan, fd) : NULL;
    return fd;
}

/* Where a path leads; NULL also if there is nothing there. */
static char *resolve(struct rk_plan *plan, const char *path)
{
    char *resolved;
    int fd = open_path(plan, path, O_PATH | O_CLOEXEC, &resolved);

    if (fd >= 0) {
        close(fd);
    }
    return resolved;
}

/* The package, and what stands behind its image. */
static bool open_package(struct rk_plan *plan, const char *path)
{
    char *resolved;
    int package = open_path(plan, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, &resolved);

    if (package < 0) {
        return false;
    }
    plan->request.app_pkg_path = resolved;
    bool is_read = rk_read_manifest(package, &plan->manifest);
    close(package);
    return is_read && plan->request.app_pkg_path != NULL;
}

/* One of the caller's variables, if it has it. */
static char *find_variable(char **environment, const char *name)
{
    for (; *environment != NULL; environment++) {
        const char *rest = rk_behind(*environment, name);
        if (rest != NULL && *rest == '=') {
            return *environment;
        }
    }
    return NULL;
}

static const char *find_socket(const struct rk_said *said, char **environment)
{
    const char *variable = find_variable(environment, "ROCKER_SOCKET");
    const char *named = variable != NULL ? strchr(variable, '=') + 1 : "";

    return said->socket != NULL ? said->socket : *named != '\0' ? named : default_socket;
}

/* The socket, and the exec dir beside it. */
static bool find_places(struct rk_plan *plan, const struct rk_said *said, char **environment)
{
    const char *socket = find_socket(said, environment);
    char *beside = JOIN(plan, socket);

    if (!is_absolute(socket) || beside == NULL) {
        return false;
    }
    *strrchr(beside, '/') = '\0';
    plan->options.socket_path = socket;
    plan->request.app_exec_dir =
        said->exec_dir != NULL ? resolve(plan, said->exec_dir) : JOIN(plan, beside, "/app");
    return plan->request.app_exec_dir != NULL;
}

/* Where the App's layers are, if it has any. */
static bool find_data_dir(struct rk_plan *plan, const struct rk_said *said)
{
    if (said->data_dir != NULL) {
        plan->request.app_data_dir = resolve(plan, said->data_dir);
        return plan->request.app_data_dir != NULL;
    }
    if (plan->overlays_count == 0 && plan->options.overlay_all == 0) {
        return true;
    }
    /* That of the package's name, less what is behind its last dot. */
    char *dir = JOIN(plan, data_dirs, strrchr(plan->request.app_pkg_path, '/'));
    if (dir == NULL) {
        return false;
    }
    char *name = strrchr(dir, '/') + 1, *dot = strrchr(name, '.');
    if (dot != NULL && dot != name) {
        *dot = '\0';
    }
    plan->request.app_data_dir = dir;
    int fd = open(dir, O_PATH | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

static bool add_overlay(struct rk_plan *plan, char *dir)
{
    if (plan->overlays_count == RK_OVERLAYS_MAX || !is_absolute(dir)) {
        return false;
    }
    plan->request.app_overlay_dirs[plan->overlays_count++] = dir;
    return true;
}

static bool take_overlays(struct rk_plan *plan, const struct rk_said *said)
{
    bool taken = true;

    if (said->overlays_count == 1 && strcmp(said->overlays[0], "auto") == 0) {
        plan->options.overlay_all = 1;
        return true;
    }
    for (unsigned i = 0; taken && i < said->overlays_count; i++) {
        taken = add_overlay(plan, said->overlays[i]);
    }
    return taken;
}

/* --- The manifest, and the program. ----------------------------------------------------------- */

/* Of the program's words, the first of which is its path. */
static bool add_arg(struct rk_plan *plan, char *arg)
{
    if (arg == NULL || plan->args_count == RK_ARGS_MAX) {
        return false;
    }
    plan->args[plan->args_count++] = arg;
    return true;
}

/* What the manifest says, but for variables; what was said goes before it. */
static bool take_manifest(struct rk_plan *plan, const struct rk_said *said)
{
    bool overlays_said = said->overlays_count > 0, taken = true;
    const char *next = NULL;

    /* The letters are those of client-rs/src/cli/pack/trailer.rs. */
    while (taken && (next = rk_manifest_next(&plan->manifest, next)) != NULL) {
        char *rest = (char *)next + 1;
        switch (*next) {
        case 'e':
            taken = plan->args_count == 0 &&
                    add_arg(plan, *rest == '/'
                                      ? rest
                                      : JOIN(plan, plan->request.app_exec_dir, "/", rest));
            break;
        case 'a':
            taken = plan->args_count > 0 && add_arg(plan, rest);
            break;
        case 'c':
            plan->program.cwd = rest;
            break;
        case 'o':
            taken = overlays_said || add_overlay(plan, rest);
            break;
        case 'O':
            plan->options.overlay_all = !overlays_said;
            break;
        case 'l':
            plan->options.flags |= ROCKER_LANDLOCK;
            break;
        default:
            taken = *next == 'v';
        }
    }
    return taken;
}

/* One more variable, NAME=value, instead of one of that name. False: it has none, or there are too
 * many. */
static bool set_variable(struct rk_plan *plan, const char *variable)
{
    const char *equals = variable != NULL ? strchr(variable, '=') : NULL;
    unsigned at = 0;

    if (equals == NULL || equals == variable) {
        return false;
    }
    size_t name = (size_t)(equals - variable) + 1;
    while (at < plan->variables_count && strncmp(plan->variables[at], variable, name) != 0) {
        at++;
    }
    if (at == RK_VARIABLES_MAX) {
        return false;
    }
    plan->variables[at] = (char *)variable;
    plan->variables_count += at == plan->variables_count;
    return true;
}

/* What the program has of variables: those that nobody said, the manifest's, and those said. */
static bool set_variables(struct rk_plan *plan, const struct rk_said *said, char **environment)
{
    const char *home = plan->request.app_data_dir, *next = NULL;
    const char *term = find_variable(environment, "TERM");
    const char *lang = find_variable(environment, "LANG");
    bool set = set_variable(plan, path_variable) &&
               set_variable(plan, JOIN(plan, "HOME=", home != NULL ? home : "/"));

    if (term != NULL && (isatty(0) || isatty(1))) {
        set = set && set_variable(plan, term);
    }
    if (lang != NULL) {
        set = set && set_variable(plan, lang);
    }
    while (set && (next = rk_manifest_next(&plan->manifest, next)) != NULL) {
        set = *next != 'v' || set_variable(plan, next + 1);
    }
    for (unsigned i = 0; set && i < said->variables_count; i++) {
        set = set_variable(plan, said->variables[i]);
    }
    return set;
}

bool rk_make_plan(struct rk_plan *plan, const struct rk_said *said, char **environment)
{
    plan->request = ROCKER_request_new();
    plan->options = ROCKER_options_new();
    plan->program = ROCKER_program_new(NULL);
    plan->request.app_id = 0;
    plan->options.flags = (said->is_volatile ? ROCKER_VOLATILE : 0) |
                          (said->landlock ? ROCKER_LANDLOCK : 0);
    if (!open_package(plan, said->package) || !find_places(plan, said, environment) ||
        !rk_identify(&plan->request, said->uid, said->gid) || !take_manifest(plan, said) ||
        !take_overlays(plan, said) || !find_data_dir(plan, said) ||
        !set_variables(plan, said, environment)) {
        return false;
    }
    if (said->app_id != NULL && !rk_to_number(said->app_id, &plan->request.app_id)) {
        return false;
    }
    plan->program.argv = said->argv != NULL ? said->argv : plan->args;
    plan->program.path = plan->program.argv[0];
    plan->program.envp = plan->variables;
    plan->program.cwd = said->cwd != NULL ? said->cwd : plan->program.cwd;
    return plan->program.path != NULL && plan->program.path[0] != '\0';
}
