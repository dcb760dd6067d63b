/* What all workers of all hosts share: a lock, a token that is changed only under it, a file all append to. */
#include "run.h"

#include "client/lease.h"
#include "client/lease_lock.h"

#include "common/bytes.h"
#include "common/check.h"
#include "common/err.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define RECORD_BYTES 64 /* client, worker, number, each u64, then zeros; the file is a row of them */

static int shared_make(struct client *client, const char *name, uint64_t *ret_ino)
{
    Tarn__Where root = TARN__WHERE__INIT;
    Tarn__Create request = TARN__CREATE__INIT;
    Tarn__Entry *entry = NULL;
    request.parent = &root;
    request.name = (char *)(uintptr_t)name;
    request.type = TARN__FILE_TYPE__FT_FILE;
    request.mode = 0644;
    int err = meta_call(client->meta, OP_CREATE, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry, NULL);
    if (err == 0) {
        *ret_ino = entry->attr->ino;
        tarn__entry__free_unpacked(entry, NULL);
    }
    return err;
}

int make_shared_files(struct client *client)
{
    int err = shared_make(client, "lock", &client->run->lock_ino);
    if (err == 0)
        err = shared_make(client, "leased", &client->run->lease_ino);
    if (err == 0)
        err = shared_make(client, "kept", &client->run->kept_ino);
    return err != 0 ? err : shared_make(client, "appended", &client->run->append_ino);
}

static int shared_open(struct client *client, uint64_t ino, uint32_t flags, struct file **ret)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = ino;
    return file_open(client->meta, client->stores, &where, flags, &meta_root, ret);
}

/* ---- the token: read and replaced by whoever holds the lock */

static bool token_allowed(const struct token_model *model, uint64_t token)
{
    if (token == model->acked || model->forgot)
        return true;
    for (unsigned i = 0; i < model->n_maybe; i++)
        if (model->maybe[i] == token)
            return true;
    return false;
}

static void token_note(struct token_model *model, uint64_t token)
{
    if (model->n_maybe == TOKENS_MAX)
        model->forgot = true;
    else
        model->maybe[model->n_maybe++] = token;
}

static int token_read(struct client *client, uint32_t flags, struct file **ret_file, uint64_t *ret)
{
    *ret = 0;
    int err = shared_open(client, client->run->lock_ino, flags, ret_file);
    if (err != 0)
        return err;
    int64_t n = file_read(*ret_file, ret, sizeof *ret, 0);
    if (n >= 0)
        return 0;
    file_close(*ret_file);
    return (int)n;
}

/* The lock must be ours from before the read to after the write, or nothing can be said. */
static void token_replace(struct client *client, struct worker *worker, uint64_t sessions_lost)
{
    struct token_model *model = &client->run->token;
    struct file *file;
    uint64_t old, new = prng_u64(&worker->prng) | 1;
    if (token_read(client, O_RDWR, &file, &old) != 0)
        return;
    if (client->sessions_lost == sessions_lost && client->run->holder == worker && !token_allowed(model, old))
        broken(worker, "under the lock the token is %016" PRIx64 ", acknowledged was %016" PRIx64, old, model->acked);
    int err = file_write(file, &new, sizeof new, 0, false);
    if (err == 0)
        err = file_sync(file);
    if (err == 0 && client->sessions_lost == sessions_lost && client->run->holder == worker)
        model->acked = new;
    else
        token_note(model, new);
    file_close(file);
    worker->checked++;
}

void check_token(struct client *client, struct worker *worker)
{
    struct file *file;
    uint64_t token;
    int err = token_read(client, O_RDONLY, &file, &token);
    if (err != 0)
        broken(worker, "the token cannot be read after all faults have ended: %s", err_name(err));
    file_close(file);
    if (!token_allowed(&client->run->token, token))
        broken(worker, "the token is %016" PRIx64 ", acknowledged was %016" PRIx64, token, client->run->token.acked);
}

/* ---- the lock */

static int lock_ask(struct client *client, const Tarn__Lock *lock, bool here)
{
    uint64_t session = meta_session(client->meta);
    return here && session != 0 ? lease_lock(meta_leases(client->meta), session, lock, &meta_root)
                                : meta_lock(client->meta, lock, &meta_root);
}

