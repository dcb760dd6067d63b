/* Writes: a chunk that may be written is asked for once per slot and kept while the file is open for
 * writing; the data goes to it; then the metadata service learns the new end.
 *
 *   no extent      CHUNK_WRITE gives a new empty chunk, part of the map at once
 *   sealed chunk   CHUNK_WRITE gives a new chunk that begins as a copy: CHUNK_CLONE at the stores,
 *                  then CHUNK_SWAP puts it in the old one's place. A piece of another chunk and a
 *                  coded one are not whole at the new chunk's members: their content goes through here
 *   inline bytes   CHUNK_WRITE gives a new chunk and the bytes; they are written to it, then
 *                  CHUNK_SWAP (old_chunk 0) puts it in their place
 *
 * Readers see the old bytes until the swap. A crash in between leaves a chunk that the end of the
 * session gives back. */
#include "attr.h"
#include "file_internal.h"

#include "common/check.h"
#include "common/coll.h"
#include "common/err.h"
#include "common/log.h"

#include <fcntl.h>
#include <sys/stat.h>

#define GROW_WRITTEN_MAX 256 /* chunks named by one change of the size, the service's bound */
#define MTIME_MS 1000 /* pure overwrites tell mtime and end at most this often */

/* ------------------------------------------------------------------ a chunk to write to */

/* What a new chunk begins with, of the two at most one: the inline bytes, or where the old chunk's content is
 * when the members do not have it. */
struct beginning {
    ProtobufCBinaryData data;
    Tarn__Extent *source;
};

static void beginning_fini(struct beginning *beginning)
{
    free(beginning->data.data);
    if (beginning->source)
        tarn__extent__free_unpacked(beginning->source, NULL);
}

/* The chunk that CHUNK_WRITE or CHUNK_SWAP answered; ret_beginning may be NULL. */
static int chunk_ask(struct file *file, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx,
                     struct extent_ref **ret, struct beginning *ret_beginning)
{
    Tarn__ChunkReply *reply = NULL;
    int r = meta_call_in(file->meta, file->session, op, request, ctx, &meta_root, &tarn__chunk_reply__descriptor,
                         &reply, NULL);
    if (r < 0)
        return r;
    Tarn__Extent *extent = take_ptr(reply->extent);
    uint64_t version = reply->version, size = reply->size;
    if (ret_beginning) {
        ret_beginning->data = reply->inline_data;
        reply->inline_data = (ProtobufCBinaryData){0};
        ret_beginning->source = take_ptr(reply->source);
    }
    tarn__chunk_reply__free_unpacked(reply, NULL);
    if (!extent)
        return -E_PROTO;
    *ret = extent_ref_create(extent);
    if (!*ret)
        return -E_NOMEM;
    if (version != 0)
        inode_step(file->inode, version);
    (*ret)->version = version;
    (*ret)->sized_to = size;
    return 0;
}

/* Puts the prepared chunk in the old one's place (0: that of the inline bytes). Somebody may have been
 * faster: then *ref becomes what is there now. */
static int chunk_swap(struct file *file, struct extent_ref **ref, uint64_t old_chunk)
{
    Tarn__ChunkSwap request = TARN__CHUNK_SWAP__INIT;
    request.ino = file->inode->ino;
    request.offset = (*ref)->extent->offset;
    request.old_chunk = old_chunk;
    request.new_chunk = (*ref)->extent->chunk;
    struct extent_ref *swapped = NULL;
    int r = chunk_ask(file, OP_CHUNK_SWAP, &request.base, &request.ctx, &swapped, NULL);
    if (r < 0)
        return r;
    extent_ref_drop(*ref);
    *ref = swapped;
    const Tarn__Extent *extent = swapped->extent;
    return extent->chunk && extent->state == TARN__CHUNK_STATE__CHUNK_OPEN ? 0 : -E_STALE;
}

