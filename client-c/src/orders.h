/*
 * A rocker that takes orders, as its caller has it: which orders are unanswered, which programs
 * run, and whose end was not told yet. It says what an answer means and does nothing; no libc
 * call lives here.
 */
#ifndef RK_ORDERS_H
#define RK_ORDERS_H

#include "wire.h"

/* As many programs as a guard runs, and as many other orders as may be unanswered. */
#define RK_PROGRAMS_MAX 64
#define RK_OTHERS_MAX 16

/* What was ordered. */
enum rk_kind_of_order { RK_PROGRAM, RK_FILES, RK_DEED };

/* Where an order stands. */
enum rk_stage {
    RK_NO_ORDER,
    RK_ASKED, /* exec.0: it was sent                       */
    RK_RUNS,  /* exec.2                                    */
    RK_OVER   /* exec.3, and the caller was not told yet   */
};

struct rk_order {
    uint32_t id;
    uint8_t stage; /* enum rk_stage */
    uint8_t kind;  /* enum rk_kind_of_order */
    uint8_t files; /* of RK_FILES: how many */
    uint8_t reserved;
    void *data;
    RockerReport report; /* from RK_OVER on */
};

struct rk_orders {
    uint32_t last_id;
    /* Pings that are unanswered, and the latest of them; 0: it is the greeting. */
    uint32_t pings;
    uint32_t ping_id;
    /* Signals that may still be refused: those of which that is not told are not told of. */
    uint32_t signals;
    /* Why there is no guard any more; no fault: there is. */
    struct rk_error lost;
    /* Programs first. */
    struct rk_order orders[RK_PROGRAMS_MAX + RK_OTHERS_MAX];
};

/* What to do with an answer. */
enum rk_answer {
    RK_TELL,   /* it is an event                                       */
    RK_KEEP,   /* it is one for rk_orders_end()                        */
    RK_FORGET, /* it is of nobody's concern                            */
    RK_DENY    /* no guard says that: it answers nothing that was asked */
};

/* After the greeting. */
void rk_orders_init(struct rk_orders *orders);

/* The number of the next order. */
uint32_t rk_orders_next_id(const struct rk_orders *orders);

/* Whether there is room for one more of this kind. */
bool rk_orders_have_room(const struct rk_orders *orders, enum rk_kind_of_order kind);

/* What was sent. */
void rk_orders_exec(struct rk_orders *orders, void *data);
void rk_orders_files(struct rk_orders *orders, unsigned count);
void rk_orders_deed(struct rk_orders *orders);
void rk_orders_ping(struct rk_orders *orders);
void rk_orders_signal(struct rk_orders *orders);

/* Whether there is such a program still. */
bool rk_orders_live(const struct rk_orders *orders, uint32_t id);

/* Whether the events of this order can be waited for: something will come of it, and no other
 * answer comes first. */
bool rk_orders_may_await(const struct rk_orders *orders, uint32_t id);

/* What an answer means; of an event kind, id, data and pid. */
enum rk_answer rk_orders_hear(struct rk_orders *orders, const struct rk_message *message,
                              RockerEvent *event);

/* An end that is to be told, of this order; 0: of any. False if there is none. */
bool rk_orders_end(struct rk_orders *orders, uint32_t id, RockerEvent *event);

#endif
