#define _POSIX_C_SOURCE 200809L
#include "manifest.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

/* Of a squashfs image: its first bytes, and where among them its size stands. */
enum { SUPERBLOCK = 96, BYTES_USED = 40 };

/* Where in the trailer what stands. */
enum { IMAGE = 16, LENGTH = IMAGE + SUPERBLOCK, STRINGS = LENGTH + 4 };

static const char magic[] = "rocker manifest\1";

static uint64_t little_endian(const char *bytes, int count)
{
    uint64_t number = 0;

    while (count-- > 0) {
        number = number << 8 | (unsigned char)bytes[count];
    }
    return number;
}

bool rk_read_manifest(int package, struct rk_manifest *manifest)
{
    char superblock[SUPERBLOCK];

    if (pread(package, superblock, SUPERBLOCK, 0) != SUPERBLOCK) {
        return false;
    }
    uint64_t end = little_endian(superblock + BYTES_USED, 8);
    if (end > INT64_MAX) {
        return false;
    }
    const char *trailer = manifest->trailer;
    ssize_t got = pread(package, manifest->trailer, RK_TRAILER_MAX, (off_t)end);
    if (got < STRINGS || memcmp(trailer, magic, IMAGE) != 0) {
        return false;
    }
    /* Whoever has changed the image, or appended to it, has left this as it was. */
    if (memcmp(trailer + IMAGE, superblock, SUPERBLOCK) != 0) {
        return false;
    }
    uint64_t length = little_endian(trailer + LENGTH, 4);
    if (length > (uint64_t)got - STRINGS) {
        return false;
    }
    manifest->strings = trailer + STRINGS;
    manifest->length = (size_t)length;
    return length == 0 || manifest->strings[length - 1] == '\0';
}

const char *rk_manifest_next(const struct rk_manifest *manifest, const char *string)
{
    const char *next = string == NULL ? manifest->strings : string + strlen(string) + 1;

    return next < manifest->strings + manifest->length ? next : NULL;
}
