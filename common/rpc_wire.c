/* The only file of common/ that knows OpenSSL. */
#include "common/rpc_wire.h"

#include "common/check.h"
#include "common/err.h"
#include <endian.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#define HELLO_VERSION 1

enum hello_step { STEP_CLIENT = 1, STEP_SERVER = 2, STEP_PROVE = 3 };

/* ---- hello ---- */

static uint8_t *put_start(uint8_t *out, enum hello_step step)
{
    uint16_t words[4] = {htole16(HELLO_VERSION), htole16((uint16_t)step), 0, 0};
    memcpy(out, words, sizeof words);
    return out + sizeof words;
}

static int take_start(struct reader *r, size_t n, size_t expected, enum hello_step step)
{
    uint16_t version = reader_u16(r);
    if (r->failed)
        return -E_PROTO;
    if (version != HELLO_VERSION)
        return -E_VERSION;
    if (n != expected || reader_u16(r) != step || reader_u32(r) != 0)
        return -E_PROTO;
    return 0;
}

static bool name_is_good(const uint8_t *name)
{
    size_t len = strnlen((const char *)name, HELLO_NAME_BYTES);
    if (len == HELLO_NAME_BYTES)
        return false;
    for (size_t i = 0; i < HELLO_NAME_BYTES; i++) {
        bool printable = name[i] >= ' ' && name[i] < 0x7f;
        if (i < len ? !printable : name[i] != 0)
            return false;
    }
    return true;
}

void hello_client_encode(const struct hello_client *hello, uint8_t out[HELLO_CLIENT_BYTES])
{
    uint8_t *at = put_start(out, STEP_CLIENT);
    uint64_t cluster_id = htole64(hello->cluster_id);
    memcpy(at, &cluster_id, sizeof cluster_id);
    at += sizeof cluster_id;
    memcpy(at, hello->nonce, HELLO_NONCE_BYTES);
    at += HELLO_NONCE_BYTES;
    memset(at, 0, HELLO_NAME_BYTES);
    memcpy(at, hello->name, strnlen(hello->name, HELLO_NAME_BYTES - 1));
}

int hello_client_decode(const uint8_t *in, size_t n, struct hello_client *ret)
{
    struct reader r = reader_init(in, n);
    int err = take_start(&r, n, HELLO_CLIENT_BYTES, STEP_CLIENT);
    if (err != 0)
        return err;
    uint64_t cluster_id = reader_u64(&r);
    const uint8_t *nonce = reader_bytes(&r, HELLO_NONCE_BYTES);
    const uint8_t *name = reader_bytes(&r, HELLO_NAME_BYTES);
    if (r.failed || !name_is_good(name))
        return -E_PROTO;
    ret->cluster_id = cluster_id;
    memcpy(ret->nonce, nonce, HELLO_NONCE_BYTES);
    memcpy(ret->name, name, HELLO_NAME_BYTES);
    return 0;
}

void hello_server_encode(const struct hello_server *hello, uint8_t out[HELLO_SERVER_BYTES])
{
    uint8_t *at = put_start(out, STEP_SERVER);
    memcpy(at, hello->nonce, HELLO_NONCE_BYTES);
    memcpy(at + HELLO_NONCE_BYTES, hello->proof, HELLO_PROOF_BYTES);
}

int hello_server_decode(const uint8_t *in, size_t n, struct hello_server *ret)
{
    struct reader r = reader_init(in, n);
    int err = take_start(&r, n, HELLO_SERVER_BYTES, STEP_SERVER);
    if (err != 0)
        return err;
    const uint8_t *nonce = reader_bytes(&r, HELLO_NONCE_BYTES);
    const uint8_t *proof = reader_bytes(&r, HELLO_PROOF_BYTES);
    if (r.failed)
        return -E_PROTO;
    memcpy(ret->nonce, nonce, HELLO_NONCE_BYTES);
    memcpy(ret->proof, proof, HELLO_PROOF_BYTES);
    return 0;
}

