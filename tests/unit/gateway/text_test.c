#include "gateway_suite.h"
#include "gateway/digest.h"
#include "gateway/text.h"
#include "gateway/uri.h"

static void base64_round_trips_every_length(void **state)
{
    uint8_t data[64], back[64];
    char text[TEXT_BASE64_SIZE(64)];

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 37 + 200);
    for (size_t n = 0; n <= sizeof data; n++) {
        text_base64(data, n, text);
        assert_int_equal(text_unbase64(text, back, sizeof back), n);
        assert_memory_equal(data, back, n);
    }
}

static void base64_refuses_what_is_not_canonical(void **state)
{
    static const char *const bad[] = {"A", "AA", "AAA", "A===", "AB==", "AAB=", "A=AA", "AA=A", "AA==AAAA", "A*AA", "AAA\n"};
    uint8_t out[16];

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(text_unbase64(bad[i], out, sizeof out), -E_INVAL);
    assert_int_equal(text_unbase64("AAAA", out, 2), -E_INVAL);
}

static void hexadecimal_wants_exactly_its_digits(void **state)
{
    uint8_t out[4];

    assert_true(text_unhex("00ffA5", 6, out));
    assert_int_equal(out[2], 0xa5);
    assert_false(text_unhex("00ffA", 6, out));
    assert_false(text_unhex("00ffA5a", 6, out));
    assert_false(text_unhex("00fgA5", 6, out));
}

static void http_dates_of_all_three_forms_are_one_moment(void **state)
{
    static const char *const forms[] = {"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT",
                                        "Sun Nov  6 08:49:37 1994"};
    char text[TEXT_DATE_SIZE];
    uint64_t t;

    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        assert_int_equal(text_parse_http_date(forms[i], &t), 0);
        assert_int_equal(t, 784111777);
    }
    text_http_date(t, text);
    assert_string_equal(text, forms[0]);
    text_iso_date(t * 1000000000 + 5000000, text);
    assert_string_equal(text, "1994-11-06T08:49:37.005Z");
    assert_int_equal(text_parse_http_date("yesterday", &t), -E_INVAL);
}

static void amz_dates_are_exact(void **state)
{
    uint64_t t;

    assert_int_equal(text_parse_amz_date("20130524T000000Z", &t), 0);
    assert_int_equal(t, 1369353600);
    assert_int_equal(text_parse_amz_date("20130524T000000", &t), -E_INVAL);
    assert_int_equal(text_parse_amz_date("20130524 000000Z", &t), -E_INVAL);
}

static void numbers_are_digits_that_fit(void **state)
{
    uint64_t n;

    assert_int_equal(text_parse_u64("18446744073709551615", &n), 0);
    assert_true(n == UINT64_MAX);
    static const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "0x1", "18446744073709551616"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(text_parse_u64(bad[i], &n), -E_INVAL);
}

static void uri_round_trips_every_byte(void **state)
{
    _cleanup_(writer_fini) struct writer out = {0};
    char bytes[256], back[256];
    size_t n;

    for (unsigned i = 1; i < 256; i++)
        bytes[i - 1] = (char)i;
    uri_encode(&out, bytes, 255, false);
    const char *text = text_end(&out);
    assert_int_equal(uri_decode(text, strlen(text), false, back, &n), 0);
    assert_int_equal(n, 255);
    assert_memory_equal(bytes, back, 255);
}

static void uri_refuses_broken_escapes_and_nul(void **state)
{
    static const char *const bad[] = {"%", "a%1", "%zz", "%00", "x%0"};
    char out[16];

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(uri_decode(bad[i], strlen(bad[i]), false, out, NULL), -E_INVAL);
}

static void queries_are_decoded_parameters(void **state)
{
    struct uri_query query;

    assert_int_equal(uri_query_parse("list-type=2&prefix=a%2Fb+c&uploads&&empty=&prefix=x", &query), 0);
    assert_int_equal(query.count, 5);
    assert_string_equal(uri_query_get(&query, "prefix"), "a/b c");
    assert_string_equal(uri_query_get(&query, "uploads"), "");
    assert_string_equal(uri_query_get(&query, "empty"), "");
    assert_null(uri_query_get(&query, "none"));
    uri_query_fini(&query);
    assert_int_equal(uri_query_parse("a=%", &query), -E_INVAL);
}

static void queries_have_a_limit(void **state)
{
    char text[3 * URI_PARAMS_MAX + 4] = "";
    struct uri_query query;

    for (size_t i = 0; i < URI_PARAMS_MAX; i++)
        strcat(text, "a=&");
    assert_int_equal(uri_query_parse(text, &query), 0);
    uri_query_fini(&query);
    strcat(text, "b");
    assert_int_equal(uri_query_parse(text, &query), -E_INVAL);
}

static void digests_know_their_check_values(void **state)
{
    static const struct {
        enum digest_kind kind;
        const char *hex;
    } rows[] = {
        {DIGEST_MD5, "25f9e794323b453885f5181f1b624d0b"},
        {DIGEST_SHA1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"},
        {DIGEST_SHA256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"},
        {DIGEST_CRC32, "cbf43926"},
        {DIGEST_CRC32C, "e3069283"},
        {DIGEST_CRC64NVME, "ae8b14860a799888"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        for (size_t cut = 0; cut <= 9; cut++) {
            struct digest digest;
            uint8_t out[DIGEST_BYTES_MAX];
            char hex[2 * DIGEST_BYTES_MAX + 1];
            assert_int_equal(digest_init(&digest, rows[i].kind), 0);
            for (unsigned again = 0; again < 2; again++) {
                digest_update(&digest, "123456789", cut);
                digest_update(&digest, "123456789" + cut, 9 - cut);
                digest_final(&digest, out);
                text_hex(out, digest_size(rows[i].kind), hex);
                assert_string_equal(hex, rows[i].hex);
            }
            digest_fini(&digest);
        }
}

static void crc64_by_eight_is_crc64_by_one(void **state)
{
    uint8_t data[100], all[DIGEST_BYTES_MAX], single[DIGEST_BYTES_MAX];
    struct digest digest;

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 73 + 11);
    assert_int_equal(digest_init(&digest, DIGEST_CRC64NVME), 0);
    digest_update(&digest, data, sizeof data);
    digest_final(&digest, all);
    for (size_t i = 0; i < sizeof data; i++)
        digest_update(&digest, data + i, 1);
    digest_final(&digest, single);
    assert_memory_equal(all, single, 8);
    digest_fini(&digest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(base64_round_trips_every_length),
        cmocka_unit_test(base64_refuses_what_is_not_canonical),
        cmocka_unit_test(hexadecimal_wants_exactly_its_digits),
        cmocka_unit_test(http_dates_of_all_three_forms_are_one_moment),
        cmocka_unit_test(amz_dates_are_exact),
        cmocka_unit_test(numbers_are_digits_that_fit),
        cmocka_unit_test(uri_round_trips_every_byte),
        cmocka_unit_test(uri_refuses_broken_escapes_and_nul),
        cmocka_unit_test(queries_are_decoded_parameters),
        cmocka_unit_test(queries_have_a_limit),
        cmocka_unit_test(digests_know_their_check_values),
        cmocka_unit_test(crc64_by_eight_is_crc64_by_one),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
