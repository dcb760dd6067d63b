/* Digests and checksums that S3 knows, computed piece by piece. Threads: any, one at a time per object. */
#ifndef TARN_GATEWAY_DIGEST_H
#define TARN_GATEWAY_DIGEST_H

#include "common/base.h"

#define DIGEST_BYTES_MAX 32
enum digest_kind { DIGEST_NONE, DIGEST_MD5, DIGEST_SHA1, DIGEST_SHA256, DIGEST_CRC32, DIGEST_CRC32C, DIGEST_CRC64NVME };
#define DIGEST_KINDS 7

struct digest {
    enum digest_kind kind;
    void *state; /* of the cryptographic ones */
    uint64_t crc;
};
int digest_init(struct digest *digest, enum digest_kind kind); /* -E_NOMEM */
void digest_update(struct digest *digest, const void *data, size_t n);
/* Writes digest_size() bytes (checksums big-endian, as S3 spells them) and starts over: the same
 * object may take the next input. */
void digest_final(struct digest *digest, uint8_t *out);
void digest_fini(struct digest *digest); /* zero-initialised is allowed */
size_t digest_size(enum digest_kind kind);

#define SHA256_BYTES 32
void digest_sha256(const void *data, size_t n, uint8_t out[SHA256_BYTES]);
void digest_hmac_sha256(const void *key, size_t key_len, const void *data, size_t n, uint8_t out[SHA256_BYTES]);
void digest_md5(const void *data, size_t n, uint8_t out[16]);
/* Takes the same time wherever the first difference is. */
bool digest_equal(const void *a, const void *b, size_t n);

#endif
