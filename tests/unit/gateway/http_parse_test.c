#include "gateway_suite.h"
#include "gateway/text.h"

static void heads_are_taken_apart(void **state)
{
    struct http_head head;
    _cleanup_free_ char *text = suite_head("PUT /b/k%20x?uploads&a=1 HTTP/1.1\r\nHost: h:1\r\nContent-Length:  12 \r\n"
                                           "X-Empty:\r\nx-twice: a\r\nX-Twice: b\t\r\nExpect: 100-continue\r\n\r\n", &head);

    assert_int_equal(head.verb, HTTP_VERB_PUT);
    assert_string_equal(head.method, "PUT");
    assert_string_equal(head.path, "/b/k%20x");
    assert_string_equal(head.query, "uploads&a=1");
    assert_string_equal(http_head_get(&head, "HOST"), "h:1");
    assert_string_equal(http_head_get(&head, "x-empty"), "");
    assert_string_equal(head.fields[4].value, "b");
    assert_true(head.has_length && head.keep_alive && head.expect_continue && !head.chunked);
    assert_int_equal(head.length, 12);
    assert_int_equal(head.n_fields, 6);
}

static void old_clients_close_unless_they_say_otherwise(void **state)
{
    struct http_head head;
    char *text = suite_head("GET / HTTP/1.0\r\n\r\n", &head);
    assert_false(head.keep_alive);
    free(text);
    text = suite_head("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", &head);
    assert_true(head.keep_alive);
    free(text);
    text = suite_head("GET / HTTP/1.1\r\nHost: a\r\nConnection: te, close\r\n\r\n", &head);
    assert_false(head.keep_alive);
    free(text);
}

