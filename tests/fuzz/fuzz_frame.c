/* The header of frames, the three hellos and the error detail. */
#include "fuzz.h"

#include "common/check.h"
#include "common/crc.h"
#include "common/err.h"
#include "common/frame.h"
#include "common/rpc_wire.h"

static void try_header(const uint8_t *header)
{
    struct frame frame;
    uint8_t again[FRAME_HEADER_BYTES];
    if (frame_decode(header, &frame) != 0)
        return;
    CHECK(frame.control_len <= FRAME_CONTROL_MAX && frame.payload_len <= FRAME_PAYLOAD_MAX);
    frame_encode(&frame, again);
    CHECK(memcmp(header, again, sizeof again) == 0);
}

/* Also with the checksum made right: otherwise hardly an input gets past it. */
static void try_repaired(const uint8_t *header)
{
    uint8_t repaired[FRAME_HEADER_BYTES];
    memcpy(repaired, header, sizeof repaired);
    uint32_t crc = crc32c(0, repaired, FRAME_HEADER_BYTES - 4);
    for (unsigned i = 0; i < 4; i++)
        repaired[FRAME_HEADER_BYTES - 4 + i] = (uint8_t)(crc >> 8 * i);
    try_header(repaired);
}

static void try_control(const uint8_t *data, size_t n)
{
    union {
        struct hello_client client;
        struct hello_server server;
        struct hello_prove prove;
    } hello;
    uint8_t again[HELLO_CLIENT_BYTES];
    if (hello_client_decode(data, n, &hello.client) == 0) {
        CHECK(strnlen(hello.client.name, HELLO_NAME_BYTES) < HELLO_NAME_BYTES);
        hello_client_encode(&hello.client, again);
        CHECK(memcmp(data, again, n) == 0);
    }
    if (hello_server_decode(data, n, &hello.server) == 0) {
        hello_server_encode(&hello.server, again);
        CHECK(memcmp(data, again, n) == 0);
    }
    if (hello_prove_decode(data, n, &hello.prove) == 0) {
        hello_prove_encode(&hello.prove, again);
        CHECK(memcmp(data, again, n) == 0);
    }
    struct error_detail detail;
    error_detail_decode(data, n, &detail);
    CHECK(strnlen(detail.text, sizeof detail.text) < sizeof detail.text);
    CHECK(strnlen(detail.leader, sizeof detail.leader) < sizeof detail.leader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_control(data, size);
    if (size < FRAME_HEADER_BYTES)
        return 0;
    try_header(data);
    try_repaired(data);
    try_control(data + FRAME_HEADER_BYTES, size - FRAME_HEADER_BYTES);
    return 0;
}
