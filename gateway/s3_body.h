/* The body of a PUT: pulled in windows, taken out of its aws-chunked framing, and checked against everything the client
 * said about it: signature, length, SHA-256, Content-MD5, x-amz-checksum-*. Digests of large windows are computed on a
 * worker thread, while the caller stores the window and the next one is received. Threads: the io's; fibers. */
#ifndef TARN_GATEWAY_S3_BODY_H
#define TARN_GATEWAY_S3_BODY_H

#include "awschunk.h"
#include "s3_call.h"
#include "common/fiber.h"

#define S3_BODY_WINDOW MIB(1)

struct s3_body {
    struct s3_call *call;
    char *windows[2];
    unsigned turn; /* the window given out last */
    size_t window_size;
    bool framed; /* aws-chunked */
    struct awschunk chunk;
    bool has_length;
    uint64_t length, seen; /* of the data, as announced and so far */
    struct digest md5, sha256, checksum;
    bool check_md5, check_sha256;
    uint8_t expected_md5[16];
    char checksum_name[40];  /* "x-amz-checksum-crc32c" or "" */
    char checksum_given[64]; /* base64; "" when it comes in the trailer */
    char checksum_text[64];  /* base64 of the computed one, after the end */
    uint8_t md5_out[16];     /* after the end */
    void *work_data;         /* the window being digested */
    int64_t work_n;
    int work_err;
    struct fiber_group working; /* at most one */
};
/* Reads what the headers announce. Errors: InvalidDigest, InvalidRequest, MissingContentLength, -E_NOMEM. */
int s3_body_open(struct s3_call *call, struct s3_body *ret);
void s3_body_fini(struct s3_body *body);
/* The next bytes (borrowed until the next call); 0 at the end, after every check has passed. Errors: BadDigest,
 * XAmzContentSHA256Mismatch, SignatureDoesNotMatch, IncompleteBody, MalformedTrailerError, those of http_body_read(). */
int64_t s3_body_next(struct s3_body *body, const void **ret_data);
/* A small body at once, NUL-terminated, malloc'd. EntityTooLarge past `max`. */
int s3_body_all(struct s3_call *call, size_t max, char **ret_text, size_t *ret_len);

#endif
