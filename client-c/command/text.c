#include "text.h"

#include <string.h>

const char *rk_behind(const char *text, const char *beginning)
{
    size_t length = strlen(beginning);

    return strncmp(text, beginning, length) == 0 ? text + length : NULL;
}

bool rk_to_number(const char *text, int *number)
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
