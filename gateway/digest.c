/* OpenSSL for the cryptographic digests, isa-l for CRC-32; CRC-64/NVME by tables, because isa-l has it
 * only from 2.31 on. */
#include "digest.h"
#include "common/check.h"
#include "common/crc.h"
#include "common/err.h"

#include <endian.h>
#include <isa-l/crc.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>

/* CRC-64/NVME, reflected polynomial; eight tables take eight bytes a step. */
#define CRC64NVME_POLY UINT64_C(0x9a6c9329ac4bc9b5)
static uint64_t crc64_tables[8][256];
static pthread_once_t crc64_once = PTHREAD_ONCE_INIT;

static void crc64_make_tables(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint64_t v = i;
        for (unsigned bit = 0; bit < 8; bit++)
            v = v & 1 ? v >> 1 ^ CRC64NVME_POLY : v >> 1;
        crc64_tables[0][i] = v;
    }
    for (unsigned k = 1; k < 8; k++)
        for (unsigned i = 0; i < 256; i++) {
            uint64_t v = crc64_tables[k - 1][i];
            crc64_tables[k][i] = v >> 8 ^ crc64_tables[0][v & 255];
        }
}

static uint64_t crc64nvme(uint64_t crc, const uint8_t *data, size_t n)
{
    crc = ~crc;
    for (; n >= 8; n -= 8, data += 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        crc ^= le64toh(word);
        uint64_t next = 0;
        for (unsigned k = 0; k < 8; k++)
            next ^= crc64_tables[7 - k][crc >> (8 * k) & 255];
        crc = next;
    }
    for (; n > 0; n--, data++)
        crc = crc >> 8 ^ crc64_tables[0][(crc ^ *data) & 255];
    return ~crc;
}

static const EVP_MD *evp_of(enum digest_kind kind)
{
    switch (kind) {
    case DIGEST_MD5:
        return EVP_md5();
    case DIGEST_SHA1:
        return EVP_sha1();
    case DIGEST_SHA256:
        return EVP_sha256();
    default:
        return NULL;
    }
}

size_t digest_size(enum digest_kind kind)
{
    static const size_t sizes[DIGEST_KINDS] = {0, 16, 20, 32, 4, 4, 8};
    return sizes[kind];
}

int digest_init(struct digest *digest, enum digest_kind kind)
{
    const EVP_MD *evp = evp_of(kind);

    memset(digest, 0, sizeof *digest);
    if (evp != NULL) {
        digest->state = EVP_MD_CTX_new();
        if (digest->state == NULL)
            return -E_NOMEM;
        CHECK(EVP_DigestInit_ex(digest->state, evp, NULL) == 1);
    }
    if (kind == DIGEST_CRC64NVME)
        pthread_once(&crc64_once, crc64_make_tables);
    digest->kind = kind;
    return 0;
}

void digest_update(struct digest *digest, const void *data, size_t n)
{
    if (digest->state != NULL)
        CHECK(EVP_DigestUpdate(digest->state, data, n) == 1);
    else if (digest->kind == DIGEST_CRC32)
        digest->crc = crc32_gzip_refl((uint32_t)digest->crc, data, n);
    else if (digest->kind == DIGEST_CRC32C)
        digest->crc = crc32c((uint32_t)digest->crc, data, n);
    else if (digest->kind == DIGEST_CRC64NVME)
        digest->crc = crc64nvme(digest->crc, data, n);
}

void digest_final(struct digest *digest, uint8_t *out)
{
    if (digest->state != NULL) {
        CHECK(EVP_DigestFinal_ex(digest->state, out, NULL) == 1);
        CHECK(EVP_DigestInit_ex(digest->state, NULL, NULL) == 1);
        return;
    }
    size_t size = digest_size(digest->kind);
    for (size_t i = 0; i < size; i++)
        out[i] = (uint8_t)(digest->crc >> (8 * (size - 1 - i)));
    digest->crc = 0;
}

void digest_fini(struct digest *digest)
{
    EVP_MD_CTX_free(digest->state);
    memset(digest, 0, sizeof *digest);
}

void digest_sha256(const void *data, size_t n, uint8_t out[SHA256_BYTES])
{
    CHECK(EVP_Digest(data, n, out, NULL, EVP_sha256(), NULL) == 1);
}

void digest_hmac_sha256(const void *key, size_t key_len, const void *data, size_t n, uint8_t out[SHA256_BYTES])
{
    CHECK(HMAC(EVP_sha256(), key, (int)key_len, data, n, out, NULL) != NULL);
}

void digest_md5(const void *data, size_t n, uint8_t out[16])
{
    CHECK(EVP_Digest(data, n, out, NULL, EVP_md5(), NULL) == 1);
}

bool digest_equal(const void *a, const void *b, size_t n)
{
    return CRYPTO_memcmp(a, b, n) == 0;
}
