/* Objects: puts and gets by one worker, exclusive puts by all. */
#include "run.h"

#include "common/check.h"
#include "common/err.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

/* ---- contents */

static size_t object_size(uint64_t content)
{
    struct prng prng = prng_init(content);
    switch (prng_below(&prng, 4)) {
    case 0:
        return (size_t)prng_below(&prng, 200);
    case 1:
        return (size_t)prng_below(&prng, KIB(8));
    default:
        return (size_t)prng_below(&prng, OBJECT_MAX);
    }
}

void content_fill(uint64_t content, uint8_t *buf, size_t n)
{
    struct prng prng = prng_init(content ^ 0x5bd1e995);
    bool pays = (content >> 1) % 4 == 0; /* is worth compressing: to a quarter */
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v = prng_u64(&prng);
        if (pays)
            v = 0x6161616161616161 + (v & 0x0303030303030303);
        memcpy(buf + i, &v, MIN(n - i, sizeof v));
    }
}

static bool object_is(uint64_t content, const uint8_t *buf, size_t n)
{
    if (content == 0 || object_size(content) != n)
        return false;
    uint8_t *want = malloc(n + 8);
    CHECK(want != NULL);
    content_fill(content, want, n);
    bool equal = memcmp(want, buf, n) == 0;
    free(want);
    return equal;
}

/* ---- puts and gets */

static void object_path(const struct worker *worker, unsigned k, char out[64])
{
    snprintf(out, 64, "/w%u-%u/d%u/o%u", worker->client, worker->index, k % 2, k);
}

/* Sometimes a writer rests between its bytes and what makes them durable: power that is lost there must not go unnoticed. */
void rest_unsynced(struct worker *worker)
{
    if (prng_below(&worker->prng, worker->run->world.quiet ? 2 : 8) == 0)
        io_sleep_ms(fiber_io(), prng_below(&worker->prng, 1500));
}

int put_whole(struct client *client, struct worker *worker, const char *path, const uint8_t *buf, size_t n, bool exclusive)
{
    struct put_options options = {.cred = &meta_root, .parent = TARN__WHERE__INIT, .path = path, .exclusive = exclusive};
    struct put *put = NULL;
    int err = put_begin(client->meta, client->stores, &options, &put);
    if (err != 0)
        return err;
    err = put_write(put, buf, n);
    if (err != 0) {
        put_abort(put);
        return err;
    }
    rest_unsynced(worker);
    return put_commit(put, NULL, 0, NULL, 0, NULL);
}

static int put_content(struct client *client, struct worker *worker, const char *path, uint64_t content, bool exclusive)
{
    size_t n = object_size(content);
    _cleanup_free_ uint8_t *buf = malloc(n + 8);
    CHECK(buf != NULL);
    content_fill(content, buf, n);
    return put_whole(client, worker, path, buf, n, exclusive);
}

void work_put(struct client *client, struct worker *worker)
{
    unsigned k = (unsigned)prng_below(&worker->prng, OBJECTS);
    uint64_t content = prng_u64(&worker->prng) | 1;
    char path[64];
    object_path(worker, k, path);
    struct object_model *model = &worker->objects[k];
    int err = put_content(client, worker, path, content, false);
    if (err == 0) {
        *model = (struct object_model){.acked = content, .never_again = model->never_again};
        worker->acked++;
        return;
    }
    worker->doubtful++;
    if (model->n_maybe == ARRAY_SIZE(model->maybe))
        model->never_again = true;
    else
        model->maybe[model->n_maybe++] = content;
    if (verbose)
        fprintf(stderr, "put %s: %s\n", path, err_name(err));
}

int64_t read_path(struct client *client, const char *path, uint8_t *buf, size_t size)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)(uintptr_t)path;
    struct file *file = NULL;
    int err = file_open(client->meta, client->stores, &where, O_RDONLY, &meta_root, &file);
    if (err != 0)
        return err;
    int64_t n = file_read(file, buf, size, 0);
    err = file_close(file);
    return n < 0 ? n : err < 0 && err != -E_NO_SESSION && err != -E_UNAVAIL ? err : n;
}

