/* memory.c - aligned, overflow-checked allocation.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "core/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/status.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

/* A block that fills half of a huge page or more is aligned to huge pages and asks for them, and
 * for all of the last one where it fills half of that: a tape of some megabytes would otherwise
 * cost thousands of page faults at every training step. */
enum { HUGE_PAGE = 2 << 20 };

/* Under a tool that finds accesses beyond a block pieces of an arena end where they are told to,
 * with something forbidden behind them. */
#if defined(__SANITIZE_ADDRESS__)
enum { RED_ZONE = RNN_ALIGNMENT };
static void forbid(void *memory, size_t size) { ASAN_POISON_MEMORY_REGION(memory, size); }
static void allow(void *memory, size_t size) { ASAN_UNPOISON_MEMORY_REGION(memory, size); }
#else
enum { RED_ZONE = 0 };
static void forbid(void *memory, size_t size) { (void)memory, (void)size; }
static void allow(void *memory, size_t size) { (void)memory, (void)size; }
#endif

static _Thread_local size_t allocations;
static _Thread_local size_t fail_in;

size_t rnn_test_allocations(void) { return allocations; }

void rnn_test_fail_allocation(size_t nth) { fail_in = nth; }

#if defined(__x86_64__)
typedef int64_t two_words __attribute__((vector_size(16), may_alias));

void rnn_clear_uncached(void *memory, size_t size) {
    const size_t whole = sizeof(two_words);
    char *to = memory, *const end = to + size;
    for (; to < end && (uintptr_t)to % whole != 0; to++) *to = 0;
    for (; to + whole <= end; to += whole)
        __asm__("movntdq %1, %0" : "=m"(*(two_words *)(void *)to) : "x"((two_words){0, 0}));
    while (to < end) *to++ = 0; /* memset, told of no bytes, would read the line */
}

void rnn_fence_uncached(void) { __asm__ volatile("sfence" : : : "memory"); }
#else
void rnn_clear_uncached(void *memory, size_t size) { memset(memory, 0, size); }
void rnn_fence_uncached(void) {}
#endif

rnn_status rnn_size_add(size_t *total, size_t count, size_t size) {
    size_t bytes, sum;
    if (__builtin_mul_overflow(count, size, &bytes) ||
        __builtin_add_overflow(bytes, (size_t)(RED_ZONE + RNN_ALIGNMENT - 1), &bytes) ||
        __builtin_add_overflow(*total, bytes & ~(size_t)(RNN_ALIGNMENT - 1), &sum) ||
        sum > PTRDIFF_MAX)
        return rnn_fail(RNN_ERR_MEMORY, "the sizes asked for need more than the address space");
    *total = sum;
    return RNN_OK;
}

rnn_status rnn_alloc(void **memory, size_t count, size_t size) {
    size_t bytes = RNN_ALIGNMENT; /* never zero, so that a pointer says success */
    *memory = NULL;
    RNN_TRY(rnn_size_add(&bytes, count, size));
    allocations++;
    if (fail_in > 0 && --fail_in == 0)
        return rnn_fail(RNN_ERR_MEMORY, "an allocation of %zu bytes was made to fail", bytes);
    const size_t huge = (bytes + HUGE_PAGE / 2) & ~(size_t)(HUGE_PAGE - 1);
    if (bytes < huge) bytes = huge;
    if (posix_memalign(memory, huge ? HUGE_PAGE : RNN_ALIGNMENT, bytes) != 0) {
        *memory = NULL;
        return rnn_fail(RNN_ERR_MEMORY, "cannot allocate %zu bytes", bytes);
    }
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (huge) madvise(*memory, huge, MADV_HUGEPAGE);
#endif
    return RNN_OK;
}

rnn_status rnn_alloc_zero(void **memory, size_t count, size_t size) {
    RNN_TRY(rnn_alloc(memory, count, size));
    memset(*memory, 0, count * size);
    return RNN_OK;
}

void rnn_release(void *memory) { free(memory); }

rnn_status rnn_arena_create(rnn_arena *arena, rnn_pool *pool, size_t size) {
    arena->pool = pool;
    arena->used = 0;
    arena->size = size;
    return rnn_pool_take(pool, (void **)&arena->base, size);
}

void *rnn_arena_take(rnn_arena *arena, size_t count, size_t size) {
    size_t end = arena->used;
    if (rnn_size_add(&end, count, size) != RNN_OK || end > arena->size) return NULL;
    char *piece = arena->base + arena->used;
    allow(piece, count * size);
    forbid(piece + count * size, end - arena->used - count * size);
    arena->used = end;
    return piece;
}

void rnn_arena_free(rnn_arena *arena) {
    if (!arena->base) return;
    allow(arena->base, arena->size);
    rnn_pool_give(arena->pool, arena->base, arena->size);
    arena->base = NULL;
}
