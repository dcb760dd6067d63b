/* What a reader feels: 4 KiB at random places of a file, one after the other. read_probe PATH SIZE SECONDS: prints, in
 * microseconds, the median and the 99th of a hundred, and how many reads there were. */
#include "tarn.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BLOCK 4096
#define READS_MAX ((size_t)4 << 20)

_Noreturn static void fail(const char *what, const char *why)
{
    fprintf(stderr, "read_probe: %s: %s\n", what, why);
    exit(1);
}

static double now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec * 1e-3;
}

static int compare(const void *a, const void *b)
{
    const float *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

int main(int argc, char **argv)
{
    struct tarn *tarn = NULL;
    struct tarn_file *file = NULL;
    char buf[BLOCK];
    uint64_t state = 1;
    size_t n = 0;
    if (argc != 4) {
        fprintf(stderr, "usage: read_probe PATH SIZE SECONDS\n");
        return 2;
    }
    size_t blocks = strtoull(argv[2], NULL, 10) / BLOCK;
    float *took = malloc(READS_MAX * sizeof *took);
    if (took == NULL || blocks == 0)
        fail(argv[1], "cannot begin");
    if (tarn_open(NULL, &tarn) < 0 || tarn_file_open(tarn, argv[1], O_RDONLY, 0, &file) < 0)
        fail(argv[1], tarn_error());
    double start = now_us(), end = start + atof(argv[3]) * 1e6, at = start;
    while (at < end && n < READS_MAX) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        if (tarn_pread(file, buf, BLOCK, (off_t)((state >> 33) % blocks * BLOCK)) != BLOCK)
            fail(argv[1], tarn_error());
        double then = now_us();
        took[n++] = (float)(then - at);
        at = then;
    }
    if (n < 100)
        fail(argv[1], "too few reads");
    qsort(took, n, sizeof *took, compare);
    printf("%.1f %.1f %zu\n", (double)took[n / 2], (double)took[n * 99 / 100], n);
    tarn_file_close(file);
    tarn_close(tarn);
    free(took);
    return 0;
}
