/* Writes and reads the numbers and texts of postcard, one after the other: for those who put
 * messages together out of them. */
#ifndef RK_POSTCARD_H
#define RK_POSTCARD_H

#include "wire.h"

/* --- Out. What finds no room is counted in `length` all the same. --- */

/* A message of the client's, from its variant on. */
void rk_begin(struct rk_pieces *out, uint8_t variant);

void rk_put_byte(struct rk_pieces *out, uint8_t byte);
void rk_put_number(struct rk_pieces *out, uint64_t number);

/* How many, and they themselves, which stay where they are: a piece of their own. */
void rk_put_bytes(struct rk_pieces *out, struct rk_path bytes);

/* --- In. False for what is none, or goes beyond the end. --- */

struct rk_reader {
    const uint8_t *at;
    const uint8_t *end;
};

bool rk_get_byte(struct rk_reader *in, uint8_t *byte);

/* A number of at most so many bits, seven to a byte. */
bool rk_get_number(struct rk_reader *in, unsigned bits, uint64_t *number);

/* One of 32 bits. */
bool rk_get_u32(struct rk_reader *in, uint32_t *number);

/* A number below `count`, which is at most 256. */
bool rk_get_variant(struct rk_reader *in, unsigned count, uint8_t *variant);

bool rk_get_errno(struct rk_reader *in, uint16_t *os_errno);

/* Error and command of a failure. */
bool rk_get_failure(struct rk_reader *in, struct rk_message *message);

/* What comes after version, sender and variant. */
typedef bool rk_get(struct rk_reader *in, uint8_t sender, uint8_t variant,
                    struct rk_message *message);

/* Reads one datagram; whatever it holds, it gives a message or a loss. */
void rk_decode_as(const uint8_t *datagram, size_t length, struct rk_message *message,
                  rk_get *get);

#endif
