/* The read-only root that every sandbox of a slot starts from: the machine's own userland, a minimal
 * /etc and /dev, and the mount points of what a task gets for itself. Built once by the zygote in its
 * private mount namespace; nothing of it is visible outside. */
#ifndef TARN_COMPUTE_USERLAND_H
#define TARN_COMPUTE_USERLAND_H

#include "common/base.h"

/* Builds the root on top of `dir` and makes it the root of the calling process. 0, or -1 with errno and
 * *ret_step (a literal). The mount namespace must be private to the caller. */
int userland_enter(const char *dir, const char **ret_step);

/* What one task gets, in its own copy of the mount namespace: /proc, an empty /tmp of `scratch` bytes,
 * and at /tarn/input/NAME the mount `input_tree` (-1 = none). */
int userland_furnish(uint64_t scratch, const char *input_name, int input_tree, const char **ret_step);

#endif
