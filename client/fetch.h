/* A whole object from beginning to end without opening it: what jobs and commands read. No handle is
 * taken, so an object that is removed meanwhile ends the read with -E_NOENT.
 * Threads: the io's, from fibers. One window of 1 MiB is in memory. */
#ifndef TARN_CLIENT_FETCH_H
#define TARN_CLIENT_FETCH_H

#include "store.h"

/* The first part of the map of `where`; free with tarn__file_map_reply__free_unpacked(). attr is there. */
int fetch_map(struct meta *meta, const Tarn__Where *where, const struct meta_cred *cred, Tarn__FileMapReply **ret);

/* Gets the bytes in order; a non-zero return ends the fetch and is returned. */
typedef int (*fetch_sink)(void *arg, const void *data, size_t n, uint64_t offset);
/* count (may be NULL): bytes by distance; inline bytes come from the metadata service and count as remote. */
int fetch_object(struct meta *meta, struct stores *stores, const Tarn__Where *where, const struct meta_cred *cred,
                 fetch_sink sink, void *arg, struct stores_counters *count);

#endif
