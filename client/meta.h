/* The client's session with the metadata service: finds the leader, follows redirects, retries what
 * may be retried, numbers changes so that a repeated one happens once, keeps the session alive,
 * receives pushes. Threads: the io's; waiting calls from fibers. */
#ifndef TARN_CLIENT_META_H
#define TARN_CLIENT_META_H

#include "common/config.h"
#include "common/io.h"
#include "common/rpc.h"
#include "meta.pb-c.h"
#include "ops.h"

struct meta;
struct meta_options {
    const char *name;       /* shown in session lists: "tarn-mount /data" */
    uint32_t timeout_ms;    /* session dies this long after its last sign of life; 0 = 30,000 */
    uint64_t give_up_ms;    /* how long a call looks for a leader before -E_UNAVAIL; 0 = 30,000 */
    /* Pushes other than lock grants; may be NULL. OP_WATCH is asked for again at each new leader or
     * connection; then JOB_CHANGED with job 0 says that changes may have been missed. */
    rpc_push_fn push;
    /* The session has ended without our wish: its locks and handles are gone or will be in moments. Told at once, before anybody
     * else can hold them; must not wait. A new session is opened at the next change. */
    void (*lost)(void *arg);
    void *arg;
};
int meta_connect(struct io *io, const struct config *config, const struct meta_options *options,
                 struct meta **ret);
void meta_disconnect(struct meta *meta); /* ends the session; waits; frees */
/* The session, 0 = none. It counts as ended when the service has not answered for its whole timeout, counted from when the last
 * answered request was sent: so it ends here before it ends there. */
uint64_t meta_session(const struct meta *meta);
uint64_t meta_session_until_ms(const struct meta *meta); /* io_mono_ms() when it ends unless something is answered before; 0 = none */
void meta_session_refused(struct meta *meta, uint64_t session); /* a store said that it has ended */
/* Open files of the session, and those of them with locks, come (+1) or go (-1): for the sentence that tells of a loss. */
void meta_holds(struct meta *meta, uint64_t session, int files, int locked);

struct meta_cred {
    uint32_t uid, gid;
    unsigned n_groups;
    const uint32_t *groups;
};
extern const struct meta_cred meta_root;

/* One call. `request` is a message whose field `ctx` (when it has one; *ctx_field points at it) is filled in
 * here: session, a new seq for changes, cred. ret_reply may be NULL. `detail` (160 bytes, may be NULL)
 * receives the server's words. Retries leader changes and lost replies until give_up_ms. A change is
 * carried out at most once. Errors: the server's, -E_UNAVAIL, -E_NO_SESSION (expired meanwhile: the change
 * happened before that or not at all; as with -E_UNAVAIL, only a look can tell), -E_CANCELED. */
int meta_call(struct meta *meta, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx_field,
              const struct meta_cred *cred, const ProtobufCMessageDescriptor *reply_type,
              void *ret_reply, char *detail);

/* The same in this session or not at all: -E_NO_SESSION when it is not the present one (0: any). */
int meta_call_in(struct meta *meta, uint64_t session, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx_field,
                 const struct meta_cred *cred, const ProtobufCMessageDescriptor *reply_type, void *ret_reply, char *detail);

/* A query whose answer comes in parts: READDIR or LOCATIONS with `stream` set. `part` gets each message of
 * reply_type (borrowed), in the caller's fiber; it may wait: no more than RPC_PARTS_AHEAD parts lie here
 * unread. Before it returns it sets in its request where the next part begins (`after`, `paths`): a lost
 * connection or a new leader is made good by asking again from there. It returns 0 for more, META_END after
 * the last, or a negative code, which ends the call and is returned. Servers that know no parts are asked
 * again and again. Errors: as meta_call's; what was given to `part` before is good. */
#define META_END 1
typedef int (*meta_part_fn)(void *arg, const ProtobufCMessage *part);
int meta_stream(struct meta *meta, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx_field,
                const struct meta_cred *cred, const ProtobufCMessageDescriptor *reply_type, meta_part_fn part,
                void *arg, char *detail);

/* Locks. Blocking waits are answered by push; `cancel` (may be NULL) is polled at wake-ups: call
 * meta_lock_interrupt() with the same waiter to end a wait early (-E_INTR). */
uint64_t meta_lock_waiter(struct meta *meta); /* a fresh waiter number */
/* -E_NO_SESSION: the session ended while we waited. */
int meta_lock(struct meta *meta, const Tarn__Lock *lock, const struct meta_cred *cred);
int meta_lock_in(struct meta *meta, uint64_t session, const Tarn__Lock *lock, const struct meta_cred *cred);
void meta_lock_interrupt(struct meta *meta, uint64_t waiter);

#endif
