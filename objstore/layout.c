#include "layout.h"

#include "common/check.h"
#include "common/err.h"

/* "TARNVOL1", "TARNJSEG", "TARNINDX", "TARNSCRB" as little-endian integers, so that they read in a hex dump. */
#define SUPERBLOCK_MAGIC 0x314c4f564e524154ull
#define SEGMENT_MAGIC 0x4745534a4e524154ull
#define INDEX_MAGIC 0x58444e494e524154ull
#define SCRUB_MAGIC 0x425243534e524154ull
#define RECORD_MAGIC 0x4e524a54u /* "TJRN" */
#define ENTRY_MAGIC 0x4e455854u  /* "TXEN" */
#define FOOTER_MAGIC 0x444e4554u /* "TEND" */
#define ENTRY_DEAD (1u << 31)

static void store_u32(uint8_t *out, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        out[i] = (uint8_t)(v >> (8 * i));
}

static void store_u64(uint8_t *out, uint64_t v)
{
    store_u32(out, (uint32_t)v);
    store_u32(out + 4, (uint32_t)(v >> 32));
}

static uint32_t load_u32(const uint8_t *in)
{
    return (uint32_t)in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
}

/* Blocks: magic, version, fields, zeros, CRC32C of all before it in the last four bytes. */
static void block_finish(uint8_t *out)
{
    store_u32(out + BLOCK_BYTES - 4, crc32c(0, out, BLOCK_BYTES - 4));
}

static int block_begin(const uint8_t *data, size_t n, uint64_t magic, struct reader *ret)
{
    if (n < BLOCK_BYTES)
        return -E_CORRUPT;
    struct reader r = reader_init(data, BLOCK_BYTES - 4);
    if (reader_u64(&r) != magic)
        return -E_CORRUPT;
    if (load_u32(data + BLOCK_BYTES - 4) != crc32c(0, data, BLOCK_BYTES - 4))
        return -E_CORRUPT;
    uint32_t version = reader_u32(&r);
    if (version != VOLUME_VERSION)
        return -E_VERSION;
    reader_u32(&r);
    *ret = r;
    return 0;
}

void superblock_encode(const struct superblock *sb, uint8_t out[BLOCK_BYTES])
{
    memset(out, 0, BLOCK_BYTES);
    store_u64(out, SUPERBLOCK_MAGIC);
    store_u32(out + 8, VOLUME_VERSION);
    store_u64(out + 16, sb->cluster_id);
    memcpy(out + 24, sb->uuid, 16);
    store_u32(out + 40, sb->node);
    store_u32(out + 44, sb->disk);
    store_u64(out + 48, sb->created_ns);
    store_u64(out + 56, sb->journal_bytes);
    memcpy(out + 64, sb->node_uuid, 16);
    block_finish(out);
}

int superblock_decode(const uint8_t *data, size_t n, struct superblock *ret)
{
    struct reader r;
    int err = block_begin(data, n, SUPERBLOCK_MAGIC, &r);
    if (err != 0)
        return err;
    struct superblock sb = {.cluster_id = reader_u64(&r)};
    memcpy(sb.uuid, reader_bytes(&r, 16), 16);
    sb.node = reader_u32(&r);
    sb.disk = reader_u32(&r);
    sb.created_ns = reader_u64(&r);
    sb.journal_bytes = reader_u64(&r);
    memcpy(sb.node_uuid, reader_bytes(&r, 16), 16);
    if (sb.journal_bytes % BLOCK_BYTES != 0 || sb.journal_bytes < RECORD_BYTES_MAX || sb.journal_bytes > GIB(1))
        return -E_CORRUPT;
    *ret = sb;
    return 0;
}

void segment_encode(const struct segment_header *header, uint8_t out[BLOCK_BYTES])
{
    memset(out, 0, BLOCK_BYTES);
    store_u64(out, SEGMENT_MAGIC);
    store_u32(out + 8, VOLUME_VERSION);
    memcpy(out + 16, header->uuid, 16);
    store_u64(out + 32, header->seq);
    store_u64(out + 40, header->first_lsn);
    block_finish(out);
}

