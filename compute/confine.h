/* What a task may not do: the system call filter, capabilities, resource limits. Used by the zygote
 * and its children between clone and exec. Foreign headers here: libseccomp, libcap. */
#ifndef TARN_COMPUTE_CONFINE_H
#define TARN_COMPUTE_CONFINE_H

#include "common/base.h"

/* The compiled filter, made once per zygote. */
struct confine_filter;
int confine_filter_create(struct confine_filter **ret); /* 0 or a positive errno */
/* Sets no_new_privs and installs the filter for the calling process; 0 or -1 with errno. */
int confine_filter_install(const struct confine_filter *filter);

int confine_drop_bounding(void);     /* nothing executed later can gain a capability; 0 or -1 */
int confine_drop_capabilities(void); /* the calling process has none any more; 0 or -1 */

struct confine_limits {
    uint64_t address_space; /* 0 = not limited here */
    uint64_t file_bytes;
    uint64_t processes;
};
int confine_limits_set(const struct confine_limits *limits); /* 0 or -1 with errno */

#endif
