/* The machine part of fibers: a stack with a guard page, and switching between two stacks without a
 * system call. Only callee-saved registers travel; the signal mask, the x87 control word and MXCSR
 * are the thread's: a fiber that changes them changes them for all. x86-64 and AArch64 in assembly, others (or with
 * -DFIBER_UCONTEXT) through ucontext(3). Tells AddressSanitizer and ThreadSanitizer of each switch. */
#ifndef TARN_COMMON_FIBER_CONTEXT_H
#define TARN_COMMON_FIBER_CONTEXT_H

#include "base.h"

#if !defined(FIBER_UCONTEXT) && !defined(__x86_64__) && !defined(__aarch64__)
#define FIBER_UCONTEXT
#endif
#ifdef FIBER_UCONTEXT
#include <ucontext.h>
#endif

#define FIBER_STACK_BYTES KIB(256) /* of address space; pages are taken as they are touched */
#define FIBER_GUARD_BYTES KIB(4)   /* at the low end, within FIBER_STACK_BYTES */

struct fiber_context {
    void *sp;
    const void *stack; /* lowest usable byte and size, for the sanitizers */
    size_t stack_bytes;
    void *asan_fake;
    void *tsan;
#ifdef FIBER_UCONTEXT
    ucontext_t uc;
#endif
};

/* The low end of a mapping of FIBER_STACK_BYTES, guard included; NULL when memory or mappings ran out. */
void *fiber_stack_map(void);
void fiber_stack_unmap(void *stack);

/* A context that starts `entry` on `stack` at the first switch to it. `entry` must call
 * fiber_context_entered() first and never return. */
void fiber_context_init(struct fiber_context *context, void *stack, void (*entry)(void));
void fiber_context_fini(struct fiber_context *context);
/* The context of the thread's own stack, to switch away from and back to. */
void fiber_context_init_thread(struct fiber_context *context);
/* Saves into `from`, continues `to`. `last`: nobody will ever switch back to `from`. */
void fiber_context_switch(struct fiber_context *from, struct fiber_context *to, bool last);
void fiber_context_entered(struct fiber_context *came_from);

#endif
