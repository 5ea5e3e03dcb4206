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

/* Where an order stands. */
enum rk_stage {
    RK_NO_ORDER,
    RK_ASKED, /* exec.0: it was sent                       */
    RK_RUNS,  /* exec.2                                    */
    RK_OVER   /* exec.3, and the caller was not told yet   */
};

/* Room for the command that a program could not be executed by, and its NUL. */
#define RK_LAST_WORDS 96

struct rk_order {
    uint32_t id;
    uint8_t stage; /* enum rk_stage */
    uint8_t kind;  /* enum rk_kind_of_order */
    uint8_t files; /* of RK_FILES: how many */
    uint8_t apart; /* of RK_PROGRAM: it executes after exec.2       */
    void *data;
    /* From RK_OVER on: how it has ended, or, if this is a fault, what could not be executed. */
    struct rk_error error;
    union {
        RockerReport report;
        char command[RK_LAST_WORDS];
    };
};

struct rk_orders {
    uint32_t last_id;
    /* Pings that are unanswered, and the latest of them; 0: it is the greeting. */
    uint32_t pings;
    uint32_t ping_id;
    /* Signals, and words to go, that may still be refused: that is not told, nor that they were
     * not. */
    uint32_t signals;
    /* enum rk_kind_of_order: what the guard could not carry out, and has ended for. */
    uint32_t lost_order;
    uint32_t reserved;
    /* Why there is no guard any more, and the command if it has said so itself; no fault: there
     * is. */
    struct rk_error lost;
    /* Programs first. */
    struct rk_order orders[RK_PROGRAMS_MAX + RK_OTHERS_MAX];
    char last_words[520];
};

/* What to do with an answer. */
enum rk_answer {
    RK_TELL,   /* it is an event                                       */
    RK_KEEP,   /* it is one for rk_orders_end()                        */
    RK_FORGET, /* it is of nobody's concern                            */
    RK_DENY    /* no guard says that: it answers nothing that was asked */
};

/* After so many pings that are unanswered: the greeting's. */
void rk_orders_init(struct rk_orders *orders, uint32_t pings);

/* The number of the next order. */
uint32_t rk_orders_next_id(const struct rk_orders *orders);

/* Whether there is room for one more of this kind. */
bool rk_orders_have_room(const struct rk_orders *orders, enum rk_kind_of_order kind);

/* What was sent. */
void rk_orders_exec(struct rk_orders *orders, void *data, bool apart);
void rk_orders_files(struct rk_orders *orders, unsigned count);
/* From RK_DELETE on. */
void rk_orders_deed(struct rk_orders *orders, enum rk_kind_of_order kind);
void rk_orders_ping(struct rk_orders *orders);
void rk_orders_signal(struct rk_orders *orders);

/* Whether there is such a program still. */
bool rk_orders_live(const struct rk_orders *orders, uint32_t id);

/* Whether the events of this order can be waited for: something will come of it, and no other
 * answer comes first. */
bool rk_orders_may_await(const struct rk_orders *orders, uint32_t id);

/* There is no guard any more, which has said why, if `error` is of one of its own steps. */
void rk_orders_lose(struct rk_orders *orders, struct rk_error error);

/* What an answer means; of an event kind, id, data, pid and error.order. */
enum rk_answer rk_orders_hear(struct rk_orders *orders, const struct rk_message *message,
                              RockerEvent *event);

/* An end that is to be told, of this order; 0: of any. NULL if there is none. What was told of is
 * there until the next order is given. */
const struct rk_order *rk_orders_end(struct rk_orders *orders, uint32_t id, RockerEvent *event);

#endif
