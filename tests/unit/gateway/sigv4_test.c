/* The worked examples of the Amazon S3 API reference, and requests that differ from them by a little. */
#include "gateway_suite.h"
#include "gateway/awschunk.h"
#include "gateway/text.h"

#define SECRET "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
#define NOW 1369353600 /* 20130524T000000Z */
#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define SCOPE "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"
#define AUTH(headers, signature)                                                                                       \
    "Authorization: AWS4-HMAC-SHA256 Credential=" SCOPE ",SignedHeaders=" headers ",Signature=" signature "\r\n"

#define GET_OBJECT(range, signature)                                                                                   \
    "GET /test.txt HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\nRange: " range                                  \
    "\r\nx-amz-content-sha256: " EMPTY "\r\nx-amz-date: 20130524T000000Z\r\n" AUTH(                                    \
        "host;range;x-amz-content-sha256;x-amz-date", signature) "\r\n"
#define GET_OBJECT_SIGNATURE "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"

struct claim {
    struct http_head head;
    struct uri_query query;
    struct sigv4 sigv4;
    struct sigv4_chain chain;
    struct s3_fault fault;
    char *text;
};

static int judge(const char *text, const char *secret, uint64_t now, struct claim *claim)
{
    memset(claim, 0, sizeof *claim);
    claim->text = suite_head(text, &claim->head);
    assert_int_equal(uri_query_parse(claim->head.query, &claim->query), 0);
    int r = sigv4_parse(&claim->head, &claim->query, &claim->sigv4, &claim->fault);
    if (r == 0)
        r = sigv4_verify(&claim->sigv4, &claim->head, &claim->query, secret, now, &claim->chain, &claim->fault);
    return r;
}

static void claim_fini(struct claim *claim)
{
    uri_query_fini(&claim->query);
    free(claim->text);
}

static int verdict(const char *text, const char *secret, uint64_t now, const char **ret_code)
{
    struct claim claim;
    int r = judge(text, secret, now, &claim);
    *ret_code = r == 0 ? "" : s3_fault_code(&claim.fault, r);
    claim_fini(&claim);
    return r;
}

static void documented_requests_are_accepted(void **state)
{
    static const char *const requests[] = {
        GET_OBJECT("bytes=0-9", GET_OBJECT_SIGNATURE),
        "PUT /test$file.text HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\nDate: Fri, 24 May 2013 00:00:00 GMT\r\n"
        "x-amz-date: 20130524T000000Z\r\nx-amz-storage-class: REDUCED_REDUNDANCY\r\n"
        "x-amz-content-sha256: 44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072\r\n"
        AUTH("date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
             "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd") "\r\n",
        "GET /?lifecycle HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\nx-amz-date: 20130524T000000Z\r\n"
        "x-amz-content-sha256: " EMPTY "\r\n" AUTH("host;x-amz-content-sha256;x-amz-date",
             "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543") "\r\n",
        "GET /?max-keys=2&prefix=J HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\nx-amz-date: 20130524T000000Z\r\n"
        "x-amz-content-sha256: " EMPTY "\r\n" AUTH("host;x-amz-content-sha256;x-amz-date",
             "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7") "\r\n",
        "GET /test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3"
        "%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature="
        "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404 HTTP/1.1\r\n"
        "Host: examplebucket.s3.amazonaws.com\r\n\r\n",
    };

    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        const char *code;
        int r = verdict(requests[i], SECRET, NOW, &code);
        if (r != 0)
            print_message("request %zu: %s\n", i, code);
        assert_int_equal(r, 0);
    }
}

