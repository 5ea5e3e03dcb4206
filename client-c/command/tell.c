#define _POSIX_C_SOURCE 200809L
#include "tell.h"

#include <rocker.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/* How many bytes of UTF-8 here are a character that a terminal would obey, and its number: C1, and
 * changes of direction. 0: none. */
static int obeyed(const char *text, unsigned *number)
{
    const unsigned char *byte = (const unsigned char *)text;

    if (byte[0] == 0xc2 && byte[1] >= 0x80 && byte[1] < 0xa0) {
        *number = byte[1];
        return 2;
    }
    if (byte[0] != 0xe2 || (byte[1] & 0xfe) != 0x80 || (byte[2] & 0xc0) != 0x80) {
        return 0;
    }
    *number = 0x2000u | (byte[1] & 0x3fu) << 6 | (byte[2] & 0x3fu);
    bool turns = *number == 0x200e || *number == 0x200f ||
                 (*number >= 0x202a && *number <= 0x202e) ||
                 (*number >= 0x2066 && *number <= 0x2069);
    return turns ? 3 : 0;
}

void rk_complain(const char *text)
{
    char line[2 * ROCKER_STRERROR_MAX] = "rocker: ";
    size_t length = strlen(line);

    while (*text != '\0' && length < sizeof(line) - 10) {
        unsigned number;
        int bytes = obeyed(text, &number);
        if (bytes == 0) {
            line[length++] = *text++;
            continue;
        }
        memcpy(line + length, "\\u{", 3);
        length += 3;
        for (int shift = number > 0xff ? 12 : 4; shift >= 0; shift -= 4) {
            line[length++] = "0123456789abcdef"[number >> shift & 0xf];
        }
        line[length++] = '}';
        text += bytes;
    }
    line[length++] = '\n';
    /* Where standard error is closed there is nobody to tell. */
    ssize_t written = write(2, line, length);
    (void)written;
}

void rk_tell_failure(const char *what, int os_errno)
{
    char words[128] = "", line[ROCKER_STRERROR_MAX] = "";

    strerror_r(os_errno, words, sizeof(words));
    const char *parts[] = { "cannot ", what, ": ", words };
    for (size_t i = 0, at = 0; i < 4; i++) {
        memcpy(line + at, parts[i], strlen(parts[i]));
        at += strlen(parts[i]);
    }
    rk_complain(line);
}
