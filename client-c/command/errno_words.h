#ifndef RK_ERRNO_WORDS_H
#define RK_ERRNO_WORDS_H

/* What an errno means; NULL: nothing that Linux has a name for. */
const char *rk_errno_words(int number);

#endif