int segment_decode(const uint8_t *data, size_t n, struct segment_header *ret)
{
    struct reader r;
    int err = block_begin(data, n, SEGMENT_MAGIC, &r);
    if (err != 0)
        return err;
    memcpy(ret->uuid, reader_bytes(&r, 16), 16);
    ret->seq = reader_u64(&r);
    ret->first_lsn = reader_u64(&r);
    return 0;
}

void scrub_state_encode(const struct scrub_state *state, uint8_t out[BLOCK_BYTES])
{
    const uint64_t numbers[] = {state->next, state->began_ns, state->last_end_ns, state->done_chunks, state->done_bytes,
                                state->found_chunks, state->found_cells, state->last_chunks, state->last_cells, state->asked};
    memset(out, 0, BLOCK_BYTES);
    store_u64(out, SCRUB_MAGIC);
    store_u32(out + 8, VOLUME_VERSION);
    memcpy(out + 16, state->uuid, 16);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        store_u64(out + 32 + 8 * i, numbers[i]);
    block_finish(out);
}

int scrub_state_decode(const uint8_t *data, size_t n, struct scrub_state *ret)
{
    struct reader r;
    int err = block_begin(data, n, SCRUB_MAGIC, &r);
    if (err != 0)
        return err;
    struct scrub_state state = {0};
    memcpy(state.uuid, reader_bytes(&r, 16), 16);
    uint64_t *const numbers[] = {&state.next, &state.began_ns, &state.last_end_ns, &state.done_chunks, &state.done_bytes,
                                 &state.found_chunks, &state.found_cells, &state.last_chunks, &state.last_cells};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        *numbers[i] = reader_u64(&r);
    uint64_t asked = reader_u64(&r);
    if (asked > 1)
        return -E_CORRUPT;
    state.asked = asked != 0;
    *ret = state;
    return 0;
}

/* ------------------------------------------------------------------ journal records
 *  0 magic  4 crc of [8, end)  8 body length  12 type(16) zero(16)  16 lsn  24 seq  32 chunk
 * 40 generation  48 length  56 first cell  60 cells  64 data offset  72 data length  76 flags */
size_t record_size(const struct record *record)
{
    return round_up_u64(RECORD_HEADER_BYTES + 8ull * record->n_cells + record->data_len, 8);
}

void record_encode(struct writer *w, const struct record *record)
{
    size_t start = w->len, size = record_size(record);
    CHECK(record->data_zeros <= record->data_len);
    writer_u32(w, RECORD_MAGIC);
    writer_u32(w, 0);
    writer_u32(w, (uint32_t)(size - RECORD_HEADER_BYTES));
    writer_u16(w, (uint16_t)record->type);
    writer_u16(w, 0);
    writer_u64(w, record->lsn);
    writer_u64(w, record->seq);
    writer_u64(w, record->chunk);
    writer_u64(w, record->generation);
    writer_u64(w, record->length);
    writer_u32(w, record->first_cell);
    writer_u32(w, record->n_cells);
    writer_u64(w, record->data_offset);
    writer_u32(w, record->data_len);
    writer_u32(w, record->flags);
    for (uint32_t i = 0; i < record->n_cells; i++) {
        writer_u32(w, record->cells[i].crc);
        writer_u32(w, record->cells[i].valid);
    }
    writer_zero(w, record->data_zeros);
    if (record->data_len > record->data_zeros)
        writer_bytes(w, record->data, record->data_len - record->data_zeros);
    if (w->failed)
        return;
    writer_zero(w, start + size - w->len);
    if (!w->failed)
        store_u32(w->data + start + 4, crc32c(0, w->data + start + 8, size - 8));
}

static bool cells_are_sane(const uint8_t *raw, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (load_u32(raw + 8ull * i + 4) > CELL_BYTES)
            return false;
    return true;
}