/* Fills a new chunk with what it must hold before it takes its place. */
static int chunk_prepare(struct file *file, struct extent_ref **ref, const struct beginning *beginning)
{
    const ProtobufCBinaryData *data = &beginning->data;
    Tarn__Extent *extent = (*ref)->extent;
    uint64_t old_chunk = extent->clone_of;
    if (old_chunk) {
        int r = stores_clone(file->stores, file->session, extent, beginning->source); /* on disk at every member when it returns */
        return r < 0 ? r : chunk_swap(file, ref, old_chunk);
    }
    if (data->len == 0)
        return 0;
    int r = stores_write(file->stores, file->session, extent, extent->chunk_offset, data->data, data->len, true, NULL);
    return r < 0 ? r : chunk_swap(file, ref, 0);
}

static int sync_one(struct file *file, struct extent_ref *ref);

static int open_add(struct file *file, struct extent_ref *ref)
{
    struct inode *inode = file->inode;
    while (!inode_open_add(inode, ref)) {
        _cleanup_(extent_ref_dropp) struct extent_ref *dirty = extent_ref_take(inode->open[0]);
        int r = sync_one(file, dirty);
        if (r < 0)
            return r;
    }
    return 0;
}

static int chunk_make_writable(struct file *file, uint64_t offset, struct extent_ref **ret)
{
    Tarn__ChunkWrite request = TARN__CHUNK_WRITE__INIT;
    request.ino = file->inode->ino;
    request.offset = offset;
    request.writer_node = stores_node(file->stores);
    _cleanup_(extent_ref_dropp) struct extent_ref *ref = NULL;
    _cleanup_(beginning_fini) struct beginning beginning = {0};
    int r = chunk_ask(file, OP_CHUNK_WRITE, &request.base, &request.ctx, &ref, &beginning);
    if (r < 0)
        return r;
    r = chunk_prepare(file, &ref, &beginning);
    inode_pages_drop(file->inode); /* a fetch that was asked before this does not know the chunk */
    if (r < 0)
        return r;
    if (!extent_covers(ref->extent, offset))
        return -E_STALE;
    ref->checked_ms = io_mono_ms(file->io);
    r = open_add(file, ref);
    if (r < 0)
        return r;
    *ret = take_ptr(ref);
    return 0;
}

/* The chunk to write `offset` to, counted. One that we have is used while it is known to be in the
 * file's map: another client may have truncated it away. */
static int chunk_writable(struct file *file, uint64_t offset, struct extent_ref **ret)
{
    struct inode *inode = file->inode;
    struct file_view view = {.fetches = inode->fetches};
    struct extent_ref *ref = file_view_open(file, &view, offset);
    if (ref) {
        *ret = extent_ref_take(ref);
        return 0;
    }
    int r = fiber_mutex_lock(&inode->preparing);
    if (r < 0)
        return r;
    while (r == 0 && inode_open_find(inode, offset) && !file_view_open(file, &view, offset))
        r = file_map_fetch(file, offset, 0, NULL); /* lets go of what is not in the map */
    ref = r == 0 ? inode_open_find(inode, offset) : NULL;
    if (ref)
        extent_ref_take(ref);
    else if (r == 0)
        r = chunk_make_writable(file, offset, &ref);
    fiber_mutex_unlock(&inode->preparing);
    if (r == 0)
        *ret = ref;
    return r;
}

/* ------------------------------------------------------------------ data */

/* Another try under a fresh map is worth it. */
static bool map_is_at_fault(int err)
{
    return err == -E_STALE || err == -E_UNAVAIL || err == -E_NOENT;
}

/* A failed try: forgets the chunk and waits. Returns 0 to try again. */
static int write_again(struct file *file, struct extent_ref *ref, struct file_retry *retry, int err)
{
    if (!map_is_at_fault(err))
        return err;
    inode_pages_drop(file->inode);
    if (ref)
        inode_open_drop(file->inode, ref);
    int r = file_retry_pause(file, retry);
    return r == -E_TIMEOUT ? -E_UNAVAIL : r;
}

static int written_add(struct written *written, const struct extent_ref *ref, uint64_t end)
{
    if (end <= ref->sized_to)
        return 0;
    unsigned i = 0;
    while (i < written->n && written->to[i].chunk != ref->extent->chunk)
        i++;
    if (i == WRITTEN_MAX)
        return -E_NOMEM;
    if (i == written->n)
        written->to[written->n++].chunk = ref->extent->chunk;
    written->to[i].end = MAX(written->to[i].end, end);
    return 0;
}

