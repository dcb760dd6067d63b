/* Bytes of a stored object, window by window, the next ones being read while the last ones are sent. Small objects come
 * with their attributes in one question. Threads: the io's; fibers. */
#ifndef TARN_GATEWAY_STREAM_H
#define TARN_GATEWAY_STREAM_H

#include "gate.h"
#include "tree.h"

#define STREAM_WINDOW MIB(1)
#define STREAM_WINDOWS 4 /* 4 MiB of memory for each response */

struct stream;
/* Opens the file at path (a directory: its "%self" entry). *ret_attr is borrowed from the stream. The bytes are those of
 * the moment of opening, also when the object is replaced meanwhile. Errors: -E_NOENT, -E_NOTDIR, -E_ISDIR (a directory
 * without an object of its name), -E_ACCES. */
int stream_open(struct gate *gate, const struct tree *tree, const char *path, struct stream **ret, const Tarn__Attr **ret_attr);
/* The file's path as it turned out, for more questions about it. */
const char *stream_path(const struct stream *stream);
/* Once, before the first stream_next(). */
int stream_range(struct stream *stream, uint64_t offset, uint64_t length);
/* The next bytes, borrowed until the next call; 0 at the end of the range. -E_IO when the file has become shorter. */
int64_t stream_next(struct stream *stream, const void **ret_data);
void stream_close(struct stream **stream); /* waits for a read under way */

#endif
