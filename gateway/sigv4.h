/* AWS Signature Version 4: who asks, and that nothing was changed on the way. Header and presigned form.
 * Version 2 is not offered. Pure: the time and the secret are given. Source: "Signature Version 4 signing
 * process" and "Authenticating Requests" of the Amazon S3 API reference. */
#ifndef TARN_GATEWAY_SIGV4_H
#define TARN_GATEWAY_SIGV4_H

#include "digest.h"
#include "http_parse.h"
#include "s3error.h"
#include "uri.h"

#define SIGV4_SKEW_S (15 * 60)
#define SIGV4_EXPIRES_MAX_S (7 * 24 * 3600)
#define SIGV4_SIGNED_HEADERS_MAX HTTP_FIELDS_MAX

enum sigv4_payload {
    SIGV4_HASHED,                    /* x-amz-content-sha256 is the digest of the body */
    SIGV4_UNSIGNED,                  /* UNSIGNED-PAYLOAD */
    SIGV4_STREAMING,                 /* STREAMING-AWS4-HMAC-SHA256-PAYLOAD: aws-chunked, each chunk signed */
    SIGV4_STREAMING_TRAILER,         /* … and a signed trailer */
    SIGV4_STREAMING_UNSIGNED_TRAILER /* STREAMING-UNSIGNED-PAYLOAD-TRAILER: aws-chunked, checksum in the trailer */
};

struct sigv4 {
    char access_key[129];
    char stamp[17];  /* "20130524T000000Z" */
    char scope[160]; /* "20130524/us-east-1/s3/aws4_request" */
    char date[9], region[64], service[64];
    uint64_t time_s;
    bool presigned;
    uint64_t expires_s;
    const char *signed_headers; /* borrowed from the head or query */
    uint8_t signature[SHA256_BYTES];
    enum sigv4_payload payload;
    const char *payload_text; /* what the canonical request ends with; borrowed */
    uint8_t payload_sha256[SHA256_BYTES]; /* SIGV4_HASHED */
    /* Services other than s3 may sign the body's digest without naming it: then the body has to be known
     * (sigv4_take_body) before the signature can be checked. */
    bool body_first;
    char payload_digits[2 * SHA256_BYTES + 1];
};
/* What chunk signatures chain on. */
struct sigv4_chain {
    uint8_t key[SHA256_BYTES];
    uint8_t last[SHA256_BYTES];
};

/* Reads who claims to ask. Errors (in *fault): AccessDenied for a request without a signature,
 * AuthorizationHeaderMalformed, AuthorizationQueryParametersError, InvalidRequest (other algorithms). */
int sigv4_parse(const struct http_head *head, const struct uri_query *query, struct sigv4 *ret, struct s3_fault *fault);
void sigv4_take_body(struct sigv4 *sigv4, const void *body, size_t n);
/* Checks time and signature. Errors: RequestTimeTooSkewed, AccessDenied (expired), SignatureDoesNotMatch. */
int sigv4_verify(const struct sigv4 *sigv4, const struct http_head *head, const struct uri_query *query,
                 const char *secret, uint64_t now_s, struct sigv4_chain *ret_chain, struct s3_fault *fault);
/* One chunk of a streaming body, by the digest of its data: true when the signature continues the chain. */
bool sigv4_chain_chunk(struct sigv4_chain *chain, const struct sigv4 *sigv4, const uint8_t data_sha256[SHA256_BYTES],
                       const uint8_t signature[SHA256_BYTES]);
/* The trailer: digest of its lines, each "name:value\n". */
bool sigv4_chain_trailer(struct sigv4_chain *chain, const struct sigv4 *sigv4,
                         const uint8_t trailer_sha256[SHA256_BYTES], const uint8_t signature[SHA256_BYTES]);
/* The signing side, for tests and for clients of our own: the signature of a request whose fields are final. */
int sigv4_sign(const struct sigv4 *sigv4, const struct http_head *head, const struct uri_query *query,
               const char *secret, uint8_t ret_signature[SHA256_BYTES]);

#endif
