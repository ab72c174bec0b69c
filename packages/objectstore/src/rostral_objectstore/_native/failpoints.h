/* Dying on purpose: the steps between which a process may be killed, each with a name.
 *
 * A step is a place between two writes to the segment. ROSTRAL_FAILPOINTS arms some of them when a
 * process attaches (failpoints.pyx reads it); a test then kills or stops the process exactly there.
 * When nothing is armed, a step costs one compare of a field that is in the cache anyway.
 *
 * A new step is one line here, one in failpoints.pxd and one where it is; tests/test_failpoints.py,
 * or tests/test_daemon_failpoints.py for the daemon's, fails for a name that no workload reaches.
 */
#ifndef ROSTRAL_FAILPOINTS_H
#define ROSTRAL_FAILPOINTS_H

#include <signal.h>
#include <stdint.h>
#include <unistd.h>

/* Steps of any process that works with objects and tasks. */
#define CLIENT_FAILPOINTS(STEP)                                                                \
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
    STEP(COLLECT_STEP_DONE, "collect.done")                                                    \
    /* objects.pyx: records and their ids */                                                   \
    STEP(NEW_STEP_NAMED, "new.named")                                                          \
    STEP(NEW_STEP_HELD, "new.held")                                                            \
    STEP(NEW_STEP_STATED, "new.stated")                                                        \
    STEP(INDEX_STEP_LOCKING, "index.locking")                                                  \
    STEP(INDEX_STEP_LOCKED, "index.locked")                                                    \
    STEP(INDEX_STEP_INSERTED, "index.inserted")                                                \
    STEP(INDEX_STEP_UNLOCKED, "index.unlocked")                                                \
    STEP(DISCARD_STEP_UNMARKED, "discard.unmarked")                                            \
    STEP(DISCARD_STEP_FREE, "discard.free")                                                    \
    /* objects.pyx and table.pyx: writing and sealing */                                       \
    STEP(WRITE_STEP_BEGUN, "write.begun")                                                      \
    STEP(PUT_STEP_NAMED, "put.named")                                                          \
    STEP(PUT_STEP_LAID_OUT, "put.laid_out")                                                    \
    STEP(PUT_STEP_COPIED, "put.copied")                                                        \
    STEP(CREATE_STEP_NAMED, "create.named")                                                    \
    STEP(ABORT_STEP_UNNAMED, "abort.unnamed")                                                  \
    STEP(ABORT_STEP_EMPTIED, "abort.emptied")                                                  \
    STEP(ABORT_STEP_PENDING, "abort.pending")                                                  \
    STEP(COUNT_STEP_SAID, "count.said")                                                        \
    STEP(COUNT_STEP_CHANGED, "count.changed")                                                  \
    STEP(COUNT_STEP_WRITTEN, "count.written")                                                  \
    STEP(COUNT_STEP_DONE, "count.done")                                                        \
    STEP(SEAL_STEP_BEFORE_PUBLISH, "seal.before_publish")                                      \
    STEP(SEAL_STEP_PUBLISHED, "seal.published")                                                \
    STEP(SEAL_STEP_CLOSED, "seal.closed")                                                      \
    STEP(SEAL_STEP_WOKEN, "seal.woken")                                                        \
    /* objects.pyx: holding and pinning, deleting */                                           \
    STEP(HOLD_STEP_MARKED, "hold.marked")                                                      \
    STEP(HOLD_STEP_STRAY, "hold.stray")                                                        \
    STEP(PIN_STEP_MARKED, "pin.marked")                                                        \
    STEP(PIN_STEP_UNMARKED, "pin.unmarked")                                                    \
    STEP(DROP_STEP_UNMARKED, "drop.unmarked")                                                  \
    STEP(DELETE_STEP_BEGUN, "delete.begun")                                                    \
    STEP(DELETE_STEP_DISTURBED, "delete.disturbed")                                            \
    STEP(DELETE_STEP_SURE, "delete.sure")                                                      \
    STEP(DELETE_STEP_UNINDEXED, "delete.unindexed")                                            \
    STEP(DELETE_STEP_INNER, "delete.inner")                                                    \
    STEP(DELETE_STEP_UNCOUNTED, "delete.uncounted")                                            \
    STEP(DELETE_STEP_EMPTIED, "delete.emptied")                                                \
    STEP(DELETE_STEP_FREE, "delete.free")                                                      \
    /* freeing.pyx, and objects.pyx: a value is given up by hand */                            \
    STEP(FREE_STEP_MARKED, "free.marked")                                                      \
    STEP(FREE_STEP_PROMISED, "free.promised")                                                  \
    STEP(FREE_STEP_SAID, "free.said")                                                          \
    STEP(FREE_STEP_UNCOUNTED, "free.uncounted")                                                \
    STEP(FREE_STEP_EMPTIED, "free.emptied")                                                    \
    STEP(FREE_STEP_DONE, "free.done")                                                          \
    /* task.pyx, queue.pyx and lanes.pyx */                                                    \
    STEP(SUBMIT_STEP_RECORDED, "submit.recorded")                                              \
    STEP(SUBMIT_STEP_PROMISED, "submit.promised")                                              \
    STEP(SUBMIT_STEP_WRITTEN, "submit.written")                                                \
    STEP(SUBMIT_STEP_READY, "submit.ready")                                                    \
    STEP(SUBMIT_STEP_WAITING, "submit.waiting")                                                \
    STEP(SUBMIT_STEP_STACKED, "submit.stacked")                                                \
    STEP(QUEUE_STEP_FILLED, "queue.filled")                                                    \
    STEP(CLAIM_STEP_SAID, "claim.said")                                                        \
    STEP(CLAIM_STEP_CLAIMED, "claim.claimed")                                                  \
    STEP(CLAIM_STEP_EMPTIED, "claim.emptied")                                                  \
    STEP(LANE_STEP_QUEUED, "lane.queued")                                                      \
    STEP(LANE_STEP_EMPTY, "lane.empty")                                                        \
    STEP(LANE_STEP_CLEARED, "lane.cleared")                                                    \
    STEP(CANCEL_STEP_MARKED, "cancel.marked")                                                  \
    STEP(FINISH_STEP_DONE, "finish.done")                                                      \
    STEP(RESOLVE_STEP_MARKED, "resolve.marked")                                                \
    STEP(RESOLVE_STEP_READY, "resolve.ready")                                                  \
    STEP(TASK_STEP_DROPPED, "task.dropped")                                                    \
    STEP(TASK_STEP_FREE, "task.free")                                                          \
    /* stream.pyx */                                                                           \
    STEP(STREAM_STEP_SEALED, "stream.sealed")                                                  \
    STEP(STREAM_STEP_YIELDED, "stream.yielded")                                                \
    STEP(STREAM_STEP_WAITING, "stream.waiting")                                                \
    STEP(STREAM_STEP_HELD, "stream.held")                                                      \
    STEP(STREAM_STEP_ACCEPTED, "stream.accepted")                                              \
    STEP(STREAM_STEP_TAKEN, "stream.taken")                                                    \
    STEP(STREAM_STEP_WITHDRAWN, "stream.withdrawn")                                            \
    STEP(STREAM_STEP_CLOSED, "stream.closed")

