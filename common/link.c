#include "common/link.h"

#include "common/check.h"
#include "common/coll.h"
#include "common/crc.h"
#include "common/err.h"

#define LINK_MAGIC 0x4c4e4b31u
#define RECV_BUFFER_BYTES KIB(16)
#define BATCH_IOV_MAX 256      /* entries of one sendv: 128 small frames */
#define BATCH_BYTES_MAX MIB(4) /* bound of what one frame waits for others */
#define PIECE_BYTES KIB(256)   /* checksummed while still in the processor's cache */
#define WITHDRAW_MS 1000       /* how long a frame that is being sent may take to leave */
#define FD_TIMEOUT_MS 5000

struct link_item {
    struct list node;
    struct link_sent *sent; /* NULL: nobody waits */
    const struct iovec *payload;
    unsigned n_payload;
    int fd;
    bool queued;     /* not yet part of a batch */
    size_t bytes;    /* everything, for the bound of the queue */
    size_t head_len; /* header and control message */
    uint8_t head[];
};

struct link {
    uint32_t magic;
    unsigned refs;
    struct io *io;
    struct io_sock *sock;
    uint64_t cluster_id;
    int err;
    bool exact;
    /* sending */
    struct list queue;
    uint64_t queued_bytes; /* including the batch that is being sent */
    struct fiber_queue room, work;
    struct fiber_group sender;
    uint64_t unanswered_since_ms;
    struct iovec iov[BATCH_IOV_MAX];
    /* receiving: bytes [at, end) of buffer are unread */
    uint8_t *large; /* control message that does not fit the buffer */
    size_t at, end;
    uint8_t buffer[RECV_BUFFER_BYTES];
};

int link_create(struct io *io, struct io_sock *sock, bool exact, struct link **ret_link)
{
    struct link *link = malloc(sizeof *link);
    if (link == NULL) {
        io_sock_close(sock);
        return -E_NOMEM;
    }
    memset(link, 0, offsetof(struct link, buffer));
    link->magic = LINK_MAGIC;
    link->refs = 1;
    link->io = io;
    link->sock = sock;
    link->exact = exact;
    list_init(&link->queue);
    *ret_link = link;
    return 0;
}

struct link *link_ref(struct link *link)
{
    CHECK_MAGIC(link, LINK_MAGIC);
    link->refs++;
    return link;
}

void link_unref(struct link *link)
{
    if (link == NULL)
        return;
    CHECK_MAGIC(link, LINK_MAGIC);
    CHECK(link->refs > 0);
    if (--link->refs > 0)
        return;
    CHECK(list_empty(&link->queue));
    io_sock_close(link->sock);
    free(link->large);
    link->magic = 0;
    free(link);
}

int link_error(const struct link *link)
{
    return link->err;
}

struct io_sock *link_sock(struct link *link)
{
    return link->sock;
}

uint64_t link_silence_ms(const struct link *link)
{
    return link->unanswered_since_ms == 0 ? 0 : io_mono_ms(link->io) - link->unanswered_since_ms;
}

/* ---- sending ---- */

/* The item has left the queue: what it borrowed belongs to its owner again. */
static void finish_item(struct link *link, struct link_item *item, int err)
{
    link->queued_bytes -= item->bytes;
    if (item->sent != NULL) {
        item->sent->err = err;
        item->sent->item = NULL;
        fiber_queue_wake_all(&item->sent->done);
        fiber_group_done(&item->sent->sending);
    }
    free(item);
}

static void finish_queue(struct link *link, struct list *items, int err)
{
    list_foreach_safe (items, it, next) {
        list_remove(it);
        finish_item(link, list_entry(it, struct link_item, node), err);
    }
}

void link_fail(struct link *link, int err)
{
    CHECK_MAGIC(link, LINK_MAGIC);
    CHECK(err < 0);
    if (link->err != 0)
        return;
    link->err = err;
    io_sock_shutdown(link->sock);
    finish_queue(link, &link->queue, err);
    fiber_queue_wake_all(&link->room);
    fiber_queue_wake_all(&link->work);
}

