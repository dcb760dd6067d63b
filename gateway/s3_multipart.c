/* Multipart uploads. Upload ID keeps its state in the tree, in a directory outside of every bucket:
 *   /.tarn/multipart            made once, anybody may make entries, nobody may remove another's (like /tmp)
 *   /.tarn/multipart/ID/upload  no bytes; extended attributes: bucket, key and what the object will have
 *   /.tarn/multipart/ID/00001   a part: an object of the user, never inline
 * Complete makes the object out of the parts' chunks in one change, without copying (NewObject.from). The directory ID
 * exists because of what is in it and goes with the last of it. */
#include "s3_body.h"
#include "s3_call.h"
#include "s3_meta.h"
#include "s3_target.h"
#include "s3xml.h"
#include "stream.h"
#include "text.h"
#include "uri.h"
#include "client/object.h"
#include "common/err.h"

#include <ctype.h>
#include <stdio.h>

#define UPLOADS_DIR "/.tarn/multipart"
#define UPLOAD_ID_LEN 32
#define PARTS_MAX 10000
#define PART_BYTES_MIN MIB(5) /* but for the last */
#define COMPLETE_BODY_MAX MIB(2) /* 10,000 parts of less than 200 bytes */
#define XATTR_BUCKET "user.s3upload.bucket"
#define XATTR_KEY "user.s3upload.key"
#define PAGE 1000
#define PATH_ROOM 80

struct part {
    unsigned number;
    uint64_t size, mtime;
    uint8_t md5[16];
};
struct parts {
    struct part *parts;
    size_t count;
};

/* ---- the directory ---- */

static int need_uploads_dir(struct s3_call *call)
{
    struct tree root = {call->gate->meta, &meta_root};

    if (call->gate->uploads_ready)
        return 0;
    int r = tree_mkdir(&root, UPLOADS_DIR, 01777, true);
    call->gate->uploads_ready = r == 0;
    return r;
}

static bool id_ok(const char *id)
{
    size_t n = 0;
    while (isdigit((unsigned char)id[n]) || (id[n] >= 'a' && id[n] <= 'f'))
        n++;
    return n == UPLOAD_ID_LEN && id[n] == 0;
}

static void entry_path(const char *id, const char *name, char out[PATH_ROOM])
{
    snprintf(out, PATH_ROOM, UPLOADS_DIR "/%s%s%s", id, *name == 0 ? "" : "/", name);
}

static void part_path(const char *id, unsigned number, char out[PATH_ROOM])
{
    char name[16];
    snprintf(name, sizeof name, "%05u", number);
    entry_path(id, name, out);
}

static bool xattr_is(const Tarn__GetXattrReply *xattrs, const char *name, const char *value)
{
    for (size_t i = 0; i < xattrs->n_pairs; i++)
        if (strcmp(xattrs->pairs[i]->name, name) == 0)
            return xattrs->pairs[i]->value.len == strlen(value) &&
                   memcmp(xattrs->pairs[i]->value.data, value, strlen(value)) == 0;
    return false;
}

/* The upload's attributes, when it is there, is this user's and is for this bucket and key. NoSuchUpload. */
static int find_upload(struct s3_call *call, Tarn__GetXattrReply **ret)
{
    const char *id = s3_param(call, "uploadId");
    Tarn__GetXattrReply *xattrs;
    char path[PATH_ROOM];

    if (!id_ok(id))
        return s3_fail(&call->fault, S3_NO_SUCH_UPLOAD, NULL);
    entry_path(id, "upload", path);
    int r = tree_xattrs(&call->tree, path, &xattrs);
    if (r == -E_NOENT || r == -E_ACCES || r == -E_NOTDIR)
        return s3_fail(&call->fault, S3_NO_SUCH_UPLOAD, NULL);
    if (r < 0)
        return r;
    /* Values are only told to those who may read them: somebody else's upload has none here. */
    if (!xattr_is(xattrs, XATTR_BUCKET, call->bucket) || !xattr_is(xattrs, XATTR_KEY, call->key)) {
        tarn__get_xattr_reply__free_unpacked(xattrs, NULL);
        return s3_fail(&call->fault, S3_NO_SUCH_UPLOAD, NULL);
    }
    *ret = xattrs;
    return 0;
}

