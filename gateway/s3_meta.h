/* What S3 keeps beside an object's bytes: headers and user metadata as extended attributes "user.s3.*", the ETag.
 * The page is docs/protocols/s3.md. Threads: any. */
#ifndef TARN_GATEWAY_S3_META_H
#define TARN_GATEWAY_S3_META_H

#include "s3_call.h"

#define S3_XATTR "user.s3."
#define S3_META_MAX KIB(2) /* user metadata, as in S3 */
#define S3_ETAG_SIZE 140

struct s3_attrs {
    Tarn__XattrPair **pairs;
    size_t count;
};
/* From the request's headers. Errors: MetadataTooLarge, -E_NOMEM. */
int s3_attrs_collect(struct s3_call *call, struct s3_attrs *ret);
int s3_attrs_add(struct s3_attrs *attrs, const char *name, const void *value, size_t n);
/* All of a reply's "user.s3." attributes. */
int s3_attrs_copy(struct s3_attrs *attrs, const Tarn__GetXattrReply *from);
void s3_attrs_fini(struct s3_attrs *attrs);

/* Sets the response headers that `xattrs` say, overridden by the query's response-* parameters. */
int s3_meta_reply(struct s3_call *call, const Tarn__GetXattrReply *xattrs);
/* Hexadecimal MD5; "md5-N" of a multipart object; "ino-version" (which nobody takes for an MD5) for a file that has
 * none, because a mount wrote it. Without quotes. */
void s3_etag(const Tarn__Attr *attr, char out[S3_ETAG_SIZE]);
/* The ETag of a multipart object of n parts, as stored: MD5 and n, little-endian. */
#define S3_MULTIPART_ETAG_BYTES 20
void s3_multipart_etag(const uint8_t md5[16], uint32_t n, uint8_t out[S3_MULTIPART_ETAG_BYTES]);
/* Permission bits for x-amz-acl: 0600 for "private", else 0644. */
uint32_t s3_mode(const struct s3_call *call);

#endif