/* At most one window, within one chunk. Returns the bytes written. */
static int64_t write_window(struct file *file, const uint8_t *buf, size_t n, uint64_t offset, struct written *written)
{
    struct file_retry retry = {0};
    for (;;) {
        _cleanup_(extent_ref_dropp) struct extent_ref *ref = NULL;
        int r = chunk_writable(file, offset, &ref);
        size_t part = n;
        if (r == 0) {
            Tarn__Extent *extent = ref->extent;
            uint64_t in_extent = offset - extent->offset;
            part = (size_t)MIN((uint64_t)n, extent->length - in_extent);
            bool sync = (file->flags & O_DSYNC) != 0;
            ref->dirty |= !sync;
            r = stores_write(file->stores, file->session, extent, extent->chunk_offset + in_extent, buf, part, sync,
                             &ref->lives);
        }
        if (r == 0) {
            r = written_add(written, ref, offset + part);
            return r < 0 ? r : (int64_t)part;
        }
        if (r == -E_NOENT && !ref)
            return r; /* the file itself is gone */
        r = write_again(file, ref, &retry, r);
        if (r < 0)
            return r;
    }
}

static int write_job(struct file_job *job)
{
    while (job->n > 0) {
        int64_t done = write_window(job->file, job->buf, job->n, job->offset, job->written);
        if (done < 0)
            return (int)done;
        job->buf += done;
        job->offset += (uint64_t)done;
        job->n -= (size_t)done;
    }
    return 0;
}

static int write_data(struct file *file, const void *buf, size_t n, uint64_t offset, struct written *written)
{
    struct file_jobs jobs = {0};
    struct file_job job = {.run = write_job, .jobs = &jobs, .file = file, .written = written};
    job.buf = (uint8_t *)buf;
    job.offset = offset;
    if (offset % MIB(1) + n <= MIB(1)) {
        job.n = n;
        return write_job(&job);
    }
    while (n > 0 && jobs.err == 0) {
        job.n = MIN(n, (size_t)(MIB(1) - job.offset % MIB(1)));
        n -= job.n;
        uint8_t *buf_next = job.buf + job.n;
        uint64_t offset_next = job.offset + job.n;
        file_jobs_add(&jobs, &job);
        job.buf = buf_next;
        job.offset = offset_next;
    }
    return file_jobs_wait(&jobs);
}

/* ------------------------------------------------------------------ size and times */

static int setattr_as(struct file *file, Tarn__SetAttr *request, const struct meta_cred *cred, uint64_t *ret_size)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = file->inode->ino;
    request->where = &where;
    request->handle = file->handle;
    Tarn__Entry *entry = NULL;
    int r = meta_call_in(file->meta, file->session, OP_SETATTR, &request->base, &request->ctx, cred,
                         &tarn__entry__descriptor, &entry, NULL);
    if (r < 0)
        return r;
    if (entry->attr) {
        inode_learn_own(file->inode, entry->attr);
        if (ret_size)
            *ret_size = entry->attr->size;
    } else {
        r = -E_PROTO;
    }
    tarn__entry__free_unpacked(entry, NULL);
    return r;
}

static int setattr(struct file *file, Tarn__SetAttr *request, uint64_t *ret_size)
{
    return setattr_as(file, request, &meta_root, ret_size);
}

int file_drop_setid(struct file *file, const struct meta_cred *cred)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    bool capability = file->inode->capability;
    if (!capability && (cred->uid == 0 || !(file->inode->mode & (S_ISUID | S_ISGID))))
        return 0;
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    request.mask = TARN__SET_ATTR_BITS__SA_GROW; /* by nothing: a write as far as the bits are concerned */
    return setattr_as(file, &request, cred, NULL);
}

int file_mark_read(struct file *file, uint64_t real_ns, bool strict)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    const struct inode *inode = file->inode;
    bool due = strict || inode->atime <= inode->mtime || inode->atime <= inode->ctime ||
               real_ns - inode->atime >= ATTR_RELATIME_NS;
    if (!due || (int64_t)real_ns <= (int64_t)inode->atime)
        return 0;
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    request.mask = strict ? TARN__SET_ATTR_BITS__SA_ATIME_STRICT : TARN__SET_ATTR_BITS__SA_ATIME_READ;
    request.atime = real_ns;
    return setattr(file, &request, NULL);
}

