/*
 * A small AppMaster: starts the Apps of a list, each in a rocker of its own, restarts those that
 * crash, and stops them gently.
 *
 *     appmaster [-s SOCKET] [-u UID] [-x EXEC_DIR] [-d DATA_DIR] [-b FIRST_MS] [-g GRACE_MS] LIST
 *
 * A line of the list is: NAME PACKAGE PROGRAM [OVERLAID_DIR]...
 * An App with overlays keeps what it writes in DATA_DIR/NAME, which exists.
 *
 * "stop NAME" on standard input stops one App; its end, SIGTERM or SIGINT stop all. To stop is
 * SIGTERM to the App, and after GRACE_MS SIGKILL to its guard, which nothing in the rocker
 * survives. An App that crashes is started again after FIRST_MS, then twice as much, and so on
 * to at most WAIT_MAX_MS, until it has lived for STABLE_MS. One whose line breaks a rule is not.
 *
 * One thread, one poll: a launch under way delays nobody.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <rocker.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { APPS_MAX = 64, LINE_MAX_BYTES = 4096, WAIT_MAX_MS = 10000, STABLE_MS = 30000 };

enum state {
    DOWN,      /* nothing of it is there; started at `due_ms` if wanted */
    LAUNCHING, /* `launch` is under way */
    RUNNING,   /* `rocker` lives */
    STOPPING,  /* it has had its SIGTERM; its guard is killed at `due_ms` */
    LEAVING    /* the App has ended, its rocker not quite */
};

struct app {
    char line[LINE_MAX_BYTES]; /* what the pointers below lead to */
    const char *name;
    RockerRequest request;
    RockerProgram program;
    char data_dir[LINE_MAX_BYTES];
    enum state state;
    bool wanted;
    int64_t due_ms;
    int64_t began_ms;
    int wait_ms; /* before the next start */
    RockerLaunch launch;
    Rocker rocker;
};

static struct app apps[APPS_MAX];
static int count;
static RockerOptions options;
static int first_ms = 100;
static int grace_ms = 5000;
static volatile sig_atomic_t told_to_end;

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- One App. --------------------------------------------------------------------------------- */

/* It is not there any more: if it is wanted it comes again, later each time. */
static void wait_for_restart(struct app *app)
{
    app->state = DOWN;
    if (!app->wanted) {
        printf("%s: gone\n", app->name);
        return;
    }
    if (app->wait_ms == 0 || now_ms() - app->began_ms >= STABLE_MS) {
        app->wait_ms = first_ms;
    } else {
        app->wait_ms = app->wait_ms < WAIT_MAX_MS / 2 ? app->wait_ms * 2 : WAIT_MAX_MS;
    }
    app->due_ms = now_ms() + app->wait_ms;
    printf("%s: again in %d ms\n", app->name, app->wait_ms);
}

static void start(struct app *app)
{
    app->began_ms = now_ms();
    app->state = LAUNCHING;
    ROCKER_launch_begin(&app->launch, &app->request, &options, &app->program);
}

static void go_on(struct app *app)
{
    RockerError error;
    char line[ROCKER_STRERROR_MAX];
    ROCKER_ERR code;

    if (!ROCKER_launch_go_on(&app->launch)) {
        return;
    }
    code = ROCKER_launch_end(&app->launch, &app->rocker, &error);
    if (code == ROCKER_ERR_success) {
        app->state = RUNNING;
        printf("%s: App %d, guard %d called %s\n", app->name, app->rocker.app_pid,
               app->rocker.guard_pid, app->rocker.guard_pname);
    } else {
        ROCKER_strerror(&error, line, sizeof(line));
        printf("%s: %s\n", app->name, line);
        /* What breaks a rule, or is not allowed, would be so the next time, too. */
        app->wanted &= code != ROCKER_ERR_param_invalid;
        wait_for_restart(app);
    }
}

/* The App has ended; whatever it has left running ends with its guard. */
static void bury(struct app *app)
{
    int status = 0;

    waitpid(app->rocker.app_pid, &status, 0);
    if (WIFSIGNALED(status)) {
        printf("%s: ended by signal %d\n", app->name, WTERMSIG(status));
    } else {
        printf("%s: ended with status %d\n", app->name, WEXITSTATUS(status));
        app->wanted &= WEXITSTATUS(status) != 0;
    }
    ROCKER_kill(&app->rocker);
    app->state = LEAVING;
}

