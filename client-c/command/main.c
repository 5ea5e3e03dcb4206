/*
 * rocker: the command. What people type most, an App of root's in the foreground, is done here, in
 * C and without a C library, because as a whole process that takes little more than half the time
 * and a tenth of the memory (ARCHITECTURE.md). All else is rocker-cli's, which knows every word and
 * tells what is wrong with one: it is executed in place of this, as if it had been called. So
 * nothing here is refused before a master is asked, and whatever is unusual is not looked into.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <rocker.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "manifest.h"
#include "tell.h"
#include "vigil.h"

/* Exit statuses, as of env(1) and container engines. */
enum { ROCKER_FAILED = 125, NOT_EXECUTABLE = 126, NOT_FOUND = 127, SIGNALLED = 128 };

/* Who an App of root's is unless it is said: nobody. */
enum { NOBODY = 65534 };

/* root.1, as errors have it. */
enum { REQUEST_ROCKER = 0x01 };

enum { ARGS_MAX = 256, VARIABLES_MAX = 256, ROOM = 32 * 1024 };

static const char default_socket[] = "/run/rocker/master.sock";
static const char data_dirs[] = "/var/lib/rocker";
static const char path_variable[] =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* A run, from words to a launch. */
struct run {
    /* What was said. NULL, 0 and -1: nothing. */
    const char *package, *socket, *uid, *gid, *app_id, *exec_dir, *data_dir, *cwd;
    char *overlays[16];
    unsigned overlays_count;
    bool is_volatile, landlock;
    char *said[VARIABLES_MAX];
    unsigned said_count;
    char **argv;
    char **environment;

    /* What comes of it. */
    struct rk_manifest manifest;
    char *args[ARGS_MAX + 1];
    unsigned args_count;
    char *variables[VARIABLES_MAX + 1];
    unsigned variables_count;
    RockerRequest request;
    RockerOptions options;
    RockerProgram program;
    char room[ROOM];
    size_t used;
};

/* --- Texts. ----------------------------------------------------------------------------------- */

/* Some texts as one, which ends with NULL here. NULL: there is no room. */
static char *join(struct run *run, const char *const *parts)
{
    char *text = run->room + run->used;

    for (; *parts != NULL; parts++) {
        size_t length = strlen(*parts);
        if (length >= ROOM - run->used) {
            return NULL;
        }
        memcpy(run->room + run->used, *parts, length);
        run->used += length;
    }
    run->room[run->used++] = '\0';
    return text;
}

#define JOIN(run, ...) join(run, (const char *const[]){ __VA_ARGS__, NULL })

/* A number of up to nine digits and nothing else. */
static bool to_number(const char *text, int *number)
{
    size_t length = strlen(text);

    *number = 0;
    for (const char *digit = text; *digit != '\0'; digit++) {
        if (*digit < '0' || *digit > '9' || length > 9) {
            return false;
        }
        *number = *number * 10 + (*digit - '0');
    }
    return length > 0;
}

/* The beginning of `text` if it is this, else NULL. */
static const char *behind(const char *text, const char *beginning)
{
    size_t length = strlen(beginning);

    return strncmp(text, beginning, length) == 0 ? text + length : NULL;
}

/* --- What was said. --------------------------------------------------------------------------- */

/* An option's value, behind '=' or as the next word; NULL: this is not that option, or it has
 * none. */
static char *value(char ***word, const char *option)
{
    const char *rest = behind(**word, option);

    if (rest != NULL && *rest == '=') {
        return (char *)rest + 1;
    }
    return rest != NULL && *rest == '\0' && (*word)[1] != NULL ? *++*word : NULL;
}

