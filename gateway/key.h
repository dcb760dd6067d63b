/* S3 keys as paths below a bucket's directory, and back. Nearly every key is its own path; the ones a path
 * cannot say (empty components, "." and "..", components over 255 bytes, and the names used for these) are
 * spelled with a leading '%'. One to one in both directions: every path is the spelling of exactly one key, so a
 * file made through the mount has a key too. Table and reasons: docs/protocols/s3.md. Pure. */
#ifndef TARN_GATEWAY_KEY_H
#define TARN_GATEWAY_KEY_H

#include "common/base.h"

#define KEY_MAX 1024
#define KEY_NAME_MAX 255
/* Worst: 1024 slashes are 1025 empty components of two bytes each, 3074 bytes. */
#define KEY_PATH_MAX 3200

/* Errors: -E_INVAL empty key; -E_NAMETOOLONG over KEY_MAX bytes. */
int key_to_path(const char *key, char out[KEY_PATH_MAX]);
/* The key of a path without leading, trailing or double slashes; out as large as the path and its NUL. */
void key_from_path(const char *path, char *out);
/* A path prefix that the paths of all keys with this prefix have. Other paths may have it as well: filter by
 * key. "" gives "". -E_NAMETOOLONG as above. */
int key_prefix_to_path(const char *prefix, char out[KEY_PATH_MAX]);

#endif