static bool is_one_of(const uint64_t *contents, unsigned n_contents, const uint8_t *buf, int64_t n)
{
    for (unsigned i = 0; i < n_contents; i++)
        if (object_is(contents[i], buf, (size_t)n))
            return true;
    return false;
}

static bool object_allowed(const struct object_model *model, const uint8_t *buf, int64_t n)
{
    if (n == -E_NOENT)
        return model->acked == 0;
    return object_is(model->acked, buf, (size_t)n) || is_one_of(model->maybe, model->n_maybe, buf, n);
}

/* final: every read must succeed. */
void work_get(struct client *client, struct worker *worker, unsigned k, bool final)
{
    char path[64];
    object_path(worker, k, path);
    struct object_model *model = &worker->objects[k];
    if (model->never_again)
        return;
    _cleanup_free_ uint8_t *buf = malloc(OBJECT_MAX + 1);
    CHECK(buf != NULL);
    int64_t n = read_path(client, path, buf, OBJECT_MAX + 1);
    if (n < 0 && n != -E_NOENT) {
        if (final)
            broken(worker, "%s cannot be read after all faults have ended: %s", path, err_name((int)n));
        return;
    }
    if (!object_allowed(model, buf, n))
        broken(worker, "%s is not what was put: %" PRId64 " bytes, acknowledged %s", path, n, model->acked != 0 ? "before" : "never");
    worker->checked++;
}

/* ---- exclusive puts of all workers to the same names */

static void contest_result(struct worker *worker, struct contest *contest, uint64_t content, int err)
{
    if (err == -E_EXIST) {
        contest->n_refused++;
    } else if (err != 0) {
        worker->doubtful++;
        if (contest->n_maybe == CONTEST_PUTS_MAX)
            contest->forgot = true;
        else
            contest->maybe[contest->n_maybe++] = content;
    } else if (contest->winner != 0) {
        broken(worker, "two exclusive puts to one name were both acknowledged");
    } else {
        contest->winner = content;
        worker->acked++;
    }
}

void work_contest(struct client *client, struct worker *worker)
{
    struct run *run = worker->run;
    /* The newest name again and again, so that several try it. */
    if ((run->n_contests == 0 || prng_below(&worker->prng, 3) == 0) && run->n_contests < CONTESTS_MAX)
        run->n_contests++;
    unsigned k = run->n_contests - 1;
    char path[64];
    snprintf(path, sizeof path, "/x/%u", k);
    uint64_t content = prng_u64(&worker->prng) | 1;
    int err = put_content(client, worker, path, content, true);
    contest_result(worker, &run->contests[k], content, err);
}

static void check_contest(struct client *client, struct worker *worker, unsigned k, uint8_t *buf)
{
    const struct contest *contest = &worker->run->contests[k];
    char path[64];
    snprintf(path, sizeof path, "/x/%u", k);
    int64_t n = read_path(client, path, buf, OBJECT_MAX + 1);
    if (n < 0 && n != -E_NOENT)
        broken(worker, "%s cannot be read after all faults have ended: %s", path, err_name((int)n));
    bool good = n == -E_NOENT ? contest->winner == 0 && contest->n_refused == 0
                : contest->winner != 0 ? object_is(contest->winner, buf, (size_t)n)
                                       : is_one_of(contest->maybe, contest->n_maybe, buf, n);
    if (!good && !contest->forgot)
        broken(worker, "%s, put exclusively: %" PRId64 " bytes are not the %s's", path, n, contest->winner != 0 ? "winner" : "triers");
    worker->checked++;
}

void check_contests(struct client *client, struct worker *worker)
{
    _cleanup_free_ uint8_t *buf = malloc(OBJECT_MAX + 1);
    CHECK(buf != NULL);
    for (unsigned k = 0; k < worker->run->n_contests; k++)
        check_contest(client, worker, k, buf);
}
