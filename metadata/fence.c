#include "fence.h"

#include "common/err.h"

int fence_give(struct tables *t, struct session *session)
{
    session->fence = ++tables_state(t)->last_fence;
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(session->id, &w);
    struct key key = key_1(TABLE_FENCE, session->fence);
    return tables_put(t, &key, &w);
}

int fence_drop(struct tables *t, const struct session *session)
{
    struct key key = key_1(TABLE_FENCE, session->fence);
    return session->fence == 0 ? 0 : tables_del(t, &key);
}

/* ---- what a store is told */

void fence_news_fini(struct fence_news *news)
{
    free(news->fences);
    free(news->pointers);
    free(news->steps);
    *news = (struct fence_news){0};
}

static int read_fences(struct tables *t, uint64_t after, struct fence_news *news)
{
    struct key start = key_1(TABLE_FENCE, after + 1), prefix = key_table(TABLE_FENCE);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &start, &prefix, SIZE_MAX, &rows);
    if (err != 0)
        return err;
    news->fences = calloc(rows.count + 1, sizeof *news->fences);
    news->pointers = calloc(rows.count + 1, sizeof *news->pointers);
    if (news->fences == NULL || news->pointers == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < rows.count; i++) {
        Tarn__Fence *fence = news->pointers[i] = &news->fences[i];
        tarn__fence__init(fence);
        fence->number = key_number(&rows.rows[i].key, 0);
        if (number_decode(rows.rows[i].value, rows.rows[i].len, &fence->session) != 0)
            return tables_corrupt(t, &rows.rows[i].key, "fence");
    }
    news->n = rows.count;
    return 0;
}

struct sessions_scan {
    struct fence_news *news;
    size_t max;
    uint64_t last;
};

static uint64_t session_of(struct kv_val key)
{
    struct reader r = reader_init(key.data + 1, key.len - 1);
    return reader_be64(&r);
}

static int visit_session(void *arg, struct kv_val key, struct kv_val value)
{
    struct sessions_scan *scan = arg;
    uint64_t id = session_of(key);
    if (scan->news->set.n_steps == scan->max)
        return -E_CORRUPT; /* more rows than the counter says */
    scan->news->steps[scan->news->set.n_steps++] = id - scan->last;
    scan->last = id;
    return 0;
}

static int read_sessions(struct tables *t, struct fence_news *news)
{
    struct sessions_scan scan = {.news = news, .max = t->state.sessions};
    struct key prefix = key_table(TABLE_SESSION);
    tarn__session_set__init(&news->set);
    news->set.next_session = t->state.next_session;
    news->steps = calloc(scan.max + 1, sizeof *news->steps);
    if (news->steps == NULL)
        return -E_NOMEM;
    news->set.steps = news->steps;
    return tables_scan(t, &prefix, &prefix, visit_session, &scan);
}

static int visit_oldest(void *arg, struct kv_val key, struct kv_val value)
{
    *(uint64_t *)arg = session_of(key);
    return 1;
}

int fence_read(struct tables *t, uint64_t after, bool whole, struct fence_news *ret)
{
    struct fence_news news = {.last = t->state.last_fence, .oldest = t->state.next_session, .whole = whole};
    struct key prefix = key_table(TABLE_SESSION);
    int err = tables_scan(t, &prefix, &prefix, visit_oldest, &news.oldest);
    if (err == 0)
        err = read_fences(t, whole ? 0 : after, &news);
    if (err == 0 && !whole && news.n < news.last - MIN(after, news.last)) {
        fence_news_fini(&news);
        return fence_read(t, 0, true, ret);
    }
    if (err == 0 && whole)
        err = read_sessions(t, &news);
    if (err != 0)
        fence_news_fini(&news);
    else
        *ret = news;
    return err;
}

int fence_list_txn(struct kv_txn *txn, struct fence_news *ret)
{
    struct fsm_result result = {0};
    struct fence_news news = {0};
    struct tables t;
    int err = tables_init(&t, txn, false, &result);
    if (err == 0)
        err = read_fences(&t, 0, &news);
    if (err == 0) {
        news.last = t.state.last_fence;
        *ret = news;
    } else {
        fence_news_fini(&news);
    }
    fsm_result_fini(&result);
    return err;
}

int fence_read_txn(struct kv_txn *txn, uint64_t after, bool whole, struct fence_news *ret)
{
    struct fsm_result result = {0};
    struct tables t;
    int err = tables_init(&t, txn, false, &result);
    if (err == 0)
        err = fence_read(&t, after, whole, ret);
    fsm_result_fini(&result);
    return err;
}