void work_lock(struct client *client, struct worker *worker)
{
    struct run *run = worker->run;
    if (run->lock_ino == 0)
        return;
    Tarn__Lock lock = TARN__LOCK__INIT;
    lock.ino = run->lock_ino;
    lock.kind = TARN__LOCK_KIND__LOCK_FCNTL;
    lock.type = TARN__LOCK_TYPE__LOCK_EX;
    lock.start = 0;
    lock.end = UINT64_MAX;
    lock.owner = 100 + worker->index;
    lock.wait = true;
    lock.waiter = meta_lock_waiter(client->meta);
    bool here = prng_below(&worker->prng, 3) != 0; /* by a client that may decide itself, or by one that always asks */
    here &= meta_session(client->meta) != 0;       /* who locks through a handle has a session; and unlocks in the same way */
    if (lock_ask(client, &lock, here) != 0)
        return;
    uint64_t sessions_lost = client->sessions_lost;
    if (run->holder != NULL)
        broken(worker, "the lock is held by client %u worker %u too", run->holder->client, run->holder->index);
    run->holder = worker;
    run->grants++;
    if (prng_below(&worker->prng, 2) == 0)
        token_replace(client, worker, sessions_lost);
    else
        io_sleep_ms(fiber_io(), prng_below(&worker->prng, 30));
    if (run->holder == worker)
        run->holder = NULL;
    lock.type = TARN__LOCK_TYPE__LOCK_UN;
    lock.wait = false;
    lock_ask(client, &lock, here); /* lost: the session's end releases it */
}

/* ---- appends */

void work_append(struct client *client, struct worker *worker)
{
    struct append_model *model = &worker->appends;
    struct file *file;
    bool synced = prng_below(&worker->prng, 2) == 0;
    if (client->run->append_ino == 0 || shared_open(client, client->run->append_ino, O_WRONLY, &file) != 0)
        return;
    for (unsigned i = 0; i < 3 && model->n < APPENDS_MAX; i++) {
        uint64_t record[RECORD_BYTES / 8] = {worker->client, worker->index, model->n + 1};
        unsigned k = model->n++;
        if (file_write(file, record, sizeof record, 0, true) != 0 || (synced && file_sync(file) != 0))
            break;
        model->state[k] = synced;
        worker->acked += synced;
    }
    if (!synced) /* what the others have synced must outlive a loss of power now */
        io_sleep_ms(fiber_io(), prng_below(&worker->prng, 1000));
    file_close(file);
}

/* Each worker's records: every acknowledged one, each once, in their order; a lost one may be missing or leave zeros. */
static void append_seen(struct worker *worker, const uint64_t record[RECORD_BYTES / 8], uint64_t last[WORLD_CLIENTS][WORLD_WORKERS])
{
    uint64_t c = record[0], w = record[1], number = record[2];
    if (c == 0 && w == 0 && number == 0)
        return;
    if (c < 1 || c > WORLD_CLIENTS || w < 1 || w > WORLD_WORKERS)
        broken(worker, "the appended file has a record of nobody");
    struct append_model *model = &worker->run->workers[c - 1][w - 1].appends;
    if (number > model->n || number <= last[c - 1][w - 1])
        broken(worker, "record %" PRIu64 " of client %" PRIu64 " worker %" PRIu64 " is there twice or out of order", number, c, w);
    last[c - 1][w - 1] = number;
    model->state[number - 1] = 2;
}

void check_appends(struct client *client, struct worker *worker)
{
    size_t size = (size_t)WORLD_CLIENTS * WORLD_WORKERS * APPENDS_MAX * RECORD_BYTES;
    _cleanup_free_ uint64_t *buf = malloc(size);
    CHECK(buf != NULL);
    int64_t n = read_path(client, "/appended", (uint8_t *)buf, size);
    if (n < 0 || n % RECORD_BYTES != 0)
        broken(worker, "the appended file after all faults: %s, %" PRId64 " bytes", n < 0 ? err_name((int)n) : "odd", n);
    uint64_t last[WORLD_CLIENTS][WORLD_WORKERS] = {0};
    for (int64_t at = 0; at < n / 8; at += RECORD_BYTES / 8)
        append_seen(worker, buf + at, last);
    for (unsigned c = 0; c < WORLD_CLIENTS; c++)
        for (unsigned w = 0; w < WORLD_WORKERS; w++)
            for (unsigned k = 0; k < APPENDS_MAX; k++)
                if (worker->run->workers[c][w].appends.state[k] == 1)
                    broken(worker, "acknowledged append %u of client %u worker %u is missing", k + 1, c + 1, w + 1);
}
