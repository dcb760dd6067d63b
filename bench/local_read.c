/* Reads through libtarn beside pread(2) of an ordinary file of the same content, interleaved run by run.
 * local_read TARN_PATH FILE SIZE BLOCK RUNS: prints a pair "tarn_seconds file_seconds" a run. */
#include "tarn.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* The same pseudo-random blocks for both sides; sequential when blocks are large. */
static off_t block_at(size_t i, size_t n_blocks, size_t block)
{
    size_t at = block >= 1 << 20 ? i % n_blocks : (i * 2654435761u) % n_blocks;
    return (off_t)(at * block);
}

static double read_tarn(struct tarn_file *file, char *buf, size_t block, size_t n_blocks, size_t reads)
{
    double start = now();
    for (size_t i = 0; i < reads; i++)
        if (tarn_pread(file, buf, block, block_at(i, n_blocks, block)) != (ssize_t)block) {
            fprintf(stderr, "local_read: %s\n", tarn_error());
            exit(1);
        }
    return now() - start;
}

static double read_file(int fd, char *buf, size_t block, size_t n_blocks, size_t reads)
{
    double start = now();
    for (size_t i = 0; i < reads; i++)
        if (pread(fd, buf, block, block_at(i, n_blocks, block)) != (ssize_t)block) {
            perror("local_read: pread");
            exit(1);
        }
    return now() - start;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: local_read TARN_PATH FILE SIZE BLOCK RUNS\n");
        return 2;
    }
    size_t size = strtoul(argv[3], NULL, 10), block = strtoul(argv[4], NULL, 10), n_blocks = size / block;
    int runs = atoi(argv[5]), fd = open(argv[2], O_RDONLY);
    size_t reads = block >= 1 << 20 ? 4 * n_blocks : 200000;
    struct tarn *tarn = NULL;
    struct tarn_file *file = NULL;
    if (fd < 0 || n_blocks == 0 || tarn_open(NULL, &tarn) < 0 || tarn_file_open(tarn, argv[1], O_RDONLY, 0, &file) < 0) {
        fprintf(stderr, "local_read: %s\n", fd < 0 ? "cannot open the file" : tarn_error());
        return 1;
    }
    char *buf = aligned_alloc(4096, block);
    char *check = aligned_alloc(4096, block);
    if (buf == NULL || check == NULL)
        return 1;
    for (size_t i = 0; i < n_blocks; i++) { /* warm both, and make sure that they are the same bytes */
        off_t at = (off_t)(i * block);
        if (tarn_pread(file, buf, block, at) != (ssize_t)block || pread(fd, check, block, at) != (ssize_t)block ||
            memcmp(buf, check, block) != 0) {
            fprintf(stderr, "local_read: the contents differ at %lld\n", (long long)at);
            return 1;
        }
    }
    for (int i = 0; i < runs; i++)
        printf("%.9f %.9f\n", read_tarn(file, buf, block, n_blocks, reads) / (double)reads,
               read_file(fd, buf, block, n_blocks, reads) / (double)reads);
    free(buf);
    free(check);
    tarn_file_close(file);
    tarn_close(tarn);
    return 0;
}
