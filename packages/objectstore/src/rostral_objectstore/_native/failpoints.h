/* Dying on purpose: the steps between which a process may be killed, each with a name.
 *
 * A step is a place between two writes to the segment. ROSTRAL_FAILPOINTS arms some of them when a
 * process attaches (failpoints.pyx reads it); a test then kills or stops the process exactly there.
 * When nothing is armed, a step costs one compare of a field that is in the cache anyway.
 *
 * A new step is one line here, one in failpoints.pxd and one where it is; tests/test_failpoints.py
 * fails for a name that no workload reaches.
 */
#ifndef ROSTRAL_FAILPOINTS_H
#define ROSTRAL_FAILPOINTS_H

#include <signal.h>
#include <stdint.h>
#include <unistd.h>

#define FAILPOINTS(STEP)                                                                       \
    /* heap.pyx: chunks, runs of them, and slabs */                                            \
    STEP(CHUNK_STEP_CLAIMED, "chunk.claimed")                                                  \
    STEP(CHUNK_STEP_FORMATTED, "chunk.formatted")                                              \
    STEP(CHUNK_STEP_SLAB, "chunk.slab")                                                        \
    STEP(CHUNK_STEP_ADOPTED, "chunk.adopted")                                                  \
    STEP(CHUNK_STEP_GIVEN_BACK, "chunk.given_back")                                            \
    STEP(RUN_STEP_CLAIMING, "run.claiming")                                                    \
    STEP(RUN_STEP_BODIES, "run.bodies")                                                        \
    STEP(RUN_STEP_MADE, "run.made")                                                            \
    STEP(RUN_STEP_TAKEN_BACK, "run.taken_back")                                                \
    STEP(RUN_STEP_UNSAID, "run.unsaid")                                                        \
    STEP(RUN_STEP_BODY_FREED, "run.body_freed")                                                \
    STEP(RUN_STEP_FREED, "run.freed")                                                          \
    /* heap.pyx: blocks and records */                                                         \
    STEP(BLOCK_STEP_USED, "block.used")                                                        \
    STEP(RECORD_STEP_SIGNED, "record.signed")                                                  \
    STEP(RECORD_STEP_USED, "record.used")                                                      \
    STEP(RECORD_STEP_FREED, "record.freed")                                                    \
    STEP(RELEASE_STEP_SAID, "release.said")                                                    \
    STEP(RELEASE_STEP_UNNAMED, "release.unnamed")                                              \
    STEP(RELEASE_STEP_OWN_FREED, "release.own_freed")                                          \
    STEP(RELEASE_STEP_MARKED_FREED, "release.marked_freed")                                    \
    STEP(RELEASE_STEP_DONE, "release.done")                                                    \
    STEP(COLLECT_STEP_TAKEN, "collect.taken")                                                  \
    STEP(COLLECT_STEP_DONE, "collect.done")

enum failpoint {
#define STEP(id, name) id,
    FAILPOINTS(STEP)
#undef STEP
        FAILPOINT_COUNT
};

static const char *const FAILPOINT_NAMES[] __attribute__((unused)) = {
#define STEP(id, name) name,
    FAILPOINTS(STEP)
#undef STEP
};

enum failpoint_action { FAILPOINT_COUNTS = 0, FAILPOINT_KILLS = 1, FAILPOINT_STOPS = 2 };

/* What this process does at each step; one for all its attachments. */
struct failpoint_plan {
    uint64_t hits[FAILPOINT_COUNT];
    uint64_t at[FAILPOINT_COUNT]; /* the action comes with this hit, the first being number 1 */
    uint8_t action[FAILPOINT_COUNT];
};

static __attribute__((unused, noinline, cold)) void reach_failpoint(
    struct failpoint_plan *plan, int id) {
    plan->hits[id]++;
    if (plan->hits[id] == plan->at[id] && plan->action[id] != FAILPOINT_COUNTS)
        kill(getpid(), plan->action[id] == FAILPOINT_KILLS ? SIGKILL : SIGSTOP);
}

/* `plan` is the field of that name of the attachment: NULL while nothing is armed. */
#define FAILPOINT(plan, id)                  \
    do {                                     \
        if (__builtin_expect((plan) != 0, 0)) \
            reach_failpoint((plan), (id));   \
    } while (0)

#endif
