/* A stream socket that carries frames: checksums, a bounded send queue whose frames leave several at
 * a time, a receive buffer. What both ends of rpc are built on. Threads: the io's thread.
 *
 * One fiber of the owner receives; any number of fibers send. After link_fail() everything returns
 * the link's error. Freed with the last reference; the sender fiber holds one while it lives. */
#ifndef TARN_COMMON_LINK_H
#define TARN_COMMON_LINK_H

#include "base.h"
#include "fiber.h"
#include "frame.h"
#include "io.h"
#include <protobuf-c/protobuf-c.h>

/* Bytes waiting to leave one connection; senders wait, pushes are refused with -E_BUSY. */
#define LINK_QUEUE_BYTES_MAX MIB(64)
/* Pieces of one payload: a window of 64 KiB cells is 16 pieces. */
#define LINK_PAYLOAD_IOV_MAX 64

struct link;

/* A frame to send. The link fills lengths, checksums and cluster id of `frame`. */
struct link_message {
    struct frame frame;              /* kind, op, flags, status, request_id, epoch */
    const ProtobufCMessage *message; /* control message, or NULL and: */
    const void *packed;
    size_t packed_len;
    const struct iovec *payload; /* borrowed until sent: needs a struct link_sent */
    unsigned n_payload;
    int fd; /* passed after the frame; -1 = none; borrowed until sent */
};

/* Lets a sender know when what it lent is its own again. Zero-initialised is idle. */
struct link_sent {
    struct fiber_group sending;
    struct fiber_queue done;
    int err;
    struct link_item *item; /* internal: NULL when not queued */
};

/* Takes `sock` over (also on failure). `exact` never reads past the frame asked for: needed where a
 * descriptor may follow a frame. `cluster_id` 0 accepts any until link_start(). */
int link_create(struct io *io, struct io_sock *sock, bool exact, struct link **ret_link);
struct link *link_ref(struct link *link);
void link_unref(struct link *link);
/* Starts the sender fiber; frames of other clusters are refused from now on. */
int link_start(struct link *link, uint64_t cluster_id);
/* Ends both directions; the first `err` stays. Never waits. */
void link_fail(struct link *link, int err);
int link_error(const struct link *link); /* 0 while it works */
void link_join(struct link *link);       /* waits for the sender fiber; after link_fail() */
struct io_sock *link_sock(struct link *link);

/* Queues the message, waiting for room. `sent` NULL: nothing is borrowed after the return.
 * Errors: -E_INVAL control or payload too large, -E_NOMEM, -E_TIMEOUT, -E_CANCELED, the link's. */
int link_send(struct link *link, const struct link_message *message, struct link_sent *sent,
              uint64_t timeout_ms);
/* The same without waiting: -E_BUSY when there is no room. */
int link_try_send(struct link *link, const struct link_message *message);
/* Waits until nothing is borrowed any more; returns 0 or why it was not sent. */
int link_sent_wait(struct link_sent *sent);
/* Gives up: takes the message out of the queue, or waits a little for the frame being sent and then
 * ends the connection. Nothing is borrowed afterwards. */
void link_withdraw(struct link *link, struct link_sent *sent);

/* Before link_start() only: sends one frame directly (the hello). */
int link_send_direct(struct link *link, struct frame *frame, const void *control, size_t n);
/* Receives a header and its control message (valid while only link_recv_bytes() and
 * link_recv_payload() are called). The payload has to be received next. *ret_frame is set as soon as
 * the header is good, also when the control message then fails.
 * Errors: -E_PROTO -E_VERSION, the socket's. */
int link_recv_frame(struct link *link, uint64_t timeout_ms, struct frame *ret_frame,
                    const uint8_t **ret_control);
/* Exactly n bytes of payload. */
int link_recv_bytes(struct link *link, void *buf, size_t n);
/* The whole payload into buf, verified: -E_PROTO when the checksum does not match. */
int link_recv_payload(struct link *link, const struct frame *frame, void *buf);
int link_drain(struct link *link, size_t n);
int link_recv_fd(struct link *link, int *ret_fd);
/* Milliseconds since the peer owes an answer: since the first send after the last receive; 0 = none. */
uint64_t link_silence_ms(const struct link *link);

#endif
