/* Runs a test's body as the first fiber of a fresh io: of the ring, or of a host of the simulator. */
#ifndef TARN_TESTS_CLIENT_HARNESS_H
#define TARN_TESTS_CLIENT_HARNESS_H

#include "common/io.h"

/* host: for addresses, "tcp:HOST:0"; dir: an empty directory. */
typedef void (*harness_body)(struct io *io, const char *host, const char *dir, const void *arg);
void harness_ring(harness_body body, const void *arg);
void harness_sim(uint64_t seed, harness_body body, const void *arg);

#endif
