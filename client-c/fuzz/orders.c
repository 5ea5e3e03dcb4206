/*
 * Whatever a guard that takes orders sends, in any order: rk_decode_answer() reads nothing beyond
 * it, and rk_orders_hear() tells of nothing that was not ordered, and of nothing twice. Each input
 * is a row of datagrams: a byte that says what the caller does first, one for the length, and the
 * bytes. "make fuzz" runs it.
 */
#include <stdlib.h>
#include <string.h>

#include "order_wire.h"
#include "orders.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool is)
{
    if (!is) {
        abort();
    }
}

/* What has become of each order, as its events say; of a program that waits, with that bit. */
enum { UNHEARD, STARTED, OVER, WAITS = 4, ORDERS_MAX = 256 };

static void check_told(uint8_t *states, uint32_t ordered, const RockerEvent *event)
{
    demand(event->id > 0 && event->id <= ordered && ordered < ORDERS_MAX);
    uint8_t *state = &states[event->id];
    switch (event->kind) {
    case ROCKER_EVENT_started:
        demand((*state & ~WAITS) == UNHEARD);
        *state |= STARTED;
        break;
    case ROCKER_EVENT_failed:
        demand((*state & ~WAITS) == UNHEARD || *state == (STARTED | WAITS));
        *state = OVER;
        break;
    case ROCKER_EVENT_pong:
    case ROCKER_EVENT_done:
    case ROCKER_EVENT_opened:
        demand(*state == UNHEARD);
        *state = OVER;
        break;
    case ROCKER_EVENT_ended:
        demand((*state & ~WAITS) == STARTED);
        *state = OVER;
        break;
    case ROCKER_EVENT_lost:
        demand(false);
    }
}

static void hear(struct rk_orders *orders, uint8_t *states, const uint8_t *bytes, size_t length)
{
    uint8_t *exact = malloc(length > 0 ? length : 1);
    struct rk_message message;
    RockerEvent event;

    memcpy(exact, bytes, length);
    memset(&message, 0xa5, sizeof(message));
    memset(&event, 0, sizeof(event));
    rk_decode_answer(exact, length, &message);
    demand(message.kind == RK_STARTED  ? message.descriptors == 1
           : message.kind == RK_OPENED ? message.descriptors <= message.files
                                       : message.descriptors == 0);
    demand(message.files <= ROCKER_FILES_MAX);
    if (message.kind == RK_NOT_STARTED || message.kind == RK_FAILURE) {
        const uint8_t *command = (const uint8_t *)message.rest.bytes;
        demand(command >= exact && command + message.rest.length <= exact + length);
    }
    if (rk_orders_hear(orders, &message, &event) == RK_TELL) {
        check_told(states, orders->last_id, &event);
    }
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t states[ORDERS_MAX] = { 0 };
    struct rk_orders orders;
    RockerEvent event;

    rk_orders_init(&orders, 1);
    while (size >= 2) {
        uint8_t what = data[0];
        size_t length = data[1] < size - 2 ? data[1] : size - 2;
        if (orders.last_id < ORDERS_MAX - 1) {
            if ((what & 1) && rk_orders_have_room(&orders, RK_PROGRAM)) {
                rk_orders_exec(&orders, NULL, what & 0x10);
                states[orders.last_id] = what & 0x10 ? WAITS : UNHEARD;
            } else if ((what & 0x81) == 0x80 && rk_orders_have_room(&orders, RK_FILES)) {
                rk_orders_files(&orders, (what >> 4) & 7);
            } else if ((what & 0x41) == 0x40 && rk_orders_have_room(&orders, RK_DELETE)) {
                rk_orders_deed(&orders, RK_DELETE + (what >> 4 & 3));
            } else if (what & 2) {
                rk_orders_ping(&orders);
            }
        }
        if (what & 4) {
            rk_orders_signal(&orders);
        }
        hear(&orders, states, data + 2, length);
        if ((what & 8) && rk_orders_end(&orders, what >> 4, &event)) {
            check_told(states, orders.last_id, &event);
        }
        data += 2 + length;
        size -= 2 + length;
    }
    while (rk_orders_end(&orders, 0, &event)) {
        check_told(states, orders.last_id, &event);
    }
    return 0;
}
