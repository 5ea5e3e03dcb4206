/*
 * Whatever a master or a guard sends: rk_decode() makes a message or a loss of it, reads nothing
 * beyond it, and ROCKER_strerror() makes one line of that. "make fuzz" runs it.
 */
#include <stdlib.h>
#include <string.h>

#include "launch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool is)
{
    if (!is) {
        abort();
    }
}

static void check_failure(const struct rk_message *message, const uint8_t *data, size_t size)
{
    const uint8_t *command = (const uint8_t *)message->rest.bytes;
    char line[8192];
    RockerError error = {
        .step = message->error.step,
        .os_errno = message->error.os_errno,
        .fault = message->error.fault,
        .rule = message->error.rule,
        .item = message->error.item,
        .index = message->error.index,
        .loss = message->error.loss,
    };

    demand(command >= data && command + message->rest.length <= data + size);
    demand(rk_is_step(message->error.step) && message->error.rule < RK_RULE_COUNT);
    demand(message->error.item < RK_ITEM_COUNT && message->error.loss < RK_LOSS_COUNT);
    rk_add(error.command, message->rest.bytes, message->rest.length);
    size_t length = ROCKER_strerror(&error, line, sizeof(line));
    demand(length < sizeof(line) && strlen(line) == length);
    for (size_t i = 0; i < length; i++) {
        demand((unsigned char)line[i] >= 0x20 && line[i] != 0x7f);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rk_message message;

    memset(&message, 0xa5, sizeof(message));
    rk_decode(data, size, &message);
    switch ((enum rk_kind)message.kind) {
    case RK_NOTHING:
        demand(message.loss < RK_LOSS_COUNT);
        break;
    case RK_ENTERING:
        demand(message.descriptors >= 1 && message.descriptors <= 2 + RK_CGROUPS_MAX);
        demand(strlen(message.name) == RK_NAME_LEN);
        break;
    case RK_FAILURE:
        demand(message.descriptors == 0);
        check_failure(&message, data, size);
        break;
    default:
        demand(false);
    }
    return 0;
}
