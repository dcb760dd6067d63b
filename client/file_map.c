/* What this process knows of open inodes: size, map pages, chunks being written. All handles of one
 * inode share it, so a write through one is seen through the other at once; what other processes do
 * is seen when a store calls the map stale, at the end of the file, in holes, and otherwise after
 * MAP_FRESH_MS. */
#include "file_internal.h"

#include "lease.h"

#include "common/check.h"
#include "common/coll.h"
#include "common/err.h"

#define PAUSE_MS_FIRST 5
#define PAUSE_MS_MAX 500

/* ------------------------------------------------------------------ extents */

struct extent_ref *extent_ref_create(Tarn__Extent *extent)
{
    struct extent_ref *ref = calloc(1, sizeof *ref);
    if (!ref) {
        tarn__extent__free_unpacked(extent, NULL);
        return NULL;
    }
    ref->refs = 1;
    ref->extent = extent;
    return ref;
}

struct extent_ref *extent_ref_take(struct extent_ref *ref)
{
    ref->refs++;
    return ref;
}

void extent_ref_drop(struct extent_ref *ref)
{
    if (!ref)
        return;
    CHECK(ref->refs > 0);
    if (--ref->refs > 0)
        return;
    tarn__extent__free_unpacked(ref->extent, NULL);
    free(ref);
}

void extent_ref_dropp(struct extent_ref **ref)
{
    extent_ref_drop(*ref);
}

/* ------------------------------------------------------------------ inodes */

int inode_get(struct file *file, uint64_t ino, struct inode **ret)
{
    struct map *inodes = stores_inodes(file->stores);
    struct inode *inode = map_get(inodes, ino);
    if (!inode) {
        inode = calloc(1, sizeof *inode);
        if (!inode)
            return -E_NOMEM;
        inode->ino = ino;
        list_init(&inode->grows);
        if (map_put(inodes, ino, inode) < 0) {
            free(inode);
            return -E_NOMEM;
        }
    }
    inode->handles++;
    if (file_writes(file))
        inode->writers++;
    *ret = inode;
    return 0;
}

void inode_put(struct file *file, struct inode *inode)
{
    if (--inode->handles > 0)
        return;
    map_remove(stores_inodes(file->stores), inode->ino);
    inode_pages_drop(inode);
    inode_open_clear(inode);
    free(inode);
}

void inode_learn(struct inode *inode, const Tarn__Attr *attr)
{
    if (attr->version < inode->version)
        return; /* an answer that was overtaken */
    inode->jumps += attr->version != inode->version;
    inode->version = attr->version;
    inode->size = attr->size;
    inode->mode = attr->mode;
    inode->capability = attr->capability;
    inode->atime = attr->atime;
    inode->mtime = attr->mtime;
    inode->ctime = attr->ctime;
    if (attr->chunk_size)
        inode->chunk_size = attr->chunk_size;
}

/* Every change raises the version by one at least, so what is known under the version before holds. */
void inode_step(struct inode *inode, uint64_t version)
{
    if (version != inode->version + 1)
        return;
    for (unsigned i = 0; i < PAGES_MAX; i++)
        if (inode->pages[i] && inode->pages[i]->version == inode->version)
            inode->pages[i]->version = version;
    for (unsigned i = 0; i < OPEN_MAX; i++)
        if (inode->open[i] && inode->open[i]->version == inode->version)
            inode->open[i]->version = version;
    inode->version = version;
}

void inode_learn_own(struct inode *inode, const Tarn__Attr *attr)
{
    inode_step(inode, attr->version);
    inode_learn(inode, attr);
}

struct extent_ref *inode_open_find(struct inode *inode, uint64_t offset)
{
    for (unsigned i = 0; i < OPEN_MAX; i++) {
        struct extent_ref *ref = inode->open[i];
        if (ref && !ref->stale && extent_covers(ref->extent, offset))
            return ref;
    }
    return NULL;
}

static void open_free(struct inode *inode, unsigned i)
{
    extent_ref_drop(inode->open[i]);
    inode->open[i] = NULL;
}

bool inode_open_add(struct inode *inode, struct extent_ref *ref)
{
    unsigned at = OPEN_MAX;
    for (unsigned i = 0; i < OPEN_MAX && (at == OPEN_MAX || inode->open[at]); i++)
        if (!inode->open[i] || !inode->open[i]->dirty)
            at = i;
    if (at == OPEN_MAX)
        return false;
    open_free(inode, at);
    inode->open[at] = extent_ref_take(ref);
    return true;
}

void inode_open_drop(struct inode *inode, struct extent_ref *ref)
{
    ref->stale = true;
    if (ref->dirty)
        return;
    for (unsigned i = 0; i < OPEN_MAX; i++)
        if (inode->open[i] == ref) {
            open_free(inode, i);
            return;
        }
}

void inode_open_clear(struct inode *inode)
{
    for (unsigned i = 0; i < OPEN_MAX; i++)
        open_free(inode, i);
}

