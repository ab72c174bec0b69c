/* What a process is about to read for the first time, mapped from its far end while it reads from
 * the near one.
 *
 * Memory of others is mapped by page faults, of 64 KiB each, in the middle of the read: measured,
 * 100 MB are read at 7.4 GB/s so, and at 17 once they are mapped. A thread of the process takes a
 * share of the faults while a core is idle: 9.1 GB/s. It asks the kernel to map, and touches
 * nothing itself: what is gone meanwhile is an error there, and no signal.
 */
#ifndef ROSTRAL_MAP_AHEAD_H
#define ROSTRAL_MAP_AHEAD_H

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "copying.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Below, waking the thread (1 to 2 us, measured) is no small part of the read. */
#define MAP_AHEAD_MIN (32u << 20)
/* What one fault maps: fault_around_bytes of the kernel. */
#define MAP_AHEAD_STEP (64u << 10)
/* Steps between two looks whether a core is still idle. */
#define MAP_AHEAD_TURN 64
#define MAP_AHEAD_STACK (128u << 10)
/* Ranges that were mapped last, and are not again. */
#define MAP_AHEAD_KNOWN 16

struct map_range {
    char *data;
    uint64_t size;
};

/* Used by who holds the GIL, but for what the thread reads: `wanted`, odd while `range` is being
 * written, and `range`. */
static struct map_ahead_counts {
    uint32_t wanted;
    struct map_range range;
    struct map_range known[MAP_AHEAD_KNOWN];
    uint32_t known_next;
    int is_started;
    int is_watching_forks;
    int is_always; /* Also while no core is idle: for tests. */
    uint64_t mapped_bytes;
} map_ahead_state;

static inline int map_ahead_is(uint32_t turn) {
    return __atomic_load_n(&map_ahead_state.wanted, __ATOMIC_ACQUIRE) == turn;
}

/* Maps one range, until another one is wanted or no core is idle. */
static inline void map_ahead_range(struct map_range range, uint32_t turn) {
    uint64_t at = range.size, steps = 0;
    while (at > 0 && map_ahead_is(turn)) {
        /* Of the cores, this thread and the reader take one each: they count as running. */
        if (steps++ % MAP_AHEAD_TURN == 0 && !map_ahead_state.is_always && idle_cores() < 0)
            return;
        at = at > MAP_AHEAD_STEP ? at - MAP_AHEAD_STEP : 0;
        uintptr_t page = (uintptr_t)(range.data + at) & ~(uintptr_t)(COPY_PAGE - 1);
        if (madvise((void *)page, COPY_PAGE, MADV_POPULATE_READ) != 0 && errno != EINTR &&
            errno != EAGAIN)
            return; /* An old kernel, or it is gone. */
        __atomic_fetch_add(&map_ahead_state.mapped_bytes, MAP_AHEAD_STEP, __ATOMIC_RELAXED);
    }
}

static void *map_ahead_run(void *unused) {
    uint32_t done = 0;
    (void)unused;
    for (;;) {
        uint32_t turn = __atomic_load_n(&map_ahead_state.wanted, __ATOMIC_ACQUIRE);
        if (turn == done || turn % 2 != 0) {
            syscall(SYS_futex, &map_ahead_state.wanted, FUTEX_WAIT_PRIVATE, turn, NULL, NULL, 0);
            continue;
        }
        struct map_range range = map_ahead_state.range;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!map_ahead_is(turn))
            continue;
        done = turn;
        map_ahead_range(range, turn);
    }
    return NULL;
}

/* A child has none of its parent's threads, and has mapped nothing yet. */
static void map_ahead_forked(void) {
    map_ahead_state.is_started = 0;
    map_ahead_state.wanted = 0;
    map_ahead_state.mapped_bytes = 0;
    memset(map_ahead_state.known, 0, sizeof map_ahead_state.known);
}

static inline int map_ahead_start(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    int failed;
    if (!map_ahead_state.is_watching_forks) {
        if (pthread_atfork(NULL, NULL, map_ahead_forked) != 0)
            return 0;
        map_ahead_state.is_watching_forks = 1;
    }
    if (pthread_attr_init(&attributes) != 0)
        return 0;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, MAP_AHEAD_STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&thread, &attributes, map_ahead_run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return map_ahead_state.is_started = !failed;
}

static inline void map_ahead_want(struct map_range range) {
    __atomic_store_n(&map_ahead_state.wanted, map_ahead_state.wanted + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    map_ahead_state.range = range;
    __atomic_store_n(&map_ahead_state.wanted, map_ahead_state.wanted + 1, __ATOMIC_RELEASE);
}

/* Begins to map a range that this process can read, unless it was mapped lately. Holds the GIL. */
static inline void map_ahead(char *data, uint64_t size) {
    uint32_t i;
    struct map_range range = {data, size};
    for (i = 0; i < MAP_AHEAD_KNOWN; i++)
        if (map_ahead_state.known[i].data == data && map_ahead_state.known[i].size == size)
            return;
    map_ahead_state.known[map_ahead_state.known_next++ % MAP_AHEAD_KNOWN] = range;
    if (!map_ahead_state.is_started && !map_ahead_start())
        return;
    map_ahead_want(range);
    syscall(SYS_futex, &map_ahead_state.wanted, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Nobody reads there any more. Holds the GIL. */
static inline void map_ahead_end(char *data) {
    struct map_range none = {NULL, 0};
    if (map_ahead_state.range.data == data)
        map_ahead_want(none);
}

#endif