/* An option that takes a value, once. */
static bool take_once(struct run *run, char ***word)
{
    const struct {
        const char *option;
        const char **value;
    } known[] = {
        { "--socket", &run->socket },     { "--uid", &run->uid },
        { "--gid", &run->gid },           { "--app-id", &run->app_id },
        { "--exec-dir", &run->exec_dir }, { "--data-dir", &run->data_dir },
        { "--cwd", &run->cwd },
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        const char *said = value(word, known[i].option);
        if (said != NULL) {
            bool is_plain = *known[i].value == NULL && *said != '\0' && *said != '-';
            *known[i].value = said;
            return is_plain;
        }
    }
    return false;
}

static bool take_flag(const char *word, const char *option, bool *flag)
{
    bool is_new = !*flag && strcmp(word, option) == 0;

    *flag = *flag || is_new;
    return is_new;
}

/* An option that takes a value, as often as one likes. */
static bool take_each(char ***word, const char *option, char **values, unsigned *count,
                      unsigned most)
{
    char *said = *count < most ? value(word, option) : NULL;

    if (said == NULL || *said == '\0' || *said == '-') {
        return false;
    }
    values[(*count)++] = said;
    return true;
}

/* The words behind "run". False: there is one that is not known here. */
static bool take_words(struct run *run, char **word)
{
    for (; *word != NULL; word++) {
        if (strcmp(*word, "--") == 0) {
            run->argv = word[1] != NULL ? word + 1 : NULL;
            break;
        }
        if ((*word)[0] != '-') {
            if (run->package != NULL || (*word)[0] == '\0') {
                return false;
            }
            run->package = *word;
            continue;
        }
        if (!take_flag(*word, "--volatile", &run->is_volatile) &&
            !take_flag(*word, "--landlock", &run->landlock) &&
            !take_each(&word, "--overlay", run->overlays, &run->overlays_count, 16) &&
            !take_each(&word, "--env", run->said, &run->said_count, VARIABLES_MAX) &&
            !take_once(run, &word)) {
            return false;
        }
    }
    return run->package != NULL;
}

/* --- What comes of it. ------------------------------------------------------------------------ */

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
static char *path_of(struct run *run, int fd)
{
    char link[] = "/proc/self/fd/..........", *digit = link + sizeof(link) - 1;
    char path[4096];
    unsigned left = (unsigned)fd;

    /* Digits from the end, and what is before them is moved there. */
    *digit = '\0';
    do {
        *--digit = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    size_t length = strlen("/proc/self/fd/");
    memmove(link + length, digit, strlen(digit) + 1);
    ssize_t got = readlink(link, path, sizeof(path) - 1);
    if (got <= 0 || got >= (ssize_t)sizeof(path) - 1 || path[0] != '/') {
        return NULL;
    }
    path[got] = '\0';
    return JOIN(run, path);
}

/* The same of a path; NULL also if there is nothing there. */
static char *resolve(struct run *run, const char *path)
{
    int fd = open(path, O_PATH | O_CLOEXEC);

    if (fd < 0) {
        return NULL;
    }
    char *resolved = path_of(run, fd);
    close(fd);
    return resolved;
}

/* A whole file of up to so many bytes, less the NUL that ends it here. False: it cannot be read, or
 * is longer. */
static bool read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    ssize_t got = -1;

    while (fd >= 0 && length < size && (got = read(fd, text + length, size - length)) > 0) {
        length += (size_t)got;
    }
    if (fd >= 0) {
        close(fd);
    }
    if (got != 0 || length == size) {
        return false;
    }
    text[length] = '\0';
    return true;
}

/* The next line of a text, which a NUL ends then; NULL: there is none. */
static char *next_line(char **text)
{
    char *line = *text, *end = line != NULL ? strchr(line, '\n') : NULL;

    *text = end != NULL ? end + 1 : NULL;
    if (end != NULL) {
        *end = '\0';
    }
    return line;
}

static const char *skip_blanks(const char *text)
{
    while (*text == ' ' || *text == '\t') {
        text++;
    }
    return text;
}

