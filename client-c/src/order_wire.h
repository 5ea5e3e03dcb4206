/*
 * The orders that a client gives, and the answers to them, as bytes: see wire.h. No libc call
 * lives here.
 */
#ifndef RK_ORDER_WIRE_H
#define RK_ORDER_WIRE_H

#include "wire.h"

#define RK_RLIMITS_MAX 16

/* exec.0: as many descriptors as this go with it. What finds no room in `out` is counted in its
 * length all the same: then it cannot be sent. */
void rk_encode_exec(uint32_t id, const RockerProgram *program, const RockerExec *exec,
                    unsigned descriptors, struct rk_pieces *out);

/* To a program that waits. */
void rk_encode_go(uint32_t id, struct rk_pieces *out);

/* For one that was left. */
void rk_encode_adopt(uint32_t id, struct rk_pieces *out);

/* For one program; 0: for all. */
void rk_encode_signal(uint32_t id, uint8_t signal, struct rk_pieces *out);

/* Longest host or domain name. */
#define RK_HOST_NAME_MAX 64

/* What the rocker is to look like, and that again; it is checked. */
void rk_encode_conf(uint32_t id, const RockerConf *conf, struct rk_pieces *out);
void rk_encode_reset(uint32_t id, struct rk_pieces *out);

/* Files of this rocker; what they are called is checked. */
void rk_encode_open(uint32_t id, const RockerFile *files, unsigned count, struct rk_pieces *out);
void rk_encode_delete(uint32_t id, const char *path, bool tree, struct rk_pieces *out);
void rk_encode_symlink(uint32_t id, const char *target, const char *path, struct rk_pieces *out);

/* Reads one datagram of a guard that takes orders; whatever it holds, it gives a message or a
 * loss. */
void rk_decode_answer(const uint8_t *datagram, size_t length, struct rk_message *message);

#endif
