#include "orders.h"

void rk_orders_init(struct rk_orders *orders, uint32_t pings)
{
    *orders = (struct rk_orders){ .pings = pings };
}

uint32_t rk_orders_next_id(const struct rk_orders *orders)
{
    /* 0 is nobody's. */
    return orders->last_id == UINT32_MAX ? 1 : orders->last_id + 1;
}

enum { ORDERS_MAX = RK_PROGRAMS_MAX + RK_OTHERS_MAX };

/* The one of this stage; of any number, if that is 0. */
static struct rk_order *find(struct rk_orders *orders, uint32_t id, enum rk_stage stage)
{
    for (unsigned i = 0; i < ORDERS_MAX; i++) {
        struct rk_order *order = &orders->orders[i];
        if (order->stage == stage && (id == 0 || order->id == id)) {
            return order;
        }
    }
    return NULL;
}

/* Where one more of this kind would go; ORDERS_MAX: nowhere. */
static unsigned free_place(const struct rk_orders *orders, enum rk_kind_of_order kind)
{
    unsigned place = kind == RK_PROGRAM ? 0 : RK_PROGRAMS_MAX;
    unsigned end = kind == RK_PROGRAM ? RK_PROGRAMS_MAX : ORDERS_MAX;

    while (place < end && orders->orders[place].stage != RK_NO_ORDER) {
        place++;
    }
    return place < end ? place : ORDERS_MAX;
}

bool rk_orders_have_room(const struct rk_orders *orders, enum rk_kind_of_order kind)
{
    return free_place(orders, kind) < ORDERS_MAX;
}

static void order(struct rk_orders *orders, struct rk_order order)
{
    unsigned place = free_place(orders, (enum rk_kind_of_order)order.kind);

    order.id = orders->last_id = rk_orders_next_id(orders);
    order.stage = RK_ASKED;
    if (place < ORDERS_MAX) {
        orders->orders[place] = order;
    }
}

void rk_orders_exec(struct rk_orders *orders, void *data, bool apart)
{
    order(orders, (struct rk_order){ .kind = RK_PROGRAM, .apart = apart, .data = data });
}

void rk_orders_files(struct rk_orders *orders, unsigned count)
{
    order(orders, (struct rk_order){ .kind = RK_FILES, .files = (uint8_t)count });
}

void rk_orders_deed(struct rk_orders *orders, enum rk_kind_of_order kind)
{
    order(orders, (struct rk_order){ .kind = (uint8_t)kind });
}

void rk_orders_ping(struct rk_orders *orders)
{
    orders->last_id = orders->ping_id = rk_orders_next_id(orders);
    orders->pings++;
}

void rk_orders_signal(struct rk_orders *orders)
{
    if (orders->signals < UINT32_MAX) {
        orders->signals++;
    }
}

static const struct rk_order *look(const struct rk_orders *orders, uint32_t id)
{
    for (unsigned i = 0; i < ORDERS_MAX; i++) {
        const struct rk_order *order = &orders->orders[i];
        if (order->stage != RK_NO_ORDER && order->id == id) {
            return order;
        }
    }
    return NULL;
}

bool rk_orders_live(const struct rk_orders *orders, uint32_t id)
{
    const struct rk_order *order = look(orders, id);

    return order != NULL && order->kind == RK_PROGRAM && order->stage != RK_OVER;
}

bool rk_orders_may_await(const struct rk_orders *orders, uint32_t id)
{
    if (orders->ping_id != 0 && orders->ping_id != id) {
        return false;
    }
    for (unsigned i = 0; i < ORDERS_MAX; i++) {
        if (orders->orders[i].stage == RK_ASKED && orders->orders[i].id != id) {
            return false;
        }
    }
    return id != 0 && (orders->ping_id == id || look(orders, id) != NULL);
}

static enum rk_answer tell(RockerEvent *event, ROCKER_EVENT kind, const struct rk_order *order)
{
    event->kind = kind;
    event->id = order->id;
    event->data = order->data;
    event->error.order = order->kind;
    return RK_TELL;
}

void rk_orders_lose(struct rk_orders *orders, struct rk_error error)
{
    orders->lost = error;
    orders->lost_order = RK_PROGRAM;
    /* It ends for nothing else that it is told to do. */
    for (unsigned i = 0; i < ORDERS_MAX; i++) {
        const struct rk_order *order = &orders->orders[i];
        if (order->stage == RK_ASKED
            && (order->kind == RK_CONFIGURE || order->kind == RK_RESET)) {
            orders->lost_order = order->kind;
        }
    }
}

