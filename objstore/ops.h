/* The table of requests a store answers; docs/protocols/object.md says what each means. (proto/ops.h
 * has the numbers.) */
#ifndef TARN_OBJSTORE_OPS_H
#define TARN_OBJSTORE_OPS_H

#include "common/rpc.h"

extern const struct rpc_op store_ops[];
extern const size_t store_n_ops;

#endif
