/* Reading a chunk: whole cells from the file, each compared with its checksum before a byte of it
 * leaves. The caller holds the cells' range (at least for reading) and a reference. */
#ifndef TARN_OBJSTORE_GET_H
#define TARN_OBJSTORE_GET_H

#include "volume.h"

/* A range as read. The bytes are buffer + skip, `length` of them: what the chunk has of the range
 * that was asked for (0 behind its end). */
struct get {
    uint8_t *buffer;
    size_t size; /* of the buffer, for get_fini() */
    size_t skip;
    uint64_t length;
};
/* length <= FRAME_PAYLOAD_MAX. Errors: -E_CORRUPT a cell does not match, -E_BUSY, -E_IO … Damage is noted
 * (damage.h): it is repaired without anybody's doing. */
int get_read(struct volume *volume, struct chunk *chunk, uint64_t offset, uint64_t length, struct get *ret);
void get_fini(struct volume *volume, struct get *get);
/* Checksums of the pieces of [offset, offset + length) cut at cell borders; returns how many. */
#define GET_PIECES_MAX (FRAME_PAYLOAD_MAX / CELL_BYTES + 1)
size_t get_crcs(const struct chunk *chunk, uint64_t offset, const struct get *get, uint32_t crcs[GET_PIECES_MAX]);

/* Reads all cells once a boot and compares (verified.h), as long as the chunk does not change. The
 * caller holds all cells for reading. */
int get_verify(struct volume *volume, struct chunk *chunk);

#endif
