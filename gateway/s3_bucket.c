/* Buckets: directories of the root. */
#include "s3_body.h"
#include "s3_call.h"
#include "s3_target.h"
#include "s3xml.h"
#include "text.h"
#include "common/err.h"

#include <stdio.h>
#include <unistd.h>

#define BUCKETS_PAGE 1000
#define CONFIGURATION_MAX KIB(16)

/* ---- ListBuckets ---- */

/* A bucket is shown to those who may read it. */
static int add_bucket(struct s3_call *call, const Tarn__DirEntry *entry, struct writer *xml)
{
    char path[S3_BUCKET_PATH_MAX], created[TEXT_DATE_SIZE];

    if (entry->attr == NULL || entry->attr->type != TARN__FILE_TYPE__FT_DIR || !s3_bucket_name_usable(entry->name))
        return 0;
    snprintf(path, sizeof path, "/%s", entry->name);
    int r = tree_access(&call->tree, path, R_OK);
    if (r == -E_ACCES || r == -E_NOENT)
        return 0;
    if (r < 0)
        return r;
    text_iso_date(entry->attr->btime != 0 ? entry->attr->btime : entry->attr->ctime, created);
    xml_open(xml, "Bucket");
    xml_text(xml, "Name", entry->name);
    xml_text(xml, "CreationDate", created);
    xml_close(xml, "Bucket");
    return 0;
}

static int add_buckets(struct s3_call *call, struct writer *xml)
{
    char after[KEY_NAME_MAX + 1] = "";

    for (bool end = false; !end;) {
        Tarn__ReadDirReply *page;
        int r = tree_readdir(&call->tree, "/", after, BUCKETS_PAGE, &page);
        if (r < 0)
            return r;
        for (size_t i = 0; r == 0 && i < page->n_entries; i++)
            r = add_bucket(call, page->entries[i], xml);
        end = page->end || page->n_entries == 0;
        if (!end)
            snprintf(after, sizeof after, "%s", page->entries[page->n_entries - 1]->name);
        tarn__read_dir_reply__free_unpacked(page, NULL);
        if (r < 0)
            return r;
    }
    return 0;
}

int s3_list_buckets(struct s3_call *call)
{
    _cleanup_(writer_fini) struct writer xml = {0};
    char id[16];

    snprintf(id, sizeof id, "%u", call->auth.user.uid);
    xml_begin(&xml, "ListAllMyBucketsResult");
    xml_open(&xml, "Owner");
    xml_text(&xml, "ID", id);
    xml_text(&xml, "DisplayName", call->auth.user.name);
    xml_close(&xml, "Owner");
    xml_open(&xml, "Buckets");
    int r = add_buckets(call, &xml);
    xml_close(&xml, "Buckets");
    xml_close(&xml, "ListAllMyBucketsResult");
    return r < 0 ? r : s3_reply_xml(call, 200, &xml);
}

/* ---- CreateBucket ---- */

static int visit_configuration(void *arg, const char *path, const char *text)
{
    return 0; /* every location is this cluster */
}

static int read_configuration(struct s3_call *call)
{
    _cleanup_free_ char *text = NULL;
    size_t n;

    int r = s3_body_all(call, CONFIGURATION_MAX, &text, &n);
    if (r == 0 && n > 0 && xml_parse(text, n, "CreateBucketConfiguration", visit_configuration, NULL) < 0)
        r = s3_fail(&call->fault, S3_MALFORMED_XML, NULL);
    return r;
}

int s3_create_bucket(struct s3_call *call)
{
    const char *acl = s3_header(call, "x-amz-acl");
    Tarn__Attr attr;

    if (!s3_bucket_name_ok(call->bucket))
        return s3_fail(&call->fault, S3_INVALID_BUCKET_NAME, NULL);
    int r = read_configuration(call);
    if (r == 0)
        r = tree_mkdir(&call->tree, call->bucket_path, acl != NULL && strcmp(acl, "private") == 0 ? 0700 : 0755, false);
    if (r == -E_EXIST) {
        r = s3_need_bucket(call, call->bucket_path, &attr);
        if (r < 0 || attr.uid != call->auth.user.uid)
            return s3_fail(&call->fault, S3_BUCKET_EXISTS, NULL);
    }
    if (r == 0)
        r = http_reply_header(call->http, "Location", "/%s", call->bucket);
    return r < 0 ? r : s3_reply_empty(call, 200);
}

/* ---- the rest ---- */

int s3_head_bucket(struct s3_call *call)
{
    int r = s3_need_bucket(call, call->bucket_path, NULL);
    if (r == 0)
        r = tree_access(&call->tree, call->bucket_path, R_OK);
    if (r == 0)
        r = http_reply_header(call->http, "x-amz-bucket-region", S3_REGION);
    return r < 0 ? r : s3_reply_empty(call, 200);
}

int s3_delete_bucket(struct s3_call *call)
{
    int r = tree_rmdir(&call->tree, call->bucket_path);
    if (r == -E_NOENT || r == -E_NOTDIR)
        return s3_fail(&call->fault, S3_NO_SUCH_BUCKET, NULL);
    return r < 0 ? r : s3_reply_empty(call, 204);
}

int s3_get_bucket_location(struct s3_call *call)
{
    _cleanup_(writer_fini) struct writer xml = {0};

    int r = s3_need_bucket(call, call->bucket_path, NULL);
    xml_begin(&xml, "LocationConstraint"); /* empty is us-east-1 */
    xml_close(&xml, "LocationConstraint");
    return r < 0 ? r : s3_reply_xml(call, 200, &xml);
}

int s3_get_bucket_versioning(struct s3_call *call)
{
    _cleanup_(writer_fini) struct writer xml = {0};

    int r = s3_need_bucket(call, call->bucket_path, NULL);
    xml_begin(&xml, "VersioningConfiguration"); /* empty: was never on */
    xml_close(&xml, "VersioningConfiguration");
    return r < 0 ? r : s3_reply_xml(call, 200, &xml);
}