static void stop(struct app *app)
{
    printf("%s: stops, with %d ms to do so\n", app->name, grace_ms);
    ROCKER_signal_app(&app->rocker, SIGTERM);
    app->due_ms = now_ms() + grace_ms;
    app->state = STOPPING;
}

/* Does what there is to do. `ready`: what watched() named can be read. */
static void attend(struct app *app, bool ready)
{
    switch (app->state) {
    case DOWN:
        if (app->wanted && now_ms() >= app->due_ms) {
            start(app);
            go_on(app);
        }
        break;
    case LAUNCHING:
        go_on(app);
        break;
    case RUNNING:
        if (ready) {
            bury(app);
        } else if (!app->wanted) {
            stop(app);
        }
        break;
    case STOPPING:
        if (ready) {
            bury(app);
        } else if (now_ms() >= app->due_ms) {
            printf("%s: does not stop, so its guard is killed\n", app->name);
            ROCKER_kill(&app->rocker);
            app->due_ms = INT64_MAX;
        }
        break;
    case LEAVING:
        if (ready) {
            ROCKER_close(&app->rocker);
            wait_for_restart(app);
        }
        break;
    }
}

/* What its state waits for; -1 for nothing but the time. */
static int watched(const struct app *app)
{
    switch (app->state) {
    case LAUNCHING:
        return ROCKER_launch_fd(&app->launch);
    case RUNNING:
    case STOPPING:
        return app->rocker.app_pidfd;
    case LEAVING:
        return app->rocker.guard_pidfd;
    case DOWN:
        break;
    }
    return -1;
}

/* When to look at it even if nothing can be read. */
static int64_t due_ms(const struct app *app)
{
    switch (app->state) {
    case LAUNCHING:
        return now_ms() + ROCKER_launch_wait_ms(&app->launch);
    case STOPPING:
        return app->due_ms;
    case DOWN:
        return app->wanted ? app->due_ms : INT64_MAX;
    case RUNNING:
        return app->wanted ? INT64_MAX : 0;
    case LEAVING:
        break;
    }
    return INT64_MAX;
}

/* --- All of them. ----------------------------------------------------------------------------- */

static void on_signal(int signal)
{
    (void)signal;
    told_to_end = 1;
}

/* It only ends ppoll(). */
static void on_child(int signal)
{
    (void)signal;
}

/* An App can leave its parent more to wait for than itself (see Rocker in rocker.h), and neither it
 * nor its guard is gone before somebody has. Who is in a launch under way is the library's. */
static void reap_strays(void)
{
    for (int i = 0; i < count; i++) {
        if (apps[i].state == LAUNCHING) {
            return;
        }
    }
    for (;;) {
        siginfo_t ended = { 0 };
        if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT | __WALL) != 0 ||
            ended.si_pid == 0) {
            return;
        }
        for (int i = 0; i < count; i++) {
            bool lives = apps[i].state == RUNNING || apps[i].state == STOPPING;
            if (lives && apps[i].rocker.app_pid == ended.si_pid) {
                return; /* first to be buried */
            }
        }
        waitpid(ended.si_pid, NULL, __WALL);
    }
}

/* One command; false at the end of standard input. */
static bool obey(void)
{
    static char line[LINE_MAX_BYTES];
    static size_t length;
    ssize_t got = read(STDIN_FILENO, line + length, sizeof(line) - 1 - length);

    if (got <= 0) {
        return false;
    }
    length += (size_t)got;
    line[length] = '\0';
    for (char *end; (end = strchr(line, '\n')) != NULL;) {
        bool is_known = false;
        *end = '\0';
        for (int i = 0; i < count; i++) {
            if (strncmp(line, "stop ", 5) == 0 && strcmp(line + 5, apps[i].name) == 0) {
                apps[i].wanted = false;
                is_known = true;
            }
        }
        if (!is_known) {
            fprintf(stderr, "appmaster: \"%s\" is no \"stop NAME\" of an App\n", line);
        }
        length -= (size_t)(end + 1 - line);
        memmove(line, end + 1, length + 1);
    }
    return length < sizeof(line) - 1;
}

