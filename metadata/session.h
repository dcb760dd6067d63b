/* Sessions of clients: the replies kept for repeated requests, the files they hold open, and what
 * happens when one ends. Threads: the transaction's. */
#ifndef TARN_METADATA_SESSION_H
#define TARN_METADATA_SESSION_H

#include "tables.h"

#define SESSION_KEPT_MAX 1024 /* unacknowledged replies of one session; past it -E_BUSY */
#define SESSION_KEPT_REPLY_MAX KIB(256)
#define SESSION_TIMEOUT_MS_MIN 1000u
#define SESSION_TIMEOUT_MS_MAX 3600000u
#define SESSION_TIMEOUT_MS 30000u

/* Also one that is fenced: it still holds what it held. -E_NO_SESSION */
int session_get(struct tables *t, uint64_t id, struct session *ret);
/* May it ask anything: -E_NO_SESSION also when it is fenced (X1). */
int session_lives(struct tables *t, uint64_t id, struct session *ret);

/* Before a change: checks the session, drops acknowledged replies, and finds a kept one.
 * *ret_again: the kept reply is in t->result. -E_NO_SESSION, -E_STALE seq acknowledged long ago,
 * -E_BUSY. */
int session_begin(struct tables *t, const Tarn__Ctx *ctx, bool *ret_again);
/* After a successful change: keeps the reply. */
int session_keep(struct tables *t, const Tarn__Ctx *ctx);
/* After one that was refused and undone: keeps the code and the words. -E_BUSY (too many are kept), -E_NO_SESSION. */
int session_keep_error(struct tables *t, const Tarn__Ctx *ctx, int refusal);

/* Opens an inode for the asking session: permissions (not when `fresh`: just made by the same
 * request), O_TRUNC, the handle. May change and put the inode. -E_ACCES -E_ISDIR -E_LOOP -E_NOTDIR.
 */
int session_open_inode(struct tables *t, struct inode *inode, uint32_t flags, bool fresh,
                       uint64_t *ret_handle);
int session_opens(struct tables *t, uint64_t ino,
                  struct opens *ret); /* zeros when nobody has it open */
/* True when the asking session's handle is on this inode and open for writing. */
bool session_handle_writes(struct tables *t, uint64_t handle, uint64_t ino);

/* True when the asking session's handle is on this inode. */
bool session_handle_on(struct tables *t, uint64_t handle, uint64_t ino);

/* Roles: one session holds each. -E_STALE when `epoch` is not the current holder's. */
int session_role_check(struct tables *t, const char *role, uint64_t epoch);

int session_cmd_open(struct tables *t, const void *message);      /* SESSION_OPEN */
int session_cmd_end(struct tables *t, const void *message);       /* SESSION_END */
int session_cmd_open_file(struct tables *t, const void *message); /* OPEN */
int session_cmd_close(struct tables *t, const void *message);     /* CLOSE */
int session_cmd_role_claim(struct tables *t, const void *message);
int session_query_role(struct tables *t, const void *message);

#endif
