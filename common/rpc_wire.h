/* The control messages that rpc itself speaks: the three steps of the hello and the words that go
 * with an error. docs/protocols/frame.md is their page. Pure; decoders trust no byte. */
#ifndef TARN_COMMON_RPC_WIRE_H
#define TARN_COMMON_RPC_WIRE_H

#include "base.h"
#include "bytes.h"

#define HELLO_NONCE_BYTES 32
#define HELLO_PROOF_BYTES 32
#define HELLO_NAME_BYTES 64
#define HELLO_CLIENT_BYTES 112 /* 2+2+4 version, step, reserve; 8 cluster; 32 nonce; 64 name */
#define HELLO_SERVER_BYTES 72  /* 8; 32 nonce; 32 proof */
#define HELLO_PROVE_BYTES 40   /* 8; 32 proof */

struct hello_client {
    uint64_t cluster_id;
    uint8_t nonce[HELLO_NONCE_BYTES];
    char name[HELLO_NAME_BYTES]; /* printable, NUL-terminated */
};
struct hello_server {
    uint8_t nonce[HELLO_NONCE_BYTES];
    uint8_t proof[HELLO_PROOF_BYTES];
};
struct hello_prove {
    uint8_t proof[HELLO_PROOF_BYTES];
};
/* Errors of decoders: -E_PROTO wrong length, step, reserve or name; -E_VERSION. */
void hello_client_encode(const struct hello_client *hello, uint8_t out[HELLO_CLIENT_BYTES]);
int hello_client_decode(const uint8_t *in, size_t n, struct hello_client *ret);
void hello_server_encode(const struct hello_server *hello, uint8_t out[HELLO_SERVER_BYTES]);
int hello_server_decode(const uint8_t *in, size_t n, struct hello_server *ret);
void hello_prove_encode(const struct hello_prove *hello, uint8_t out[HELLO_PROVE_BYTES]);
int hello_prove_decode(const uint8_t *in, size_t n, struct hello_prove *ret);

enum hello_side { HELLO_SERVER, HELLO_CLIENT };
/* HMAC-SHA256 of the side, the client's whole hello and the server's nonce: a proof is good for one
 * connection, one direction and one name only. */
void hello_proof(const uint8_t key[32], enum hello_side side, const struct hello_client *client,
                 const uint8_t server_nonce[HELLO_NONCE_BYTES], uint8_t ret[HELLO_PROOF_BYTES]);
bool hello_proof_equal(const uint8_t a[HELLO_PROOF_BYTES], const uint8_t b[HELLO_PROOF_BYTES]);

/* The control message of a failed reply, as protobuf's ErrorDetail (proto/meta.proto). */
#define ERROR_TEXT_BYTES 160
#define ERROR_LEADER_BYTES 64
struct error_detail {
    char text[ERROR_TEXT_BYTES];
    char leader[ERROR_LEADER_BYTES];
};
#define ERROR_DETAIL_BYTES_MAX (3 + ERROR_TEXT_BYTES + 3 + ERROR_LEADER_BYTES)
/* Returns the length; longer strings are cut. NULL counts as empty. */
size_t error_detail_encode(const char *text, const char *leader,
                           uint8_t out[ERROR_DETAIL_BYTES_MAX]);
/* What cannot be read is left empty: the words are for people, the status is the result.
 * Bytes that are not printable become '?'. */
void error_detail_decode(const uint8_t *in, size_t n, struct error_detail *ret);

#endif