/* ------------------------------------------------------------------ pages */

static void page_free(struct map_page *page)
{
    if (!page)
        return;
    for (size_t i = 0; i < page->n; i++)
        extent_ref_drop(page->refs[i]);
    free(page->refs);
    free(page->data);
    free(page);
}

void inode_pages_drop(struct inode *inode)
{
    inode->change++;
    for (unsigned i = 0; i < PAGES_MAX; i++) {
        page_free(inode->pages[i]);
        inode->pages[i] = NULL;
    }
}

/* Takes extents and inline bytes out of the reply. */
static struct map_page *page_from(Tarn__FileMapReply *reply, uint64_t offset, uint64_t now_ms, uint64_t fetch)
{
    struct map_page *page = calloc(1, sizeof *page);
    if (!page)
        return NULL;
    page->from = reply->inline_data ? 0 : offset;
    page->to = reply->next ? reply->next : UINT64_MAX;
    page->size = reply->attr->size;
    page->fetched_ms = now_ms;
    page->version = reply->attr->version;
    page->fetch = fetch;
    page->is_inline = reply->inline_data;
    page->data_len = reply->data.len;
    page->data = reply->data.data;
    reply->data = (ProtobufCBinaryData){0};
    page->refs = calloc(reply->n_extents + 1, sizeof(struct extent_ref *));
    if (!page->refs) {
        page_free(page);
        return NULL;
    }
    for (size_t i = 0; i < reply->n_extents; i++) {
        struct extent_ref *ref = extent_ref_create(take_ptr(reply->extents[i]));
        if (!ref) {
            page_free(page);
            return NULL;
        }
        ref->checked_ms = now_ms;
        page->refs[page->n++] = ref;
    }
    return page;
}

/* Puts the page in place of those that overlap it, or of the oldest. */
static void page_put(struct inode *inode, struct map_page *page)
{
    unsigned oldest = 0;
    for (unsigned i = 0; i < PAGES_MAX; i++) {
        struct map_page *other = inode->pages[i];
        if (other && other->from < page->to && page->from < other->to) {
            page_free(other);
            inode->pages[i] = other = NULL;
        }
        const struct map_page *old = inode->pages[oldest];
        if (old && (!other || other->fetched_ms < old->fetched_ms))
            oldest = i;
    }
    page_free(inode->pages[oldest]);
    inode->pages[oldest] = page;
}

static struct map_page *page_find(struct inode *inode, uint64_t offset)
{
    for (unsigned i = 0; i < PAGES_MAX; i++) {
        struct map_page *page = inode->pages[i];
        if (page && offset >= page->from && offset < page->to)
            return page;
    }
    return NULL;
}

struct extent_ref *map_page_find(const struct map_page *page, uint64_t offset, uint64_t *ret_hole_end)
{
    size_t low = 0, high = page->n; /* the first extent that ends behind offset */
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const Tarn__Extent *extent = page->refs[mid]->extent;
        if (extent->offset + extent->length <= offset)
            low = mid + 1;
        else
            high = mid;
    }
    if (low < page->n && extent_covers(page->refs[low]->extent, offset))
        return extent_ref_take(page->refs[low]);
    *ret_hole_end = low < page->n ? MIN(page->refs[low]->extent->offset, page->to) : page->to;
    return NULL;
}

/* Chunks we write to that are not in the map any more (another client truncated the file, or the
 * service sealed them) are not written to again. */
static void open_compare(struct inode *inode, const struct map_page *page)
{
    for (unsigned i = 0; i < OPEN_MAX; i++) {
        struct extent_ref *ref = inode->open[i];
        if (!ref || ref->stale)
            continue;
        uint64_t hole_end, at = MAX(ref->extent->offset, page->from); /* a page may begin inside an extent */
        if (at >= page->to || !extent_covers(ref->extent, at))
            continue;
        _cleanup_(extent_ref_dropp) struct extent_ref *found =
            page->is_inline ? NULL : map_page_find(page, at, &hole_end);
        if (found && found->extent->chunk == ref->extent->chunk &&
            found->extent->state == TARN__CHUNK_STATE__CHUNK_OPEN) {
            ref->checked_ms = page->fetched_ms;
            ref->version = page->version;
            ref->fetch = page->fetch;
            ref->sized_to = page->size;
        } else {
            inode->lost++;
            inode_open_drop(inode, ref);
        }
    }
}

/* ------------------------------------------------------------------ what a call may use */

static bool view_allows(const struct file *file, const struct file_view *view, uint64_t version,
                        uint64_t fetch, uint64_t known_ms)
{
    if (fetch > view->fetches)
        return true;
    if (view->fetched)
        return false;
    if (file->fresh)
        return version == file->inode->version;
    return known_ms != 0 && io_mono_ms(file->io) < known_ms + MAP_FRESH_MS;
}

bool file_view_page(const struct file *file, const struct file_view *view, const struct map_page *page)
{
    return view_allows(file, view, page->version, page->fetch, page->fetched_ms);
}