static bool record_is_sane(const struct record *rec, uint32_t body)
{
    if (rec->type < RECORD_WRITE || rec->type > RECORD_MARK || (rec->flags & ~CHUNK_FLAGS_ALL) != 0)
        return false;
    if (rec->type != RECORD_MARK && rec->length > CHUNK_BYTES_MAX)
        return false;
    if (rec->n_cells > CHUNK_CELLS_MAX || rec->first_cell > CHUNK_CELLS_MAX - rec->n_cells)
        return false;
    if (rec->data_len > RECORD_DATA_MAX || rec->data_offset > CHUNK_BYTES_MAX ||
        rec->data_offset + rec->data_len > CHUNK_BYTES_MAX)
        return false;
    return body == record_size(rec) - RECORD_HEADER_BYTES;
}

int record_decode(const uint8_t *data, size_t n, struct record *ret, size_t *ret_size)
{
    if (n < RECORD_HEADER_BYTES || load_u32(data) != RECORD_MAGIC)
        return -E_CORRUPT;
    struct reader r = reader_init(data + 4, n - 4);
    uint32_t crc = reader_u32(&r), body = reader_u32(&r);
    if (body > n - RECORD_HEADER_BYTES)
        return -E_CORRUPT;
    if (crc != crc32c(0, data + 8, RECORD_HEADER_BYTES - 8 + body))
        return -E_CORRUPT;
    struct record rec = {.type = (enum record_type)reader_u16(&r)};
    if (reader_u16(&r) != 0)
        return -E_CORRUPT;
    rec.lsn = reader_u64(&r);
    rec.seq = reader_u64(&r);
    rec.chunk = reader_u64(&r);
    rec.generation = reader_u64(&r);
    rec.length = reader_u64(&r);
    rec.first_cell = reader_u32(&r);
    rec.n_cells = reader_u32(&r);
    rec.data_offset = reader_u64(&r);
    rec.data_len = reader_u32(&r);
    rec.flags = reader_u32(&r);
    if (!record_is_sane(&rec, body))
        return -E_CORRUPT;
    rec.cells_raw = reader_bytes(&r, 8ull * rec.n_cells);
    rec.data = reader_bytes(&r, rec.data_len);
    if (r.failed || !cells_are_sane(rec.cells_raw, rec.n_cells))
        return -E_CORRUPT;
    *ret = rec;
    *ret_size = RECORD_HEADER_BYTES + body;
    return 0;
}

static struct cell cell_at(const uint8_t *raw, uint32_t i)
{
    return (struct cell){.crc = load_u32(raw + 8ull * i), .valid = load_u32(raw + 8ull * i + 4)};
}

struct cell record_cell(const struct record *record, uint32_t i)
{
    CHECK(i < record->n_cells);
    return record->cells != NULL ? record->cells[i] : cell_at(record->cells_raw, i);
}

/* ------------------------------------------------------------------ index segments */
void index_header_encode(const struct index_header *header, struct writer *w)
{
    size_t start = w->len;
    writer_u64(w, INDEX_MAGIC);
    writer_u32(w, VOLUME_VERSION);
    writer_u32(w, header->full ? 1 : 0);
    writer_bytes(w, header->uuid, 16);
    writer_u64(w, header->number);
    writer_u64(w, header->covered);
    writer_zero(w, 12);
    if (!w->failed)
        writer_u32(w, crc32c(0, w->data + start, INDEX_HEADER_BYTES - 4));
}

int index_header_decode(const uint8_t *data, size_t n, struct index_header *ret)
{
    if (n < INDEX_HEADER_BYTES)
        return -E_CORRUPT;
    struct reader r = reader_init(data, INDEX_HEADER_BYTES);
    if (reader_u64(&r) != INDEX_MAGIC ||
        load_u32(data + INDEX_HEADER_BYTES - 4) != crc32c(0, data, INDEX_HEADER_BYTES - 4))
        return -E_CORRUPT;
    if (reader_u32(&r) != VOLUME_VERSION)
        return -E_VERSION;
    uint32_t full = reader_u32(&r);
    if (full > 1)
        return -E_CORRUPT;
    memcpy(ret->uuid, reader_bytes(&r, 16), 16);
    ret->number = reader_u64(&r);
    ret->covered = reader_u64(&r);
    ret->full = full != 0;
    return 0;
}

