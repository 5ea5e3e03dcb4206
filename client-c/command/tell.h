#ifndef RK_TELL_H
#define RK_TELL_H

/* One line on standard error, as a terminal shows it and does not obey. */
void rk_complain(const char *text);

/* "cannot {what}: {why}" */
void rk_tell_failure(const char *what, int os_errno);

#endif
