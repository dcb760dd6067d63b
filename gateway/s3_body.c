#include "s3_body.h"
#include "text.h"
#include "common/err.h"

#include <stdio.h>
#include <strings.h>

/* Below this a thread's wake-up costs more than the digest. */
#define WORK_MIN KIB(64)

static const struct {
    const char *header;
    enum digest_kind kind;
} checksums[] = {
    {"x-amz-checksum-crc32", DIGEST_CRC32},   {"x-amz-checksum-crc32c", DIGEST_CRC32C},
    {"x-amz-checksum-sha1", DIGEST_SHA1},     {"x-amz-checksum-sha256", DIGEST_SHA256},
    {"x-amz-checksum-crc64nvme", DIGEST_CRC64NVME},
};

/* ---- what the headers announce ---- */

static int want_md5(struct s3_body *body)
{
    const char *given = s3_header(body->call, "content-md5");

    if (given != NULL) {
        if (text_unbase64(given, body->expected_md5, 16) != 16)
            return s3_fail(&body->call->fault, S3_INVALID_DIGEST, "The Content-MD5 is not valid");
        body->check_md5 = true;
    }
    return digest_init(&body->md5, DIGEST_MD5);
}

static int want_checksum(struct s3_body *body)
{
    const char *trailer = s3_header(body->call, "x-amz-trailer");

    for (size_t i = 0; i < ARRAY_SIZE(checksums); i++) {
        const char *given = s3_header(body->call, checksums[i].header);
        bool in_trailer = trailer != NULL && strcasecmp(trailer, checksums[i].header) == 0;
        uint8_t bytes[DIGEST_BYTES_MAX];

        if (given == NULL && !in_trailer)
            continue;
        if (body->checksum_name[0] != 0)
            return s3_fail(&body->call->fault, S3_INVALID_REQUEST, "Only one x-amz-checksum- may be given");
        if (given != NULL &&
            text_unbase64(given, bytes, sizeof bytes) != (int64_t)digest_size(checksums[i].kind))
            return s3_fail(&body->call->fault, S3_INVALID_REQUEST, "The value of %s is not valid", checksums[i].header);
        snprintf(body->checksum_name, sizeof body->checksum_name, "%s", checksums[i].header);
        snprintf(body->checksum_given, sizeof body->checksum_given, "%s", given == NULL ? "" : given);
        int r = digest_init(&body->checksum, checksums[i].kind);
        if (r < 0)
            return r;
    }
    return 0;
}

static int want_framing(struct s3_body *body)
{
    const struct sigv4 *sigv4 = &body->call->auth.sigv4;
    const struct http_head *head = &body->call->http->head;

    body->framed = sigv4->payload >= SIGV4_STREAMING;
    if (!body->framed) {
        body->has_length = !head->chunked;
        body->length = head->length;
        body->check_sha256 = sigv4->payload == SIGV4_HASHED;
        return body->check_sha256 ? digest_init(&body->sha256, DIGEST_SHA256) : 0;
    }
    const char *length = s3_header(body->call, "x-amz-decoded-content-length");
    if (length == NULL || text_parse_u64(length, &body->length) < 0)
        return s3_fail(&body->call->fault, S3_MISSING_LENGTH, "The x-amz-decoded-content-length header is needed");
    body->has_length = true;
    return awschunk_init(&body->chunk, sigv4, &body->call->auth.chain);
}

int s3_body_open(struct s3_call *call, struct s3_body *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->call = call;
    int r = want_md5(ret);
    if (r == 0)
        r = want_checksum(ret);
    if (r == 0)
        r = want_framing(ret);
    if (r < 0)
        return r;
    ret->window_size = ret->has_length ? MIN(S3_BODY_WINDOW, MAX(ret->length, KIB(4))) : S3_BODY_WINDOW;
    return 0;
}

void s3_body_fini(struct s3_body *body)
{
    fiber_group_wait(&body->working);
    digest_fini(&body->md5);
    digest_fini(&body->sha256);
    digest_fini(&body->checksum);
    awschunk_fini(&body->chunk);
    free(body->windows[0]);
    free(body->windows[1]);
}

/* ---- windows ---- */

/* On a worker: nothing but the body's own state is touched. */
static void take_window(void *arg)
{
    struct s3_body *body = arg;

    if (body->check_sha256)
        digest_update(&body->sha256, body->work_data, (size_t)body->work_n);
    if (body->framed)
        body->work_n = awschunk_decode(&body->chunk, body->work_data, (size_t)body->work_n);
    if (body->work_n <= 0)
        return;
    digest_update(&body->md5, body->work_data, (size_t)body->work_n);
    if (body->checksum_name[0] != 0)
        digest_update(&body->checksum, body->work_data, (size_t)body->work_n);
}

static void work_run(void *arg)
{
    struct s3_body *body = arg;

    body->work_err = io_work(body->call->gate->io, take_window, body);
    fiber_group_done(&body->working);
}

