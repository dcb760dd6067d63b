/* Many changes or lookups in one request: one entry of the log and one kept reply for up to a thousand
 * changes, one answer for as many inodes. Threads: the transaction's. */
#ifndef TARN_METADATA_BULK_H
#define TARN_METADATA_BULK_H

#include "tables.h"

#define BULK_ITEMS_MAX 1000

/* BATCH. An item that fails leaves no row changed and does not stop the others; its code is in the reply.
 * Errors of the whole: -E_BUSY a right has to be asked back first (E7); -E_INVAL too many items, or one that may not be in a batch (the words name it). */
int bulk_cmd_batch(struct tables *t, const void *message);
/* LOOKUPS. -E_INVAL too many. */
int bulk_query_lookups(struct tables *t, const void *message);

#endif
