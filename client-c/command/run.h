/* A plain "rocker run": from words to a launch. */
#ifndef RK_RUN_H
#define RK_RUN_H

#include <rocker.h>
#include <stdbool.h>

#include "manifest.h"

enum { RK_OVERLAYS_MAX = 16, RK_ARGS_MAX = 256, RK_VARIABLES_MAX = 256, RK_ROOM = 32 * 1024 };
_Static_assert(RK_OVERLAYS_MAX * sizeof(char *) == sizeof(((RockerRequest *)0)->app_overlay_dirs),
               "a request has room for as many");

/* What was said. NULL, 0 and false: nothing. */
struct rk_said {
    const char *package, *socket, *uid, *gid, *app_id, *exec_dir, *data_dir, *cwd;
    char *overlays[RK_OVERLAYS_MAX];
    unsigned overlays_count;
    char *variables[RK_VARIABLES_MAX];
    unsigned variables_count;
    bool is_volatile, landlock;
    /* What follows "--", ended by NULL. */
    char **argv;
};

/* The words behind "run". False: there is one that is not known here. */
bool rk_take_words(struct rk_said *said, char **word);

/* What comes of it: what a launch takes, and where that lies. */
struct rk_plan {
    RockerRequest request;
    RockerOptions options;
    RockerProgram program;

    struct rk_manifest manifest;
    unsigned overlays_count;
    char *args[RK_ARGS_MAX + 1];
    unsigned args_count;
    char *variables[RK_VARIABLES_MAX + 1];
    unsigned variables_count;
    char room[RK_ROOM];
    size_t used;
};

/*
 * Everything that a launch takes, as client-rs/src/cli/run.rs has it. `plan` is zeroed before.
 * False: it is for rocker-cli to say what is wrong, or unusual.
 */
bool rk_make_plan(struct rk_plan *plan, const struct rk_said *said, char **environment);

#endif
