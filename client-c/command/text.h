#ifndef RK_TEXT_H
#define RK_TEXT_H

#include <stdbool.h>

/* What follows this beginning of `text`; NULL: it begins otherwise. */
const char *rk_behind(const char *text, const char *beginning);

/* A number of up to nine digits and nothing else. */
bool rk_to_number(const char *text, int *number);

#endif
