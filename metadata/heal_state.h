/* What background work has counted and how far it is: one row of the tables. Threads: the
 * transaction's. */
#ifndef TARN_METADATA_HEAL_STATE_H
#define TARN_METADATA_HEAL_STATE_H

#include "tables.h"

struct heal_state {
    uint64_t weak;          /* chunks with all copies in fewer domains than their policy asks */
    uint64_t reduced;       /* chunks that want fewer copies than their policy asks: too few disks */
    uint64_t missing_bytes; /* to be copied before every chunk has its target */
    /* Rate of copying, over windows of some seconds. */
    uint64_t copied_bytes, window_start_ns, window_bytes, rate;
    /* The walk over all chunks that brings them to their policies: next id (0 = none under way), where it
     * ends, and up to where it must begin again because something changed behind it. */
    uint64_t walk_next, walk_end, walk_again;
    bool counting;          /* rows of the version before are not counted yet: the first walk */
    uint64_t policies;      /* rows in TABLE_POLICY: 0 spares every look at them */
    /* Chunks in too few domains are looked at once for every change of the cluster. */
    uint64_t weak_next, weak_epoch;
    /* Draining: a disk's chunks one after the other. */
    uint64_t drain_disk, drain_next, drain_after_ns;
    /* Balancing. */
    bool balancing;
    uint64_t balance_disk, balance_next, balance_after_ns;
    uint64_t balance_moved; /* in the pass over balance_disk that is under way */
    /* From here on numbers that version 2 counts: a row that has fewer of them means zeros, so new ones are
     * appended here and in extras() only. */
    uint64_t groups; /* parity groups that are coded */
    uint64_t coding; /* … that are being made, or made anew */
    uint64_t ghosts; /* dead chunks that stay because others are computed from them */
    uint64_t uncoded;       /* chunks that wait to be coded for which there are too few nodes */
    uint64_t code_after_ns; /* the list of what is to be coded is not looked at before */
    uint64_t code_epoch;    /* of the cluster when those without enough nodes were looked at */
    uint64_t code_room, code_next; /* where in that list the next step goes on */
};
void heal_state_encode(const struct heal_state *s, struct writer *w);
int heal_state_decode(const void *data, size_t n, struct heal_state *ret);

/* Tables of version 1 have no such row: then everything is still to be counted. */
int heal_state_get(struct tables *t, struct heal_state *ret);
int heal_state_put(struct tables *t, const struct heal_state *s);
/* All existing chunks are to be brought to their policies and to the number of disks there are. */
int heal_walk_ask(struct tables *t);
/* How far the walk is, a walk that must begin again counted in; both 0 = none is under way. */
void heal_walk_progress(const struct heal_state *s, uint64_t *ret_walked, uint64_t *ret_end);
/* `bytes` more have been copied. */
int heal_rate_add(struct tables *t, uint64_t bytes);

#endif
