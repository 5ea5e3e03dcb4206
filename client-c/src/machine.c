#include "machine.h"

static const uint8_t step_of[RK_STATE_COUNT] = {
    [RK_CONNECT] = RK_REQUEST_ROCKER,
    [RK_SEND_REQUEST] = RK_REQUEST_ROCKER,
    [RK_AWAIT_ENTRANCE] = RK_AWAIT_ENTRANCE_STEP,
    [RK_FORK_HELPER] = RK_FORK_HELPER_STEP,
    [RK_AWAIT_APP] = RK_RUN_APP,
    [RK_REPORT_APP] = RK_REPORT_APP_STEP,
    [RK_GREET] = RK_REQUEST_EXEC,
    [RK_ENDED] = RK_NO_STEP,
};

void rk_client_init(struct rk_client *client, enum rk_purpose purpose)
{
    *client = (struct rk_client){ .state = RK_CONNECT, .purpose = (uint8_t)purpose };
}

uint8_t rk_client_step(const struct rk_client *client)
{
    if (client->state == RK_SEND_REQUEST || client->state == RK_AWAIT_ENTRANCE) {
        if (client->purpose == RK_TO_ATTACH || client->purpose == RK_TO_KILL) {
            return client->purpose == RK_TO_KILL ? RK_KILL_GUARD : RK_HAND_OVER;
        }
        if (client->purpose == RK_TO_LIST) {
            return RK_REQUEST_ROCKER;
        }
    }
    return client->state < RK_STATE_COUNT ? step_of[client->state] : RK_NO_STEP;
}

static bool go_to(struct rk_client *client, enum rk_state state)
{
    client->state = (uint8_t)state;
    return true;
}

/*
 * Nothing is undone here: the driver's descriptors go, and with them the rocker, whose guard
 * takes the end of the connection for the end of the launch.
 */
static bool end(struct rk_client *client, struct rk_error error)
{
    client->error = error;
    return go_to(client, RK_ENDED);
}

/* One arrow each. */
static bool succeed(struct rk_client *client, const struct rk_outcome *outcome)
{
    enum rk_result result = (enum rk_result)outcome->result;

    switch ((enum rk_state)client->state) {
    case RK_CONNECT:
        return result == RK_DONE && go_to(client, RK_SEND_REQUEST);
    case RK_SEND_REQUEST:
        return result == RK_DONE && go_to(client, RK_AWAIT_ENTRANCE);
    case RK_AWAIT_ENTRANCE:
        if (client->purpose == RK_TO_KILL || client->purpose == RK_TO_LIST) {
            return result == RK_DONE && go_to(client, RK_ENDED);
        }
        if (result != RK_ENTRANCE) {
            return false;
        }
        for (unsigned i = 0; i < RK_NAME_LEN; i++) {
            client->name[i] = outcome->name[i];
        }
        client->guard_pid = outcome->pid;
        return go_to(client, client->purpose == RK_TO_ENTER   ? RK_FORK_HELPER
                             : client->purpose == RK_TO_ORDER ? RK_GREET
                                                              : RK_ENDED);
    case RK_FORK_HELPER:
        return result == RK_DONE && go_to(client, RK_AWAIT_APP);
    case RK_AWAIT_APP:
        if (result != RK_APP) {
            return false;
        }
        client->app_pid = outcome->pid;
        return go_to(client, RK_REPORT_APP);
    case RK_REPORT_APP:
    case RK_GREET:
        return result == RK_DONE && go_to(client, RK_ENDED);
    case RK_ENDED:
    case RK_STATE_COUNT:
        break;
    }
    return false;
}

bool rk_client_advance(struct rk_client *client, const struct rk_outcome *outcome)
{
    uint8_t step = rk_client_step(client);

    if (step == RK_NO_STEP) {
        return false;
    }
    /* One failure edge for every state: own failure, lost peer, or what another reports. */
    switch ((enum rk_result)outcome->result) {
    case RK_FAILED:
        return end(client, rk_failed(step, outcome->os_errno));
    case RK_LOST:
        return end(client, rk_lost(step, (enum rk_loss)outcome->loss));
    case RK_REFUSED:
        return end(client, outcome->error);
    case RK_DONE:
    case RK_ENTRANCE:
    case RK_APP:
        return succeed(client, outcome);
    }
    return false;
}