/* In place of its end: it began, and could not execute. */
static enum rk_answer hear_last_words(struct rk_orders *orders, const struct rk_message *message)
{
    struct rk_order *order = find(orders, message->id, RK_RUNS);
    struct rk_path said = message->rest;

    if (order == NULL || !order->apart) {
        return RK_DENY;
    }
    order->stage = RK_OVER;
    order->error = message->error;
    for (unsigned i = 0; i < RK_LAST_WORDS; i++) {
        bool is_cut = said.length >= RK_LAST_WORDS && i >= RK_LAST_WORDS - 4;
        order->command[i] = i >= said.length || i == RK_LAST_WORDS - 1 ? '\0'
                            : is_cut                                   ? '.'
                                                                       : said.bytes[i];
    }
    return RK_KEEP;
}

static enum rk_answer hear_failure(struct rk_orders *orders, const struct rk_message *message,
                                   RockerEvent *event)
{
    struct rk_order *order = find(orders, message->id, RK_ASKED);

    if (message->error.fault == RK_FAILED_FAULT && message->error.step == RK_REPORT_EXIT) {
        return hear_last_words(orders, message);
    }
    if (order != NULL) {
        order->stage = RK_NO_ORDER;
        return tell(event, ROCKER_EVENT_failed, order);
    }
    if (orders->signals == 0) {
        return RK_DENY;
    }
    /* Whom it was for has ended meanwhile. */
    orders->signals--;
    return RK_FORGET;
}

static enum rk_answer hear_pong(struct rk_orders *orders, RockerEvent *event)
{
    const struct rk_order ping = { .id = orders->ping_id };

    if (orders->pings == 0) {
        return RK_DENY;
    }
    /* The answer to an earlier one says nothing of now. */
    if (--orders->pings > 0 || ping.id == 0) {
        return RK_FORGET;
    }
    orders->ping_id = 0;
    return tell(event, ROCKER_EVENT_pong, &ping);
}

enum rk_answer rk_orders_hear(struct rk_orders *orders, const struct rk_message *message,
                              RockerEvent *event)
{
    struct rk_order *order = find(orders, message->id, RK_ASKED);

    /* Which is nobody's. */
    if (message->id == 0 && message->kind != RK_PONG) {
        return RK_DENY;
    }
    switch ((enum rk_kind)message->kind) {
    case RK_STARTED:
        if (order == NULL || order->kind != RK_PROGRAM) {
            return RK_DENY;
        }
        order->stage = RK_RUNS;
        event->pid = (int)message->pid;
        return tell(event, ROCKER_EVENT_started, order);
    case RK_NOT_STARTED:
        return hear_failure(orders, message, event);
    case RK_EXITED:
        order = find(orders, message->id, RK_RUNS);
        if (order == NULL) {
            return RK_DENY;
        }
        order->stage = RK_OVER;
        order->report = message->report;
        return RK_KEEP;
    case RK_PONG:
        return hear_pong(orders, event);
    case RK_OBEYED:
        if (order == NULL || order->kind < RK_DELETE) {
            return RK_DENY;
        }
        order->stage = RK_NO_ORDER;
        return tell(event, ROCKER_EVENT_done, order);
    case RK_OPENED:
        if (order == NULL || order->kind != RK_FILES || order->files != message->files) {
            return RK_DENY;
        }
        order->stage = RK_NO_ORDER;
        return tell(event, ROCKER_EVENT_opened, order);
    case RK_NOTHING:
    case RK_ENTERING:
    case RK_FAILURE:
    case RK_ROCKER:
    case RK_LIST_END:
    case RK_GONE:
        break;
    }
    return RK_DENY;
}

const struct rk_order *rk_orders_end(struct rk_orders *orders, uint32_t id, RockerEvent *event)
{
    struct rk_order *order = find(orders, id, RK_OVER);

    if (order == NULL) {
        return NULL;
    }
    order->stage = RK_NO_ORDER;
    if (order->error.fault != RK_NO_FAULT) {
        tell(event, ROCKER_EVENT_failed, order);
        return order;
    }
    tell(event, ROCKER_EVENT_ended, order);
    event->report = order->report;
    return order;
}