/* Whether the first place where users are looked up is passwd(5): nsswitch.conf(5). */
static bool passwd_is_first(char *text, size_t size)
{
    if (!read_file("/etc/nsswitch.conf", text, size)) {
        return errno == ENOENT;
    }
    for (char *line; (line = next_line(&text)) != NULL;) {
        const char *places = behind(skip_blanks(line), "passwd");
        if (places != NULL && *skip_blanks(places) == ':') {
            return behind(skip_blanks(skip_blanks(places) + 1), "files") != NULL;
        }
    }
    return true;
}

/* The group that passwd(5) says a user has. False: it does not say, or it is not asked first. */
static bool find_group(int uid, int *gid)
{
    static char room[32 * 1024];
    char *text = room;

    if (!passwd_is_first(room, sizeof(room)) || !read_file("/etc/passwd", room, sizeof(room))) {
        return false;
    }
    for (char *line; (line = next_line(&text)) != NULL;) {
        /* name:password:uid:gid: */
        char *fields[4] = { line };
        for (int i = 1; i < 4; i++) {
            char *colon = fields[i - 1] != NULL ? strchr(fields[i - 1], ':') : NULL;
            fields[i] = colon != NULL ? colon + 1 : NULL;
            if (colon != NULL) {
                *colon = '\0';
            }
        }
        char *end = fields[3] != NULL ? strchr(fields[3], ':') : NULL;
        int number;
        if (end != NULL && to_number(fields[2], &number) && number == uid) {
            *end = '\0';
            return to_number(fields[3], gid);
        }
    }
    return false;
}

/* The user and the group: as client-rs/src/cli/identity.rs has it for numbers. */
static bool identify(struct run *run)
{
    RockerRequest *request = &run->request;

    request->uid = NOBODY;
    if (run->uid != NULL && !to_number(run->uid, &request->uid)) {
        return false;
    }
    if (run->gid != NULL) {
        return to_number(run->gid, &request->gid);
    }
    return request->uid != 0 && find_group(request->uid, &request->gid);
}

/* One more variable, NAME=value, instead of one of that name. False: it has none, or there are too
 * many. */
static bool set_variable(struct run *run, char *variable)
{
    const char *equals = strchr(variable, '=');
    unsigned at = 0;

    if (equals == NULL || equals == variable) {
        return false;
    }
    size_t name = (size_t)(equals - variable) + 1;
    while (at < run->variables_count && strncmp(run->variables[at], variable, name) != 0) {
        at++;
    }
    if (at == VARIABLES_MAX) {
        return false;
    }
    run->variables[at] = variable;
    run->variables_count += at == run->variables_count;
    return true;
}

/* One of the caller's, if it has it. */
static char *environment(const struct run *run, const char *name)
{
    for (char **variable = run->environment; *variable != NULL; variable++) {
        const char *rest = behind(*variable, name);
        if (rest != NULL && *rest == '=') {
            return *variable;
        }
    }
    return NULL;
}

static bool add_overlay(struct run *run, char *dir)
{
    if (run->overlays_count == 16) {
        return false;
    }
    run->overlays[run->overlays_count++] = dir;
    return true;
}

/* What the manifest says, but for variables; what was said goes before it. */
static bool take_manifest(struct run *run)
{
    bool overlays_said = run->overlays_count > 0, taken = true;
    const char *next = NULL;

    while (taken && (next = rk_manifest_next(&run->manifest, next)) != NULL) {
        char *rest = *next != '\0' ? (char *)next + 1 : (char *)next;
        switch (*next) {
        case 'e':
            run->args[0] = *rest == '/' ? rest : JOIN(run, run->request.app_exec_dir, "/", rest);
            taken = run->args_count == 0 && run->args[0] != NULL;
            run->args_count = 1;
            break;
        case 'a':
            taken = run->args_count > 0 && run->args_count < ARGS_MAX;
            if (taken) {
                run->args[run->args_count++] = rest;
            }
            break;
        case 'c':
            run->program.cwd = rest;
            break;
        case 'o':
            taken = overlays_said || add_overlay(run, rest);
            break;
        case 'O':
            taken = overlays_said || add_overlay(run, (char *)"auto");
            break;
        case 'l':
            run->landlock = true;
            break;
        default:
            taken = *next == 'v';
        }
    }
    return taken;
}

