#include "common/frame.h"

#include "common/crc.h"
#include "common/err.h"
#include "common/rpc_wire.h"
#include "golden.h"
#include "tests/unit/cmocka.h"

static const char *golden_path;

static const struct frame request = {.kind = FRAME_REQUEST,
                                     .op = 11,
                                     .control_len = 7,
                                     .payload_len = 7,
                                     .request_id = 42,
                                     .cluster_id = 0x1122334455667788,
                                     .epoch = 7};

static struct frame with_checksums(struct frame frame)
{
    frame.control_crc = frame.control_len == 7 ? crc32c(0, "control", 7) : 0;
    bool covered = frame.payload_len == 7 && (frame.flags & FRAME_PAYLOAD_CELLS) == 0;
    frame.payload_crc = covered ? crc32c(0, "payload", 7) : 0;
    return frame;
}

static void assert_same(const struct frame *a, const struct frame *b)
{
    uint8_t x[FRAME_HEADER_BYTES], y[FRAME_HEADER_BYTES];
    frame_encode(a, x);
    frame_encode(b, y);
    assert_memory_equal(x, y, sizeof x);
}

static void assert_golden_frame(const char *name, const struct frame *frame)
{
    uint8_t expected[FRAME_HEADER_BYTES], got[FRAME_HEADER_BYTES];
    assert_int_equal(golden_read(golden_path, name, expected, sizeof expected), sizeof expected);
    frame_encode(frame, got);
    assert_memory_equal(got, expected, sizeof got);
    struct frame back;
    assert_int_equal(frame_decode(expected, &back), 0);
    assert_same(&back, frame);
}

static void test_the_bytes_are_those_of_the_page(void **state)
{
    struct frame frame = with_checksums(request);
    assert_golden_frame("request", &frame);
    frame.op = 128;
    frame.flags = FRAME_PAYLOAD_CELLS;
    frame.request_id = 43;
    frame.payload_crc = 0;
    assert_golden_frame("request_cells", &frame);
    struct frame push = {.kind = FRAME_PUSH,
                         .op = 120,
                         .control_len = 7,
                         .control_crc = crc32c(0, "control", 7),
                         .cluster_id = request.cluster_id};
    assert_golden_frame("push", &push);
}

static void fill(uint8_t *out, uint8_t first, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(first + i);
}

static void test_hellos_are_those_of_the_page(void **state)
{
    uint8_t key[32], server_nonce[HELLO_NONCE_BYTES], expected[256], got[256];
    struct hello_client client = {.cluster_id = request.cluster_id, .name = "stored 3"};
    fill(key, 0, sizeof key);
    fill(client.nonce, 0x40, sizeof client.nonce);
    fill(server_nonce, 0x80, sizeof server_nonce);

    hello_client_encode(&client, got);
    assert_int_equal(golden_read(golden_path, "hello_client", expected, sizeof expected),
                     HELLO_CLIENT_BYTES);
    assert_memory_equal(got, expected, HELLO_CLIENT_BYTES);

    struct hello_server server;
    memcpy(server.nonce, server_nonce, sizeof server.nonce);
    hello_proof(key, HELLO_SERVER, &client, server_nonce, server.proof);
    hello_server_encode(&server, got);
    assert_int_equal(golden_read(golden_path, "hello_server", expected, sizeof expected),
                     HELLO_SERVER_BYTES);
    assert_memory_equal(got, expected, HELLO_SERVER_BYTES);

    struct hello_prove prove;
    hello_proof(key, HELLO_CLIENT, &client, server_nonce, prove.proof);
    hello_prove_encode(&prove, got);
    assert_int_equal(golden_read(golden_path, "hello_prove", expected, sizeof expected),
                     HELLO_PROVE_BYTES);
    assert_memory_equal(got, expected, HELLO_PROVE_BYTES);
}

static void test_the_words_of_an_error_are_protobuf(void **state)
{
    uint8_t expected[ERROR_DETAIL_BYTES_MAX], got[ERROR_DETAIL_BYTES_MAX];
    struct error_detail detail;
    size_t n = golden_read(golden_path, "error_detail", expected, sizeof expected);
    error_detail_decode(expected, n, &detail);
    assert_int_equal(strlen(detail.text), 145);
    assert_string_equal(detail.leader, "tcp:10.0.0.2:7001");
    assert_int_equal(error_detail_encode(detail.text, detail.leader, got), n);
    assert_memory_equal(got, expected, n);
}

