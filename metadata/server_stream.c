/* Queries whose answer may be long: told in parts, each from a read transaction of its own, so that
 * nothing is held while the caller reads. A part says where the next begins; so does the caller who goes
 * on at another replica. */
#include "server_impl.h"

#include "common/err.h"
#include "fsm.h"

/* The request of the next part; a copy of the received one whose pointers it shares. */
union streamed {
    ProtobufCMessage base;
    Tarn__ReadDir read_dir;
    Tarn__Locations locations;
};

static bool streamed_init(union streamed *s, unsigned op, const void *message)
{
    if (op == OP_READDIR) {
        s->read_dir = *(const Tarn__ReadDir *)message;
        return s->read_dir.stream;
    }
    s->locations = *(const Tarn__Locations *)message;
    return s->locations.stream;
}

/* Behind what was told. `next` is the part's own. */
static void streamed_advance(union streamed *s, unsigned op, const struct fsm_result *part, char *next)
{
    if (op == OP_READDIR) {
        s->read_dir.after = next;
    } else if (s->locations.recursive) {
        s->locations.after = next;
    } else {
        s->locations.paths += MIN(part->told, s->locations.n_paths);
        s->locations.n_paths -= MIN(part->told, s->locations.n_paths);
    }
}

static int part_query(struct server *server, unsigned op, const union streamed *s, struct fsm_result *result)
{
    size_t len = protobuf_c_message_get_packed_size(&s->base);
    _cleanup_free_ uint8_t *body = malloc(len + 1);
    if (body == NULL)
        return -E_NOMEM;
    protobuf_c_message_pack(&s->base, body);
    return server_query(server, op, body, len, &s->base, result);
}

static int stream(struct server *server, struct rpc_request *request, union streamed *s)
{
    _cleanup_free_ char *next = NULL;
    for (;;) {
        struct fsm_result part = {0};
        int err = part_query(server, request->op, s, &part);
        bool last = err != 0 || part.err != 0 || part.next == NULL;
        if (last)
            err = err != 0 ? server_refuse(server, request, err, "")
                           : server_reply_result(server, request, &part);
        else
            err = rpc_reply_part(request, part.reply, part.reply_len);
        if (err == 0 && !last) {
            char *behind = take_ptr(part.next);
            streamed_advance(s, request->op, &part, behind);
            free(next);
            next = behind;
        }
        fsm_result_fini(&part);
        if (err != 0 || last)
            return err;
        fiber_yield(); /* other requests have their turn between two parts */
    }
}

int server_handle_stream(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    union streamed s;
    bool parts = streamed_init(&s, request->op, message);
    int err = server_heard_query(server, request, message);
    if (err != 0)
        return server_refuse(server, request, err, "");
    if (parts)
        return stream(server, request, &s);
    struct fsm_result result = {0};
    err = part_query(server, request->op, &s, &result);
    err = err != 0 ? server_refuse(server, request, err, "") : server_reply_result(server, request, &result);
    fsm_result_fini(&result);
    return err;
}