/* What the program has of variables: those that nobody said, the manifest's, and those said. */
static bool set_variables(struct run *run)
{
    const char *home = run->request.app_data_dir, *next = NULL;
    char *term = environment(run, "TERM"), *lang = environment(run, "LANG");
    char *home_variable = JOIN(run, "HOME=", home != NULL ? home : "/");
    bool set = home_variable != NULL && set_variable(run, (char *)path_variable) &&
               set_variable(run, home_variable);

    if (term != NULL && (isatty(0) || isatty(1))) {
        set = set && set_variable(run, term);
    }
    if (lang != NULL) {
        set = set && set_variable(run, lang);
    }
    while (set && (next = rk_manifest_next(&run->manifest, next)) != NULL) {
        set = *next != 'v' || set_variable(run, (char *)next + 1);
    }
    for (unsigned i = 0; set && i < run->said_count; i++) {
        set = set_variable(run, run->said[i]);
    }
    return set;
}

/* Where the App's layers are, if it has any. */
static bool find_data_dir(struct run *run)
{
    char *package = run->request.app_pkg_path;

    if (run->data_dir != NULL) {
        run->request.app_data_dir = resolve(run, run->data_dir);
        return run->request.app_data_dir != NULL;
    }
    if (run->overlays_count == 0) {
        return true;
    }
    char *dir = JOIN(run, data_dirs, strrchr(package, '/'));
    if (dir == NULL) {
        return false;
    }
    char *name = strrchr(dir, '/') + 1, *dot = strrchr(name, '.');
    if (dot != NULL && dot != name) {
        *dot = '\0';
    }
    run->request.app_data_dir = dir;
    int fd = open(dir, O_PATH | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

static bool set_overlays(struct run *run)
{
    if (run->overlays_count == 1 && strcmp(run->overlays[0], "auto") == 0) {
        run->options.overlay_all = 1;
        return true;
    }
    for (unsigned i = 0; i < run->overlays_count; i++) {
        if (!is_absolute(run->overlays[i])) {
            return false;
        }
        run->request.app_overlay_dirs[i] = run->overlays[i];
    }
    return true;
}

/* The package, and what stands behind its image. */
static bool open_package(struct run *run)
{
    int package = open(run->package, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

    if (package < 0) {
        return false;
    }
    run->request.app_pkg_path = path_of(run, package);
    bool is_read = rk_read_manifest(package, &run->manifest);
    close(package);
    return is_read && run->request.app_pkg_path != NULL;
}

/* The socket, and the exec dir beside it. */
static bool find_places(struct run *run)
{
    const char *socket = environment(run, "ROCKER_SOCKET");

    socket = socket != NULL && strchr(socket, '=')[1] != '\0' ? strchr(socket, '=') + 1
                                                             : default_socket;
    socket = run->socket != NULL ? run->socket : socket;
    run->options.socket_path = socket;
    char *beside = JOIN(run, socket);
    if (!is_absolute(socket) || beside == NULL) {
        return false;
    }
    *strrchr(beside, '/') = '\0';
    run->request.app_exec_dir =
        run->exec_dir != NULL ? resolve(run, run->exec_dir) : JOIN(run, beside, "/app");
    return run->request.app_exec_dir != NULL;
}

/* Everything that a launch takes. False: it is for rocker-cli to say what is wrong, or unusual. */
static bool plan(struct run *run)
{
    run->request = ROCKER_request_new();
    run->options = ROCKER_options_new();
    run->program = ROCKER_program_new(NULL);
    if (geteuid() != 0 || !open_package(run) || !find_places(run) || !identify(run) ||
        !take_manifest(run) || !find_data_dir(run) || !set_overlays(run) || !set_variables(run)) {
        return false;
    }
    run->request.app_id = 0;
    if (run->app_id != NULL && !to_number(run->app_id, &run->request.app_id)) {
        return false;
    }
    run->options.flags = (run->is_volatile ? ROCKER_VOLATILE : 0) |
                         (run->landlock ? ROCKER_LANDLOCK : 0);
    run->program.argv = run->argv != NULL ? run->argv : run->args;
    run->program.path = run->program.argv[0];
    run->program.envp = run->variables;
    run->program.cwd = run->cwd != NULL ? run->cwd : run->program.cwd;
    return run->program.path != NULL && run->program.path[0] != '\0';
}

/* --- A run. ----------------------------------------------------------------------------------- */

/* rocker-cli, as if it had been called: beside this program, or where it is installed. */
static int hand_over(char **argv, char **envp)
{
    const char *places[] = { "/rocker-cli", "/../libexec/rocker/rocker-cli" };
    char path[4096 + 32];
    ssize_t length = readlink("/proc/self/exe", path, 4095);

    path[length > 0 ? length : 0] = '\0';
    char *end = strrchr(path, '/');
    for (size_t i = 0; end != NULL && i < sizeof(places) / sizeof(*places); i++) {
        memcpy(end, places[i], strlen(places[i]) + 1);
        execve(path, argv, envp);
        if (errno != ENOENT) {
            break;
        }
    }
    rk_tell_failure("execute rocker-cli, beside rocker or in ../libexec/rocker", errno);
    return ROCKER_FAILED;
}

static int launch(struct run *run, char **argv)
{
    struct rk_signals signals;
    Rocker rocker;
    RockerError error;
    int status = 0;

    if (rk_take_signals(&signals) < 0) {
        return hand_over(argv, run->environment);
    }
    if (ROCKER_spawn(&run->request, &run->options, &run->program, &rocker, &error) !=
        ROCKER_ERR_success) {
        if (error.step == REQUEST_ROCKER &&
            (error.os_errno == ENOENT || error.os_errno == ECONNREFUSED)) {
            /* Nobody listens: it brings a master of its own. */
            rk_return_signals(&signals);
            return hand_over(argv, run->environment);
        }
        char line[ROCKER_STRERROR_MAX];
        ROCKER_strerror(&error, line, sizeof(line));
        rk_complain(line);
        bool is_missing = error.os_errno == ENOENT || error.os_errno == ENOTDIR;
        return !error.at_exec ? ROCKER_FAILED : is_missing ? NOT_FOUND : NOT_EXECUTABLE;
    }
    int waited = rk_until_gone(&rocker, &signals, &status);
    if (waited < 0) {
        rk_tell_failure("wait for the App", -waited);
        return ROCKER_FAILED;
    }
    return WIFSIGNALED(status) ? SIGNALLED + WTERMSIG(status) : WEXITSTATUS(status);
}

/* What std does for a program in Rust: nothing that is opened becomes one of these three. */
static void hold_stdio(void)
{
    struct pollfd stdio[] = { { 0, 0, 0 }, { 1, 0, 0 }, { 2, 0, 0 } };

    poll(stdio, 3, 0);
    for (int i = 0; i < 3; i++) {
        if ((stdio[i].revents & POLLNVAL) != 0) {
            open("/dev/null", O_RDWR);
        }
    }
}

int main(int argc, char **argv, char **envp);
int main(int argc, char **argv, char **envp)
{
    static struct run run;

    run.environment = envp;
    hold_stdio();
    bool can = argc > 2 && strcmp(argv[1], "run") == 0 && take_words(&run, argv + 2) && plan(&run);
    return can ? launch(&run, argv) : hand_over(argv, envp);
}
