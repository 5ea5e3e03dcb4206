#include <string.h>

#include "run.h"
#include "text.h"

/* An option's value, behind '=' or as the next word; NULL: this is not that option, or it has
 * none. */
static char *value(char ***word, const char *option)
{
    const char *rest = rk_behind(**word, option);

    if (rest != NULL && *rest == '=') {
        return (char *)rest + 1;
    }
    return rest != NULL && *rest == '\0' && (*word)[1] != NULL ? *++*word : NULL;
}

/* Whether this is no value, or one that rocker-cli may take for something else. */
static bool is_unusual(const char *value)
{
    return value == NULL || *value == '\0' || *value == '-';
}

/* An option that takes a value, once. */
static bool take_once(struct rk_said *said, char ***word)
{
    const struct {
        const char *option;
        const char **value;
    } known[] = {
        { "--socket", &said->socket },     { "--uid", &said->uid },
        { "--gid", &said->gid },           { "--app-id", &said->app_id },
        { "--exec-dir", &said->exec_dir }, { "--data-dir", &said->data_dir },
        { "--cwd", &said->cwd },
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        const char *found = value(word, known[i].option);
        if (found != NULL) {
            bool is_plain = *known[i].value == NULL && !is_unusual(found);
            *known[i].value = found;
            return is_plain;
        }
    }
    return false;
}

/* An option that takes a value, as often as one likes. */
static bool take_each(char ***word, const char *option, char **values, unsigned *count,
                      unsigned most)
{
    char *found = *count < most ? value(word, option) : NULL;

    if (is_unusual(found)) {
        return false;
    }
    values[(*count)++] = found;
    return true;
}

static bool take_flag(const char *word, const char *option, bool *flag)
{
    bool is_new = !*flag && strcmp(word, option) == 0;

    *flag = *flag || is_new;
    return is_new;
}

static bool take_option(struct rk_said *said, char ***word)
{
    return take_flag(**word, "--volatile", &said->is_volatile) ||
           take_flag(**word, "--landlock", &said->landlock) ||
           take_each(word, "--overlay", said->overlays, &said->overlays_count, RK_OVERLAYS_MAX) ||
           take_each(word, "--env", said->variables, &said->variables_count, RK_VARIABLES_MAX) ||
           take_once(said, word);
}

bool rk_take_words(struct rk_said *said, char **word)
{
    for (; *word != NULL; word++) {
        if (strcmp(*word, "--") == 0) {
            said->argv = word[1] != NULL ? word + 1 : NULL;
            break;
        }
        if (**word == '-') {
            if (!take_option(said, &word)) {
                return false;
            }
        } else if (said->package != NULL || **word == '\0') {
            return false;
        } else {
            said->package = *word;
        }
    }
    return said->package != NULL;
}