int file_settle(struct meta *meta, struct stores *stores, uint64_t ino)
{
    struct inode *inode = map_get(stores_inodes(stores), ino);
    if (!inode || !inode->mtime_owed)
        return 0;
    struct file file = {.magic = FILE_MAGIC, .meta = meta, .stores = stores, .io = fiber_io(), .session = meta_session(meta)};
    int r = inode_get(&file, ino, &file.inode);
    if (r < 0)
        return r;
    r = file_mtime_flush(&file);
    inode_put(&file, file.inode);
    return r;
}

int file_mtime_flush(struct file *file)
{
    struct inode *inode = file->inode;
    if (!inode->mtime_owed)
        return 0;
    inode->mtime_owed = false;
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    request.mask = TARN__SET_ATTR_BITS__SA_MTIME_NOW;
    int r = setattr(file, &request, NULL);
    if (r < 0)
        inode->mtime_owed = true;
    return r;
}

int file_flush(struct file *file)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    int r = file_writes(file) ? file_lives(file) : 0; /* who wrote through it must learn that it may be in vain */
    if (r == 0)
        r = file_tail_settle(file);
    return r < 0 || file_lives(file) < 0 ? r : file_mtime_flush(file);
}

/* One writer's data, stored and not told yet. */
struct grow_call {
    struct list entry; /* in the inode's `grows` or in the batch that is being told */
    uint64_t end;
    const struct written *written;
    bool linked, told;
};

static void written_confirm(struct inode *inode, const Tarn__WrittenTo *to)
{
    for (unsigned i = 0; i < OPEN_MAX; i++)
        if (inode->open[i] && inode->open[i]->extent->chunk == to->chunk)
            inode->open[i]->sized_to = MAX(inode->open[i]->sized_to, to->end);
}

/* The chunks are not what was written to any more. */
static void written_forget(struct inode *inode, const struct written *written)
{
    for (unsigned w = 0; w < written->n; w++)
        for (unsigned i = 0; i < OPEN_MAX; i++)
            if (inode->open[i] && inode->open[i]->extent->chunk == written->to[w].chunk)
                inode_open_drop(inode, inode->open[i]);
}

static int grow_send(struct file *file, const struct list *batch, size_t n_written)
{
    struct inode *inode = file->inode;
    _cleanup_free_ Tarn__WrittenTo *items = calloc(n_written + 1, sizeof *items);
    _cleanup_free_ Tarn__WrittenTo **pointers = calloc(n_written + 1, sizeof *pointers);
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    request.mask = TARN__SET_ATTR_BITS__SA_GROW;
    request.written = pointers;
    if (!items || !pointers)
        return -E_NOMEM;
    list_foreach(batch, it) {
        const struct grow_call *call = list_entry(it, struct grow_call, entry);
        request.size = MAX(request.size, call->end);
        for (unsigned i = 0; i < call->written->n; i++) {
            Tarn__WrittenTo *item = pointers[request.n_written] = &items[request.n_written];
            tarn__written_to__init(item);
            item->chunk = call->written->to[i].chunk;
            item->end = call->written->to[i].end;
            request.n_written++;
        }
    }
    inode->mtime_owed = false;
    int r = setattr(file, &request, NULL);
    if (r < 0)
        return r;
    inode->size_told_ms = io_mono_ms(file->io) + 1;
    for (size_t i = 0; i < request.n_written; i++)
        written_confirm(inode, &items[i]);
    return 0;
}

/* The waiting calls that go into one request with `own`. One that was in a batch that failed goes alone: the
 * fault may have been another's. */
static size_t grow_collect(struct inode *inode, struct grow_call *own, struct list *ret)
{
    size_t n = own->written->n;
    bool alone = !own->linked;
    list_init(ret);
    if (own->linked)
        list_remove(&own->entry);
    own->linked = true;
    list_append(ret, &own->entry);
    if (alone)
        return n;
    list_foreach_safe(&inode->grows, it, next) {
        struct grow_call *call = list_entry(it, struct grow_call, entry);
        if (n + call->written->n > GROW_WRITTEN_MAX)
            break;
        n += call->written->n;
        list_remove(&call->entry);
        list_append(ret, &call->entry);
    }
    return n;
}

