/* The table of operations of the state machine: number, name, message, handler. What a handler
 * finds in `struct tables`: the open transaction, who asks, the command's time and chance. Pure but
 * for the table. */
#ifndef TARN_METADATA_COMMAND_H
#define TARN_METADATA_COMMAND_H

#include "tables.h"

enum command_flags {
    COMMAND_QUERY = 1, /* changes nothing */
    COMMAND_LEADER =
        2 /* carries no session: from the leader itself, from stores, or the first of a session */
};
struct command {
    unsigned op; /* proto/ops.h */
    const char *name;
    const ProtobufCMessageDescriptor *type;
    int (*handle)(struct tables *t,
                  const void *message); /* replies through tables_reply(); 0 or a code */
    size_t ctx; /* offset of the message's Ctx pointer; SIZE_MAX when it has none */
    unsigned flags;
};
/* NULL when the op is not one of the state machine's. */
const struct command *command_find(unsigned op);
/* The unpacked message, the arena's. -E_PROTO when the bytes are not one, -E_NOMEM. */
int command_decode(const struct command *command, const uint8_t *body, size_t len, struct arena *arena,
                   ProtobufCMessage **ret);
const Tarn__Ctx *command_ctx(const struct command *command,
                             const ProtobufCMessage *message); /* NULL */

#endif
