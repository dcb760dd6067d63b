/* JSON of the native API; jansson is in json.c only. Pure. */
#ifndef TARN_GATEWAY_JSON_H
#define TARN_GATEWAY_JSON_H

#include "common/bytes.h"
#include "meta.pb-c.h"

#define JSON_PATHS_MAX 1000000
/* {"paths": [...], "recursive": bool} or {"prefix": "..."}; or one path a line, without any JSON. */
struct json_locations {
    char **paths;
    size_t count;
    bool recursive;
    char *prefix; /* every file whose path begins with it; NULL = not given */
};
/* Errors: -E_INVAL with *ret_why (a literal); -E_NOMEM. */
int json_read_locations(const char *text, size_t n, struct json_locations *ret, const char **ret_why);
void json_locations_fini(struct json_locations *request);

/* One line: path, epoch, size and chunks, or path and error. */
int json_write_file(struct writer *out, const Tarn__LocatedFile *file, uint64_t epoch);
int json_write_status(struct writer *out, const Tarn__StatusReply *status);
int json_write_error(struct writer *out, const char *code, const char *message);

#endif