/* Tells the end of data that is stored. Writers that come while one change is under way wait for it
 * and share the next. -E_STALE: something of it was cut away meanwhile, the size is as it was. */
static int grow(struct file *file, uint64_t end, const struct written *written)
{
    struct inode *inode = file->inode;
    struct grow_call own = {.end = end, .written = written, .linked = true};
    list_append(&inode->grows, &own.entry);
    int r = fiber_mutex_lock(&inode->growing);
    if (r < 0) {
        if (own.linked)
            list_remove(&own.entry);
        return r;
    }
    if (!own.told) { /* else somebody told it together with his own */
        struct list batch;
        size_t n = grow_collect(inode, &own, &batch);
        r = file_tail_settle(file);
        if (r == 0)
            r = grow_send(file, &batch, n);
        list_foreach_safe(&batch, it, next) {
            struct grow_call *call = list_entry(it, struct grow_call, entry);
            call->told = r == 0;
            call->linked = false;
            list_remove(&call->entry);
        }
    }
    fiber_mutex_unlock(&inode->growing);
    return r;
}

/* Chunks that reach behind `size` may have been sealed there by a change of ours. */
static void open_drop_behind(struct inode *inode, uint64_t size)
{
    for (unsigned i = 0; i < OPEN_MAX; i++) {
        struct extent_ref *ref = inode->open[i];
        if (ref && ref->extent->offset + ref->extent->length > size)
            inode_open_drop(inode, ref);
    }
}

int file_tail_settle(struct file *file)
{
    struct inode *inode = file->inode;
    if (!inode->tail_owed)
        return 0;
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    request.mask = TARN__SET_ATTR_BITS__SA_CUT_TAIL;
    inode->tail_owed = false;
    int r = setattr(file, &request, NULL);
    inode->tail_owed |= r < 0 && r != -E_NOENT && r != -E_NO_SESSION; /* with the session the service does it */
    open_drop_behind(inode, inode->size);
    return r == -E_NOENT ? 0 : r;
}

int file_extend(struct file *file, uint64_t size)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    if (!file_writes(file))
        return -E_BADF;
    if (file_lives(file) < 0)
        return -E_NO_SESSION;
    if (size > INT64_MAX)
        return -E_FBIG;
    int r = file_tail_settle(file);
    if (r < 0)
        return r;
    uint64_t before = file->inode->size;
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    request.mask = TARN__SET_ATTR_BITS__SA_GROW | TARN__SET_ATTR_BITS__SA_CUT_TAIL;
    request.size = size;
    r = setattr(file, &request, NULL);
    open_drop_behind(file->inode, before);
    return r;
}

/* A write within the size we know tells nothing, unless that knowledge is old: another client may
 * have cut the file, and then our bytes lie behind its end. */
static bool must_tell(const struct file *file, uint64_t end)
{
    const struct inode *inode = file->inode;
    bool recent = inode->size_told_ms && io_mono_ms(file->io) < inode->size_told_ms + MTIME_MS;
    return end > inode->size || !recent;
}

/* One try of a fresh file's write. *ret_done: the chunks written to were in the file's map when the end was
 * told, or when the check beside the transfer was answered. When others changed the inode meanwhile,
 * the map is fetched, which finds what is lost. */
static int write_fresh(struct file *file, const void *buf, size_t n, uint64_t offset, struct written *written, bool *ret_done)
{
    struct inode *inode = file->inode;
    struct file_check check;
    uint64_t end = offset + n, lost = inode->lost, jumps = inode->jumps;
    bool same, checked = !must_tell(file, end);
    if (checked)
        file_check_begin(&check, file, offset);
    int r = write_data(file, buf, n, offset, written);
    int asked = checked ? file_check_end(&check, &same) : 0;
    if (r == 0 && asked == 0) {
        inode->mtime_owed = true;
        if (end > inode->size || !checked || written->n > 0)
            r = grow(file, end, written);
        if (r == 0 && !checked && inode->jumps != jumps)
            r = file_map_fetch(file, offset, 0, NULL);
    }
    *ret_done = inode->lost == lost;
    return r < 0 ? r : asked;
}

