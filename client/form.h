/* How the bytes of an extent lie on the disks that are named for it, in a word for users (docs/protocols/api.md).
 * Threads: any. */
#ifndef TARN_CLIENT_FORM_H
#define TARN_CLIENT_FORM_H

#include "meta.pb-c.h"

/* "open": may still change; "replicated", "coded": the chunk is these bytes and nothing else; "packed": they are a part of a chunk
 * that others share (a piece that is all of its container is not); "compressed": only zstd frames of them are there. Static. */
const char *extent_form(const Tarn__Extent *extent);

#endif