static int check_upload(struct s3_call *call)
{
    Tarn__GetXattrReply *xattrs;
    int r = find_upload(call, &xattrs);
    if (r == 0)
        tarn__get_xattr_reply__free_unpacked(xattrs, NULL);
    return r;
}

/* ---- CreateMultipartUpload ---- */

static int make_upload(struct s3_call *call, const char *id, struct s3_attrs *attrs)
{
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    Tarn__Where parent = TARN__WHERE__INIT;
    char path[UPLOAD_ID_LEN + 8];

    int r = s3_attrs_add(attrs, XATTR_BUCKET, call->bucket, strlen(call->bucket));
    if (r == 0)
        r = s3_attrs_add(attrs, XATTR_KEY, call->key, strlen(call->key));
    if (r < 0)
        return r;
    snprintf(path, sizeof path, "%s/upload", id);
    parent.path = UPLOADS_DIR;
    object.parent = &parent;
    object.path = path;
    object.mode = 0600;
    object.exclusive = true;
    object.xattrs = attrs->pairs;
    object.n_xattrs = attrs->count;
    return tree_commit(&call->tree, &object, NULL);
}

int s3_create_multipart_upload(struct s3_call *call)
{
    _cleanup_(writer_fini) struct writer xml = {0};
    _cleanup_(s3_attrs_fini) struct s3_attrs attrs = {0};
    uint8_t random[UPLOAD_ID_LEN / 2];
    char id[UPLOAD_ID_LEN + 1];

    int r = s3_need_bucket(call, call->bucket_path, NULL);
    if (r == 0)
        r = need_uploads_dir(call);
    if (r == 0)
        r = s3_attrs_collect(call, &attrs);
    if (r < 0)
        return r;
    io_random(call->gate->io, random, sizeof random);
    text_hex(random, sizeof random, id);
    r = make_upload(call, id, &attrs);
    if (r < 0)
        return r;
    xml_begin(&xml, "InitiateMultipartUploadResult");
    xml_text(&xml, "Bucket", call->bucket);
    xml_text(&xml, "Key", call->key);
    xml_text(&xml, "UploadId", id);
    xml_close(&xml, "InitiateMultipartUploadResult");
    return s3_reply_xml(call, 200, &xml);
}

/* ---- UploadPart ---- */

static void put_abortp(struct put **put)
{
    if (*put != NULL)
        put_abort(*put);
}

static int begin_part(struct s3_call *call, uint64_t size, struct put **ret)
{
    struct put_options options = {.cred = &call->auth.cred, .mode = 0600, .expected_size = size, .no_inline = true};
    options.policy_dir = call->bucket_path; /* where they end up */
    options.policy_path = call->path + strlen(call->bucket_path) + 1;
    const char *number = s3_param(call, "partNumber");
    char path[PATH_ROOM];
    uint64_t n;

    if (number == NULL || text_parse_u64(number, &n) < 0 || n < 1 || n > PARTS_MAX)
        return s3_fail(&call->fault, S3_INVALID_ARGUMENT, "The part number must be between 1 and 10000");
    part_path(s3_param(call, "uploadId"), (unsigned)n, path);
    tarn__where__init(&options.parent);
    options.parent.path = UPLOADS_DIR;
    options.path = path + strlen(UPLOADS_DIR) + 1;
    return put_begin(call->gate->meta, call->gate->stores, &options, ret);
}

static int receive_part(struct s3_call *call, uint8_t md5[16])
{
    _cleanup_(put_abortp) struct put *put = NULL;
    _cleanup_(s3_body_fini) struct s3_body body = {0};
    const void *data;
    int64_t n;

    int r = s3_body_open(call, &body);
    if (r == 0)
        r = begin_part(call, body.has_length ? body.length : 0, &put);
    while (r == 0 && (n = s3_body_next(&body, &data)) != 0)
        r = n < 0 ? (int)n : put_write(put, data, (size_t)n);
    if (r < 0)
        return r;
    memcpy(md5, body.md5_out, 16);
    return put_commit(take_ptr(put), md5, 16, NULL, 0, NULL);
}