/* What one parser takes for one thing and the next for another, and what is simply wrong. */
static void ambiguous_heads_are_refused(void **state)
{
    static const struct {
        int status;
        const char *text;
    } rows[] = {
        {400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {501, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"},
        {501, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"},
        {400, "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"},
        {400, "GET / HTTP/1.1\nHost: a\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n\r\n"},
        {400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"},
        {400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /\r\nHost: a\r\n\r\n"},
        {400, " GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\n"},
        {505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"},
        {505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"},
        {501, "BREW / HTTP/1.1\r\nHost: a\r\n\r\n"},
        {501, "PATCH / HTTP/1.1\r\nHost: a\r\n\r\n"},
        {417, "GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct http_head head;
        struct http_refusal refusal = {0};
        _cleanup_free_ char *copy = strdup(rows[i].text);
        int r = http_head_parse(copy, strlen(copy), &head, &refusal);
        if (r != -E_PROTO || refusal.status != rows[i].status)
            print_message("row %zu: %d %d %s\n", i, r, refusal.status, refusal.why);
        assert_int_equal(r, -E_PROTO);
        assert_int_equal(refusal.status, rows[i].status);
        assert_non_null(refusal.why);
    }
}

static int parse_generated(size_t target, size_t fields, size_t value, int *ret_status)
{
    _cleanup_(writer_fini) struct writer text = {0};
    struct http_head head;
    struct http_refusal refusal = {0};

    text_add(&text, "GET /");
    for (size_t i = 1; i < target; i++)
        writer_u8(&text, 'a');
    text_add(&text, " HTTP/1.1\r\nHost: a\r\n");
    for (size_t i = 1; i < fields; i++) {
        text_format(&text, "X%zu: ", i);
        for (size_t k = 0; k < value; k++)
            writer_u8(&text, 'b');
        text_add(&text, "\r\n");
    }
    text_add(&text, "\r\n");
    int r = http_head_parse((char *)text.data, text.len, &head, &refusal);
    *ret_status = refusal.status;
    return r;
}

static void heads_have_limits(void **state)
{
    int status;

    assert_int_equal(parse_generated(HTTP_TARGET_MAX, 2, 1, &status), 0);
    assert_int_equal(parse_generated(HTTP_TARGET_MAX + 1, 2, 1, &status), -E_PROTO);
    assert_int_equal(status, 414);
    assert_int_equal(parse_generated(1, 100, 1, &status), 0);
    assert_int_equal(parse_generated(1, 101, 1, &status), -E_PROTO);
    assert_int_equal(status, 431);
    assert_int_equal(parse_generated(HTTP_TARGET_MAX, 100, 640, &status), 0);
    assert_int_equal(parse_generated(1, 100, 700, &status), -E_PROTO);
    assert_int_equal(status, 431);
}

static void every_prefix_of_a_head_is_incomplete_or_refused(void **state)
{
    static const char whole[] = "POST /x?y=z HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

    for (size_t n = 0; n < strlen(whole); n++) {
        struct http_head head;
        struct http_refusal refusal;
        _cleanup_free_ char *copy = malloc(n + 1);
        memcpy(copy, whole, n);
        assert_int_equal(http_head_length(copy, n, 0), 0);
        assert_int_equal(http_head_parse(copy, n, &head, &refusal), -E_PROTO);
    }
    assert_int_equal(http_head_length(whole, strlen(whole), 0), strlen(whole));
    assert_int_equal(http_head_length(whole, strlen(whole), strlen(whole) - 1), strlen(whole));
}

/* Feeds `text` in pieces of `step` bytes; returns the data length or an error, *ret_used the bytes eaten. */
static int64_t unchunk(const char *text, size_t step, char *out, bool *ret_done, size_t *ret_used)
{
    struct http_chunked chunked = {0};
    size_t at = 0, have = 0, n = strlen(text);

    while (at < n && !chunked.done) {
        const char *data;
        size_t used, len;
        int r = http_chunked_feed(&chunked, text + at, MIN(step, n - at), &used, &data, &len);
        if (r < 0)
            return r;
        if (len > 0)
            memcpy(out + have, data, len);
        have += len;
        at += used;
    }
    out[have] = 0;
    *ret_done = chunked.done;
    *ret_used = at;
    return (int64_t)have;
}

static void chunks_come_in_any_pieces(void **state)
{
    static const char text[] = "5\r\nhello\r\n00c;name=\"x\"\r\n, wide world\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\nGET";
    char out[64];
    bool done;
    size_t used;

    for (size_t step = 1; step <= sizeof text; step++) {
        assert_int_equal(unchunk(text, step, out, &done, &used), 17);
        assert_string_equal(out, "hello, wide world");
        assert_true(done);
        assert_string_equal(text + used, "GET");
    }
}

static void chunk_framing_is_strict(void **state)
{
    static const char *const bad[] = {
        "\r\n", "g\r\n", "5\nhello", "5\r\nhelloX", "5\r\nhello\n", "5\r\nhello\r5\r\n", " 5\r\nhello\r\n", "5 \r\nhello\r\n",
        "-1\r\n", "0x5\r\n", "1000000000000000\r\n", "0\r\nX-Sum\x01\r\n", "0\r\n folded: 1\r\n", "0\r\nX: 1\n\r\n", ";x\r\n", "5;\x01\r\n",
    };
    char out[64];
    bool done;
    size_t used;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        for (size_t step = 1; step < 8; step++)
            assert_int_equal(unchunk(bad[i], step, out, &done, &used), -E_PROTO);
}

static void chunk_lines_and_trailers_have_limits(void **state)
{
    _cleanup_free_ char *text = malloc(HTTP_TRAILERS_MAX + 64);
    char out[64];
    bool done;
    size_t used;

    strcpy(text, "1;");
    memset(text + 2, 'x', HTTP_CHUNK_LINE_MAX);
    strcpy(text + 2 + HTTP_CHUNK_LINE_MAX, "\r\n");
    assert_int_equal(unchunk(text, 4096, out, &done, &used), -E_PROTO);
    strcpy(text, "0\r\nX: ");
    memset(text + 6, 'x', HTTP_TRAILERS_MAX);
    strcpy(text + 6 + HTTP_TRAILERS_MAX, "\r\n\r\n");
    assert_int_equal(unchunk(text, 4096, out, &done, &used), -E_PROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_taken_apart),
        cmocka_unit_test(old_clients_close_unless_they_say_otherwise),
        cmocka_unit_test(ambiguous_heads_are_refused),
        cmocka_unit_test(heads_have_limits),
        cmocka_unit_test(every_prefix_of_a_head_is_incomplete_or_refused),
        cmocka_unit_test(chunks_come_in_any_pieces),
        cmocka_unit_test(chunk_framing_is_strict),
        cmocka_unit_test(chunk_lines_and_trailers_have_limits),
    };
    return cmocka_run_group_tests_name("http_parse", tests, NULL, NULL);
}