static void run(void)
{
    struct pollfd ready[APPS_MAX + 1];
    sigset_t none;
    bool commands = true;

    sigemptyset(&none);
    for (;;) {
        int64_t due = INT64_MAX;
        bool all_down = true;
        for (int i = 0; i < count; i++) {
            apps[i].wanted &= commands;
            ready[i] = (struct pollfd){ watched(&apps[i]), POLLIN, 0 };
            due = due_ms(&apps[i]) < due ? due_ms(&apps[i]) : due;
            all_down &= apps[i].state == DOWN && !apps[i].wanted;
        }
        if (all_down) {
            return;
        }
        ready[count] = (struct pollfd){ commands ? STDIN_FILENO : -1, POLLIN, 0 };
        int64_t left_ms = due > now_ms() ? due - now_ms() : 0;
        struct timespec left = { (time_t)(left_ms / 1000), (long)(left_ms % 1000) * 1000000 };
        /* Signals are let in here only, so that none comes between a look and the wait. */
        int found = ppoll(ready, (nfds_t)count + 1, due < INT64_MAX ? &left : NULL, &none);
        for (int i = 0; i < count; i++) {
            attend(&apps[i], found > 0 && ready[i].revents != 0);
        }
        reap_strays();
        if (told_to_end || (found > 0 && ready[count].revents != 0 && !obey())) {
            commands = false;
        }
    }
}

/* NAME PACKAGE PROGRAM [OVERLAID_DIR]... */
static bool read_app(struct app *app, int uid, char *exec_dir, const char *data_dir)
{
    char *rest = NULL;

    app->name = strtok_r(app->line, " \t\n", &rest);
    app->request = ROCKER_request_new();
    app->request.uid = app->request.gid = uid;
    app->request.app_exec_dir = exec_dir;
    app->request.app_pkg_path = strtok_r(NULL, " \t\n", &rest);
    app->program = ROCKER_program_new(strtok_r(NULL, " \t\n", &rest));
    app->program.stdio[0] = ROCKER_STDIO_NULL;
    for (int i = 0; i < 16; i++) {
        app->request.app_overlay_dirs[i] = strtok_r(NULL, " \t\n", &rest);
    }
    if (data_dir != NULL && app->request.app_overlay_dirs[0] != NULL) {
        snprintf(app->data_dir, sizeof(app->data_dir), "%s/%s", data_dir, app->name);
        app->request.app_data_dir = app->data_dir;
    }
    app->wanted = true;
    return app->program.path != NULL;
}

static bool read_list(const char *path, int uid, char *exec_dir, const char *data_dir)
{
    FILE *list = fopen(path, "re");
    bool good = true;

    if (list == NULL) {
        fprintf(stderr, "appmaster: cannot open %s: %s\n", path, strerror(errno));
        return false;
    }
    while (good && count < APPS_MAX && fgets(apps[count].line, LINE_MAX_BYTES, list) != NULL) {
        if (strspn(apps[count].line, " \t\n") != strlen(apps[count].line)) {
            good = read_app(&apps[count], uid, exec_dir, data_dir);
            count++;
        }
    }
    fclose(list);
    if (!good || count == 0) {
        fprintf(stderr, "appmaster: %s: each line needs NAME PACKAGE PROGRAM [OVERLAID_DIR]...\n",
                path);
    }
    return good && count > 0;
}

int main(int argc, char **argv)
{
    struct sigaction action = { .sa_handler = on_signal };
    struct sigaction child = { .sa_handler = on_child };
    char *exec_dir = NULL;
    const char *data_dir = NULL;
    int uid = 1000;

    options = ROCKER_options_new();
    for (int option; (option = getopt(argc, argv, "s:u:x:d:b:g:")) != -1;) {
        switch (option) {
        case 's': options.socket_path = optarg; break;
        case 'u': uid = atoi(optarg); break;
        case 'x': exec_dir = optarg; break;
        case 'd': data_dir = optarg; break;
        case 'b': first_ms = atoi(optarg); break;
        case 'g': grace_ms = atoi(optarg); break;
        default: return 2;
        }
    }
    if (optind + 1 != argc) {
        fprintf(stderr, "appmaster: a LIST is needed: NAME PACKAGE PROGRAM [OVERLAID_DIR]...\n");
        return 2;
    }
    if (!read_list(argv[optind], uid, exec_dir, data_dir)) {
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigaddset(&action.sa_mask, SIGTERM);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &action.sa_mask, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGCHLD, &child, NULL);
    run();
    return 0;
}
