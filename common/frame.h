/* The header of every message between Tarn's processes; docs/protocols/frame.md is its page.
 * Pure: encodes to and decodes from 64 bytes, little-endian, and refuses what is out of bounds. */
#ifndef TARN_COMMON_FRAME_H
#define TARN_COMMON_FRAME_H

#include "base.h"

#define FRAME_MAGIC 0x4e524154u /* "TARN" */
#define FRAME_VERSION 1
#define FRAME_HEADER_BYTES 64
#define FRAME_CONTROL_MAX MIB(1)
/* One window of data (1 MiB) and room for what a snapshot piece or append batch needs. */
#define FRAME_PAYLOAD_MAX MIB(4)

/* GO comes from a caller whose reply arrives in parts: one more may be sent, or with status CANCELED
 * none any more. */
enum frame_kind { FRAME_HELLO = 1, FRAME_REQUEST = 2, FRAME_REPLY = 3, FRAME_PUSH = 4, FRAME_GO = 5 };

enum frame_flags {
    FRAME_PAYLOAD_CELLS = 1u << 0, /* payload is covered by cell checksums in control: payload_crc 0 */
    FRAME_CLOSED = 1u << 1,        /* last frame of this connection */
    FRAME_MORE = 1u << 2,          /* a reply that is not the last one to its request: no status, no payload */
    FRAME_UNANSWERED = 1u << 3     /* a request that gets no reply, whatever comes of it */
};

struct frame {
    uint8_t kind;        /* enum frame_kind */
    uint16_t op;         /* enum rpc op of the protocol page */
    uint32_t flags;      /* enum frame_flags, unknown bits refused */
    uint32_t status;     /* replies and GO: wire number of err.def, 0 = success */
    uint32_t control_len;
    uint32_t payload_len;
    uint64_t request_id; /* chosen by the caller, unique per connection, echoed by the reply */
    uint64_t cluster_id;
    uint64_t epoch;      /* session epoch or 0 */
    uint32_t control_crc, payload_crc; /* CRC32C */
};

void frame_encode(const struct frame *frame, uint8_t out[FRAME_HEADER_BYTES]);
/* Errors: -E_PROTO bad magic, checksum, kind, flags, reserve not zero or a length past its maximum;
 * -E_VERSION. On failure *ret is untouched. */
int frame_decode(const uint8_t in[FRAME_HEADER_BYTES], struct frame *ret);

#endif