void index_entry_encode(struct writer *w, const struct index_entry *entry)
{
    size_t start = w->len, size = INDEX_ENTRY_BYTES + 8ull * entry->n_cells;
    writer_u32(w, ENTRY_MAGIC);
    writer_u32(w, 0);
    writer_u64(w, entry->chunk);
    writer_u64(w, entry->generation);
    writer_u64(w, entry->length);
    writer_u32(w, entry->flags | (entry->dead ? ENTRY_DEAD : 0));
    writer_u32(w, entry->n_cells);
    for (uint32_t i = 0; i < entry->n_cells; i++) {
        writer_u32(w, entry->cells[i].crc);
        writer_u32(w, entry->cells[i].valid);
    }
    if (!w->failed)
        store_u32(w->data + start + 4, crc32c(0, w->data + start + 8, size - 8));
}

static int footer_decode(const uint8_t *data, size_t n, size_t *ret_size, uint64_t *ret_count)
{
    if (n < INDEX_FOOTER_BYTES || load_u32(data + 4) != crc32c(0, data + 8, INDEX_FOOTER_BYTES - 8))
        return -E_CORRUPT;
    struct reader r = reader_init(data + 8, INDEX_FOOTER_BYTES - 8);
    *ret_count = reader_u64(&r);
    *ret_size = INDEX_FOOTER_BYTES;
    return 0;
}

int index_entry_decode(const uint8_t *data, size_t n, struct index_entry *ret, size_t *ret_size,
                       bool *ret_end, uint64_t *ret_count)
{
    *ret_end = false;
    if (n < 8)
        return -E_CORRUPT;
    if (load_u32(data) == FOOTER_MAGIC) {
        int err = footer_decode(data, n, ret_size, ret_count);
        *ret_end = err == 0;
        return err;
    }
    if (load_u32(data) != ENTRY_MAGIC || n < INDEX_ENTRY_BYTES)
        return -E_CORRUPT;
    struct reader r = reader_init(data + 4, n - 4);
    uint32_t crc = reader_u32(&r);
    struct index_entry entry = {.chunk = reader_u64(&r)};
    entry.generation = reader_u64(&r);
    entry.length = reader_u64(&r);
    uint32_t flags = reader_u32(&r);
    entry.dead = (flags & ENTRY_DEAD) != 0;
    entry.flags = flags & ~ENTRY_DEAD;
    entry.n_cells = reader_u32(&r);
    if (entry.n_cells > CHUNK_CELLS_MAX)
        return -E_CORRUPT;
    entry.cells_raw = reader_bytes(&r, 8ull * entry.n_cells);
    if (r.failed || crc != crc32c(0, data + 8, INDEX_ENTRY_BYTES - 8 + 8ull * entry.n_cells))
        return -E_CORRUPT;
    if ((entry.flags & ~CHUNK_FLAGS_ALL) != 0 || entry.length > CHUNK_BYTES_MAX ||
        !cells_are_sane(entry.cells_raw, entry.n_cells))
        return -E_CORRUPT;
    *ret = entry;
    *ret_size = INDEX_ENTRY_BYTES + 8ull * entry.n_cells;
    return 0;
}

struct cell index_entry_cell(const struct index_entry *entry, uint32_t i)
{
    CHECK(i < entry->n_cells);
    return entry->cells != NULL ? entry->cells[i] : cell_at(entry->cells_raw, i);
}

void index_footer_encode(struct writer *w, uint64_t number, uint64_t count)
{
    size_t start = w->len;
    writer_u32(w, FOOTER_MAGIC);
    writer_u32(w, 0);
    writer_u64(w, count);
    writer_u64(w, number);
    if (!w->failed)
        store_u32(w->data + start + 4, crc32c(0, w->data + start + 8, INDEX_FOOTER_BYTES - 8));
}
