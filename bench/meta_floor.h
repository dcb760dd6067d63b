/* What one synced change costs at least on this machine, with as many replicas on one disk: the writes and messages that a
 * replicated log cannot do without, in processes that do nothing else. A client sends 512 bytes to the leader; the leader sends
 * them to each follower and writes them; a follower writes them and answers; with a majority on disk the client is answered.
 * TCP over loopback, blocking calls, O_DIRECT|O_DSYNC into space written before. */
#ifndef TARN_BENCH_META_FLOOR_H
#define TARN_BENCH_META_FLOOR_H

#define FLOOR_REPLICAS_MAX 5

struct floor;
/* Starts the processes; their files are made in `dir`. Ends the program with a sentence when something fails. */
struct floor *floor_start(const char *dir, unsigned replicas);
/* `n` changes one after the other. Seconds. */
double floor_changes(struct floor *floor, unsigned n);
void floor_stop(struct floor *floor); /* ends the processes, removes the files */

#endif
