#define _POSIX_C_SOURCE 200809L
#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "text.h"

/* Who an App of root's is unless it is said: nobody. */
enum { NOBODY = 65534 };

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
        const char *places = rk_behind(skip_blanks(line), "passwd");
        if (places != NULL && *skip_blanks(places) == ':') {
            return rk_behind(skip_blanks(skip_blanks(places) + 1), "files") != NULL;
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
        int number;
        if (fields[2] == NULL || (rk_to_number(fields[2], &number) && number != uid)) {
            continue;
        }
        /* What a number is that is none here, and a comment, and an entry of NIS, it is the C
         * library that knows. */
        char *end = fields[3] != NULL ? strchr(fields[3], ':') : NULL;
        if (end == NULL || strchr("#+- \t", *line) != NULL || !rk_to_number(fields[2], &number)) {
            return false;
        }
        *end = '\0';
        return rk_to_number(fields[3], gid);
    }
    return false;
}

bool rk_identify(RockerRequest *request, const char *uid, const char *gid)
{
    request->uid = NOBODY;
    if (uid != NULL && !rk_to_number(uid, &request->uid)) {
        return false;
    }
    if (gid != NULL) {
        return rk_to_number(gid, &request->gid);
    }
    return request->uid != 0 && find_group(request->uid, &request->gid);
}
