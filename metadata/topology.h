/* Which rack a machine is in, found outside: a table file, and a script as Hadoop's
 * net.topology.script.file.name: called with up to 100 names or addresses as arguments, it prints one path for
 * each, separated by white space. What cannot be found is in "/default-rack". Blocks, so it is called on a worker
 * thread (io_work). Page: docs/ops/healing.md. */
#ifndef TARN_METADATA_TOPOLOGY_H
#define TARN_METADATA_TOPOLOGY_H

#include "common/base.h"

#define TOPOLOGY_NAMES_MAX 100     /* as Hadoop's net.topology.script.number.args */
#define TOPOLOGY_RACK_MAX 107      /* as NODE_TEXT_MAX */
#define TOPOLOGY_TIMEOUT_MS 10000  /* of one call of the script */
#define TOPOLOGY_OUTPUT_MAX KIB(16)
#define TOPOLOGY_DEFAULT "/default-rack"

struct topology {
    char script[256]; /* empty = none */
    char table[256];  /* "name rack" a line; '#' comments; empty = none */
};
struct topology_place {
    const char *name; /* asked for */
    char rack[TOPOLOGY_RACK_MAX + 1];
};
/* Fills the racks of `places` (at most TOPOLOGY_NAMES_MAX). The table is asked first, the script for what it
 * does not have. Logs what went wrong, once a call. Returns 0, or what kept the script or the table from
 * answering: the places are filled in any case. */
int topology_find(const struct topology *topology, struct topology_place *places, size_t n);

/* ---- the pure parts */
/* The script's output for `n` names: -E_INVAL when it is not exactly n paths that a rack can have. */
int topology_parse_output(const char *text, size_t len, struct topology_place *places, size_t n);
/* Fills the rack of each place the table's text has and that has none yet. */
void topology_parse_table(const char *text, size_t len, struct topology_place *places, size_t n);

#endif
