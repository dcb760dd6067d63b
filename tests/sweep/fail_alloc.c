#include "fail_alloc.h"

#include <errno.h>

/* glibc's own names for its allocator. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t n);
void *__libc_memalign(size_t align, size_t n);
void __libc_free(void *mem);

static uint64_t left, live;
static bool armed;

void fail_alloc_arm(uint64_t n)
{
    left = n;
    armed = true;
}

bool fail_alloc_disarm(void)
{
    armed = false;
    return left == 0;
}

uint64_t fail_alloc_live(void)
{
    return live;
}

static bool fails(void)
{
    if (!armed || left == 0 || --left > 0)
        return false;
    errno = ENOMEM;
    return true;
}

static void *counted(void *mem)
{
    live += mem != NULL;
    return mem;
}

void *malloc(size_t n)
{
    return fails() ? NULL : counted(__libc_malloc(n));
}

void *calloc(size_t n, size_t size)
{
    return fails() ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *old, size_t n)
{
    if (fails())
        return NULL;
    void *mem = __libc_realloc(old, n);
    live += old == NULL && mem != NULL;
    return mem;
}

void *aligned_alloc(size_t align, size_t n)
{
    return fails() ? NULL : counted(__libc_memalign(align, n));
}

void free(void *mem)
{
    live -= mem != NULL;
    __libc_free(mem);
}
