#ifndef RK_IDENTITY_H
#define RK_IDENTITY_H

#include <rocker.h>
#include <stdbool.h>

/*
 * The App's user and group from what root has said, NULL if nothing: as
 * client-rs/src/cli/identity.rs has it for numbers. False: it takes more than passwd(5) to know.
 */
bool rk_identify(RockerRequest *request, const char *uid, const char *gid);

#endif
