/* Queries of the tree and of the cluster's state. Work and answers are bounded: long answers come
 * in pieces. */
#ifndef TARN_METADATA_QUERY_H
#define TARN_METADATA_QUERY_H

#include "tables.h"

#define QUERY_LIST_MAX 1000   /* entries or objects in one answer */
#define QUERY_EXTENTS_MAX 256 /* extents in one answer about one file */
#define QUERY_BYTES_MAX                                                                            \
    KIB(600) /* where an answer about many things stops: well below 1 MiB of control */

int query_lookup(struct tables *t, const void *message);
int query_access(struct tables *t, const void *message);
int query_readdir(struct tables *t, const void *message);
int query_getxattr(struct tables *t, const void *message); /* namespace_xattr.c */
int query_file_map(struct tables *t, const void *message);
int query_status(struct tables *t, const void *message);
int query_list_objects(struct tables *t, const void *message); /* query_list.c */
int query_locations(struct tables *t, const void *message);    /* query_locations.c */

/* Visits the files below `dir` in byte order of their whole keys (paths relative to dir): see
 * query_list.c. */
struct key_walk {
    uint64_t dir;
    const char *prefix; /* keys that begin with it */
    const char *from;   /* first key that may be visited (inclusive lower bound) */
    bool one_level;     /* directories are visited as "name/" and not entered */
    size_t steps_max;   /* entries looked at */
    /* 0 go on, 1 stop before this key, or a negative code. inode: NULL for "name/" of one_level. */
    int (*visit)(void *arg, const char *key, const struct inode *inode);
    void *arg;
    char *ret_stopped; /* out: the key reached when the steps ran out, NULL when the walk came to
                          its end; free() */
};
int key_walk(struct tables *t, struct key_walk *walk);

/* The extents of a file from `offset` on, as messages. */
struct file_map {
    struct extent_message *messages;
    Tarn__Extent **pointers;
    size_t count;
    uint64_t next; /* offset to go on at; 0 = complete */
};
struct cluster;
void file_map_fini(struct file_map *map);
int file_map_load(struct tables *t, const struct inode *inode, const struct cluster *cluster,
                  uint64_t offset, uint64_t length, size_t max, struct file_map *ret);

#endif
