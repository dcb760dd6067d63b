/* Rows of packing: classes of policies, what waits to be packed, what is being packed. Key: table '2', a room, then
 * what is said below. Pure but for what record.h says. Page: docs/formats/metadata.md. */
#ifndef TARN_METADATA_PACK_ROWS_H
#define TARN_METADATA_PACK_ROWS_H

#include "policy.h"
#include "record.h"

#define PACK_PIECES_MAX 512 /* in one container: its task is 70 KiB, its flip some ten milliseconds */

enum pack_room {
    PACK_CLASS = 1,      /* class: struct pack_class */
    PACK_CLASS_DUE = 2,  /* ns class: empty; when to look at the class next */
    PACK_CANDIDATE = 3,  /* class chunk: struct pack_candidate */
    PACK_JOB = 4,        /* container: struct pack_job */
    PACK_JOB_DUE = 5,    /* ns container: empty */
    PACK_JOB_PIECES = 6, /* container: struct pack_list */
    PACK_COMPACT = 7     /* container: empty; less than half of it is alive */
};

#define PACK_NEVER UINT64_MAX
/* What is kept in the same way may share a container. The number is that of the policy, as groups know it (group.h), and a
 * hash of the affinity and the chunk size in the bits that it leaves free. */
struct pack_class {
    uint64_t id; /* from the key */
    uint8_t copies, domain, shift, code_k, code_m, compress; /* effective, as in struct policy */
    uint64_t affinity;
    uint64_t candidates, bytes; /* waiting */
    uint64_t containers;        /* that there are, those being made too */
    uint64_t due_ns;            /* PACK_NEVER: nothing to do */
    uint64_t next;              /* chunk the next look begins at: many candidates take several */
};
void pack_class_encode(const struct pack_class *c, struct writer *w);
int pack_class_decode(uint64_t id, const void *data, size_t n, struct pack_class *ret);
void pack_class_from(const struct policy *policy, struct pack_class *ret); /* with its number, nothing waiting */
uint64_t pack_class_next(uint64_t id); /* where to look when another class has the number */
void pack_class_policy(const struct pack_class *c, struct policy *ret);    /* effective */
bool pack_class_same(const struct pack_class *a, const struct pack_class *b);

struct pack_candidate {
    uint64_t since_ns; /* 0: at once */
    uint64_t bytes;
};
void pack_candidate_encode(const struct pack_candidate *c, struct writer *w);
int pack_candidate_decode(const void *data, size_t n, struct pack_candidate *ret);

enum pack_state { PACK_MAKING = 1, /* a store writes the container */
                  PACK_COPYING = 2 /* it is there; its other copies are being made */ };
struct pack_job {
    uint64_t container; /* from the key */
    uint8_t state;      /* enum pack_state */
    uint32_t disk;      /* where it is made */
    uint64_t class;
    uint64_t due_ns;
};
void pack_job_encode(const struct pack_job *job, struct writer *w);
int pack_job_decode(uint64_t container, const void *data, size_t n, struct pack_job *ret);

/* A chunk as it was when the job began: it is flipped only if it still is so. */
struct pack_piece {
    uint64_t chunk, generation, body, body_offset;
    uint64_t stored, content; /* bytes to read, and of the content */
    uint8_t form, level;      /* level: as in tarn.Piece */
    /* When made; size 0 = it was left out. */
    uint64_t offset, size;
    uint8_t made;
};
struct pack_list {
    unsigned n;
    struct pack_piece pieces[PACK_PIECES_MAX];
};
#define PACK_LEVEL_RAW 255 /* level: the content itself is wanted, uncompressed */
void pack_list_encode(const struct pack_list *list, struct writer *w);
int pack_list_decode(const void *data, size_t n, struct pack_list *ret);

#endif