static void test_long_words_are_cut_and_odd_bytes_replaced(void **state)
{
    uint8_t buf[ERROR_DETAIL_BYTES_MAX];
    char text[1000];
    memset(text, '\n', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    size_t n = error_detail_encode(text, text, buf);
    assert_true(n <= sizeof buf);
    struct error_detail detail;
    error_detail_decode(buf, n, &detail);
    assert_int_equal(strlen(detail.text), ERROR_TEXT_BYTES - 1);
    assert_int_equal(strlen(detail.leader), ERROR_LEADER_BYTES - 1);
    assert_int_equal(detail.text[0], '?');
    assert_int_equal(error_detail_encode(NULL, NULL, buf), 0);
}

static void test_a_frame_survives(void **state)
{
    struct frame frames[] = {
        with_checksums(request),
        {.kind = FRAME_HELLO, .status = 56},
        {.kind = FRAME_REPLY, .status = 40, .flags = FRAME_CLOSED},
        {.kind = FRAME_REPLY, .flags = FRAME_MORE, .request_id = 9},
        {.kind = FRAME_GO, .status = 35, .request_id = 9},
        {.kind = FRAME_REQUEST, .flags = FRAME_UNANSWERED, .request_id = 9},
        {.kind = FRAME_REQUEST,
         .op = UINT16_MAX,
         .control_len = FRAME_CONTROL_MAX,
         .control_crc = 1,
         .payload_len = FRAME_PAYLOAD_MAX,
         .payload_crc = ~0u,
         .request_id = UINT64_MAX,
         .cluster_id = UINT64_MAX,
         .epoch = UINT64_MAX},
    };
    for (size_t i = 0; i < ARRAY_SIZE(frames); i++) {
        uint8_t bytes[FRAME_HEADER_BYTES];
        struct frame back;
        frame_encode(&frames[i], bytes);
        assert_int_equal(frame_decode(bytes, &back), 0);
        assert_same(&frames[i], &back);
    }
}

static void test_out_of_bounds_is_refused(void **state)
{
    struct frame good = with_checksums(request);
    struct frame bad[] = {good, good, good, good, good, good, good, good, good, good, good, good, good, good};
    bad[0].kind = 0;
    bad[1].kind = FRAME_GO + 1;
    bad[2].flags = 1u << 31;
    bad[3].control_len = FRAME_CONTROL_MAX + 1;
    bad[4].payload_len = FRAME_PAYLOAD_MAX + 1;
    bad[5].status = 1;
    bad[6].kind = FRAME_PUSH;           /* with a payload */
    bad[7].flags = FRAME_PAYLOAD_CELLS; /* and a checksum */
    bad[8].control_len = 0;
    bad[9].payload_len = 0;
    bad[10].flags = FRAME_MORE;              /* of a request */
    bad[11] = (struct frame){.kind = FRAME_REPLY, .flags = FRAME_MORE, .status = 1};
    bad[12] = (struct frame){.kind = FRAME_GO, .control_len = 1};
    bad[13] = (struct frame){.kind = FRAME_REPLY, .flags = FRAME_UNANSWERED};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        uint8_t bytes[FRAME_HEADER_BYTES];
        struct frame back = {.op = 4711};
        frame_encode(&bad[i], bytes);
        assert_int_equal(frame_decode(bytes, &back), -E_PROTO);
        assert_int_equal(back.op, 4711);
    }
}

static void repair(uint8_t *bytes)
{
    uint32_t crc = crc32c(0, bytes, FRAME_HEADER_BYTES - 4);
    for (unsigned i = 0; i < 4; i++)
        bytes[FRAME_HEADER_BYTES - 4 + i] = (uint8_t)(crc >> 8 * i);
}

static void test_the_reserve_must_be_zero(void **state)
{
    static const unsigned reserve[] = {7, 10, 11};
    struct frame frame = with_checksums(request), back;
    for (size_t i = 0; i < ARRAY_SIZE(reserve); i++) {
        uint8_t bytes[FRAME_HEADER_BYTES];
        frame_encode(&frame, bytes);
        bytes[reserve[i]] = 1;
        repair(bytes);
        assert_int_equal(frame_decode(bytes, &back), -E_PROTO);
    }
}

static void test_another_version_is_told_apart(void **state)
{
    struct frame frame = with_checksums(request), back;
    uint8_t bytes[FRAME_HEADER_BYTES];
    frame_encode(&frame, bytes);
    bytes[4] = FRAME_VERSION + 1;
    repair(bytes);
    assert_int_equal(frame_decode(bytes, &back), -E_VERSION);
}

