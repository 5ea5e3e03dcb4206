#define _POSIX_C_SOURCE 200809L
#include "tell.h"

#include <rocker.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "../src/wire.h"

/* Whether a character is one that a terminal would obey, and its number: C1, and changes of
 * direction. */
static bool is_obeyed(const char *text, unsigned *number)
{
    const unsigned char *byte = (const unsigned char *)text;

    if (byte[0] == 0xc2 && byte[1] >= 0x80 && byte[1] < 0xa0) {
        *number = byte[1];
        return true;
    }
    if (byte[0] != 0xe2 || (byte[1] & 0xfe) != 0x80 || (byte[2] & 0xc0) != 0x80) {
        return false;
    }
    *number = 0x2000u | (byte[1] & 0x3fu) << 6 | (byte[2] & 0x3fu);
    return *number == 0x200e || *number == 0x200f || (*number >= 0x202a && *number <= 0x202e) ||
           (*number >= 0x2066 && *number <= 0x2069);
}

/* Room for what becomes of a byte, or of some. */
enum { SHOWN_MAX = 10 };

/* One character, or what is none, as a terminal shows it; how many bytes that are. */
static size_t show(char *line, const char *text, size_t bytes, bool is_whole)
{
    unsigned number;
    size_t length = 0;

    if (!is_whole || !is_obeyed(text, &number)) {
        /* Where a terminal takes each byte for a character, one of these alone may be C1. */
        memcpy(line, is_whole ? text : "\xef\xbf\xbd", is_whole ? bytes : 3);
        return is_whole ? bytes : 3;
    }
    memcpy(line, "\\u{", 3);
    length += 3;
    for (int shift = number > 0xff ? 12 : 4; shift >= 0; shift -= 4) {
        line[length++] = "0123456789abcdef"[number >> shift & 0xf];
    }
    line[length++] = '}';
    return length;
}

void rk_complain(const char *text)
{
    char line[3 * ROCKER_STRERROR_MAX] = "rocker: ";
    size_t length = strlen(line), left = strlen(text);

    while (left > 0 && length < sizeof(line) - SHOWN_MAX) {
        bool is_whole;
        size_t bytes = rk_utf8_length(text, left, &is_whole);
        length += show(line + length, text, bytes, is_whole);
        text += bytes;
        left -= bytes;
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
