/* Reads through libtarn beside pread(2) of an ordinary file of the same content.
 * local_read TARN_PATH FILE SIZE BLOCK RUNS: prints a line "tarn_seconds file_seconds" a run, of
 * one read.
 *
 * A run is SLICES short slices, each side in turn and every second time the other first, so that
 * what else the machine does falls on both. Both files are read once before, with the same
 * requests, and compared. Afterwards the kernel's counters must show one read(2) of this process
 * for each read through libtarn, and it must hold a descriptor of a chunk's file: the bytes did
 * come from there. */
#include "tarn.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SLICES 16
#define LARGE ((size_t)1 << 20) /* blocks from here on are read in order, smaller ones at random   \
                                 */
#define READS_SMALL ((size_t)200000) /* of a run */

struct bench {
    struct tarn_file *file;
    int fd;
    size_t block, n_blocks;
    char *buf, *other;
};

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "local_read: %s: %s\n", what, why);
    exit(1);
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* The same blocks for both sides. */
static off_t block_at(const struct bench *bench, size_t i)
{
    size_t at = bench->block >= LARGE ? i % bench->n_blocks : (i * 2654435761u) % bench->n_blocks;
    return (off_t)(at * bench->block);
}

static double read_tarn(const struct bench *bench, size_t first, size_t n)
{
    double start = now();
    for (size_t i = first; i < first + n; i++)
        if (tarn_pread(bench->file, bench->buf, bench->block, block_at(bench, i)) !=
            (ssize_t)bench->block)
            fail("tarn_pread", tarn_error());
    return now() - start;
}

static double read_file(const struct bench *bench, size_t first, size_t n)
{
    double start = now();
    for (size_t i = first; i < first + n; i++)
        if (pread(bench->fd, bench->buf, bench->block, block_at(bench, i)) != (ssize_t)bench->block)
            fail("pread", "too few bytes");
    return now() - start;
}

static void warm_and_compare(const struct bench *bench, size_t size)
{
    size_t n = size < LARGE ? size : LARGE;
    for (size_t at = 0; at + n <= size; at += n)
        if (tarn_pread(bench->file, bench->buf, n, (off_t)at) != (ssize_t)n ||
            pread(bench->fd, bench->other, n, (off_t)at) != (ssize_t)n ||
            memcmp(bench->buf, bench->other, n) != 0)
            fail("the contents differ", tarn_error());
}

/* read(2) and its kind, of all threads of this process. */
static unsigned long long read_calls(void)
{
    unsigned long long calls = 0;
    FILE *io = fopen("/proc/self/io", "re");
    if (io == NULL || fscanf(io, "rchar: %*u wchar: %*u syscr: %llu", &calls) != 1)
        fail("/proc/self/io", "cannot read it");
    fclose(io);
    return calls;
}

static bool holds_chunk(void)
{
    bool found = false;
    DIR *dir = opendir("/proc/self/fd");
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char target[512];
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);
        target[n > 0 ? n : 0] = '\0';
        found |= strstr(target, "/chunks/") != NULL;
    }
    if (dir != NULL)
        closedir(dir);
    return found;
}

static void run(const struct bench *bench, size_t reads)
{
    double tarn = 0, file = 0;
    size_t n = reads / SLICES;
    unsigned long long calls = read_calls();
    for (size_t i = 0; i < SLICES; i++) {
        if (i % 2 == 0)
            tarn += read_tarn(bench, i * n, n);
        file += read_file(bench, i * n, n);
        if (i % 2 != 0)
            tarn += read_tarn(bench, i * n, n);
    }
    calls = read_calls() - calls;
    /* Once a second libtarn asks again whether the descriptor is still the file: that read has no
     * call. */
    if (calls < 2 * SLICES * n - SLICES * n / 20 - 2 || !holds_chunk())
        fail("libtarn", "did not read from a chunk's file");
    printf("%.12f %.12f\n", tarn / (double)(SLICES * n), file / (double)(SLICES * n));
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: local_read TARN_PATH FILE SIZE BLOCK RUNS\n");
        return 2;
    }
    size_t size = strtoul(argv[3], NULL, 10);
    struct bench bench = {.block = strtoul(argv[4], NULL, 10), .fd = open(argv[2], O_RDONLY)};
    struct tarn *tarn = NULL;
    bench.n_blocks = bench.block != 0 ? size / bench.block : 0;
    bench.buf = aligned_alloc(4096, LARGE > bench.block ? LARGE : bench.block);
    bench.other = aligned_alloc(4096, LARGE);
    if (bench.fd < 0 || bench.n_blocks == 0 || bench.buf == NULL || bench.other == NULL)
        fail(argv[2], "cannot begin");
    if (tarn_open(NULL, &tarn) < 0 || tarn_file_open(tarn, argv[1], O_RDONLY, 0, &bench.file) < 0)
        fail("open", tarn_error());
    warm_and_compare(&bench, size);
    size_t reads = bench.block >= LARGE ? 8 * bench.n_blocks : READS_SMALL;
    for (int i = 0, runs = atoi(argv[5]); i < runs; i++)
        run(&bench, reads);
    tarn_file_close(bench.file);
    tarn_close(tarn);
    close(bench.fd);
    free(bench.buf);
    free(bench.other);
    return 0;
}
