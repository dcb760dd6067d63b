/* Tarn's mounts on this machine, as the kernel lists them (proc(5), /proc/self/mountinfo). */
#ifndef TARN_CLIENT_MOUNTS_H
#define TARN_CLIENT_MOUNTS_H

#include "common/base.h"

/* One mount: where, and its source "tarn:CLUSTERID". A non-zero return ends the walk and is
 * returned. */
typedef int (*mounts_fn)(void *arg, const char *point, const char *source);
int mounts_each(mounts_fn fn, void *arg);
/* Is the topmost mount at `path` one of Tarn's? Also for one whose process has died. */
bool mounts_is_tarn(const char *path);

#endif