/* The digests of a plain body are nobody's concern before its end; framed data is only known after decoding. */
static int digest_window(struct s3_body *body)
{
    if (body->work_n < (int64_t)WORK_MIN) {
        take_window(body);
        return 0;
    }
    if (body->framed)
        return io_work(body->call->gate->io, take_window, body);
    fiber_group_add(&body->working);
    int r = fiber_spawn(body->call->gate->io, "digest", work_run, body);
    if (r < 0)
        fiber_group_done(&body->working);
    return r;
}

/* Bytes read, 0 at the end of the body; work_n is what has become of them. */
static int64_t fill_window(struct s3_body *body)
{
    char **window = &body->windows[body->turn ^= 1];

    if (*window == NULL)
        *window = malloc(body->window_size);
    if (*window == NULL)
        return -E_NOMEM;
    int64_t n = http_body_read(body->call->http, *window, body->window_size);
    fiber_group_wait(&body->working);
    if (n <= 0 || body->work_err < 0)
        return n < 0 ? n : body->work_err;
    body->work_data = *window;
    body->work_n = n;
    int r = digest_window(body);
    return r < 0 ? r : n;
}

static int explain(struct s3_body *body, int err)
{
    struct s3_fault *fault = &body->call->fault;

    if (err == -E_SIGNATURE)
        return s3_fail(fault, S3_SIGNATURE, "The signature of a chunk does not match");
    if (err == -E_PROTO && body->framed)
        return s3_fail(fault, S3_INVALID_REQUEST, "The aws-chunked framing of the body is malformed");
    if (err == -E_PROTO)
        return s3_fail(fault, S3_INVALID_REQUEST, "The chunked framing of the body is malformed");
    if (err == -E_CONN || err == -E_TIMEOUT)
        return s3_fail(fault, S3_INCOMPLETE_BODY, NULL);
    return err;
}

/* ---- the end ---- */

static int check_checksum(struct s3_body *body)
{
    struct s3_fault *fault = &body->call->fault;
    uint8_t out[DIGEST_BYTES_MAX];

    if (body->checksum_name[0] == 0)
        return 0;
    digest_final(&body->checksum, out);
    text_base64(out, digest_size(body->checksum.kind), body->checksum_text);
    if (body->checksum_given[0] == 0 &&
        (!body->framed ||
         !awschunk_trailer(&body->chunk, body->checksum_name, body->checksum_given, sizeof body->checksum_given)))
        return s3_fail(fault, S3_MALFORMED_TRAILER, "The trailer %s is missing", body->checksum_name);
    if (strcmp(body->checksum_given, body->checksum_text) != 0)
        return s3_fail(fault, S3_BAD_DIGEST, "The %s you specified did not match the calculated checksum",
                       body->checksum_name + strlen("x-amz-"));
    return 0;
}

static int check_end(struct s3_body *body)
{
    struct s3_fault *fault = &body->call->fault;
    uint8_t sha256[SHA256_BYTES];

    if (body->framed && !body->chunk.done)
        return s3_fail(fault, S3_INCOMPLETE_BODY, "The last chunk of the body is missing");
    if (body->has_length && body->seen != body->length)
        return s3_fail(fault, S3_INCOMPLETE_BODY, "The body has %llu bytes, not the %llu announced",
                       (unsigned long long)body->seen, (unsigned long long)body->length);
    if (body->check_sha256) {
        digest_final(&body->sha256, sha256);
        if (!digest_equal(sha256, body->call->auth.sigv4.payload_sha256, sizeof sha256))
            return s3_fail(fault, S3_CONTENT_SHA256, NULL);
    }
    digest_final(&body->md5, body->md5_out);
    if (body->check_md5 && !digest_equal(body->md5_out, body->expected_md5, 16))
        return s3_fail(fault, S3_BAD_DIGEST, "The Content-MD5 you specified did not match what we received");
    return check_checksum(body);
}

int64_t s3_body_next(struct s3_body *body, const void **ret_data)
{
    for (;;) {
        int64_t r = fill_window(body);
        if (r < 0)
            return explain(body, (int)r);
        if (r == 0)
            return check_end(body);
        if (body->work_n < 0)
            return explain(body, (int)body->work_n);
        body->seen += (uint64_t)body->work_n;
        if (body->has_length && body->seen > body->length)
            return s3_fail(&body->call->fault, S3_INCOMPLETE_BODY, "The body is longer than announced");
        if (body->work_n > 0) {
            *ret_data = body->windows[body->turn];
            return body->work_n;
        }
    }
}

int s3_body_all(struct s3_call *call, size_t max, char **ret_text, size_t *ret_len)
{
    _cleanup_(s3_body_fini) struct s3_body body;
    _cleanup_(writer_fini) struct writer text = {0};
    const void *data;
    int64_t n;

    int r = s3_body_open(call, &body);
    if (r < 0)
        return r;
    while ((n = s3_body_next(&body, &data)) > 0) {
        if (text.len + (size_t)n > max)
            return s3_fail(&call->fault, S3_ENTITY_TOO_LARGE, "The body of this request may have %zu bytes", max);
        writer_bytes(&text, data, (size_t)n);
    }
    if (n < 0)
        return (int)n;
    if (text_end(&text) == NULL)
        return -E_NOMEM;
    *ret_len = text.len;
    *ret_text = (char *)take_ptr(text.data);
    return 0;
}