/* x-amz-copy-source-range: bytes=FIRST-LAST, both needed. */
static int open_source(struct s3_call *call, struct stream **ret, uint64_t *ret_length)
{
    const char *value = s3_header(call, "x-amz-copy-source-range");
    char source[S3_PATH_MAX], bucket[S3_BUCKET_PATH_MAX];
    unsigned long long first, last;
    const Tarn__Attr *attr;
    char more;

    int r = s3_parse_source(call, s3_header(call, "x-amz-copy-source"), source);
    if (r < 0)
        return r;
    snprintf(bucket, sizeof bucket, "%.*s", (int)(1 + strcspn(source + 1, "/")), source);
    r = stream_open(call->gate, &call->tree, source, ret, &attr);
    if (r < 0)
        return s3_not_found(call, r, bucket);
    *ret_length = attr->size;
    if (value == NULL)
        return 0;
    if (sscanf(value, "bytes=%llu-%llu%c", &first, &last, &more) != 2 || last < first || last >= attr->size)
        return s3_fail(&call->fault, S3_INVALID_ARGUMENT, "x-amz-copy-source-range must be bytes=FIRST-LAST within the source");
    *ret_length = last - first + 1;
    return stream_range(*ret, first, *ret_length);
}

static int copy_part(struct s3_call *call, uint8_t md5_out[16])
{
    _cleanup_(stream_close) struct stream *from = NULL;
    _cleanup_(put_abortp) struct put *put = NULL;
    _cleanup_(digest_fini) struct digest md5 = {0};
    const void *data;
    uint64_t length;
    int64_t n;

    int r = open_source(call, &from, &length);
    if (r == 0)
        r = digest_init(&md5, DIGEST_MD5);
    if (r == 0)
        r = begin_part(call, length, &put);
    while (r == 0 && (n = stream_next(from, &data)) != 0) {
        if (n < 0)
            return (int)n;
        digest_update(&md5, data, (size_t)n);
        r = put_write(put, data, (size_t)n);
    }
    if (r < 0)
        return r;
    digest_final(&md5, md5_out);
    return put_commit(take_ptr(put), md5_out, 16, NULL, 0, NULL);
}

static int reply_part_copied(struct s3_call *call, const char *etag)
{
    _cleanup_(writer_fini) struct writer xml = {0};
    char date[TEXT_DATE_SIZE];

    text_iso_date(io_real_ns(call->gate->io), date);
    xml_begin(&xml, "CopyPartResult");
    xml_text(&xml, "LastModified", date);
    text_format(&xml, "<ETag>&quot;%s&quot;</ETag>", etag);
    xml_close(&xml, "CopyPartResult");
    return s3_reply_xml(call, 200, &xml);
}

int s3_upload_part(struct s3_call *call)
{
    bool copy = s3_header(call, "x-amz-copy-source") != NULL;
    uint8_t md5[16];
    char etag[33];

    int r = check_upload(call);
    if (r == 0)
        r = copy ? copy_part(call, md5) : receive_part(call, md5);
    if (r < 0)
        return r;
    text_hex(md5, 16, etag);
    if (copy)
        return reply_part_copied(call, etag);
    r = http_reply_header(call->http, "ETag", "\"%s\"", etag);
    return r < 0 ? r : s3_reply_empty(call, 200);
}

/* ---- the parts that are there ---- */

static void parts_fini(struct parts *parts)
{
    free(parts->parts);
}

static int add_part(struct parts *parts, const Tarn__DirEntry *entry)
{
    uint64_t number;

    if (text_parse_u64(entry->name, &number) < 0 || number > PARTS_MAX || entry->attr == NULL || entry->attr->etag.len != 16)
        return 0;
    if (parts->count % PAGE == 0) {
        struct part *more = realloc(parts->parts, (parts->count + PAGE) * sizeof more[0]);
        if (more == NULL)
            return -E_NOMEM;
        parts->parts = more;
    }
    struct part *part = &parts->parts[parts->count++];
    part->number = (unsigned)number;
    part->size = entry->attr->size;
    part->mtime = entry->attr->mtime;
    memcpy(part->md5, entry->attr->etag.data, 16);
    return 0;
}

