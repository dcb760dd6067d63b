/* All tables as one stream and back; the page is docs/formats/snapshot.md.
 * Records {u32 key length, u32 value length, key, value} form a byte stream that is cut into blocks
 * {magic, length, CRC32C} of BLOCK_BYTES and at most one record more, closed by a block that counts. */
#include "kv_impl.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/crc.h"
#include "common/err.h"

#define BLOCK_MAGIC 0x4b4c4254u /* "TBLK" */
#define END_MAGIC 0x444e4554u   /* "TEND" */
#define BLOCK_HEADER 16
#define BLOCK_BYTES KIB(256)
#define RECORD_HEADER 8

/* ---- out ---- */
struct kv_dump {
    struct kv_txn *txn;
    uint8_t next[KV_KEY_MAX + 1]; /* where the next step begins: the last key and one more zero byte */
    size_t next_len;
    uint64_t records;
    bool end, ended;
    struct writer body;
};

static void header_put(uint8_t out[BLOCK_HEADER], uint32_t magic, const uint8_t *body, uint32_t len)
{
    struct writer w = {0};
    writer_u32(&w, magic);
    writer_u32(&w, len);
    writer_u32(&w, crc32c(0, body, len));
    if (!w.failed)
        writer_u32(&w, crc32c(0, w.data, 12));
    if (!w.failed)
        memcpy(out, w.data, BLOCK_HEADER);
    writer_fini(&w);
}

int kv_dump_open(struct kv_txn *read_txn, struct kv_dump **ret)
{
    struct kv_dump *dump = calloc(1, sizeof *dump);
    if (dump == NULL)
        return -E_NOMEM;
    dump->txn = read_txn;
    *ret = dump;
    return 0;
}

void kv_dump_close(struct kv_dump *dump)
{
    if (dump == NULL)
        return;
    writer_fini(&dump->body);
    free(dump);
}

static int dump_record(void *arg, struct kv_val key, struct kv_val value)
{
    struct kv_dump *dump = arg;
    writer_u32(&dump->body, (uint32_t)key.len);
    writer_u32(&dump->body, (uint32_t)value.len);
    writer_bytes(&dump->body, key.data, key.len);
    writer_bytes(&dump->body, value.data, value.len);
    if (dump->body.failed)
        return -E_NOMEM;
    memcpy(dump->next, key.data, key.len);
    dump->next[key.len] = 0;
    dump->next_len = key.len + 1;
    dump->records++;
    return dump->body.len >= BLOCK_BYTES ? 1 : 0;
}

/* The tables' own scan, because a start may be one byte longer than a key. */
static int dump_fill(struct kv_dump *dump)
{
    uint64_t before = dump->records;
    dump->body.len = 0;
    writer_zero(&dump->body, BLOCK_HEADER);
    struct kv_val start = {.data = dump->next, .len = dump->next_len};
    struct kv_val all = {.data = dump->next, .len = 0};
    int err = dump->txn->ops->scan(dump->txn, start, all, dump_record, dump);
    if (err < 0)
        return err;
    dump->end = dump->records == before;
    return dump->body.failed ? -E_NOMEM : 0;
}

int kv_dump_step(struct kv_dump *dump, const uint8_t **ret_data, size_t *ret_len)
{
    *ret_len = 0;
    if (dump->ended)
        return 0;
    int err = dump_fill(dump);
    if (err != 0)
        return err;
    uint32_t magic = BLOCK_MAGIC;
    if (dump->end) {
        writer_u64(&dump->body, dump->records);
        if (dump->body.failed)
            return -E_NOMEM;
        magic = END_MAGIC;
        dump->ended = true;
    }
    header_put(dump->body.data, magic, dump->body.data + BLOCK_HEADER,
               (uint32_t)(dump->body.len - BLOCK_HEADER));
    *ret_data = dump->body.data;
    *ret_len = dump->body.len;
    return 0;
}

int kv_dump(struct kv_txn *read_txn, kv_sink write, void *arg)
{
    struct kv_dump *dump;
    int err = kv_dump_open(read_txn, &dump);
    if (err != 0)
        return err;
    for (;;) {
        const uint8_t *data;
        size_t len;
        err = kv_dump_step(dump, &data, &len);
        if (err != 0 || len == 0)
            break;
        for (size_t at = 0; at < len && err == 0; at += MIB(1))
            err = write(arg, data + at, MIN(len - at, (size_t)MIB(1)));
        if (err != 0)
            break;
    }
    kv_dump_close(dump);
    return err;
}

/* ---- in ---- */
#define BODY_MAX (BLOCK_BYTES + RECORD_HEADER + KV_KEY_MAX + KV_VALUE_MAX)

struct load {
    kv_source read;
    void *arg;
    uint8_t *body;
    size_t len;
    uint64_t records;
    bool end;
};

static int load_bytes(struct load *load, void *buf, size_t n)
{
    for (size_t at = 0; at < n;) {
        int64_t got = load->read(load->arg, (uint8_t *)buf + at, n - at);
        if (got < 0)
            return (int)got;
        if (got == 0)
            return -E_CORRUPT;
        at += (size_t)got;
    }
    return 0;
}

static int load_block(struct load *load)
{
    uint8_t header[BLOCK_HEADER];
    int err = load_bytes(load, header, sizeof header);
    if (err != 0)
        return err;
    struct reader r = reader_init(header, sizeof header);
    uint32_t magic = reader_u32(&r), len = reader_u32(&r), crc = reader_u32(&r);
    if (reader_u32(&r) != crc32c(0, header, 12) || len > BODY_MAX ||
        (magic != BLOCK_MAGIC && magic != END_MAGIC))
        return -E_CORRUPT;
    err = load_bytes(load, load->body, len);
    if (err != 0)
        return err;
    load->len = len;
    load->end = magic == END_MAGIC;
    return crc32c(0, load->body, len) == crc ? 0 : -E_CORRUPT;
}

static int load_records(struct load *load, struct kv_txn *txn)
{
    struct reader r = reader_init(load->body, load->len);
    while (reader_left(&r) > 0) {
        uint32_t key_len = reader_u32(&r), value_len = reader_u32(&r);
        const uint8_t *key = reader_bytes(&r, key_len);
        const uint8_t *value = reader_bytes(&r, value_len);
        if (r.failed)
            return -E_CORRUPT;
        int err = kv_put(txn, key, key_len, value, value_len);
        if (err != 0)
            return err == -E_INVAL ? -E_CORRUPT : err;
        load->records++;
    }
    return 0;
}

static int load_all(struct load *load, struct kv_txn *txn)
{
    int err = kv_clear(txn);
    while (err == 0) {
        err = load_block(load);
        if (err != 0)
            break;
        if (load->end) {
            struct reader r = reader_init(load->body, load->len);
            uint64_t records = reader_u64(&r);
            bool good = !r.failed && reader_left(&r) == 0 && records == load->records;
            return good ? 0 : -E_CORRUPT;
        }
        err = load_records(load, txn);
    }
    return err;
}

int kv_load(struct kv *kv, kv_source read, void *arg)
{
    _cleanup_free_ uint8_t *body = malloc(BODY_MAX);
    if (body == NULL)
        return -E_NOMEM;
    struct load load = {.read = read, .arg = arg, .body = body};
    struct kv_txn *txn;
    int err = kv_begin(kv, true, &txn);
    if (err != 0)
        return err;
    err = load_all(&load, txn);
    if (err == 0)
        return kv_commit(txn);
    kv_abort(txn);
    return err;
}
