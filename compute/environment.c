#include "environment.h"

#include "common/check.h"
#include "common/err.h"

#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>

static bool add(struct environment *env, const char *fmt, ...) _printf_(2, 3);
static bool add(struct environment *env, const char *fmt, ...)
{
    va_list args;
    char *text = NULL;
    CHECK(env->n < SANDBOX_ENV_MAX);
    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    if (n < 0)
        return false;
    env->vars[env->n++] = text;
    return true;
}

/* The same value under both names. */
static bool add_both(struct environment *env, const char *name, const char *value)
{
    return add(env, "TARN_%s=%s", name, value) && add(env, "MANTA_%s=%s", name, value);
}

static bool add_user(struct environment *env, uint32_t uid)
{
    char buf[1024], number[16];
    struct passwd entry, *found = NULL;
    snprintf(number, sizeof number, "%u", uid);
    getpwuid_r(uid, &entry, buf, sizeof buf, &found);
    return add_both(env, "USER", found != NULL ? found->pw_name : number);
}

static bool add_input(struct environment *env, const char *path)
{
    const char *slash = strrchr(path, '/');
    env->input_name = slash != NULL ? slash + 1 : path;
    _cleanup_free_ char *file = NULL;
    if (asprintf(&file, ENVIRONMENT_INPUT_DIR "/%s", env->input_name) < 0) {
        file = NULL;
        return false;
    }
    return add_both(env, "INPUT_OBJECT", path) && add_both(env, "INPUT_FILE", file);
}

int environment_init(struct environment *env, const Tarn__TaskAssign *assign, const char *output_base)
{
    const Tarn__TaskKey *key = assign->key;
    char job[32];
    *env = (struct environment){.n = 0};
    snprintf(job, sizeof job, "%llu", (unsigned long long)key->job);
    bool ok = add(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") && add(env, "HOME=/tmp") &&
              add_both(env, "JOB_ID", job) &&
              add(env, "TARN_TASK_ID=%s.%u.%llu", job, key->phase, (unsigned long long)key->index) &&
              add(env, "TARN_ATTEMPT=%u", key->attempt) && add_user(env, assign->uid) &&
              add_both(env, "OUTPUT_BASE", output_base) &&
              (assign->n_inputs != 1 || add_input(env, assign->inputs[0]->path));
    if (ok)
        return 0;
    environment_fini(env);
    return -E_NOMEM;
}

void environment_fini(struct environment *env)
{
    for (unsigned i = 0; i < env->n; i++)
        free(env->vars[i]);
    env->n = 0;
}