static void any_change_breaks_the_signature(void **state)
{
    const char *code;

    assert_int_equal(verdict(GET_OBJECT("bytes=0-8", GET_OBJECT_SIGNATURE), SECRET, NOW, &code), -E_SIGNATURE);
    assert_string_equal(code, "SignatureDoesNotMatch");
    assert_int_equal(verdict(GET_OBJECT("bytes=0-9", GET_OBJECT_SIGNATURE), SECRET "x", NOW, &code), -E_SIGNATURE);
    assert_int_equal(verdict(GET_OBJECT("bytes=0-9", "0" "0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
                             SECRET, NOW, &code), -E_SIGNATURE);
}

static void unsigned_and_foreign_requests_are_refused(void **state)
{
#define PLAIN "GET /b HTTP/1.1\r\nHost: h\r\nx-amz-date: 20130524T000000Z\r\nx-amz-content-sha256: " EMPTY "\r\n"
    static const struct {
        const char *text, *code;
    } rows[] = {
        {PLAIN "\r\n", "AccessDenied"},
        {PLAIN "Authorization: AWS AKIA:abc\r\n\r\n", "InvalidRequest"},
        {PLAIN "Authorization: Basic abc\r\n\r\n", "InvalidRequest"},
        {PLAIN "Authorization: AWS4-HMAC-SHA256 \r\n\r\n", "InvalidRequest"},
        {PLAIN "Authorization: AWS4-HMAC-SHA256 x=y\r\n\r\n", "AuthorizationHeaderMalformed"},
        {PLAIN "Authorization: AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=00\r\n\r\n", "AuthorizationHeaderMalformed"},
        {PLAIN AUTH("host", "00") "\r\n", "AuthorizationHeaderMalformed"},
        {PLAIN AUTH("host", EMPTY) "\r\n", "AccessDenied"},
        {PLAIN AUTH("x-amz-date", EMPTY) "\r\n", "AccessDenied"},
        {PLAIN AUTH("host;x-amz-date", EMPTY) "\r\n", "SignatureDoesNotMatch"},
        {"GET /b HTTP/1.1\r\nHost: h\r\nx-amz-date: 20130525T000000Z\r\nx-amz-content-sha256: " EMPTY "\r\n" AUTH("host", EMPTY) "\r\n",
         "AuthorizationHeaderMalformed"},
        {"GET /b HTTP/1.1\r\nHost: h\r\nx-amz-date: 20130524T000000Z\r\n" AUTH("host", EMPTY) "\r\n", "InvalidRequest"},
        {"GET /b?Signature=x&AWSAccessKeyId=y HTTP/1.1\r\nHost: h\r\n\r\n", "InvalidRequest"},
        {"GET /b?X-Amz-Algorithm=x HTTP/1.1\r\nHost: h\r\n\r\n", "AuthorizationQueryParametersError"},
        {"GET /b?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a&X-Amz-Date=b&X-Amz-SignedHeaders=c&X-Amz-Signature=d&X-Amz-Expires=604801"
         " HTTP/1.1\r\nHost: h\r\n\r\n", "AuthorizationQueryParametersError"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const char *code;
        assert_true(verdict(rows[i].text, SECRET, NOW, &code) < 0);
        if (strcmp(code, rows[i].code) != 0)
            print_message("row %zu\n", i);
        assert_string_equal(code, rows[i].code);
    }
}

static void clocks_may_differ_by_fifteen_minutes(void **state)
{
    static const char request[] = GET_OBJECT("bytes=0-9", GET_OBJECT_SIGNATURE);
    const char *code;

    assert_int_equal(verdict(request, SECRET, NOW + SIGV4_SKEW_S, &code), 0);
    assert_int_equal(verdict(request, SECRET, NOW - SIGV4_SKEW_S, &code), 0);
    assert_true(verdict(request, SECRET, NOW + SIGV4_SKEW_S + 1, &code) < 0);
    assert_string_equal(code, "RequestTimeTooSkewed");
    assert_true(verdict(request, SECRET, NOW - SIGV4_SKEW_S - 1, &code) < 0);
    assert_string_equal(code, "RequestTimeTooSkewed");
}

static void a_body_signed_without_its_digest_named_is_checked_afterwards(void **state)
{
    struct claim claim;
    struct sigv4 signer;
    char digits[2 * SHA256_BYTES + 1];
    static const char request[] = "POST /v1/x HTTP/1.1\r\nHost: h\r\nX-Amz-Date: 20130524T000000Z\r\nAuthorization: "
        "AWS4-HMAC-SHA256 Credential=K/20130524/us-east-1/tarn/aws4_request, SignedHeaders=host;x-amz-date, Signature=" EMPTY "\r\n\r\n";

    memset(&claim, 0, sizeof claim);
    claim.text = suite_head(request, &claim.head);
    assert_int_equal(uri_query_parse(claim.head.query, &claim.query), 0);
    assert_int_equal(sigv4_parse(&claim.head, &claim.query, &claim.sigv4, &claim.fault), 0);
    assert_true(claim.sigv4.body_first);
    sigv4_take_body(&claim.sigv4, "abc", 3);
    text_hex(claim.sigv4.payload_sha256, SHA256_BYTES, digits);
    assert_string_equal(claim.sigv4.payload_text, digits);
    signer = claim.sigv4;
    assert_int_equal(sigv4_sign(&signer, &claim.head, &claim.query, SECRET, claim.sigv4.signature), 0);
    assert_int_equal(sigv4_verify(&claim.sigv4, &claim.head, &claim.query, SECRET, NOW, &claim.chain, &claim.fault), 0);
    sigv4_take_body(&claim.sigv4, "abd", 3);
    assert_true(sigv4_verify(&claim.sigv4, &claim.head, &claim.query, SECRET, NOW, &claim.chain, &claim.fault) < 0);
    claim_fini(&claim);
}

/* ---- streaming ---- */

#define STREAM_PUT                                                                                                     \
    "PUT /examplebucket/chunkObject.txt HTTP/1.1\r\nHost: s3.amazonaws.com\r\nx-amz-date: 20130524T000000Z\r\n"        \
    "x-amz-storage-class: REDUCED_REDUNDANCY\r\nContent-Encoding: aws-chunked\r\nx-amz-decoded-content-length: 66560\r\n"
#define SIGNED_STREAM                                                                                                  \
    STREAM_PUT "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\nContent-Length: 66824\r\n" AUTH(           \
        "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class", \
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9") "\r\n"
#define TRAILER_STREAM                                                                                                 \
    STREAM_PUT "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER\r\nx-amz-trailer: x-amz-checksum-crc32c\r\n" AUTH( \
        "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer", \
        "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e") "\r\n"

struct body {
    char bytes[70000];
    size_t n;
};

static void body_add(struct body *body, const char *size_line, size_t data)
{
    body->n += (size_t)sprintf(body->bytes + body->n, "%s\r\n", size_line);
    memset(body->bytes + body->n, 'a', data);
    body->n += data;
    if (data > 0)
        body->n += (size_t)sprintf(body->bytes + body->n, "\r\n");
}

static struct body *signed_body(void)
{
    struct body *body = calloc(1, sizeof *body);
    body_add(body, "10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648", 65536);
    body_add(body, "400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497", 1024);
    body_add(body, "0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9", 0);
    body_add(body, "", 0);
    return body;
}

static struct body *trailer_body(const char *checksum)
{
    struct body *body = calloc(1, sizeof *body);
    body_add(body, "10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2", 65536);
    body_add(body, "400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7", 1024);
    body_add(body, "0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992", 0);
    body->n += (size_t)sprintf(body->bytes + body->n, "x-amz-checksum-crc32c:%s\r\n", checksum);
    body_add(body, "x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435", 0);
    body_add(body, "", 0);
    return body;
}

/* Decodes in pieces of `step`; the data's length or the first error. */
static int64_t decode(const char *request, const struct body *body, size_t step, bool *ret_done, char *trailer)
{
    struct claim claim;
    struct awschunk chunk;
    int64_t total = 0;
    _cleanup_free_ char *copy = malloc(body->n);

    memcpy(copy, body->bytes, body->n);
    assert_int_equal(judge(request, SECRET, NOW, &claim), 0);
    assert_int_equal(awschunk_init(&chunk, &claim.sigv4, &claim.chain), 0);
    for (size_t at = 0; at < body->n && total >= 0; at += step) {
        int64_t n = awschunk_decode(&chunk, copy + at, MIN(step, body->n - at));
        for (int64_t i = 0; i < n; i++)
            assert_int_equal(copy[at + (size_t)i], 'a');
        total = n < 0 ? n : total + n;
    }
    *ret_done = chunk.done;
    if (trailer != NULL && !awschunk_trailer(&chunk, "X-Amz-Checksum-Crc32c", trailer, 64))
        *trailer = 0;
    awschunk_fini(&chunk);
    claim_fini(&claim);
    return total;
}

static void documented_streams_are_verified_in_any_pieces(void **state)
{
    _cleanup_free_ struct body *plain = signed_body(), *trailing = trailer_body("sOO8/Q==");
    static const size_t steps[] = {1, 7, 64, 1000, 65536, 70000};
    char trailer[64];
    bool done;

    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        assert_int_equal(decode(SIGNED_STREAM, plain, steps[i], &done, NULL), 66560);
        assert_true(done);
        assert_int_equal(decode(TRAILER_STREAM, trailing, steps[i], &done, trailer), 66560);
        assert_true(done);
        assert_string_equal(trailer, "sOO8/Q==");
    }
}

static void a_changed_stream_is_noticed(void **state)
{
    _cleanup_free_ struct body *plain = signed_body(), *trailing = trailer_body("sOO8/g==");
    bool done;

    assert_int_equal(decode(TRAILER_STREAM, trailing, 70000, &done, NULL), -E_SIGNATURE);
    char *digit = strstr(plain->bytes, "signature=") + 10;
    *digit = *digit == '0' ? '1' : '0';
    assert_int_equal(decode(SIGNED_STREAM, plain, 70000, &done, NULL), -E_SIGNATURE);
}

static void no_prefix_of_a_stream_is_done(void **state)
{
    _cleanup_free_ struct body *body = trailer_body("sOO8/Q==");
    size_t whole = body->n;
    bool done;

    for (size_t n = 0; n < whole; n += n < 80 || n > whole - 400 ? 1 : 997) {
        body->n = n;
        assert_true(decode(TRAILER_STREAM, body, 70000, &done, NULL) >= 0);
        assert_false(done);
    }
}

static void malformed_streams_are_refused(void **state)
{
    static const char *const bad[] = {"\r\n", "zz\r\n", "5\r\n", "5;chunk-signature=00\r\n", "5;x=1\r\n",
                                      "1000000000000000;chunk-signature=" EMPTY "\r\n", "5\n"};
    bool done;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_free_ struct body *body = calloc(1, sizeof *body);
        body->n = (size_t)sprintf(body->bytes, "%s", bad[i]);
        assert_int_equal(decode(SIGNED_STREAM, body, 3, &done, NULL), -E_PROTO);
    }
    _cleanup_free_ struct body *more = signed_body();
    more->bytes[more->n++] = 'x';
    assert_int_equal(decode(SIGNED_STREAM, more, 70000, &done, NULL), -E_PROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documented_requests_are_accepted),
        cmocka_unit_test(any_change_breaks_the_signature),
        cmocka_unit_test(unsigned_and_foreign_requests_are_refused),
        cmocka_unit_test(clocks_may_differ_by_fifteen_minutes),
        cmocka_unit_test(a_body_signed_without_its_digest_named_is_checked_afterwards),
        cmocka_unit_test(documented_streams_are_verified_in_any_pieces),
        cmocka_unit_test(a_changed_stream_is_noticed),
        cmocka_unit_test(no_prefix_of_a_stream_is_done),
        cmocka_unit_test(malformed_streams_are_refused),
    };
    return cmocka_run_group_tests_name("sigv4", tests, NULL, NULL);
}
