/* Reads of one file beside reads of another one with the same content, by pread(2): of a file of the mount beside a raw file.
 * file_read FILE OTHER BLOCK RUNS: prints a line "file_seconds other_seconds" a run, of one read.
 *
 * A run is SLICES short slices, each side in turn and every second time the other first, so that what else the
 * machine does falls on both. Both files are read once before, and compared. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SLICES 16
#define LARGE ((size_t)1 << 20) /* blocks from here on are read in order, smaller ones at random */
#define READS_SMALL ((size_t)50000) /* of a run */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static double read_some(int fd, char *buf, size_t block, size_t n_blocks, size_t first, size_t n)
{
    double start = now();
    for (size_t i = first; i < first + n; i++) {
        size_t at = block >= LARGE ? i % n_blocks : (i * 2654435761u) % n_blocks;
        if (pread(fd, buf, block, (off_t)(at * block)) != (ssize_t)block)
            fail("pread");
    }
    return now() - start;
}

static void warm_and_compare(const int fds[2], size_t size)
{
    char *bufs[2] = {malloc(LARGE), malloc(LARGE)};
    for (size_t at = 0; at < size; at += LARGE) {
        size_t n = size - at < LARGE ? size - at : LARGE;
        for (unsigned i = 0; i < 2; i++)
            if (bufs[i] == NULL || pread(fds[i], bufs[i], n, (off_t)at) != (ssize_t)n)
                fail("pread");
        if (memcmp(bufs[0], bufs[1], n) != 0) {
            fprintf(stderr, "file_read: the contents differ\n");
            exit(1);
        }
    }
    free(bufs[0]);
    free(bufs[1]);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: file_read FILE OTHER BLOCK RUNS\n");
        return 2;
    }
    int fds[2] = {open(argv[1], O_RDONLY), open(argv[2], O_RDONLY)};
    size_t block = strtoul(argv[3], NULL, 10);
    struct stat st;
    if (fds[0] < 0 || fds[1] < 0 || fstat(fds[1], &st) < 0 || block == 0 || (size_t)st.st_size < block)
        fail("open");
    char *buf = aligned_alloc(4096, (block + 4095) / 4096 * 4096);
    size_t n_blocks = (size_t)st.st_size / block, n = (block >= LARGE ? 8 * n_blocks : READS_SMALL) / SLICES;
    if (buf == NULL)
        fail("memory");
    warm_and_compare(fds, (size_t)st.st_size);
    for (int run = 0, runs = atoi(argv[4]); run < runs; run++) {
        double seconds[2] = {0, 0};
        for (size_t i = 0; i < SLICES; i++)
            for (size_t side = 0; side < 2; side++)
                seconds[side ^ (i % 2)] += read_some(fds[side ^ (i % 2)], buf, block, n_blocks, i * n, n);
        printf("%.12f %.12f\n", seconds[0] / (double)(SLICES * n), seconds[1] / (double)(SLICES * n));
    }
    return 0;
}
