#include "helper.h"

static const uint8_t step_of[RK_HELPER_STATE_COUNT] = {
    [RK_DROP_GROUPS] = RK_JOIN_NAMESPACES_STEP,
    [RK_JOIN_NAMESPACES] = RK_JOIN_NAMESPACES_STEP,
    [RK_TAKE_IDS] = RK_RUN_APP,
    [RK_DROP_PRIVILEGES] = RK_RUN_APP,
    [RK_ENTER_DIRECTORY] = RK_RUN_APP,
    [RK_START_APP] = RK_RUN_APP,
    [RK_HELPER_ENDED] = RK_NO_STEP,
};

void rk_helper_init(struct rk_helper *helper)
{
    *helper = (struct rk_helper){ .state = RK_DROP_GROUPS };
}

uint8_t rk_helper_step(const struct rk_helper *helper)
{
    return helper->state < RK_HELPER_STATE_COUNT ? step_of[helper->state] : RK_NO_STEP;
}

static bool go_to(struct rk_helper *helper, enum rk_helper_state state)
{
    helper->state = (uint8_t)state;
    return true;
}

bool rk_helper_advance(struct rk_helper *helper, const struct rk_outcome *outcome)
{
    uint8_t step = rk_helper_step(helper);
    enum rk_result result = (enum rk_result)outcome->result;

    if (step != RK_NO_STEP && result == RK_FAILED) {
        helper->error = rk_failed(step, outcome->os_errno);
        return go_to(helper, RK_HELPER_ENDED);
    }
    switch ((enum rk_helper_state)helper->state) {
    case RK_DROP_GROUPS:
        return result == RK_DONE && go_to(helper, RK_JOIN_NAMESPACES);
    case RK_JOIN_NAMESPACES:
        return result == RK_DONE && go_to(helper, RK_TAKE_IDS);
    case RK_TAKE_IDS:
        return result == RK_DONE && go_to(helper, RK_DROP_PRIVILEGES);
    case RK_DROP_PRIVILEGES:
        return result == RK_DONE && go_to(helper, RK_ENTER_DIRECTORY);
    case RK_ENTER_DIRECTORY:
        return result == RK_DONE && go_to(helper, RK_START_APP);
    case RK_START_APP:
        if (result != RK_APP) {
            return false;
        }
        helper->app_pid = outcome->pid;
        return go_to(helper, RK_HELPER_ENDED);
    case RK_HELPER_ENDED:
    case RK_HELPER_STATE_COUNT:
        break;
    }
    return false;
}
