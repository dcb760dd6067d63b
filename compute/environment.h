/* The environment of a task: names that scripts written for Tarn and for Manta expect. Pure. */
#ifndef TARN_COMPUTE_ENVIRONMENT_H
#define TARN_COMPUTE_ENVIRONMENT_H

#include "job.pb-c.h"
#include "sandbox.h"

#define ENVIRONMENT_INPUT_DIR "/tarn/input"

struct environment {
    char *vars[SANDBOX_ENV_MAX];
    unsigned n;
    const char *input_name; /* last component of the input's path; NULL = no input file */
};
/* `assign` is borrowed for the life of the environment. -E_NOMEM. */
int environment_init(struct environment *env, const Tarn__TaskAssign *assign, const char *output_base);
void environment_fini(struct environment *env);

#endif
