/* Bits that flip on the disks of stores: in sealed chunks, never more of them at a time than the other copies, or the
 * other shards of the parity group, can give back. Threads: the simulation's. */
#ifndef TARN_TESTS_SIM_ROT_H
#define TARN_TESTS_SIM_ROT_H

#include "world.h"

#define ROT_MAX 256
struct rot_flip {
    unsigned store; /* 0 … */
    uint64_t chunk, offset;
    uint8_t was;
    char path[128];
};
struct rot {
    struct rot_flip flips[ROT_MAX]; /* not yet repaired */
    unsigned n;
    unsigned flips_made, repaired, gone; /* gone: with the copy they were in */
};
/* One bit, if it finds a copy that bears it. */
void rot_flip(struct world *world, struct rot *rot);
/* Forgets those that were repaired, or are gone. */
void rot_look(struct world *world, struct rot *rot);

#endif
