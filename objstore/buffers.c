#include "buffers.h"

#include "common/check.h"
#include "common/err.h"

static size_t class_bytes(size_t n)
{
    if (n <= BUFFER_SMALL_BYTES)
        return BUFFER_SMALL_BYTES;
    return n <= BUFFER_LARGE_BYTES ? BUFFER_LARGE_BYTES : BUFFER_BYTES_MAX;
}

void buffers_init(struct buffers *b)
{
    *b = (struct buffers){.used = 0};
}

void buffers_fini(struct buffers *b)
{
    CHECK(b->used == 0);
    for (unsigned class = 0; class < 2; class++)
        while (b->n_idle[class] > 0)
            free(b->idle[class][--b->n_idle[class]]);
}

int buffers_get(struct buffers *b, size_t n, uint8_t **ret)
{
    CHECK(n <= BUFFER_BYTES_MAX);
    size_t bytes = class_bytes(n);
    if (b->used + bytes > BUFFERS_BYTES_MAX)
        return -E_BUSY;
    unsigned class = bytes == BUFFER_SMALL_BYTES ? 0 : 1;
    void *buffer;
    if (bytes != BUFFER_BYTES_MAX && b->n_idle[class] > 0)
        buffer = b->idle[class][--b->n_idle[class]];
    else if (posix_memalign(&buffer, 4096, bytes) != 0)
        return -E_NOMEM;
    b->used += bytes;
    *ret = buffer;
    return 0;
}

void buffers_put(struct buffers *b, size_t n, uint8_t *buffer)
{
    if (buffer == NULL)
        return;
    size_t bytes = class_bytes(n);
    unsigned class = bytes == BUFFER_SMALL_BYTES ? 0 : 1;
    CHECK(b->used >= bytes);
    b->used -= bytes;
    if (bytes != BUFFER_BYTES_MAX && b->n_idle[class] < BUFFERS_IDLE_MAX)
        b->idle[class][b->n_idle[class]++] = buffer;
    else
        free(buffer);
}
