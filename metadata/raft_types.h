/* Numbers of Raft's messages and entries as they stand on the wire and in the log. They are libraft's,
 * checked against its header in replica_message.c, so that nobody else needs it. */
#ifndef TARN_METADATA_RAFT_TYPES_H
#define TARN_METADATA_RAFT_TYPES_H

#include "common/base.h"

enum raft_wire_type {
    RAFT_TYPE_APPEND = 1, RAFT_TYPE_APPEND_RESULT = 2, RAFT_TYPE_VOTE = 3, RAFT_TYPE_VOTE_RESULT = 4,
    RAFT_TYPE_INSTALL = 5, RAFT_TYPE_TIMEOUT_NOW = 6,
    RAFT_TYPE_END_ASK = 100, RAFT_TYPE_END = 101, /* ours: how far does your log reach (replica_newcomer.c) */
    RAFT_TYPE_WELCOME = 102 /* ours: the leader is about to add you as `candidate` (replica_member.c) */
};
enum raft_wire_entry { RAFT_ENTRY_COMMAND = 1, RAFT_ENTRY_BARRIER = 2, RAFT_ENTRY_CHANGE = 3 };
enum raft_wire_role { RAFT_ROLE_STANDBY = 0, RAFT_ROLE_VOTER = 1, RAFT_ROLE_SPARE = 2 };

/* Are these the bytes of a configuration entry, whole and within our limits? Pure (replica_message.c). */
bool raft_configuration_valid(const uint8_t *data, size_t len);

#endif
