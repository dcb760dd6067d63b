/* Which chunks of a volume were read through and found right on this boot of the machine: the file `verified`
 * (docs/formats/volume.md). A chunk's file is handed out after one such reading per boot and version (handover.h); a store
 * that is started again on the same boot finds here what it need not read again. Another boot, another volume,
 * or a file that cannot be read: nothing is known, and all is read once more.
 *
 * Nothing is synced: what the machine loses with its power is void on the next boot anyway. Kept for a process that is
 * killed at any moment: GONE is written before the chunk's deletion is, so a chunk that comes back under the same number
 * and version (a copy) is not taken for the one that was read.
 * Threads: the io's; calls that say so wait. */
#ifndef TARN_OBJSTORE_VERIFIED_H
#define TARN_OBJSTORE_VERIFIED_H

#include "common/base.h"

#define VERIFIED_VERSION 1
#define VERIFIED_HEADER_BYTES 128
#define VERIFIED_RECORD_BYTES 40
#define VERIFIED_BOOT_MAX 64
/* The file is written anew at start when it has more records than twice what still holds, and these: 40 KiB. */
#define VERIFIED_RECORDS_SPARE 1024

struct chunk;
struct volume;
struct verified;

/* After the index was loaded and the boot is known. Marks the chunks that the file vouches for. Waits.
 * Errors: -E_NOMEM. What is wrong with the file is no error: it is begun anew. */
int verified_open(struct volume *volume, struct verified **ret);
void verified_close(struct verified *verified); /* NULL allowed */
/* Every cell of the chunk was just read and right; the caller holds them all, or knows that it is sealed. Waits. */
void verified_note(struct volume *volume, struct chunk *chunk);
/* The chunk is about to go, or a cell of it did not match: it counts as never read, and who was given its file is told to
 * close it (volume_options.withdraw). The caller holds cells of it, so it is not being handed out just now. Waits. */
void verified_gone(struct volume *volume, struct chunk *chunk);

/* ---- the bytes. Pure; a decoder refuses with -E_CORRUPT (-E_VERSION) and leaves *ret untouched. ---- */
struct verified_header {
    uint8_t uuid[16];
    char boot[VERIFIED_BOOT_MAX]; /* as in the file `boot` */
};
enum verified_kind { VERIFIED_RIGHT = 1, VERIFIED_GONE = 2 };
struct verified_record {
    enum verified_kind kind;
    uint32_t digest; /* of the checksums of its cells */
    uint64_t chunk, generation, length;
};
void verified_header_encode(const struct verified_header *header, uint8_t out[VERIFIED_HEADER_BYTES]);
int verified_header_decode(const uint8_t *data, size_t n, struct verified_header *ret);
void verified_record_encode(const struct verified_record *record, uint8_t out[VERIFIED_RECORD_BYTES]);
int verified_record_decode(const uint8_t *data, size_t n, struct verified_record *ret);

#endif