/* Moves frames from the queue to `batch` and fills link->iov. A descriptor ends its batch. */
static unsigned take_batch(struct link *link, struct list *batch, int *ret_fd)
{
    unsigned n = 0;
    size_t bytes = 0;
    *ret_fd = -1;
    while (!list_empty(&link->queue) && *ret_fd < 0) {
        struct link_item *item = list_entry(link->queue.next, struct link_item, node);
        if (n > 0 && (n + 1 + item->n_payload > BATCH_IOV_MAX || bytes > BATCH_BYTES_MAX))
            break;
        list_remove(&item->node);
        list_append(batch, &item->node);
        item->queued = false;
        link->iov[n++] = (struct iovec){item->head, item->head_len};
        for (unsigned i = 0; i < item->n_payload; i++)
            link->iov[n++] = item->payload[i];
        bytes += item->bytes;
        *ret_fd = item->fd;
    }
    return n;
}

static int send_batch(struct link *link)
{
    struct list batch;
    list_init(&batch);
    int fd;
    unsigned n = take_batch(link, &batch, &fd);
    if (link->unanswered_since_ms == 0)
        link->unanswered_since_ms = io_mono_ms(link->io);
    int err = io_sendv(link->sock, link->iov, n);
    if (err == 0 && fd >= 0)
        err = io_send_fd(link->sock, fd);
    finish_queue(link, &batch, err);
    fiber_queue_wake_all(&link->room);
    return err;
}

static void sender_run(void *arg)
{
    struct link *link = arg;
    while (link->err == 0) {
        int err = list_empty(&link->queue) ? fiber_queue_wait(&link->work, 0) : send_batch(link);
        if (err != 0)
            link_fail(link, err);
    }
    fiber_group_done(&link->sender);
    link_unref(link);
}

int link_start(struct link *link, uint64_t cluster_id)
{
    link->cluster_id = cluster_id;
    int err = fiber_spawn(link->io, "link sender", sender_run, link);
    if (err != 0)
        return err;
    link_ref(link);
    fiber_group_add(&link->sender);
    return 0;
}

void link_join(struct link *link)
{
    fiber_group_wait(&link->sender);
}

/* ---- making items ---- */

static int payload_bytes(const struct iovec *payload, unsigned n, size_t *ret)
{
    size_t total = 0;
    if (n > LINK_PAYLOAD_IOV_MAX)
        return -E_INVAL;
    for (unsigned i = 0; i < n; i++) {
        if (add_overflows(total, payload[i].iov_len, &total) || total > FRAME_PAYLOAD_MAX)
            return -E_INVAL;
    }
    *ret = total;
    return 0;
}

static uint32_t payload_crc(const struct iovec *payload, unsigned n)
{
    uint32_t crc = 0;
    for (unsigned i = 0; i < n; i++)
        crc = crc32c(crc, payload[i].iov_base, payload[i].iov_len);
    return crc;
}

static int make_item(struct link *link, const struct link_message *m, struct link_item **ret_item)
{
    size_t payload_len;
    int err = payload_bytes(m->payload, m->n_payload, &payload_len);
    if (err != 0)
        return err;
    size_t control_len =
        m->message != NULL ? protobuf_c_message_get_packed_size(m->message) : m->packed_len;
    if (control_len > FRAME_CONTROL_MAX)
        return -E_INVAL;
    struct link_item *item = malloc(sizeof *item + FRAME_HEADER_BYTES + control_len);
    if (item == NULL)
        return -E_NOMEM;
    uint8_t *control = item->head + FRAME_HEADER_BYTES;
    if (m->message != NULL)
        protobuf_c_message_pack(m->message, control);
    else if (control_len > 0)
        memcpy(control, m->packed, control_len);
    struct frame frame = m->frame;
    frame.cluster_id = link->cluster_id;
    frame.control_len = (uint32_t)control_len;
    frame.control_crc = crc32c(0, control, control_len);
    frame.payload_len = (uint32_t)payload_len;
    frame.payload_crc =
        (frame.flags & FRAME_PAYLOAD_CELLS) != 0 ? 0 : payload_crc(m->payload, m->n_payload);
    frame_encode(&frame, item->head);
    item->sent = NULL;
    item->payload = m->payload;
    item->n_payload = payload_len == 0 ? 0 : m->n_payload;
    item->fd = m->fd;
    item->head_len = FRAME_HEADER_BYTES + control_len;
    item->bytes = sizeof *item + item->head_len + payload_len;
    *ret_item = item;
    return 0;
}