/* Steps of the store daemon alone, with objects that go to disk, come back and move. */
#define DAEMON_FAILPOINTS(STEP)                                                                \
    /* spill.py and spill_file.py: writing */                                                  \
    STEP(SPILL_STEP_BEGUN, "spill.begun")                                                      \
    STEP(SPILL_STEP_PARTLY, "spill.partly")                                                    \
    STEP(SPILL_STEP_WRITTEN, "spill.written")                                                  \
    STEP(SPILL_STEP_RECORDED, "spill.recorded")                                                \
    /* residence.pyx: taking out, renaming, bringing back, moving */                           \
    STEP(EVICT_STEP_LEFT, "evict.left")                                                        \
    STEP(EVICT_STEP_STUB, "evict.stub")                                                        \
    STEP(EVICT_STEP_FLAGGED, "evict.flagged")                                                  \
    STEP(EVICT_STEP_FREED, "evict.freed")                                                      \
    STEP(RENAME_STEP_SAID, "rename.said")                                                      \
    STEP(RENAME_STEP_NAMED, "rename.named")                                                    \
    STEP(RENAME_STEP_FREED, "rename.freed")                                                    \
    STEP(RESTORE_STEP_ROOM, "restore.room")                                                    \
    STEP(RESTORE_STEP_READ, "restore.read")                                                    \
    STEP(RESTORE_STEP_RENAMED, "restore.renamed")                                              \
    STEP(RESTORE_STEP_BACK, "restore.back")                                                    \
    STEP(LOSE_STEP_MARKED, "lose.marked")                                                      \
    STEP(MOVE_STEP_COPIED, "move.copied")                                                      \
    STEP(MOVE_STEP_LEFT, "move.left")                                                          \
    STEP(MOVE_STEP_RENAMED, "move.renamed")                                                    \
    /* elsewhere.pyx: what is lost is to be made again */                                      \
    STEP(REVIVE_STEP_OPENED, "revive.opened")                                                  \
    STEP(REVIVE_STEP_PENDING, "revive.pending")                                                \
    /* spill.py: files that are not needed any more */                                         \
    STEP(RECLAIM_STEP_REWRITTEN, "reclaim.rewritten")                                          \
    STEP(RECLAIM_STEP_DELETED, "reclaim.deleted")

#define FAILPOINTS(STEP) CLIENT_FAILPOINTS(STEP) DAEMON_FAILPOINTS(STEP)

enum failpoint {
#define STEP(id, name) id,
    FAILPOINTS(STEP)
#undef STEP
        FAILPOINT_COUNT,
    FAILPOINT_FIRST_OF_DAEMON = SPILL_STEP_BEGUN
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
