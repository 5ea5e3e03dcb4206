/* What RockerExec.filter and RockerOptions.filter lead to: as in <linux/filter.h>, which not every
 * C library has beside it. */
#ifndef FILTER_H
#define FILTER_H

#include <stdint.h>

struct sock_filter {
    uint16_t code;
    uint8_t jt;
    uint8_t jf;
    uint32_t k;
};

/* Any system call. */
#define ALLOW { 0x06, 0, 0, 0x7fff0000 }

#endif
