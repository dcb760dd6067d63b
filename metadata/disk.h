/* The disks of the storage nodes: one row each, with what is on it as the tables count it. A node's
 * first disk has the node's id; others get ids above all node ids. A table written by version 1 has no
 * such rows: then the node's own row stands for its one disk, and the row is made when it is first
 * changed. Rules D1-D4 in docs/invariants.md. Threads: the transaction's. */
#ifndef TARN_METADATA_DISK_H
#define TARN_METADATA_DISK_H

#include "tables.h"

#define DISK_UUID_MAX 32
#define DISK_FIRST_EXTRA 65536 /* ids from here on: second and further disks of nodes */

enum disk_flags { DISK_DRAINING = 1 };
struct disk {
    uint32_t id; /* from the key */
    uint32_t node;
    bool up; /* its node is up and has it */
    uint8_t flags;
    uint64_t total, free, chunks; /* as the store says */
    uint32_t queue;               /* requests waiting there, as the store says */
    uint64_t down_since_ns;       /* when not up */
    uint64_t recount; /* next chunk whose live copies must be counted again; 0 = none */
    /* Kept by chunk_save(): chunks by what the disk is for them. */
    uint64_t ready, copying, leaving;
    uint64_t sources;  /* copies that are being read from here */
    uint64_t bytes;    /* of the ready ones that are sealed */
    uint64_t bytes_at; /* `bytes` when `free` was said: the difference is not in `free` yet */
    uint64_t promised; /* of those that are coming; an open chunk counts in full */
    uint64_t busy_ns;  /* copies given out keep it at work until then at the rate we allow */
    uint64_t drain_since_ns;   /* with DISK_DRAINING */
    uint64_t balance_after_ns; /* nothing on it can be moved for balance: not asked again before */
    uint8_t uuid_len, uuid[DISK_UUID_MAX];
};
void disk_encode(const struct disk *disk, struct writer *w);
int disk_decode(uint32_t id, const void *data, size_t n, struct disk *ret);

int disk_get(struct tables *t, uint32_t id, struct disk *ret); /* -E_NOENT */
int disk_put(struct tables *t, const struct disk *disk);
/* Bytes on it as well as we know: what the store said and what has changed since. */
uint64_t disk_used(const struct disk *disk);

/* What a chunk's row says about disks, taken out of their rows or put into them. */
struct chunk;
int disk_count_chunk(struct tables *t, const struct chunk *before, const struct chunk *after);

#endif
