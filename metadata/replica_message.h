/* Raft's messages between libraft's structs and the wire (tarn.RaftMessage and entries in the payload).
 * Only replica.c includes it. Pure. */
#ifndef TARN_METADATA_REPLICA_MESSAGE_H
#define TARN_METADATA_REPLICA_MESSAGE_H

#include "replica_impl.h"
#include <raft.h>

/* False when the message makes no sense any more (a snapshot that is no longer the newest). */
bool replica_message_encode(const struct replica *replica, const struct raft_message *in,
                            struct transport_message *out);
void replica_message_server(struct transport_message *out, uint64_t id, unsigned role, const char *address);
/* The entries of a received message; their data is borrowed from the payload, `batch` is not set.
 * free() the array. -E_PROTO. */
int replica_entries_decode(const Tarn__RaftMessage *in, const uint8_t *payload, size_t payload_len,
                           struct raft_entry **ret);
/* raft_configuration_close() it. -E_PROTO. */
int replica_configuration_decode(const Tarn__RaftMessage *in, struct raft_configuration *ret);

#endif
