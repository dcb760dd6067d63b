/* What an operator does meanwhile: drains and undrains stores, changes the policy of everything. */
#include "run.h"

#include "metadata/placement.h"

static void drain(struct client *client, struct worker *worker)
{
    Tarn__NodeDrain request = TARN__NODE_DRAIN__INIT;
    request.node = 1 + (uint32_t)prng_below(&worker->prng, worker->run->world.n_stores);
    request.undo = prng_below(&worker->prng, 3) != 0;
    (void)meta_call(client->meta, OP_NODE_DRAIN, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

/* Two copies at least: a store that loses power loses what was not synced, which one copy would not survive. */
static void policy(struct client *client, struct worker *worker)
{
    static const uint64_t sizes[] = {0, 1 << 20, 4 << 20, 64 << 20};
    Tarn__Where root = TARN__WHERE__INIT;
    Tarn__Policy policy = TARN__POLICY__INIT;
    Tarn__PolicySet request = TARN__POLICY_SET__INIT;
    policy.copies = 2 + (uint32_t)prng_below(&worker->prng, 3);
    policy.domain = (uint32_t)prng_below(&worker->prng, DOMAIN_SITE + 1);
    policy.chunk_bytes = sizes[prng_below(&worker->prng, ARRAY_SIZE(sizes))];
    request.where = &root;
    request.policy = &policy;
    request.mask = 1 + 2 + 4;
    (void)meta_call(client->meta, OP_POLICY_SET, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

void work_admin(struct client *client, struct worker *worker)
{
    if (prng_below(&worker->prng, 2) == 0)
        drain(client, worker);
    else
        policy(client, worker);
}