static int write_told(struct file *file, const void *buf, size_t n, uint64_t offset, struct written *written)
{
    int r = write_data(file, buf, n, offset, written);
    if (r == 0 && (written->n > 0 || must_tell(file, offset + n)))
        r = grow(file, offset + n, written);
    else if (r == 0)
        file->inode->mtime_owed = true;
    return r;
}

/* Each further try means that somebody has truncated the file meanwhile: then it is as if we had
 * written before him. */
#define WRITE_TRIES_MAX 8

static int write_piece(struct file *file, const void *buf, size_t n, uint64_t offset)
{
    struct file_retry retry = {0};
    for (unsigned tries = 0; tries < WRITE_TRIES_MAX;) {
        struct written written = {0};
        bool done = true;
        int r = file->fresh ? write_fresh(file, buf, n, offset, &written, &done)
                            : write_told(file, buf, n, offset, &written);
        tries += r == 0;
        if (r == -E_STALE) { /* cut away behind the end before it was told */
            written_forget(file->inode, &written);
            r = write_again(file, NULL, &retry, r);
            done = false;
        }
        if (r < 0 || done)
            return r;
    }
    return 0;
}

/* A write that has failed may have put bytes behind the end, where nobody must ever see them (C24). */
static int write_failed(struct file *file, int err, uint64_t end)
{
    if (err == -E_NOENT || file_lives(file) < 0 || !must_tell(file, end))
        return err;
    file->inode->tail_owed = true;
    int r = file_tail_settle(file);
    if (r < 0)
        log_debug("inode %llu: what a failed write left is not cut yet: %s", (unsigned long long)file->inode->ino,
                  err_sentence(r));
    return err;
}

static int write_known(struct file *file, const uint8_t *buf, size_t n, uint64_t offset)
{
    while (n > 0) {
        size_t piece = MIN(n, (size_t)WRITE_PIECE);
        int r = write_piece(file, buf, piece, offset);
        if (r < 0)
            return write_failed(file, r, offset + piece);
        buf += piece;
        offset += piece;
        n -= piece;
    }
    return 0;
}

/* The place of n bytes at the end: *ret_offset. The chunk at the end, if we have one, must still be open then,
 * or the bytes could be cut away before the stores refuse them. */
static int append_reserve(struct file *file, size_t n, uint64_t *ret_offset)
{
    struct inode *inode = file->inode;
    struct file_retry retry = {0};
    for (;;) {
        Tarn__WrittenTo item = TARN__WRITTEN_TO__INIT, *items[] = {&item};
        Tarn__SetAttr request = TARN__SET_ATTR__INIT;
        request.mask = TARN__SET_ATTR_BITS__SA_GROW;
        request.append_bytes = n;
        _cleanup_(extent_ref_dropp) struct extent_ref *ref = inode_open_find(inode, inode->size);
        if (ref) {
            extent_ref_take(ref);
            item.chunk = ref->extent->chunk;
            item.end = ref->extent->offset + ref->extent->length;
            request.written = items;
            request.n_written = 1;
        }
        uint64_t size = 0;
        int r = setattr(file, &request, &size);
        if (r == 0 && size < n)
            return -E_PROTO;
        if (r == 0 && ref)
            ref->sized_to = MAX(ref->sized_to, size);
        *ret_offset = size - n;
        if (r != -E_STALE)
            return r;
        r = write_again(file, ref, &retry, r);
        if (r < 0)
            return r;
    }
}

static int append(struct file *file, const uint8_t *buf, size_t n)
{
    uint64_t offset = 0;
    struct file_retry retry = {0};
    int r = file_tail_settle(file);
    if (r == 0)
        r = append_reserve(file, n, &offset);
    if (r < 0)
        return r;
    while (r == 0 && n > 0) {
        struct written written = {0};
        size_t piece = MIN(n, (size_t)WRITE_PIECE);
        r = write_data(file, buf, piece, offset, &written);
        if (r == 0 && written.n > 0)
            r = grow(file, 0, &written); /* the size is told; are the chunks there? */
        if (r == -E_STALE) {
            written_forget(file->inode, &written);
            r = write_again(file, NULL, &retry, r);
        } else if (r == 0) {
            buf += piece;
            offset += piece;
            n -= piece;
        }
    }
    return r == 0 && offset <= file->inode->size ? 0 : write_failed(file, r, offset + n); /* 0: cut off meanwhile */
}