void hello_prove_encode(const struct hello_prove *hello, uint8_t out[HELLO_PROVE_BYTES])
{
    uint8_t *at = put_start(out, STEP_PROVE);
    memcpy(at, hello->proof, HELLO_PROOF_BYTES);
}

int hello_prove_decode(const uint8_t *in, size_t n, struct hello_prove *ret)
{
    struct reader r = reader_init(in, n);
    int err = take_start(&r, n, HELLO_PROVE_BYTES, STEP_PROVE);
    if (err != 0)
        return err;
    const uint8_t *proof = reader_bytes(&r, HELLO_PROOF_BYTES);
    if (r.failed)
        return -E_PROTO;
    memcpy(ret->proof, proof, HELLO_PROOF_BYTES);
    return 0;
}

void hello_proof(const uint8_t key[32], enum hello_side side, const struct hello_client *client,
                 const uint8_t server_nonce[HELLO_NONCE_BYTES], uint8_t ret[HELLO_PROOF_BYTES])
{
    uint8_t text[8 + HELLO_CLIENT_BYTES + HELLO_NONCE_BYTES] = {0};
    memcpy(text, side == HELLO_SERVER ? "server" : "client", 6);
    hello_client_encode(client, text + 8);
    memcpy(text + 8 + HELLO_CLIENT_BYTES, server_nonce, HELLO_NONCE_BYTES);
    unsigned len = HELLO_PROOF_BYTES;
    const uint8_t *done = HMAC(EVP_sha256(), key, 32, text, sizeof text, ret, &len);
    CHECK(done != NULL && len == HELLO_PROOF_BYTES);
}

bool hello_proof_equal(const uint8_t a[HELLO_PROOF_BYTES], const uint8_t b[HELLO_PROOF_BYTES])
{
    return CRYPTO_memcmp(a, b, HELLO_PROOF_BYTES) == 0;
}

/* ---- error detail: two length-delimited protobuf fields, numbers 1 and 2 ---- */

#define TAG_TEXT 0x0a   /* field 1, wire type 2 */
#define TAG_LEADER 0x12 /* field 2, wire type 2 */

static size_t put_string(uint8_t *out, uint8_t tag, const char *text, size_t size)
{
    size_t len = text == NULL ? 0 : strnlen(text, size - 1);
    if (len == 0)
        return 0;
    size_t at = 0;
    out[at++] = tag;
    if (len >= 0x80)
        out[at++] = (uint8_t)(len | 0x80);
    out[at++] = (uint8_t)(len >= 0x80 ? len >> 7 : len);
    memcpy(out + at, text, len);
    return at + len;
}

size_t error_detail_encode(const char *text, const char *leader,
                           uint8_t out[ERROR_DETAIL_BYTES_MAX])
{
    size_t n = put_string(out, TAG_TEXT, text, ERROR_TEXT_BYTES);
    return n + put_string(out + n, TAG_LEADER, leader, ERROR_LEADER_BYTES);
}

static uint64_t take_varint(struct reader *r)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 35; shift += 7) {
        uint8_t byte = reader_u8(r);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0)
            return value;
    }
    r->failed = true;
    return 0;
}

static void copy_printable(char *out, size_t size, const uint8_t *in, size_t n)
{
    n = MIN(n, size - 1);
    for (size_t i = 0; i < n; i++)
        out[i] = in[i] >= ' ' && in[i] != 0x7f ? (char)in[i] : '?';
    out[n] = '\0';
}

void error_detail_decode(const uint8_t *in, size_t n, struct error_detail *ret)
{
    *ret = (struct error_detail){0};
    struct reader r = reader_init(in, n);
    while (reader_left(&r) > 0) {
        uint64_t tag = take_varint(&r);
        uint64_t len = take_varint(&r);
        const uint8_t *value = reader_bytes(&r, len);
        if (r.failed || (tag & 7) != 2)
            return;
        if (tag == TAG_TEXT)
            copy_printable(ret->text, sizeof ret->text, value, len);
        else if (tag == TAG_LEADER)
            copy_printable(ret->leader, sizeof ret->leader, value, len);
    }
}