static void test_every_flipped_bit_is_noticed(void **state)
{
    struct frame frame = with_checksums(request), back;
    for (unsigned bit = 0; bit < FRAME_HEADER_BYTES * 8; bit++) {
        uint8_t bytes[FRAME_HEADER_BYTES];
        frame_encode(&frame, bytes);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(frame_decode(bytes, &back), -E_PROTO);
    }
}

static void test_every_prefix_is_refused(void **state)
{
    struct frame frame = with_checksums(request), back;
    for (size_t n = 0; n < FRAME_HEADER_BYTES; n++) {
        uint8_t whole[FRAME_HEADER_BYTES], prefix[FRAME_HEADER_BYTES] = {0};
        frame_encode(&frame, whole);
        memcpy(prefix, whole, n);
        assert_int_equal(frame_decode(prefix, &back), -E_PROTO);
    }
}

static int decode_any_hello(const uint8_t *in, size_t n)
{
    struct hello_client client;
    struct hello_server server;
    struct hello_prove prove;
    return hello_client_decode(in, n, &client) == 0 || hello_server_decode(in, n, &server) == 0 ||
           hello_prove_decode(in, n, &prove) == 0;
}

static void test_every_prefix_of_a_hello_is_refused(void **state)
{
    static const char *const names[] = {"hello_client", "hello_server", "hello_prove"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        uint8_t bytes[256];
        size_t n = golden_read(golden_path, names[i], bytes, sizeof bytes - 1);
        assert_true(decode_any_hello(bytes, n));
        assert_false(decode_any_hello(bytes, n + 1));
        for (size_t cut = 0; cut < n; cut++) {
            uint8_t *exact = malloc(cut + 1);
            memcpy(exact, bytes, cut);
            assert_false(decode_any_hello(exact, cut));
            free(exact);
        }
    }
}

static void test_a_name_must_be_printable_and_ended(void **state)
{
    struct hello_client hello = {.cluster_id = 1, .name = "good"}, back;
    uint8_t bytes[HELLO_CLIENT_BYTES];
    hello_client_encode(&hello, bytes);
    bytes[48] = '\n';
    assert_int_equal(hello_client_decode(bytes, sizeof bytes, &back), -E_PROTO);
    memset(bytes + 48, 'x', HELLO_NAME_BYTES);
    assert_int_equal(hello_client_decode(bytes, sizeof bytes, &back), -E_PROTO);
    bytes[0] = 2;
    assert_int_equal(hello_client_decode(bytes, sizeof bytes, &back), -E_VERSION);
}

static void test_a_proof_depends_on_everything(void **state)
{
    uint8_t key[32] = {1}, nonce[HELLO_NONCE_BYTES] = {2}, base[HELLO_PROOF_BYTES];
    uint8_t other[HELLO_PROOF_BYTES];
    struct hello_client hello = {.cluster_id = 1, .name = "me"};
    hello_proof(key, HELLO_SERVER, &hello, nonce, base);
    hello_proof(key, HELLO_SERVER, &hello, nonce, other);
    assert_true(hello_proof_equal(base, other));
    hello_proof(key, HELLO_CLIENT, &hello, nonce, other);
    assert_false(hello_proof_equal(base, other));
    nonce[31] = 1;
    hello_proof(key, HELLO_SERVER, &hello, nonce, other);
    assert_false(hello_proof_equal(base, other));
    nonce[31] = 0;
    hello.name[0] = 'w';
    hello_proof(key, HELLO_SERVER, &hello, nonce, other);
    assert_false(hello_proof_equal(base, other));
    hello.name[0] = 'm';
    key[31] = 1;
    hello_proof(key, HELLO_SERVER, &hello, nonce, other);
    assert_false(hello_proof_equal(base, other));
}

int main(int argc, char **argv)
{
    golden_path = argc > 1 ? argv[1] : "tests/golden/frame.hex";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_bytes_are_those_of_the_page),
        cmocka_unit_test(test_hellos_are_those_of_the_page),
        cmocka_unit_test(test_the_words_of_an_error_are_protobuf),
        cmocka_unit_test(test_long_words_are_cut_and_odd_bytes_replaced),
        cmocka_unit_test(test_a_frame_survives),
        cmocka_unit_test(test_out_of_bounds_is_refused),
        cmocka_unit_test(test_the_reserve_must_be_zero),
        cmocka_unit_test(test_another_version_is_told_apart),
        cmocka_unit_test(test_every_flipped_bit_is_noticed),
        cmocka_unit_test(test_every_prefix_is_refused),
        cmocka_unit_test(test_every_prefix_of_a_hello_is_refused),
        cmocka_unit_test(test_a_name_must_be_printable_and_ended),
        cmocka_unit_test(test_a_proof_depends_on_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
