/* The machine operations that Cython cannot say: atomics, the pause hint and the futex system call.
 *
 * Every operation on a word that two processes share goes through here. The default order is
 * sequentially consistent: on x86-64 a locked instruction costs the same in any order, and the
 * protocols in layout.h rely on store-then-load (Dekker) patterns that weaker orders do not give.
 */
#ifndef ROSTRAL_ATOMICS_H
#define ROSTRAL_ATOMICS_H

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t load64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline uint32_t load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline void store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
static inline void store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
/* For words that only publish: the reader's acquire pairs with this release, no full fence is
 * needed. */
static inline void release64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void release32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline int cas64(uint64_t *p, uint64_t expected, uint64_t desired) {
    return __atomic_compare_exchange_n(
        p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static inline int cas32(uint32_t *p, uint32_t expected, uint32_t desired) {
    return __atomic_compare_exchange_n(
        p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static inline uint64_t exchange64(uint64_t *p, uint64_t v) {
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
static inline uint64_t or64(uint64_t *p, uint64_t v) {
    return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST);
}
static inline uint64_t and64(uint64_t *p, uint64_t v) {
    return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST);
}
static inline uint32_t add32(uint32_t *p, uint32_t v) {
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
static inline uint64_t add64(uint64_t *p, uint64_t v) {
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
/* What was read before stays before what is read after. */
static inline void read_fence(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline uint32_t sub32(uint32_t *p, uint32_t v) {
    return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);
}
static inline int lowest_bit(uint64_t v) { return __builtin_ctzll(v); }
static inline int bit_count(uint64_t v) { return __builtin_popcountll(v); }

static inline void cpu_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* One turn of a loop that waits for a few instructions of another process: if that one has lost
 * its core, ours helps. */
static inline void relax(uint32_t spins) {
    if (spins % 1024 == 1023)
        sched_yield();
    else
        cpu_pause();
}

static inline int64_t monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Sleeps while *p == expected; timeout_ns < 0 waits for ever. Returns 0, or the errno of the
 * wait. */
static inline int futex_wait(uint32_t *p, uint32_t expected, int64_t timeout_ns) {
    struct timespec t, *tp = 0;
    if (timeout_ns >= 0) {
        t.tv_sec = timeout_ns / 1000000000;
        t.tv_nsec = timeout_ns % 1000000000;
        tp = &t;
    }
    return syscall(SYS_futex, p, FUTEX_WAIT, expected, tp, 0, 0) == 0 ? 0 : errno;
}
static inline void futex_wake(uint32_t *p, int count) {
    syscall(SYS_futex, p, FUTEX_WAKE, count, 0, 0, 0);
}

#endif
