/* The aws-chunked body framing of streaming Signature Version 4: sizes and signatures between the data, a
 * checksum behind it. Decodes in place, verifies each signature once its chunk is complete, so data is given
 * out before it is known to be good: nothing made of it may become visible until `done`. Pure.
 * Source: "Transferring payload in multiple chunks" and "… with trailing headers" of the S3 API reference. */
#ifndef TARN_GATEWAY_AWSCHUNK_H
#define TARN_GATEWAY_AWSCHUNK_H

#include "sigv4.h"

#define AWSCHUNK_LINE_MAX 512     /* size and signature, or one trailer line */
#define AWSCHUNK_TRAILERS_MAX 8

struct awschunk {
    const struct sigv4 *sigv4; /* borrowed */
    struct sigv4_chain chain;
    bool signed_chunks, has_trailer;
    unsigned state;
    uint64_t left;
    struct digest sha256;      /* of the chunk's data */
    uint8_t signature[SHA256_BYTES];
    char line[AWSCHUNK_LINE_MAX];
    size_t line_len;
    struct writer trailer;     /* "name:value\n" of every trailer but the signature */
    unsigned n_trailers;
    bool trailer_signed, done;
};
/* payload: one of the STREAMING forms of sigv4. -E_NOMEM. */
int awschunk_init(struct awschunk *chunk, const struct sigv4 *sigv4, const struct sigv4_chain *chain);
void awschunk_fini(struct awschunk *chunk);
/* Replaces n bytes of framed input by the data in them (never more). Errors: -E_SIGNATURE; -E_PROTO malformed;
 * input behind the end is malformed too. */
int64_t awschunk_decode(struct awschunk *chunk, void *buf, size_t n);
/* The value of a trailer after `done`, copied into out; false when there is none or it does not fit. */
bool awschunk_trailer(const struct awschunk *chunk, const char *name, char *out, size_t size);

#endif
