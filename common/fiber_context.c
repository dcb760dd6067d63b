#include "fiber_context.h"
#include "check.h"
#include <signal.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define HAVE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HAVE_TSAN 1
#endif
#endif
#ifdef HAVE_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef HAVE_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#endif

void *fiber_stack_map(void)
{
    void *stack = mmap(NULL, FIBER_STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED)
        return NULL;
    /* Neighbouring stacks may merge into one mapping: a huge page would make all of it resident. */
    (void)madvise(stack, FIBER_STACK_BYTES, MADV_NOHUGEPAGE);
    /* A guard installed this way costs no mapping of its own (vm.max_map_count is 65530). */
    if (madvise(stack, FIBER_GUARD_BYTES, MADV_GUARD_INSTALL) == 0)
        return stack;
    if (mprotect(stack, FIBER_GUARD_BYTES, PROT_NONE) == 0)
        return stack;
    munmap(stack, FIBER_STACK_BYTES);
    return NULL;
}

void fiber_stack_unmap(void *stack)
{
    CHECK(munmap(stack, FIBER_STACK_BYTES) == 0);
}

#ifndef FIBER_UCONTEXT

/* void tarn_fiber_switch(void **save_sp, void *load_sp) */
void tarn_fiber_switch(void **save_sp, void *load_sp);

#if defined(__x86_64__)
__asm__(".text\n"
        ".p2align 4\n"
        ".globl tarn_fiber_switch\n"
        ".hidden tarn_fiber_switch\n"
        ".type tarn_fiber_switch, @function\n"
        "tarn_fiber_switch:\n"
        "  pushq %rbp\n"
        "  pushq %rbx\n"
        "  pushq %r12\n"
        "  pushq %r13\n"
        "  pushq %r14\n"
        "  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n"
        "  popq %r14\n"
        "  popq %r13\n"
        "  popq %r12\n"
        "  popq %rbx\n"
        "  popq %rbp\n"
        "  ret\n"
        ".size tarn_fiber_switch, . - tarn_fiber_switch\n");

/* As if `entry` had just been called: below the aligned top lie a return address of 0 (where
 * debuggers stop), the address to return to, and six registers. */
static void *first_frame(void *top, void (*entry)(void))
{
    void **sp = top;
    *--sp = NULL;
    *--sp = (void *)entry;
    for (int i = 0; i < 6; i++)
        *--sp = NULL;
    return sp;
}
#else
__asm__(".text\n"
        ".p2align 4\n"
        ".globl tarn_fiber_switch\n"
        ".hidden tarn_fiber_switch\n"
        ".type tarn_fiber_switch, %function\n"
        "tarn_fiber_switch:\n"
        "  sub sp, sp, #160\n"
        "  stp x19, x20, [sp, #0]\n"
        "  stp x21, x22, [sp, #16]\n"
        "  stp x23, x24, [sp, #32]\n"
        "  stp x25, x26, [sp, #48]\n"
        "  stp x27, x28, [sp, #64]\n"
        "  stp x29, x30, [sp, #80]\n"
        "  stp d8, d9, [sp, #96]\n"
        "  stp d10, d11, [sp, #112]\n"
        "  stp d12, d13, [sp, #128]\n"
        "  stp d14, d15, [sp, #144]\n"
        "  mov x9, sp\n"
        "  str x9, [x0]\n"
        "  mov sp, x1\n"
        "  ldp x19, x20, [sp, #0]\n"
        "  ldp x21, x22, [sp, #16]\n"
        "  ldp x23, x24, [sp, #32]\n"
        "  ldp x25, x26, [sp, #48]\n"
        "  ldp x27, x28, [sp, #64]\n"
        "  ldp x29, x30, [sp, #80]\n"
        "  ldp d8, d9, [sp, #96]\n"
        "  ldp d10, d11, [sp, #112]\n"
        "  ldp d12, d13, [sp, #128]\n"
        "  ldp d14, d15, [sp, #144]\n"
        "  add sp, sp, #160\n"
        "  ret\n"
        ".size tarn_fiber_switch, . - tarn_fiber_switch\n");

static void *first_frame(void *top, void (*entry)(void))
{
    void **sp = (void **)top - 20; /* 160 bytes; x30 is the twelfth word */
    memset(sp, 0, 160);
    sp[11] = (void *)entry;
    return sp;
}
#endif
#endif

void fiber_context_init(struct fiber_context *context, void *stack, void (*entry)(void))
{
    memset(context, 0, sizeof *context);
    char *low = (char *)stack + FIBER_GUARD_BYTES;
    context->stack = low;
    context->stack_bytes = FIBER_STACK_BYTES - FIBER_GUARD_BYTES;
#ifdef HAVE_ASAN
    /* The last user of the stack left through a frame that never returned. */
    __asan_unpoison_memory_region(low, context->stack_bytes);
#endif
#ifdef HAVE_TSAN
    context->tsan = __tsan_create_fiber(0);
#endif
#ifdef FIBER_UCONTEXT
    CHECK(getcontext(&context->uc) == 0);
    context->uc.uc_stack.ss_sp = low;
    context->uc.uc_stack.ss_size = context->stack_bytes;
    context->uc.uc_link = NULL;
    makecontext(&context->uc, entry, 0);
#else
    context->sp = first_frame((char *)stack + FIBER_STACK_BYTES, entry);
#endif
}

void fiber_context_fini(struct fiber_context *context)
{
#ifdef HAVE_TSAN
    __tsan_destroy_fiber(context->tsan);
#endif
    context->sp = NULL;
}

void fiber_context_init_thread(struct fiber_context *context)
{
    memset(context, 0, sizeof *context);
}

void fiber_context_switch(struct fiber_context *from, struct fiber_context *to, bool last)
{
#ifdef HAVE_ASAN
    __sanitizer_start_switch_fiber(last ? NULL : &from->asan_fake, to->stack, to->stack_bytes);
#else
    (void)last;
#endif
#ifdef HAVE_TSAN
    from->tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->tsan, 0);
#endif
#ifdef FIBER_UCONTEXT
    /* swapcontext() would bring back the signal mask of long ago: it is the thread's, not the fiber's. */
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &to->uc.uc_sigmask) == 0);
    CHECK(swapcontext(&from->uc, &to->uc) == 0);
#else
    tarn_fiber_switch(&from->sp, to->sp);
#endif
#ifdef HAVE_ASAN
    __sanitizer_finish_switch_fiber(from->asan_fake, NULL, NULL);
#endif
}

void fiber_context_entered(struct fiber_context *came_from)
{
#ifdef HAVE_ASAN
    __sanitizer_finish_switch_fiber(NULL, &came_from->stack, &came_from->stack_bytes);
#else
    (void)came_from;
#endif
}