int file_write(struct file *file, const void *buf, size_t n, uint64_t offset, bool to_end)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    uint64_t end;
    if (!file_writes(file))
        return -E_BADF;
    if (file_lives(file) < 0)
        return -E_NO_SESSION;
    if (n == 0)
        return 0;
    if (to_end)
        return append(file, buf, n);
    if (add_overflows(offset, (uint64_t)n, &end) || end > INT64_MAX)
        return -E_FBIG;
    return write_known(file, buf, n, offset);
}

/* ------------------------------------------------------------------ sync and truncate */

/* -E_STALE: the chunk was sealed meanwhile; the stores settle within moments of it. */
static int sync_one(struct file *file, struct extent_ref *ref)
{
    struct file_retry retry = {0};
    int r;
    ref->dirty = false; /* before the wait: writes that come meanwhile set it again */
    while ((r = stores_sync(file->stores, file->session, ref->extent, &ref->lives)) == -E_STALE) {
        int paused = file_retry_pause(file, &retry);
        if (paused < 0)
            break;
    }
    if (r == -E_NOENT)
        r = 0; /* the chunk was cut off the file: nothing of it is left to keep */
    if (r < 0)
        ref->dirty = true;
    else if (ref->stale)
        inode_open_drop(file->inode, ref);
    return r;
}

static bool page_is_settled(const struct map_page *page)
{
    for (size_t i = 0; i < page->n; i++)
        if (page->refs[i]->extent->unsettled)
            return false;
    return true;
}

/* Waits until what was written before an earlier close is on disk: the seals are under way, milliseconds
 * each. Once for an inode: what this process writes from now on is in inode->open. */
static int sync_closed(struct file *file)
{
    struct inode *inode = file->inode;
    struct file_retry retry = {0};
    for (uint64_t at = 0; !inode->settled && at < inode->size;) {
        struct map_page *page = NULL;
        struct file_view view = {.fetches = inode->fetches, .fetched = true};
        int r = file_map_page(file, &view, at, &page);
        if (r < 0)
            return r;
        if (page_is_settled(page)) {
            at = page->to;
            continue;
        }
        r = file_retry_pause(file, &retry);
        if (r < 0)
            return r == -E_TIMEOUT ? -E_UNAVAIL : r;
    }
    inode->settled = true;
    return 0;
}

int file_sync(struct file *file)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    if (file_lives(file) < 0)
        return -E_NO_SESSION;
    struct inode *inode = file->inode;
    int result = file_mtime_flush(file);
    for (unsigned i = 0; i < OPEN_MAX; i++) {
        if (!inode->open[i] || !inode->open[i]->dirty)
            continue;
        _cleanup_(extent_ref_dropp) struct extent_ref *ref = extent_ref_take(inode->open[i]);
        int r = sync_one(file, ref);
        if (r < 0 && result == 0)
            result = r;
    }
    return result < 0 ? result : sync_closed(file);
}

int file_truncate(struct file *file, uint64_t size)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    if (!file_writes(file))
        return -E_BADF;
    if (file_lives(file) < 0)
        return -E_NO_SESSION;
    if (size > INT64_MAX)
        return -E_FBIG;
    struct inode *inode = file->inode;
    uint64_t before = inode->size;
    int r = file_tail_settle(file);
    if (r < 0)
        return r;
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    request.mask = TARN__SET_ATTR_BITS__SA_SIZE | TARN__SET_ATTR_BITS__SA_CUT_TAIL;
    request.size = size;
    r = setattr(file, &request, NULL);
    inode_pages_drop(inode);
    for (unsigned i = 0; i < OPEN_MAX; i++)
        if (inode->open[i] && inode->open[i]->extent->offset >= size)
            inode->open[i]->dirty = false; /* nothing of it is left to keep */
    open_drop_behind(inode, MIN(before, size));
    return r;
}
