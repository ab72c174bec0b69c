# Declarations of layout.h and atomics.h, and nothing else.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "layout.h" nogil:
    enum: SEGMENT_MAGIC, LAYOUT_VERSION, MAX_SLOTS, SLOT_WORDS, CHUNK_SIZE, CHUNK_LOCATORS, NO_SLOT
    enum: SLOT_FREE, SLOT_LIVE, SLOT_DEAD, SLOT_REPAIRED
    enum: KIND_STORE, KIND_SCHEDULER, KIND_DRIVER, KIND_WORKER, KIND_ACTOR, KIND_CLIENT
    enum: WAIT_NOTHING, WAIT_ANY
    enum: INDEX_FIRST_GROUPS, INDEX_LEVELS_MAX
    enum: CHUNK_FREE, CHUNK_CLAIMED, CHUNK_SLAB, CHUNK_OBJECTS, CHUNK_TASKS, CHUNK_RUN, CHUNK_BODY
    enum: CHUNK_QUEUE
    enum: CLASS_COUNT, LARGEST_BLOCK, RUN_TASK, RECORDS_SHARE
    enum: OBJECT_FREE, OBJECT_PENDING, OBJECT_CREATED, OBJECT_SEALED, OBJECT_DELETING, OBJECT_LOST
    enum: OBJECT_SPILLED, OBJECT_FREED, OBJECT_FLAGS_FREED
    enum: OBJECT_FLAG_ERROR, OBJECT_FLAG_INLINE, OBJECT_FLAG_COMPOUND, OBJECT_FLAG_PRODUCER
    enum: OBJECT_FLAG_WIDE, OBJECT_FLAG_ON_DISK, OBJECT_FLAG_SPILLED, OBJECT_FLAG_KEPT
    enum: OBJECT_SIZE, INLINE_SIZE, WIDE_CHUNK, DEPENDENTS_CLOSED, DELETE_LAST
    enum: TASK_FREE, TASK_WAITING, TASK_READY, TASK_CLAIMED, TASK_DONE
    enum: TASK_FLAG_CANCELLED, TASK_FLAG_ACTOR_CALL, TASK_FLAG_CANCEL_CHILDREN
    enum: TASK_FLAG_INTERRUPT, TASK_FLAG_STREAM, TASK_FLAG_LATE, TASK_FLAG_LOGGED
    enum: STREAM_ITEMS_MAX
    enum: DEPENDENCY_RESOLVED, DEPENDENCY_LINKED, DEPENDENCY_FAILED
    enum: QUEUE_MAGIC, QUEUE_CELLS_OFFSET, LANES_MAX
    enum: RETRY_FOREVER
    enum: COUNT_NUMBER_MASK
    uint64_t CONTAINERS_COUNT(uint64_t word)
    uint32_t CONTAINERS_SLOT(uint64_t word)
    uint32_t CONTAINERS_NUMBER(uint64_t word)
    uint64_t CONTAINERS_WORD(uint64_t count, uint64_t slot, uint64_t number)
    uint64_t NEXT_VERSION(uint64_t word)
    bint IS_READY(uint64_t word)
    bint IS_GIVEN_UP(uint64_t word)
    uint64_t LAP(uint64_t position, uint64_t capacity)
    uint64_t CHUNK_WORD(uint64_t kind, uint64_t class_, uint64_t slot, uint64_t length)
    uint64_t OBJECT_WORD(uint64_t state, uint64_t flags, uint64_t slot, uint64_t version)
    uint64_t TASK_WORD(uint64_t state, uint64_t flags, uint64_t slot, uint64_t version)

    struct slot:
        uint32_t state, pid
        uint64_t start_time
        uint32_t kind, generation
        uint8_t worker_id[16]
        uint8_t job_id[16]
        uint32_t futex, sleeping, wait_loc
        uint32_t claiming, running, blocked, queue, queue_ack, idle
        uint64_t finished_count
        uint32_t releasing, locking, count_object, count_index, count_number, count_acked

    struct header:
        uint64_t magic
        uint32_t layout_version, cpu_count
        uint64_t segment_size, slots_offset, index_offset, index_group_count, chunk_words_offset
        uint64_t chunk_records_offset, chunk_count, chunks_offset
        uint8_t node_id[16]
        uint8_t incarnation[16]
        uint64_t awake[15]
        uint64_t first_free_chunk
        uint32_t scheduler_slot, starved
        uint32_t trim_wanted, slot_count
        uint64_t orphan_chunks, wide_offset
        uint32_t wide, tick, spilled_deleted, huge_pages
        uint64_t page_bits_offset
        uint64_t last_free_chunk[2]
        uint64_t events_offset, event_tail
        uint64_t subscribers[15]
        uint32_t watched

    enum: EVENT_COUNT, EVENT_SEALED, EVENT_DELETED
    uint64_t EVENT_DONE(uint64_t place)
    uint64_t EVENT_BUSY(uint64_t place, uint64_t slot)

    struct event:
        uint64_t word, size
        uint32_t kind
        uint8_t id[20]

    struct chunk_record:
        uint64_t used[16]
        uint64_t freed[16]

    struct object "object":
        uint64_t word
        uint8_t id[20]
        uint32_t kind
        uint64_t containers, size
        uint32_t data, task, next, last_used
        uint64_t holders, pins, dependents
        uint8_t value[40]

    struct wide_record:
        uint64_t holders[14]
        uint64_t pins[14]

    enum: SHORT_INBAND_SIZE
    struct short_head:
        uint8_t inband_size, padding
        uint8_t *inband
    struct compound:
        uint32_t contained_count, buffer_count
        uint64_t inband_size
        uint32_t counted_count, released_count

    struct contained:
        uint8_t id[20]
        uint32_t loc, version

    struct index_group:
        uint32_t lock, overflow
        uint64_t bucket[7]

    struct task:
        uint64_t word
        uint8_t id[16]
        uint32_t queue, submitter, return_count, dependency_count, payload, payload_size
        uint32_t attempt, retries_left
        uint64_t function, parent
        int64_t deadline

    struct dependency:
        uint32_t loc, resolved
        uint64_t next

    struct stream:
        uint64_t yielded, taken
        uint32_t room, closed, waiting

    struct queue:
        uint32_t magic, capacity, kind, closed
        uint8_t job_id[16]
        uint8_t key[16]
        uint32_t wants_scheduler, reserved_cells, base, first_lane
        uint64_t tail, head
        uint64_t sleepers[15]
        uint64_t busy_lanes
        uint32_t next_lane, lane_number, depth
        int32_t priority

cdef extern from "atomics.h" nogil:
    uint64_t load64(const uint64_t *p)
    uint32_t load32(const uint32_t *p)
    void store64(uint64_t *p, uint64_t v)
    void store32(uint32_t *p, uint32_t v)
    void release64(uint64_t *p, uint64_t v)
    void release32(uint32_t *p, uint32_t v)
    int cas64(uint64_t *p, uint64_t expected, uint64_t desired)
    int cas32(uint32_t *p, uint32_t expected, uint32_t desired)
    uint64_t exchange64(uint64_t *p, uint64_t v)
    uint64_t or64(uint64_t *p, uint64_t v)
    uint64_t and64(uint64_t *p, uint64_t v)
    uint64_t add64(uint64_t *p, uint64_t v)
    void read_fence()
    uint32_t add32(uint32_t *p, uint32_t v)
    uint32_t sub32(uint32_t *p, uint32_t v)
    int lowest_bit(uint64_t v)
    int bit_count(uint64_t v)
    void relax(uint32_t spins)
    void cpu_pause()
    int64_t monotonic_ns()
    int futex_wait(uint32_t *p, uint32_t expected, int64_t timeout_ns)
    void futex_wake(uint32_t *p, int count)
