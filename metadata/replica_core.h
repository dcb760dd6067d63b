/* libraft's state and the one way to change it: for replica.c, which drives it, replica_receive.c, which tells it what the
 * others say, and replica_member.c, which changes who takes part. With replica_message.* the only files that know libraft. */
#ifndef TARN_METADATA_REPLICA_CORE_H
#define TARN_METADATA_REPLICA_CORE_H

#include "replica_impl.h"
#include <raft.h>

struct core {
    struct raft raft;
    bool has_install;
    struct raft_snapshot_metadata install; /* from RAFT_UPDATE_SNAPSHOT until it is persisted */
};

int core_error(int rv); /* libraft's code as ours */
/* One event and all that follows from it, with step_lock held. Only a submission or a transfer may be refused;
 * anything else that fails leaves a state nobody has written down and ends the replica. */
int core_step(struct replica *replica, struct raft_event *event, struct raft_update *ret_update);
/* Takes over who raft thinks takes part; called after every step. */
void core_members(struct replica *replica);

void core_send(struct replica *replica, const struct raft_message *in); /* to whom it names; lost when that is nobody */
bool core_is_silent(const struct replica *replica); /* says and hears nothing for a while */

#endif