static void enqueue(struct link *link, struct link_item *item, struct link_sent *sent)
{
    item->sent = sent;
    if (sent != NULL) {
        CHECK(sent->item == NULL && sent->sending.running == 0);
        sent->item = item;
        sent->err = 0;
        fiber_group_add(&sent->sending);
    }
    item->queued = true;
    link->queued_bytes += item->bytes;
    list_append(&link->queue, &item->node);
    fiber_queue_wake_one(&link->work);
}

/* One frame always fits an empty queue. */
static bool has_room(const struct link *link, size_t bytes)
{
    return link->queued_bytes == 0 || link->queued_bytes + bytes <= LINK_QUEUE_BYTES_MAX;
}

int link_send(struct link *link, const struct link_message *message, struct link_sent *sent,
              uint64_t timeout_ms)
{
    CHECK_MAGIC(link, LINK_MAGIC);
    CHECK(sent != NULL || (message->n_payload == 0 && message->fd < 0));
    if (link->err != 0)
        return link->err;
    _cleanup_free_ struct link_item *item = NULL;
    int err = make_item(link, message, &item);
    if (err != 0)
        return err;
    while (!has_room(link, item->bytes)) {
        err = fiber_queue_wait(&link->room, timeout_ms);
        if (err != 0)
            return err;
        if (link->err != 0)
            return link->err;
    }
    enqueue(link, take_ptr(item), sent);
    return 0;
}

int link_try_send(struct link *link, const struct link_message *message)
{
    CHECK_MAGIC(link, LINK_MAGIC);
    CHECK(message->n_payload == 0 && message->fd < 0);
    if (link->err != 0)
        return link->err;
    struct link_item *item;
    int err = make_item(link, message, &item);
    if (err != 0)
        return err;
    if (!has_room(link, item->bytes)) {
        free(item);
        return -E_BUSY;
    }
    enqueue(link, item, NULL);
    return 0;
}

int link_sent_wait(struct link_sent *sent)
{
    fiber_group_wait(&sent->sending);
    return sent->err;
}

void link_withdraw(struct link *link, struct link_sent *sent)
{
    struct link_item *item = sent->item;
    if (item == NULL)
        return;
    if (item->queued) {
        list_remove(&item->node);
        finish_item(link, item, -E_CANCELED);
        fiber_queue_wake_all(&link->room);
        return;
    }
    /* The frame is being sent. Half of it may have left: it has to leave wholly or the stream ends.
     */
    if (item->n_payload == 0 && item->fd < 0) {
        item->sent = NULL;
        sent->item = NULL;
        fiber_group_done(&sent->sending);
        return;
    }
    int err = fiber_queue_wait(&sent->done, WITHDRAW_MS);
    if (err != 0 && sent->item != NULL)
        link_fail(link, err == -E_CANCELED ? err : -E_CONN);
    fiber_group_wait(&sent->sending);
}

int link_send_direct(struct link *link, struct frame *frame, const void *control, size_t n)
{
    uint8_t header[FRAME_HEADER_BYTES];
    frame->control_len = (uint32_t)n;
    frame->control_crc = crc32c(0, control, n);
    frame_encode(frame, header);
    struct iovec iov[2] = {{header, sizeof header}, {(void *)control, n}};
    return io_sendv(link->sock, iov, n == 0 ? 1 : 2);
}

/* ---- receiving ---- */