/* In order of number: names have leading zeros. */
static int load_parts(struct s3_call *call, struct parts *ret)
{
    char path[PATH_ROOM], after[KEY_NAME_MAX + 1] = "";

    entry_path(s3_param(call, "uploadId"), "", path);
    for (bool end = false; !end;) {
        Tarn__ReadDirReply *page;
        int r = tree_readdir(&call->tree, path, after, PAGE, &page);
        if (r < 0)
            return r;
        for (size_t i = 0; r == 0 && i < page->n_entries; i++)
            r = add_part(ret, page->entries[i]);
        end = page->end || page->n_entries == 0;
        if (!end)
            snprintf(after, sizeof after, "%s", page->entries[page->n_entries - 1]->name);
        tarn__read_dir_reply__free_unpacked(page, NULL);
        if (r < 0)
            return r;
    }
    return 0;
}

static const struct part *find_part(const struct parts *parts, unsigned number)
{
    for (size_t low = 0, high = parts->count; low < high;) {
        size_t middle = (low + high) / 2;
        if (parts->parts[middle].number == number)
            return &parts->parts[middle];
        if (parts->parts[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* The upload's marker goes first: without it the upload does not exist. What stays after a crash in between is
 * unreachable and small work for an administrator: parts nobody can complete. */
static int remove_upload(struct s3_call *call, const struct parts *parts)
{
    const char *id = s3_param(call, "uploadId");
    char path[PATH_ROOM];

    entry_path(id, "upload", path);
    int r = tree_unlink(&call->tree, path, true);
    for (size_t i = 0; (r == 0 || r == -E_NOENT) && i < parts->count; i++) {
        part_path(id, parts->parts[i].number, path);
        r = tree_unlink(&call->tree, path, true);
    }
    return r == -E_NOENT ? 0 : r;
}

/* ---- CompleteMultipartUpload ---- */

struct completion {
    struct part *parts; /* number and md5 as the client has them */
    size_t count;
    struct part next;
    bool has_etag;
};

static int visit(void *arg, const char *path, const char *text)
{
    struct completion *completion = arg;
    char digits[33] = "";
    uint64_t n;

    if (strcmp(path, "/CompleteMultipartUpload/Part/PartNumber") == 0) {
        if (text_parse_u64(text, &n) < 0 || n < 1 || n > PARTS_MAX)
            return -E_PROTO;
        completion->next.number = (unsigned)n;
    } else if (strcmp(path, "/CompleteMultipartUpload/Part/ETag") == 0) {
        size_t quote = *text == '"';
        snprintf(digits, sizeof digits, "%.32s", text + quote);
        completion->has_etag = text_unhex(digits, 32, completion->next.md5) &&
                               (text[quote + 32] == 0 || strcmp(text + quote + 32, "\"") == 0);
    } else if (strcmp(path, "/CompleteMultipartUpload/Part") == 0) {
        if (completion->count == PARTS_MAX || completion->next.number == 0 || !completion->has_etag)
            return -E_PROTO;
        completion->parts[completion->count++] = completion->next;
        completion->next.number = 0;
        completion->has_etag = false;
    }
    return 0;
}

static int read_completion(struct s3_call *call, struct completion *ret)
{
    _cleanup_free_ char *text = NULL;
    size_t n;

    int r = s3_body_all(call, COMPLETE_BODY_MAX, &text, &n);
    if (r < 0)
        return r;
    ret->parts = calloc(PARTS_MAX, sizeof ret->parts[0]);
    if (ret->parts == NULL)
        return -E_NOMEM;
    r = xml_parse(text, n, "CompleteMultipartUpload", visit, ret);
    if (r == -E_PROTO || (r == 0 && ret->count == 0))
        return s3_fail(&call->fault, S3_MALFORMED_XML, NULL);
    for (size_t i = 1; r == 0 && i < ret->count; i++)
        if (ret->parts[i].number <= ret->parts[i - 1].number)
            r = s3_fail(&call->fault, S3_INVALID_PART_ORDER, NULL);
    return r;
}

static void completion_fini(struct completion *completion)
{
    free(completion->parts);
}

static int check_parts(struct s3_call *call, const struct completion *completion, const struct parts *there,
                       uint64_t *ret_size)
{
    *ret_size = 0;
    for (size_t i = 0; i < completion->count; i++) {
        const struct part *part = find_part(there, completion->parts[i].number);
        if (part == NULL || memcmp(part->md5, completion->parts[i].md5, 16) != 0)
            return s3_fail(&call->fault, S3_INVALID_PART, "Part %u was not uploaded or has another ETag",
                           completion->parts[i].number);
        if (part->size < PART_BYTES_MIN && i + 1 < completion->count)
            return s3_fail(&call->fault, S3_ENTITY_TOO_SMALL, "Part %u has %llu bytes; all but the last need 5 MiB",
                           part->number, (unsigned long long)part->size);
        if (add_overflows(*ret_size, part->size, ret_size))
            return s3_fail(&call->fault, S3_ENTITY_TOO_LARGE, NULL);
    }
    return 0;
}

static int completion_etag(const struct completion *completion, uint8_t out[S3_MULTIPART_ETAG_BYTES])
{
    _cleanup_(digest_fini) struct digest md5 = {0};
    uint8_t of_all[16];

    int r = digest_init(&md5, DIGEST_MD5);
    if (r < 0)
        return r;
    for (size_t i = 0; i < completion->count; i++)
        digest_update(&md5, completion->parts[i].md5, 16);
    digest_final(&md5, of_all);
    s3_multipart_etag(of_all, (uint32_t)completion->count, out);
    return 0;
}

/* One change: the object appears with the parts' bytes, the parts go. */
static int commit(struct s3_call *call, const struct completion *completion, const Tarn__GetXattrReply *upload,
                  uint64_t size, uint8_t etag[S3_MULTIPART_ETAG_BYTES])
{
    _cleanup_(s3_attrs_fini) struct s3_attrs attrs = {0};
    _cleanup_free_ Tarn__Where *wheres = calloc(completion->count, sizeof wheres[0]);
    _cleanup_free_ Tarn__Where **from = calloc(completion->count, sizeof from[0]);
    _cleanup_free_ char *paths = malloc(completion->count * PATH_ROOM);
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    Tarn__Where parent = TARN__WHERE__INIT;

    if (wheres == NULL || from == NULL || paths == NULL)
        return -E_NOMEM;
    int r = s3_attrs_copy(&attrs, upload);
    if (r < 0)
        return r;
    for (size_t i = 0; i < completion->count; i++) {
        part_path(s3_param(call, "uploadId"), completion->parts[i].number, paths + i * PATH_ROOM);
        tarn__where__init(&wheres[i]);
        wheres[i].path = paths + i * PATH_ROOM;
        from[i] = &wheres[i];
    }
    parent.path = call->bucket_path;
    object.parent = &parent;
    object.path = call->path + strlen(call->bucket_path) + 1;
    object.mode = s3_mode(call);
    object.etag = (ProtobufCBinaryData){.data = etag, .len = S3_MULTIPART_ETAG_BYTES};
    object.xattrs = attrs.pairs;
    object.n_xattrs = attrs.count;
    object.from = from;
    object.n_from = completion->count;
    Tarn__Entry *made;
    r = tree_commit(&call->tree, &object, &made);
    if (r < 0)
        return r;
    /* A part that was uploaded again meanwhile: what is there now is whole, but not what was asked for. */
    bool whole = made->attr != NULL && made->attr->size == size;
    tarn__entry__free_unpacked(made, NULL);
    return whole ? 0 : s3_fail(&call->fault, S3_INVALID_PART, "A part was replaced while the upload was completed");
}

/* An answer that got lost is asked for again: the upload is gone, and its object is there. */
static bool completed_before(struct s3_call *call, const uint8_t etag[S3_MULTIPART_ETAG_BYTES])
{
    Tarn__LookupReply *reply;
    char path[S3_PATH_MAX + 8];

    strcpy(path, call->path);
    if (s3_lookup(call, path, &reply) < 0)
        return false;
    const ProtobufCBinaryData *have = &reply->attr->etag;
    bool same = have->len == S3_MULTIPART_ETAG_BYTES && memcmp(have->data, etag, have->len) == 0;
    tarn__lookup_reply__free_unpacked(reply, NULL);
    return same;
}

static int reply_completed(struct s3_call *call, uint8_t etag[S3_MULTIPART_ETAG_BYTES])
{
    _cleanup_(writer_fini) struct writer xml = {0};
    Tarn__Attr attr = TARN__ATTR__INIT;
    char text[S3_ETAG_SIZE];

    attr.etag = (ProtobufCBinaryData){.data = etag, .len = S3_MULTIPART_ETAG_BYTES};
    s3_etag(&attr, text);
    xml_begin(&xml, "CompleteMultipartUploadResult");
    xml_open(&xml, "Location");
    uri_encode(&xml, call->bucket_path, strlen(call->bucket_path), true);
    writer_u8(&xml, '/');
    uri_encode(&xml, call->key, strlen(call->key), true);
    xml_close(&xml, "Location");
    xml_text(&xml, "Bucket", call->bucket);
    xml_text(&xml, "Key", call->key);
    text_format(&xml, "<ETag>&quot;%s&quot;</ETag>", text);
    xml_close(&xml, "CompleteMultipartUploadResult");
    return s3_reply_xml(call, 200, &xml);
}

/* The parts that were uploaded and not named; both lists are in order of number. */
static void keep_unused(struct parts *there, const struct completion *completion)
{
    size_t kept = 0, named = 0;

    for (size_t i = 0; i < there->count; i++) {
        while (named < completion->count && completion->parts[named].number < there->parts[i].number)
            named++;
        if (named == completion->count || completion->parts[named].number != there->parts[i].number)
            there->parts[kept++] = there->parts[i];
    }
    there->count = kept;
}

static int complete(struct s3_call *call, const struct completion *completion, const Tarn__GetXattrReply *upload,
                    uint8_t etag[S3_MULTIPART_ETAG_BYTES])
{
    _cleanup_(parts_fini) struct parts there = {0};
    uint64_t size;

    int r = load_parts(call, &there);
    if (r == 0)
        r = check_parts(call, completion, &there, &size);
    if (r == 0)
        r = commit(call, completion, upload, size, etag);
    if (r < 0)
        return r == -E_NOENT ? s3_not_found(call, r, call->bucket_path) : r;
    keep_unused(&there, completion);
    remove_upload(call, &there); /* what it leaves is only space: the object is complete */
    return 0;
}

int s3_complete_multipart_upload(struct s3_call *call)
{
    _cleanup_(completion_fini) struct completion completion = {0};
    Tarn__GetXattrReply *upload = NULL;
    uint8_t etag[S3_MULTIPART_ETAG_BYTES];

    int r = read_completion(call, &completion);
    if (r == 0)
        r = completion_etag(&completion, etag);
    if (r < 0)
        return r;
    r = find_upload(call, &upload);
    if (r == 0) {
        r = complete(call, &completion, upload, etag);
        tarn__get_xattr_reply__free_unpacked(upload, NULL);
    } else if (call->fault.code == S3_NO_SUCH_UPLOAD) {
        if (completed_before(call, etag))
            r = 0;
        else
            r = s3_fail(&call->fault, S3_NO_SUCH_UPLOAD, NULL);
    }
    return r < 0 ? r : reply_completed(call, etag);
}

/* ---- AbortMultipartUpload, ListParts, ListMultipartUploads ---- */

int s3_abort_multipart_upload(struct s3_call *call)
{
    _cleanup_(parts_fini) struct parts parts = {0};

    int r = check_upload(call);
    if (r == 0)
        r = load_parts(call, &parts);
    if (r == 0)
        r = remove_upload(call, &parts);
    return r < 0 ? r : s3_reply_empty(call, 204);
}

static void add_part_xml(struct writer *xml, const struct part *part)
{
    char etag[33], date[TEXT_DATE_SIZE];

    text_hex(part->md5, 16, etag);
    text_iso_date(part->mtime, date);
    xml_open(xml, "Part");
    xml_number(xml, "PartNumber", part->number);
    xml_text(xml, "LastModified", date);
    text_format(xml, "<ETag>&quot;%s&quot;</ETag>", etag);
    xml_number(xml, "Size", part->size);
    xml_close(xml, "Part");
}

static int number_param(struct s3_call *call, const char *name, uint64_t otherwise, uint64_t *ret)
{
    const char *value = s3_param(call, name);

    *ret = otherwise;
    if (value == NULL || text_parse_u64(value, ret) == 0)
        return 0;
    return s3_fail(&call->fault, S3_INVALID_ARGUMENT, "%s must be a number", name);
}

int s3_list_parts(struct s3_call *call)
{
    _cleanup_(writer_fini) struct writer xml = {0};
    _cleanup_(parts_fini) struct parts parts = {0};
    uint64_t after, max;
    size_t i = 0, n = 0;

    int r = check_upload(call);
    if (r == 0)
        r = number_param(call, "part-number-marker", 0, &after);
    if (r == 0)
        r = number_param(call, "max-parts", PAGE, &max);
    if (r == 0)
        r = load_parts(call, &parts);
    if (r < 0)
        return r;
    max = MIN(max, (uint64_t)PAGE);
    xml_begin(&xml, "ListPartsResult");
    xml_text(&xml, "Bucket", call->bucket);
    xml_text(&xml, "Key", call->key);
    xml_text(&xml, "UploadId", s3_param(call, "uploadId"));
    xml_number(&xml, "PartNumberMarker", after);
    xml_number(&xml, "MaxParts", max);
    while (i < parts.count && parts.parts[i].number <= after)
        i++;
    for (; i < parts.count && n < max; i++, n++)
        add_part_xml(&xml, &parts.parts[i]);
    if (n > 0)
        xml_number(&xml, "NextPartNumberMarker", parts.parts[i - 1].number);
    xml_bool(&xml, "IsTruncated", i < parts.count);
    xml_text(&xml, "StorageClass", "STANDARD");
    xml_close(&xml, "ListPartsResult");
    return s3_reply_xml(call, 200, &xml);
}

/* The asking user's uploads into this bucket; in the order of their ids, all of them at once. */
static int add_upload(struct s3_call *call, const char *id, struct writer *xml)
{
    Tarn__GetXattrReply *xattrs;
    char path[PATH_ROOM];

    if (!id_ok(id))
        return 0;
    entry_path(id, "upload", path);
    int r = tree_xattrs(&call->tree, path, &xattrs);
    if (r < 0)
        return r == -E_NOENT || r == -E_ACCES || r == -E_NOTDIR ? 0 : r;
    for (size_t i = 0; xattr_is(xattrs, XATTR_BUCKET, call->bucket) && i < xattrs->n_pairs; i++) {
        const Tarn__XattrPair *pair = xattrs->pairs[i];
        if (strcmp(pair->name, XATTR_KEY) != 0)
            continue;
        _cleanup_free_ char *key = pair->value.len == 0 ? strdup("") : strndup((const char *)pair->value.data, pair->value.len);
        xml_open(xml, "Upload");
        xml_text(xml, "Key", key == NULL ? "" : key);
        xml_text(xml, "UploadId", id);
        xml_close(xml, "Upload");
    }
    tarn__get_xattr_reply__free_unpacked(xattrs, NULL);
    return 0;
}

static int add_uploads(struct s3_call *call, struct writer *xml)
{
    char after[KEY_NAME_MAX + 1] = "";

    for (bool end = false; !end;) {
        Tarn__ReadDirReply *page;
        int r = tree_readdir(&call->tree, UPLOADS_DIR, after, PAGE, &page);
        if (r < 0)
            return r == -E_NOENT ? 0 : r;
        for (size_t i = 0; r == 0 && i < page->n_entries; i++)
            r = add_upload(call, page->entries[i]->name, xml);
        end = page->end || page->n_entries == 0;
        if (!end)
            snprintf(after, sizeof after, "%s", page->entries[page->n_entries - 1]->name);
        tarn__read_dir_reply__free_unpacked(page, NULL);
        if (r < 0)
            return r;
    }
    return 0;
}

int s3_list_multipart_uploads(struct s3_call *call)
{
    _cleanup_(writer_fini) struct writer xml = {0};

    int r = s3_need_bucket(call, call->bucket_path, NULL);
    xml_begin(&xml, "ListMultipartUploadsResult");
    xml_text(&xml, "Bucket", call->bucket);
    if (r == 0)
        r = add_uploads(call, &xml);
    xml_bool(&xml, "IsTruncated", false);
    xml_close(&xml, "ListMultipartUploadsResult");
    return r < 0 ? r : s3_reply_xml(call, 200, &xml);
}
