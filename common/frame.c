#include "common/frame.h"

#include "common/crc.h"
#include "common/err.h"
#include <endian.h>

/* Offsets of docs/protocols/frame.md. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_KIND = 6,
    AT_RESERVE_1 = 7,
    AT_OP = 8,
    AT_RESERVE_2 = 10,
    AT_FLAGS = 12,
    AT_STATUS = 16,
    AT_CONTROL_LEN = 20,
    AT_PAYLOAD_LEN = 24,
    AT_CONTROL_CRC = 28,
    AT_REQUEST_ID = 32,
    AT_CLUSTER_ID = 40,
    AT_EPOCH = 48,
    AT_PAYLOAD_CRC = 56,
    AT_HEADER_CRC = 60
};

#define FLAGS_KNOWN (FRAME_PAYLOAD_CELLS | FRAME_CLOSED | FRAME_MORE | FRAME_UNANSWERED)

static void put16(uint8_t *at, uint16_t v)
{
    v = htole16(v);
    memcpy(at, &v, sizeof v);
}

static void put32(uint8_t *at, uint32_t v)
{
    v = htole32(v);
    memcpy(at, &v, sizeof v);
}

static void put64(uint8_t *at, uint64_t v)
{
    v = htole64(v);
    memcpy(at, &v, sizeof v);
}

static uint16_t get16(const uint8_t *at)
{
    uint16_t v;
    memcpy(&v, at, sizeof v);
    return le16toh(v);
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return le32toh(v);
}

static uint64_t get64(const uint8_t *at)
{
    uint64_t v;
    memcpy(&v, at, sizeof v);
    return le64toh(v);
}

void frame_encode(const struct frame *frame, uint8_t out[FRAME_HEADER_BYTES])
{
    put32(out + AT_MAGIC, FRAME_MAGIC);
    put16(out + AT_VERSION, FRAME_VERSION);
    out[AT_KIND] = frame->kind;
    out[AT_RESERVE_1] = 0;
    put16(out + AT_OP, frame->op);
    put16(out + AT_RESERVE_2, 0);
    put32(out + AT_FLAGS, frame->flags);
    put32(out + AT_STATUS, frame->status);
    put32(out + AT_CONTROL_LEN, frame->control_len);
    put32(out + AT_PAYLOAD_LEN, frame->payload_len);
    put32(out + AT_CONTROL_CRC, frame->control_crc);
    put64(out + AT_REQUEST_ID, frame->request_id);
    put64(out + AT_CLUSTER_ID, frame->cluster_id);
    put64(out + AT_EPOCH, frame->epoch);
    put32(out + AT_PAYLOAD_CRC, frame->payload_crc);
    put32(out + AT_HEADER_CRC, crc32c(0, out, AT_HEADER_CRC));
}

static bool in_bounds(const struct frame *f)
{
    if (f->kind < FRAME_HELLO || f->kind > FRAME_GO)
        return false;
    if ((f->flags & ~(uint32_t)FLAGS_KNOWN) != 0)
        return false;
    if (f->control_len > FRAME_CONTROL_MAX || f->payload_len > FRAME_PAYLOAD_MAX)
        return false;
    if (f->status != 0 && f->kind != FRAME_REPLY && f->kind != FRAME_HELLO && f->kind != FRAME_GO)
        return false;
    if (f->kind == FRAME_GO && f->control_len != 0)
        return false;
    if ((f->flags & FRAME_MORE) != 0 &&
        (f->kind != FRAME_REPLY || f->status != 0 || f->payload_len != 0))
        return false;
    if ((f->flags & FRAME_UNANSWERED) != 0 && f->kind != FRAME_REQUEST)
        return false;
    /* Only requests and replies carry a payload. */
    if (f->payload_len != 0 && f->kind != FRAME_REQUEST && f->kind != FRAME_REPLY)
        return false;
    /* The checksum of nothing is 0, and cells carry their own. */
    if (f->control_len == 0 && f->control_crc != 0)
        return false;
    if ((f->payload_len == 0 || (f->flags & FRAME_PAYLOAD_CELLS) != 0) && f->payload_crc != 0)
        return false;
    return true;
}

int frame_decode(const uint8_t in[FRAME_HEADER_BYTES], struct frame *ret)
{
    if (get32(in + AT_MAGIC) != FRAME_MAGIC)
        return -E_PROTO;
    if (get32(in + AT_HEADER_CRC) != crc32c(0, in, AT_HEADER_CRC))
        return -E_PROTO;
    if (get16(in + AT_VERSION) != FRAME_VERSION)
        return -E_VERSION;
    if (in[AT_RESERVE_1] != 0 || get16(in + AT_RESERVE_2) != 0)
        return -E_PROTO;
    struct frame frame = {
        .kind = in[AT_KIND],
        .op = get16(in + AT_OP),
        .flags = get32(in + AT_FLAGS),
        .status = get32(in + AT_STATUS),
        .control_len = get32(in + AT_CONTROL_LEN),
        .payload_len = get32(in + AT_PAYLOAD_LEN),
        .request_id = get64(in + AT_REQUEST_ID),
        .cluster_id = get64(in + AT_CLUSTER_ID),
        .epoch = get64(in + AT_EPOCH),
        .control_crc = get32(in + AT_CONTROL_CRC),
        .payload_crc = get32(in + AT_PAYLOAD_CRC),
    };
    if (!in_bounds(&frame))
        return -E_PROTO;
    *ret = frame;
    return 0;
}