/* Makes n contiguous bytes available at buffer[at]. */
static int fill(struct link *link, size_t n, uint64_t timeout_ms)
{
    CHECK(n <= RECV_BUFFER_BYTES);
    if (link->at == link->end)
        link->at = link->end = 0;
    if (link->at + n > RECV_BUFFER_BYTES) {
        memmove(link->buffer, link->buffer + link->at, link->end - link->at);
        link->end -= link->at;
        link->at = 0;
    }
    while (link->end - link->at < n) {
        size_t room = link->exact ? n - (link->end - link->at) : RECV_BUFFER_BYTES - link->end;
        int64_t got = io_recv(link->sock, link->buffer + link->end, room, timeout_ms);
        if (got < 0)
            return (int)got;
        if (got == 0)
            return -E_CONN;
        link->end += (size_t)got;
        link->unanswered_since_ms = 0;
        if (link->err != 0)
            return link->err;
    }
    return 0;
}

int link_recv_bytes(struct link *link, void *buf, size_t n)
{
    size_t ready = MIN(n, link->end - link->at);
    memcpy(buf, link->buffer + link->at, ready);
    link->at += ready;
    if (ready == n)
        return 0;
    int err = io_recv_all(link->sock, (uint8_t *)buf + ready, n - ready, 0);
    link->unanswered_since_ms = 0;
    return err != 0 ? err : link->err;
}

static int recv_control(struct link *link, const struct frame *frame, uint64_t timeout_ms,
                        const uint8_t **ret_control)
{
    free(take_ptr(link->large));
    const uint8_t *control;
    if (frame->control_len <= RECV_BUFFER_BYTES) {
        int err = fill(link, frame->control_len, timeout_ms);
        if (err != 0)
            return err;
        control = link->buffer + link->at;
        link->at += frame->control_len;
    } else {
        link->large = malloc(frame->control_len);
        if (link->large == NULL)
            return -E_NOMEM;
        int err = link_recv_bytes(link, link->large, frame->control_len);
        if (err != 0)
            return err;
        control = link->large;
    }
    if (crc32c(0, control, frame->control_len) != frame->control_crc)
        return -E_PROTO;
    *ret_control = control;
    return 0;
}

int link_recv_frame(struct link *link, uint64_t timeout_ms, struct frame *ret_frame,
                    const uint8_t **ret_control)
{
    CHECK_MAGIC(link, LINK_MAGIC);
    if (link->err != 0)
        return link->err;
    struct frame frame;
    int err = fill(link, FRAME_HEADER_BYTES, timeout_ms);
    if (err != 0)
        return err;
    err = frame_decode(link->buffer + link->at, &frame);
    if (err != 0)
        return err;
    if (link->cluster_id != 0 && frame.cluster_id != link->cluster_id)
        return -E_PROTO;
    link->at += FRAME_HEADER_BYTES;
    *ret_frame = frame;
    return recv_control(link, &frame, timeout_ms, ret_control);
}

int link_recv_payload(struct link *link, const struct frame *frame, void *buf)
{
    uint32_t crc = 0;
    bool checked = (frame->flags & FRAME_PAYLOAD_CELLS) == 0;
    for (size_t got = 0; got < frame->payload_len;) {
        size_t n = MIN(frame->payload_len - got, (size_t)PIECE_BYTES);
        int err = link_recv_bytes(link, (uint8_t *)buf + got, n);
        if (err != 0)
            return err;
        if (checked)
            crc = crc32c(crc, (uint8_t *)buf + got, n);
        got += n;
    }
    return checked && crc != frame->payload_crc ? -E_PROTO : 0;
}

int link_drain(struct link *link, size_t n)
{
    while (n > 0) {
        size_t ready = MIN(n, link->end - link->at);
        link->at += ready;
        n -= ready;
        if (n == 0)
            break;
        int err = fill(link, link->exact ? MIN(n, (size_t)RECV_BUFFER_BYTES) : 1, 0);
        if (err != 0)
            return err;
    }
    return 0;
}

int link_recv_fd(struct link *link, int *ret_fd)
{
    CHECK(link->exact && link->at == link->end);
    return io_recv_fd(link->sock, ret_fd, FD_TIMEOUT_MS);
}
