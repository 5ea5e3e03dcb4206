/*
 * What a package's rocker.toml says, as "rocker pack" has left it behind the image, ready to be
 * used: client-rs/src/cli/pack/trailer.rs.
 */
#ifndef RK_MANIFEST_H
#define RK_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>

/* Most bytes behind an image that can be a manifest. */
#define RK_TRAILER_MAX 4096

struct rk_manifest {
    /* Each ended by NUL, its first letter saying what it is. */
    const char *strings;
    size_t length;
    char trailer[RK_TRAILER_MAX];
};

/* Reads it from an open package. False: there is none, or it is not that of this image. */
bool rk_read_manifest(int package, struct rk_manifest *manifest);

/* The first string, or the one that follows; NULL: there is none. */
const char *rk_manifest_next(const struct rk_manifest *manifest, const char *string);

#endif
