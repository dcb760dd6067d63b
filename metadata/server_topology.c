/* Nodes that joined without a rack: the leader asks the table or the script, on a worker thread, and puts what it
 * finds into the log. */
#include "server_impl.h"
#include "common/err.h"
#include "common/log.h"
#include "topology.h"

#define TOPOLOGY_CHECK_MS 500

struct asking {
    const struct topology *topology;
    struct topology_place places[TOPOLOGY_NAMES_MAX];
    char names[TOPOLOGY_NAMES_MAX][128];
    uint32_t nodes[TOPOLOGY_NAMES_MAX];
    size_t n;
};

/* The host, or what its address names. */
static void name_of(const Tarn__Node *node, char ret[128])
{
    const char *from = node->host;
    size_t len = strlen(from);
    if (len == 0 && strncmp(node->address, "tcp:", 4) == 0) {
        from = node->address + 4;
        const char *port = strrchr(from, ':');
        len = port != NULL ? (size_t)(port - from) : strlen(from);
    }
    len = MIN(len, (size_t)127);
    memcpy(ret, from, len);
    ret[len] = '\0';
}

static void asking_add(struct asking *asking, const Tarn__Node *node)
{
    char *name = asking->names[asking->n];
    name_of(node, name);
    if (name[0] == '\0' || name[0] == '-') /* nothing a script could take for an option */
        return;
    asking->places[asking->n] = (struct topology_place){.name = name};
    asking->nodes[asking->n++] = node->id;
}

static int asking_fill(struct server *server, struct asking *asking)
{
    struct kv_txn *txn;
    int err = replica_read(server->replica, &txn);
    if (err != 0)
        return err;
    struct fsm_result result = {0};
    err = fsm_query(txn, OP_NODE_LIST, NULL, 0, &result);
    kv_abort(txn);
    err = err == 0 ? result.err : err;
    Tarn__NodeListReply *list =
        err == 0 ? tarn__node_list_reply__unpack(NULL, result.reply_len, result.reply) : NULL;
    if (err == 0 && list == NULL)
        err = -E_CORRUPT;
    for (size_t i = 0; list != NULL && i < list->n_nodes && asking->n < TOPOLOGY_NAMES_MAX; i++)
        if (!list->nodes[i]->rack_known)
            asking_add(asking, list->nodes[i]);
    if (list != NULL)
        tarn__node_list_reply__free_unpacked(list, NULL);
    fsm_result_fini(&result);
    return err;
}

static void ask(void *arg)
{
    struct asking *asking = arg;
    (void)topology_find(asking->topology, asking->places, asking->n); /* it logs, and fills in any case */
}

static int tell(struct server *server, const struct asking *asking)
{
    int err = 0;
    for (size_t i = 0; i < asking->n && err == 0; i++) {
        Tarn__NodeSet set = TARN__NODE_SET__INIT;
        set.node = asking->nodes[i];
        set.rack = (char *)asking->places[i].rack;
        log_info("node %u (%s) is in %s", set.node, asking->names[i], set.rack);
        err = server_propose(server, OP_NODE_SET, &set.base);
    }
    return err;
}

static int find_racks(struct server *server)
{
    _cleanup_free_ struct asking *asking = calloc(1, sizeof *asking);
    if (asking == NULL)
        return -E_NOMEM;
    asking->topology = &server->topology;
    server->racks_wanted = false;
    int err = asking_fill(server, asking);
    if (err == 0 && asking->n > 0)
        err = io_work(server->io, ask, asking);
    if (err == 0)
        err = tell(server, asking);
    server->racks_wanted |= err != 0 || asking->n == TOPOLOGY_NAMES_MAX;
    return err;
}

void topology_fiber(void *arg)
{
    struct server *server = arg;
    bool ask_at_all = server->topology.script[0] != '\0' || server->topology.table[0] != '\0';
    while (ask_at_all && server_pause(server, TOPOLOGY_CHECK_MS) != -E_CANCELED) {
        int err = server->racks_wanted && replica_leads(server->replica) ? find_racks(server) : 0;
        if (err != 0 && err != -E_NOT_LEADER && err != -E_CONN && err != -E_CANCELED && err != -E_UNAVAIL)
            log_warn("cannot find the racks of nodes: %s", err_sentence(err));
    }
    fiber_group_done(&server->fibers);
}