struct extent_ref *file_view_open(const struct file *file, const struct file_view *view, uint64_t offset)
{
    struct extent_ref *ref = inode_open_find(file->inode, offset);
    return ref && view_allows(file, view, ref->version, ref->fetch, ref->checked_ms) ? ref : NULL;
}

bool file_view_knows(const struct file *file, const struct file_view *view, uint64_t offset)
{
    const struct map_page *page = page_find(file->inode, offset);
    return file_view_open(file, view, offset) || (page && file_view_page(file, view, page));
}

/* ------------------------------------------------------------------ asking */

int file_map_fetch(struct file *file, uint64_t offset, uint64_t have_version, bool *ret_same)
{
    struct inode *inode = file->inode;
    uint64_t change = inode->change, fetch = ++inode->fetches;
    uint64_t now_ms = io_mono_ms(file->io);
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = inode->ino;
    Tarn__FileMap request = TARN__FILE_MAP__INIT;
    request.where = &where;
    request.offset = offset;
    request.max = PAGE_EXTENTS;
    request.have_version = have_version;
    request.want_lease = file->fresh && inode->writers == 0;
    Tarn__FileMapReply *reply = NULL;
    struct lease_asking asking;
    lease_ask_begin(meta_leases(file->meta), &asking);
    int r = meta_call(file->meta, OP_FILE_MAP, &request.base, &request.ctx, &meta_root,
                      &tarn__file_map_reply__descriptor, &reply, NULL);
    uint64_t version = r < 0 ? 0 : reply->same ? have_version : reply->attr ? reply->attr->version : 0;
    uint64_t stamp = lease_ask_end(meta_leases(file->meta), &asking, r < 0 ? NULL : reply->lease, version);
    if (r < 0)
        return r;
    struct map_page *page = NULL;
    bool same = have_version != 0 && reply->same;
    if (!same && (!reply->attr || (reply->next && reply->next <= offset)))
        r = -E_PROTO;
    if (r == 0 && stamp != 0) {
        inode->lease_version = version;
        inode->lease_stamp = stamp;
    }
    if (r == 0 && !same) {
        inode_learn(inode, reply->attr);
        page = page_from(reply, offset, now_ms, fetch);
        r = page ? 0 : -E_NOMEM;
    }
    tarn__file_map_reply__free_unpacked(reply, NULL);
    if (r < 0)
        return r;
    if (ret_same)
        *ret_same = same;
    if (same)
        return 0;
    if (inode->change == change) {
        page_put(inode, page);
        open_compare(inode, page);
    } else {
        page_free(page); /* asked before a change of our own */
    }
    return 0;
}

int file_map_page(struct file *file, const struct file_view *view, uint64_t offset, struct map_page **ret)
{
    struct inode *inode = file->inode;
    for (;;) {
        struct map_page *page = page_find(inode, offset);
        if (page && file_view_page(file, view, page)) {
            *ret = page;
            return 0;
        }
        int r = fiber_mutex_lock(&inode->fetching);
        if (r < 0)
            return r;
        page = page_find(inode, offset); /* another fiber may have fetched it meanwhile */
        if (!page || !file_view_page(file, view, page))
            r = file_map_fetch(file, offset, 0, NULL);
        fiber_mutex_unlock(&inode->fetching);
        if (r < 0)
            return r;
    }
}

bool inode_leased(const struct file *file)
{
    const struct inode *inode = file->inode;
    return inode->writers == 0 && inode->lease_version == inode->version &&
           lease_valid(meta_leases(file->meta), inode->ino, inode->lease_stamp);
}

static void check_run(struct file_check *check)
{
    check->err = file_map_fetch(check->file, check->offset, check->version, &check->same);
}

static void check_fiber(void *arg)
{
    struct file_check *check = arg;
    check_run(check);
    fiber_group_done(&check->group);
}

void file_check_begin(struct file_check *check, struct file *file, uint64_t offset)
{
    *check = (struct file_check){.file = file, .offset = offset, .version = file->inode->version};
    if (fiber_spawn(file->io, "file-check", check_fiber, check) == 0)
        fiber_group_add(&check->group);
    else
        check_run(check);
}

int file_check_end(struct file_check *check, bool *ret_same)
{
    fiber_group_wait(&check->group);
    *ret_same = check->same;
    return check->err;
}

int file_retry_pause(struct file *file, struct file_retry *retry)
{
    uint64_t now = io_mono_ms(file->io) + 1;
    if (retry->since_ms == 0)
        retry->since_ms = now;
    if (now >= retry->since_ms + FILE_GIVE_UP_MS)
        return -E_TIMEOUT;
    retry->pause_ms = retry->pause_ms ? MIN(retry->pause_ms * 2, (uint64_t)PAUSE_MS_MAX) : PAUSE_MS_FIRST;
    return io_sleep_ms(file->io, retry->pause_ms + io_random_u64(file->io) % retry->pause_ms);
}
