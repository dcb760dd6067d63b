/* Where the cluster is and who we are: the file TARN_CONFIG names (default /etc/tarn/tarn.conf).
 * `name = value` lines, '#' comments; the page is docs/ops/config.md. */
#ifndef TARN_COMMON_CONFIG_H
#define TARN_COMMON_CONFIG_H
#include "base.h"
#include "rpc.h"

#define CONFIG_META_MAX 5
struct config {
    char path[256];
    struct rpc_auth auth;              /* cluster_id, key (64 hex digits) */
    unsigned n_meta;
    char meta[CONFIG_META_MAX][64];    /* meta = tcp:H:P tcp:H:P ... ; index + 1 is the replica id */
    char gateway[64];                  /* gateway = tcp:H:P (first one, for TARN_API_URL) */
    char topology_script[256];         /* topology_script, topology_table = PATH: where racks are asked for */
    char topology_table[256];
    bool verify_always;                /* verify = always: every byte read is compared with its checksum; no descriptors */
    unsigned scrub_days;               /* scrub_days = N: every chunk is read once in so many days; 0 = the default */
    uint32_t node;                     /* node = N: the storage node this machine is; 0 = none */
    uint32_t put_code_mib;             /* put_code_mib = N: memory for coding objects while they are put; 0 = the default */
};
/* path NULL: $TARN_CONFIG, else the default. On failure *ret_why (static buffer of the thread) is
 * one sentence naming the file, line and what to do. Errors: -E_NOENT, -E_INVAL, -E_ACCES. */
int config_load(const char *path, struct config *ret, const char **ret_why);
/* NULL, or what is wrong with the text of an address ("an address is tcp:HOST:PORT or unix:/PATH"). Resolves nothing. */
const char *config_address_wrong(const char *text);
#endif
