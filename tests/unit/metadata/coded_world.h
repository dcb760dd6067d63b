/* Coded objects on a few nodes whose stores do what they are told, for tests of parity groups. */
#ifndef TARN_TEST_METADATA_CODED_WORLD_H
#define TARN_TEST_METADATA_CODED_WORLD_H

#include "metadata/group_make.h"
#include "world.h"

#define SECOND 1000000000ull
#define LENGTH MIB(64)
#define DIGEST 77
#define NODES_MAX_HERE 16

struct coded_world {
    struct world w;
    uint32_t nodes;
    bool down[NODES_MAX_HERE + 1];
};
void coded_begin(struct coded_world *c, unsigned nodes, unsigned racks); /* with the directory /d */
void coded_end(struct coded_world *c);                                   /* after a last look of the checker */
int coded_policy(struct coded_world *c, uint32_t mask, const Tarn__Policy *to); /* of /d */
void coded_code(struct coded_world *c, uint32_t k, uint32_t m);
void coded_copies(struct coded_world *c, uint32_t n);
/* An object of `n` chunks under /d; their ids. */
void coded_put(struct coded_world *c, const char *name, unsigned n, uint64_t *ret_chunks);
bool coded_chunk_find(struct coded_world *c, uint64_t id, struct chunk *ret);
struct chunk coded_chunk(struct coded_world *c, uint64_t id);
unsigned coded_live(const struct chunk *chunk); /* ready copies */
struct group coded_group(struct coded_world *c, uint64_t id);
void coded_work(struct coded_world *c);                   /* the leader's, until nothing is due */
void coded_run(struct coded_world *c, unsigned seconds);  /* stores that are up do what they are told, too */
void coded_set_up(struct coded_world *c, uint32_t node, bool up);
const Tarn__HealStatusReply *coded_status(struct coded_world *c);
/* A new cluster with an object /d/o that is coded already; its chunks. */
void coded_object(struct coded_world *c, unsigned nodes, uint32_t k, uint32_t m, unsigned n, uint64_t *chunks);
/* A new cluster with an object of four chunks whose seals are answered and whose group 4+2 is begun: its builds and
 * verifications wait. */
void coded_making(struct coded_world *c, unsigned nodes, uint64_t *chunks);
Tarn__NodeBeatReply *coded_tasks(struct coded_world *c, uint32_t node);
/* One task's answer, given by hand. */
void coded_report(struct coded_world *c, uint32_t node, const Tarn__ChunkTask *task, int status_code, uint32_t digest);
/* Answers every task of the kind; the first one that is met is answered with `bad` instead. How many. */
unsigned coded_answer(struct coded_world *c, Tarn__ChunkTask__Kind kind, int bad, bool all);

#endif
