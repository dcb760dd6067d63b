#include "awschunk.h"
#include "text.h"
#include "common/err.h"

#include <strings.h>

/* HEAD (size line) -> DATA -> DATA_CR -> DATA_LF -> HEAD …; size 0: HEAD -> TRAILER (lines) -> done.
 * Without a trailer the final chunk has an empty data part, which is the same empty line. */
enum { HEAD, DATA, DATA_CR, DATA_LF, TRAILER };

int awschunk_init(struct awschunk *chunk, const struct sigv4 *sigv4, const struct sigv4_chain *chain)
{
    memset(chunk, 0, sizeof *chunk);
    chunk->sigv4 = sigv4;
    chunk->chain = *chain;
    chunk->signed_chunks = sigv4->payload != SIGV4_STREAMING_UNSIGNED_TRAILER;
    chunk->has_trailer = sigv4->payload != SIGV4_STREAMING;
    return digest_init(&chunk->sha256, DIGEST_SHA256);
}

void awschunk_fini(struct awschunk *chunk)
{
    digest_fini(&chunk->sha256);
    writer_fini(&chunk->trailer);
}

static int end_chunk(struct awschunk *chunk)
{
    uint8_t sha256[SHA256_BYTES];

    if (!chunk->signed_chunks)
        return 0;
    digest_final(&chunk->sha256, sha256);
    return sigv4_chain_chunk(&chunk->chain, chunk->sigv4, sha256, chunk->signature) ? 0 : -E_SIGNATURE;
}

/* "SIZE" or "SIZE;chunk-signature=DIGITS" */
static int size_line(struct awschunk *chunk)
{
    static const char name[] = "chunk-signature=";
    char *mark = strchr(chunk->line, ';');
    uint64_t size = 0;
    size_t digits = strcspn(chunk->line, ";");

    if (digits == 0 || digits > 15) /* 60 bits */
        return -E_PROTO;
    for (size_t i = 0; i < digits; i++) {
        int digit = text_hex_digit(chunk->line[i]);
        if (digit < 0)
            return -E_PROTO;
        size = size << 4 | (uint64_t)digit;
    }
    if (chunk->signed_chunks) {
        if (mark == NULL || strncmp(mark + 1, name, strlen(name)) != 0 ||
            !text_unhex(mark + 1 + strlen(name), 2 * SHA256_BYTES, chunk->signature))
            return -E_PROTO;
    } else if (mark != NULL) {
        return -E_PROTO;
    }
    chunk->left = size;
    chunk->state = size > 0 ? DATA : TRAILER;
    return size > 0 ? 0 : end_chunk(chunk);
}

static int trailer_signature(struct awschunk *chunk, const char *digits)
{
    uint8_t signature[SHA256_BYTES], sha256[SHA256_BYTES];

    if (!chunk->signed_chunks || chunk->trailer_signed || !text_unhex(digits, 2 * SHA256_BYTES, signature))
        return -E_PROTO;
    digest_sha256(chunk->trailer.data, chunk->trailer.len, sha256);
    chunk->trailer_signed = true;
    return sigv4_chain_trailer(&chunk->chain, chunk->sigv4, sha256, signature) ? 0 : -E_SIGNATURE;
}

static int trailer_line(struct awschunk *chunk)
{
    char *colon = strchr(chunk->line, ':');

    if (chunk->line_len == 0) {
        if (chunk->has_trailer && chunk->signed_chunks && !chunk->trailer_signed)
            return -E_SIGNATURE;
        chunk->done = true;
        return 0;
    }
    if (!chunk->has_trailer || colon == NULL || colon == chunk->line || chunk->trailer_signed ||
        ++chunk->n_trailers > AWSCHUNK_TRAILERS_MAX)
        return -E_PROTO;
    *colon = 0;
    const char *value = colon + 1 + strspn(colon + 1, " ");
    if (strcasecmp(chunk->line, "x-amz-trailer-signature") == 0)
        return trailer_signature(chunk, value);
    /* Some clients end trailer lines by LF in what they sign and by CR LF on the wire. */
    text_format(&chunk->trailer, "%s:%s\n", chunk->line, value);
    return chunk->trailer.failed ? -E_NOMEM : 0;
}

static int line_byte(struct awschunk *chunk, char c)
{
    if (c != '\n') {
        if (c == 0 || chunk->line_len == AWSCHUNK_LINE_MAX - 1)
            return -E_PROTO;
        chunk->line[chunk->line_len++] = c;
        return 0;
    }
    if (chunk->line_len > 0 && chunk->line[chunk->line_len - 1] == '\r')
        chunk->line_len--;
    else if (chunk->state == HEAD || chunk->line_len == 0)
        return -E_PROTO;
    chunk->line[chunk->line_len] = 0;
    int r = chunk->state == HEAD ? size_line(chunk) : trailer_line(chunk);
    chunk->line_len = 0;
    return r;
}

static int framing_byte(struct awschunk *chunk, char c)
{
    if (chunk->done)
        return -E_PROTO;
    if (chunk->state == DATA_CR) {
        chunk->state = DATA_LF;
        return c == '\r' ? 0 : -E_PROTO;
    }
    if (chunk->state == DATA_LF) {
        chunk->state = HEAD;
        return c == '\n' ? end_chunk(chunk) : -E_PROTO;
    }
    return line_byte(chunk, c);
}

int64_t awschunk_decode(struct awschunk *chunk, void *buf, size_t n)
{
    char *bytes = buf;
    size_t at = 0, out = 0;

    while (at < n) {
        if (chunk->state == DATA) {
            size_t len = MIN(chunk->left, (uint64_t)(n - at));
            memmove(bytes + out, bytes + at, len);
            if (chunk->signed_chunks)
                digest_update(&chunk->sha256, bytes + out, len);
            at += len;
            out += len;
            chunk->left -= len;
            if (chunk->left == 0)
                chunk->state = DATA_CR;
            continue;
        }
        int r = framing_byte(chunk, bytes[at++]);
        if (r < 0)
            return r;
    }
    return (int64_t)out;
}

bool awschunk_trailer(const struct awschunk *chunk, const char *name, char *out, size_t size)
{
    const char *at = (const char *)chunk->trailer.data, *end = at + chunk->trailer.len;
    size_t n = strlen(name);

    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)(newline - at);
        if (len > n && at[n] == ':' && strncasecmp(at, name, n) == 0) {
            size_t value = len - n - 1;
            if (value >= size)
                return false;
            memcpy(out, at + n + 1, value);
            out[value] = 0;
            return true;
        }
        at = newline + 1;
    }
    return false;
}
