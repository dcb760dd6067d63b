/* Stores that are asked to read all they have, as `tarn scrub` does. */
#include "run.h"

#include "common/check.h"
#include "common/err.h"
#include "common/rpc.h"
#include "object.pb-c.h"
#include "proto/ops.h"

#include <stdio.h>

#define ASK_MS 5000
#define LOOK_MS 500

static int ask(struct client *client, unsigned store, bool begin, bool *ret_reading)
{
    Tarn__StoreScrub request = TARN__STORE_SCRUB__INIT;
    char address[64];
    snprintf(address, sizeof address, "tcp:s%u:%u", store, WORLD_STORE_PORT);
    struct rpc_client *rpc = rpc_client_create(fiber_io(), address, &client->run->world.config.auth);
    if (rpc == NULL)
        return -E_NOMEM;
    request.begin = begin;
    struct rpc_call call = {.op = OP_STORE_SCRUB, .request = &request.base, .timeout_ms = ASK_MS,
                            .reply_type = &tarn__store_scrub_reply__descriptor};
    int err = rpc_call(rpc, &call);
    const Tarn__StoreScrubReply *reply = (const Tarn__StoreScrubReply *)call.reply;
    *ret_reading = false;
    for (size_t i = 0; err == 0 && i < reply->n_disks; i++)
        *ret_reading |= reply->disks[i]->asked;
    rpc_call_fini(&call);
    rpc_client_destroy(rpc);
    return err;
}

void work_scrub(struct client *client, struct worker *worker)
{
    bool reading;
    (void)ask(client, 1 + (unsigned)prng_below(&worker->prng, client->run->world.n_stores), true, &reading);
}

void scrub_all(struct client *client, struct worker *worker)
{
    for (unsigned i = 1; i <= client->run->world.n_stores; i++) {
        bool reading = true;
        int err = ask(client, i, true, &reading);
        while (err == 0 && reading) {
            io_sleep_ms(fiber_io(), LOOK_MS);
            err = ask(client, i, false, &reading);
        }
        if (err != 0)
            broken(worker, "store %u cannot be scrubbed after all faults have ended: %s", i, err_name(err));
    }
}
