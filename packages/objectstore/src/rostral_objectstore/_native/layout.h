/* What lies in the node's shared segment: the one place where every structure of it is defined.
 *
 * The segment is a memfd made by the store daemon and mapped by every process of the node:
 *
 *   header | client slots | chunk words | page bits | id index | chunk records | chunks ... |
 *   wide records ...
 *
 * Rules that hold for all of it, because any process may die at any instruction:
 *   - an allocation is a bit or a word that says who made it, never a count: a daemon can undo the
 *     dead one's share;
 *   - a state changes by one compare-and-swap that writes the slot of the process that changed it;
 *   - records that a late reader may still look at (objects, tasks) are type-stable: their memory
 *     is reused only for records of the same kind, and a version in the state word makes a stale
 *     compare-and-swap fail;
 *   - positions are locators, offset / 64 from the start of the segment, so they fit 32 bits up to
 *     256 GiB.
 *
 * LAYOUT_VERSION changes with any edit of the structures; a process with another version is
 * refused when it attaches.
 */
#ifndef ROSTRAL_LAYOUT_H
#define ROSTRAL_LAYOUT_H

#include <stdint.h>

#define SEGMENT_MAGIC 0x31304c4152545352ull /* "RSTRAL01" */
#define LAYOUT_VERSION 14u
/* As many as 10 bits name, which is what the words of events and counts have for a slot. */
#define MAX_SLOTS 1024u
#define SLOT_WORDS (MAX_SLOTS / 64)
#define CHUNK_SIZE 65536u
#define CHUNK_LOCATORS (CHUNK_SIZE / 64)
#define NO_SLOT 0xffffu

/* ---- client slots: one per attached process -------------------------------------------------- */

enum slot_state { SLOT_FREE = 0, SLOT_LIVE = 1, SLOT_DEAD = 2, SLOT_REPAIRED = 3 };
enum slot_kind {
    KIND_STORE = 1,
    KIND_SCHEDULER = 2,
    KIND_DRIVER = 3,
    KIND_WORKER = 4,
    KIND_ACTOR = 5,
    KIND_CLIENT = 6
};

#define WAIT_NOTHING 0u
#define WAIT_ANY 0xffffffffu

struct slot {
    /* Written by the store daemon. FREE -> LIVE (attach) -> DEAD (connection lost) -> REPAIRED
     * (the scheduler has taken over the dead one's tasks; skipped when there is no scheduler) ->
     * FREE (holders, blocks and records cleaned up). */
    uint32_t state;
    uint32_t pid;
    /* clock ticks after boot, as /proc/PID/stat has it: pid reuse cannot fool us */
    uint64_t start_time;
    uint32_t kind;
    uint32_t generation; /* how often the slot was given out */
    uint8_t worker_id[16];
    uint8_t job_id[16];
    uint64_t pad0;

    /* Sleeping: written by the owner, read by whoever may have to wake it. */
    uint32_t futex;    /* bumped by each waker */
    uint32_t sleeping; /* how many threads of the owner sleep or are about to */
    uint32_t wait_loc; /* the object waited for, WAIT_ANY, or WAIT_NOTHING */
    uint32_t pad1[13];

    /* Work: written by the owner, but for `queue`, which the scheduler writes. */
    /* task about to be claimed: written before the compare-and-swap, so no claim is anonymous */
    uint32_t claiming;
    uint32_t running;   /* task being run, 0 when idle */
    uint32_t blocked;   /* 1 while the running task waits for objects */
    uint32_t queue;     /* ready queue this worker may take from; 0: none */
    /* the queue the worker has last looked at: equal to `queue` once a grant or withdrawal is
     * seen */
    uint32_t queue_ack;
    uint32_t idle;      /* 1 while asleep with nothing to do */
    uint64_t finished_count;
    /* A block that this process gives back: written before the block's last name is wiped out,
     * cleared once it is freed (of a run: once its head says by whom). Until then nobody uses the
     * block for anything else, and the daemon can end a dead one's release with no doubt. */
    uint32_t releasing;
    uint32_t locking; /* 1 + the index group whose lock this process holds or is about to take */
    /* A reference being counted, or its count being given back, in `containers` of the object that
     * it names: see count_reference in counting.pyx. `count_object` is written last and wiped out
     * first. `count_acked` is written by the others. */
    uint32_t count_object; /* the object whose value has the reference; 0: none */
    uint32_t count_index;  /* which of its references << 1 | whether its count goes up */
    uint32_t count_number; /* numbers these steps of the slot, over all processes that have it */
    uint32_t count_acked;  /* the last number that somebody saw and wrote over */
    uint32_t pad2[2];
    uint64_t pad3[8];
};

/* ---- header ---------------------------------------------------------------------------------- */

struct header {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t cpu_count;
    uint64_t segment_size;
    uint64_t slots_offset;
    uint64_t index_offset;
    uint64_t index_group_count; /* of all levels together */
    uint64_t chunk_words_offset;
    uint64_t chunk_records_offset;
    uint64_t chunk_count;
    uint64_t chunks_offset; /* a multiple of CHUNK_SIZE */
    uint8_t node_id[16];
    uint8_t incarnation[16]; /* random: tells this segment from any other */
    uint8_t pad0[8];
    /* One bit per slot whose process is awake (running or spinning). A process spins only while
     * no more bits are set than the node has cores: measured, a spinner without a core of its
     * own is slower than a sleeper. */
    uint64_t awake[SLOT_WORDS];
    uint64_t first_free_chunk; /* a hint: no free chunk lies below, most of the time */
    uint32_t scheduler_slot;   /* NO_SLOT: this store has no scheduler */
    /* written by the scheduler: some queue has tasks that no resources are free for */
    uint32_t starved;
    /* bumped by who finds the store full: everybody gives its empty slabs back */
    uint32_t trim_wanted;
    uint32_t slot_count; /* slots from this one on were never given out */
    uint64_t orphan_chunks;    /* record chunks of dead processes that wait for an owner: a hint */
    uint64_t wide_offset;      /* of the wide records: a multiple of 4096 */
    /* 1 once a slot of 64 or above was given out: every chunk of objects has the pages of its wide
     * records. Written before those of existing chunks are made; who claims a chunk looks at it
     * afterwards: so one of the two sees the other. */
    uint32_t wide;
    uint32_t tick;             /* advanced by the daemon ten times a second: the clock of LRU */
    uint32_t spilled_deleted;  /* bumped by who deletes an object that has a copy on disk */
    uint32_t huge_pages;       /* 1: faults in an advised mapping make huge pages */
    uint64_t page_bits_offset; /* one bit per chunk: its pages, and its record's, exist */
    /* hints: no free chunk lies above, most of the time; of slabs of data, and of records */
    uint64_t last_free_chunk[2];
    uint64_t events_offset;
    uint64_t event_tail;              /* the place of the next event */
    uint64_t subscribers[SLOT_WORDS]; /* one bit per slot whose process reads the events */
    uint32_t watched;                 /* 0: no bit is set in `subscribers`, and nobody writes */
    uint32_t pad1;
};

/* ---- events: a ring that sealers and deleters write while somebody reads it ------------------ */

#define EVENT_COUNT 4096u
enum event_kind { EVENT_SEALED = 1, EVENT_DELETED = 2 };
/* The word of an event that is complete: (place + 1) << 11. While it is written: the same, with
 * the writer's slot << 1 and 1. A writer takes a cell whose last event is complete, and leaves out
 * its own where a slow one, or a dead one until it is buried, is still at the cell. */
#define EVENT_DONE(place) (((uint64_t)(place) + 1) << 11)
#define EVENT_BUSY(place, slot) (EVENT_DONE(place) | (uint64_t)(slot) << 1 | 1)

struct event {
    uint64_t word;
    uint64_t size; /* of the value, in bytes */
    uint32_t kind;
    uint8_t id[20];
    uint64_t pad[3];
};

/* ---- chunks: 64 KiB each; a run of them is a large block, one of them a slab of equal blocks - */

enum chunk_kind {
    CHUNK_FREE = 0,
    /* being put together into a run by `slot`; with a length: a run being taken apart by it */
    CHUNK_CLAIMED = 1,
    CHUNK_SLAB = 2,    /* blocks of object data */
    CHUNK_OBJECTS = 3, /* type-stable: struct object */
    CHUNK_TASKS = 4,   /* type-stable: struct task, one size class a chunk */
    CHUNK_RUN = 5,     /* first chunk of a large block */
    CHUNK_BODY = 6,    /* a further chunk of it */
    CHUNK_QUEUE = 7    /* first chunk of a queue */
};
/* The class of a CHUNK_RUN that is one struct task, too large for a slab. */
#define RUN_TASK 1u
/* The chunk word: kind | class << 8 | owner slot << 16 | run length << 32. Claiming a chunk is a
 * CAS of it from 0. */
#define CHUNK_WORD(kind, class_, slot, length) \
    ((uint64_t)(kind) | (uint64_t)(class_) << 8 | (uint64_t)(slot) << 16 | (uint64_t)(length) << 32)

/* One chunk in so many, at the top, is left to records while there are others. */
#define RECORDS_SHARE 8u

struct chunk_record {
    /* Slabs: a set bit is a block in use. In a slab of data only its owner writes these; in slabs
     * of records, which are signed, whoever frees one clears its bit. */
    uint64_t used[16];
    /* Slabs of data: blocks in use that others have freed. The owner takes them in when it needs
     * blocks, but for those that some slot is still `releasing`: until then nothing can have
     * become of such a block, whoever died. */
    uint64_t freed[16];
};

/* Block sizes of slabs: four classes to a doubling, all multiples of 64 bytes, from 64 to 32
 * KiB. */
#define CLASS_COUNT 32u
#define LARGEST_BLOCK 32768u

/* ---- objects --------------------------------------------------------------------------------- */

/*                    create                 seal                 daemon
 *   FREE --------> CREATED --------------------------> SEALED <-------------> SPILLED
 *     |               ^                               |  ^                       |
 *     |  expect       |  the producer writes          |  | somebody took hold    |
 *     '----------> PENDING                            '--+--> DELETING <---------'
 *                  (and again, when its bytes are lost and its task is to run anew: elsewhere.pyx)
 *                                                                |
 *                   LOST: was SPILLED, the disk lost it          '--> FREE (version + 1)
 *                   FREED: was SEALED, SPILLED or LOST, and its bytes were given up by hand
 */
enum object_state {
    /* a block in use and FREE: `slot` is about to use it, or to give it back */
    OBJECT_FREE = 0,
    /* known by id, not yet written: a task will make it, or somebody waits for it */
    OBJECT_PENDING = 1,
    OBJECT_CREATED = 2,  /* being written by `slot` */
    OBJECT_SEALED = 3,   /* immutable; `slot` sealed it */
    OBJECT_DELETING = 4, /* being taken apart by `slot` */
    OBJECT_LOST = 5,     /* sealed once; its bytes are nowhere any more */
    /* sealed; its bytes are on disk, or about to be moved: who wants to read asks the daemon */
    OBJECT_SPILLED = 6,
    /* sealed once; its value is given up, whoever holds it. Its block goes, and `data` becomes 0,
     * as soon as nobody has it pinned */
    OBJECT_FREED = 7
};
/* Whoever only waits for the object need not wait any more. */
#define IS_READY(word)                                                                   \
    ((0x1u << ((word) & 7) &                                                             \
      (1u << OBJECT_SEALED | 1u << OBJECT_SPILLED | 1u << OBJECT_LOST |                  \
       1u << OBJECT_FREED)) != 0)
#define OBJECT_FLAG_ERROR 1u      /* the value is an exception to raise */
#define OBJECT_FLAG_INLINE 2u     /* the value lies in the record itself */
#define OBJECT_FLAG_COMPOUND 4u   /* the block starts with a struct compound */
/* PENDING: a task will seal it, so it stays even if nobody holds it. Sealed: an item of a stream
 * that its consumer has not taken yet, which stays likewise */
#define OBJECT_FLAG_PRODUCER 8u
/* some holder's slot is 64 or above: look at its wide record too */
#define OBJECT_FLAG_WIDE 16u
#define OBJECT_FLAG_ON_DISK 32u /* the daemon has a copy on disk: who deletes the object tells it */
/* SPILLED, and the block that `data` names holds the list of references at most. LOST keeps it.
 * Without ON_DISK, its bytes are on another node: elsewhere.pyx */
#define OBJECT_FLAG_SPILLED 64u
/* the store itself holds it, for a client that said so: a daemon that takes over goes on with it */
#define OBJECT_FLAG_KEPT 128u
/* Both at once, which nothing else has: given up by hand. Who seals an object with them makes it
 * FREED; and it is FREED again if its deleter steps back. */
#define OBJECT_FLAGS_FREED (OBJECT_FLAG_INLINE | OBJECT_FLAG_SPILLED)
#define IS_GIVEN_UP(word) (((uint64_t)(word) >> 8 & OBJECT_FLAGS_FREED) == OBJECT_FLAGS_FREED)

/* state | flags << 8 | slot << 16 | version << 32 */
#define OBJECT_WORD(state, flags, slot, version)                                     \
    ((uint64_t)(state) | (uint64_t)(flags) << 8 | (uint64_t)(slot) << 16 | \
     (uint64_t)(version) << 32)

/* The version of the next object or task in a record whose word this is. */
#define NEXT_VERSION(word) ((((uint64_t)(word) >> 32) + 1) & 0xffffffffu)

#define INLINE_SIZE 40u
/* `next` of an object being deleted when no other follows it. */
#define DELETE_LAST 0xffffffffu
#define DEPENDENTS_CLOSED 1ull

/* `containers`: how many references the values of sealed objects have to this one, and which step
 * of which slot changed it last: count | slot << 24 | number << 34. */
#define CONTAINERS_COUNT(word) ((uint64_t)(word) & 0xffffffu)
#define CONTAINERS_SLOT(word) ((uint32_t)((uint64_t)(word) >> 24) & 0x3ffu)
#define CONTAINERS_NUMBER(word) ((uint32_t)((uint64_t)(word) >> 34))
#define CONTAINERS_WORD(count, slot, number) \
    ((uint64_t)(count) | (uint64_t)(slot) << 24 | (uint64_t)(number) << 34)
#define COUNT_NUMBER_MASK 0x3fffffffu

struct object {
    uint64_t word;
    uint8_t id[20];
    uint32_t kind; /* how to read it: serialization.py owns the meaning */
    uint64_t containers;
    uint64_t size; /* bytes of the value */
    uint32_t data; /* locator of its block; 0 when inline or empty */
    uint32_t task; /* the task that makes it, while PENDING */
    /* DELETING: 0 while the deleter may still step back, then what it deletes next, or
     * DELETE_LAST. FREED: 1 + the slot of who gives its block back; 0: nobody does */
    uint32_t next;
    uint32_t last_used; /* the header's tick when it was last read, or sealed */
    /* one bit per slot: this process holds it. Only that process and the daemon write the bit */
    uint64_t holders;
    /* one bit per slot: this process reads or writes its block, which stays where it is. A pin is
     * set before the word is looked at; the daemon changes the word before it looks at the pins */
    uint64_t pins;
    /* tasks that wait for it: a stack of struct dependency; DEPENDENTS_CLOSED once sealed */
    uint64_t dependents;
    uint8_t value[INLINE_SIZE];
};
#define OBJECT_SIZE 128u

/* The bits of slots from 64 on: an area of its own, record for record, so that a node of few
 * processes does not pay for them. Its pages exist only once such a slot was given out. */
struct wide_record {
    uint64_t holders[SLOT_WORDS - 1];
    uint64_t pins[SLOT_WORDS - 1];
};
#define WIDE_CHUNK (CHUNK_SIZE / OBJECT_SIZE * 240)

/* A block with OBJECT_FLAG_COMPOUND: this, `contained` references, `buffer_count` pairs of
 * (offset, size) in bytes from the start of the block, the in-band bytes, the buffers, each at a
 * multiple of 64. */
struct compound {
    uint32_t contained_count;
    uint32_t buffer_count;
    uint64_t inband_size;
    /* The value counts in `containers` of the references from `released_count` up to
     * `counted_count`. Both only grow. */
    uint32_t counted_count;
    uint32_t released_count;
    uint32_t pad[10];
};
/* `value` of an object with that flag, written before it is sealed: of a value of one buffer and no
 * references whose in-band bytes are few, these once more. So who gets it need not touch the block,
 * of which no page may be mapped yet. */
#define SHORT_INBAND_SIZE 38u
struct short_head {
    uint8_t inband_size; /* 0: the block alone tells */
    uint8_t padding;     /* bytes after the buffer, up to the size of the value */
    uint8_t inband[SHORT_INBAND_SIZE];
};
struct contained {
    uint8_t id[20];
    uint32_t loc;
    uint32_t version;
    uint32_t pad;
};

/* ---- id index: groups of seven buckets in a cache line, in levels one after the other -----------
 *
 * Each level has four times the groups of the one before. An id goes to its home group in the
 * first level; when that is full, to its home in the next; in the last level to the group that
 * follows. So the index takes memory by the number of objects and not by the size of the store.
 */
#define INDEX_FIRST_GROUPS 16384u
#define INDEX_LEVELS_MAX 6u

struct index_group {
    /* slot + 1 of who changes ids that hash here; the lock of a dead process is taken over */
    uint32_t lock;
    uint32_t overflow; /* 1 once an id that belongs here had to go on */
    uint64_t bucket[7]; /* locator | low 32 bits of the id's hash << 32; 0: empty */
};

/* ---- tasks ----------------------------------------------------------------------------------- */

/*   FREE -> WAITING -> READY -> CLAIMED -> DONE -> FREE
 *    |                 ^  ^       |
 *    '-----------------'  '-------'  the claimer died: run again
 *
 * Who cancels a task that is WAITING or READY claims it, and ends it in place of a worker; of one
 * that is CLAIMED he sets the flag, and its claimer is to see that. So nothing WAITING or READY has
 * the flag CANCELLED, and a task with it is never READY again.
 * WAITING: some dependency is not sealed. DONE: the results are sealed; the submitter frees it.
 */
/* As with objects, a record in use and FREE is in the hands of `slot`. A record stays while an
 * object links it in its `dependents`, DONE or not. READY with slot S but in no queue: S died
 * before it could enqueue it. */
enum task_state {
    TASK_FREE = 0,
    TASK_WAITING = 1,
    TASK_READY = 2,
    TASK_CLAIMED = 3,
    TASK_DONE = 4
};
#define RETRY_FOREVER 0xffffffffu
#define TASK_FLAG_CANCELLED 1u       /* its results are to be the error that it was cancelled */
#define TASK_FLAG_ACTOR_CALL 2u
#define TASK_FLAG_CANCEL_CHILDREN 4u /* with CANCELLED: and so are its children's */
#define TASK_FLAG_INTERRUPT 8u       /* with CANCELLED: the code that it runs may be interrupted */
#define TASK_FLAG_STREAM 16u         /* the payload starts with a struct stream */
#define TASK_FLAG_LATE 32u           /* with CANCELLED: because its deadline is over */
#define TASK_FLAG_DYNAMIC 64u        /* the client's: its one result names all that it yields */
/* CLAIMED: done, its results are sealed, and kept in the order that `attempt` says: replay.pyx */
#define TASK_FLAG_LOGGED 128u
/* state | flags << 8 | slot << 16 | version << 32 */
#define TASK_WORD(state, flags, slot, version) OBJECT_WORD(state, flags, slot, version)

struct task {
    uint64_t word;
    uint8_t id[16];
    uint32_t queue;
    uint32_t submitter; /* slot */
    uint32_t return_count;
    uint32_t dependency_count;
    uint32_t payload; /* locator of a block; 0: the payload follows the dependencies */
    uint32_t payload_size;
    uint32_t attempt;
    uint32_t retries_left; /* RETRY_FOREVER: no limit */
    uint64_t function;     /* opaque to the store: the client's key of the code to run */
    uint64_t parent;       /* the first 8 bytes of the id of the task that submitted it */
    int64_t deadline;      /* CLOCK_MONOTONIC, ns: it shall not run any more; 0: none */
    /* follows: uint32_t returns[return_count] padded to 16; struct dependency[dependency_count];
     * payload */
};

#define DEPENDENCY_RESOLVED 1u
#define DEPENDENCY_LINKED 2u
#define DEPENDENCY_FAILED (DEPENDENCY_RESOLVED | 2u)
/* One object that a task needs. It keeps the object held (by the submitter's bit) until the task
 * is done, and links the task into the object's `dependents` while the object is not sealed. */
struct dependency {
    uint32_t loc;
    /* 0: waits, and may not be linked yet. DEPENDENCY_LINKED: waits, linked. DEPENDENCY_RESOLVED:
     * sealed, or never waited for; written after `next` was read: see resolve_dependents.
     * DEPENDENCY_FAILED: the same, sealed with an error: the task waits for nothing else. */
    uint32_t resolved;
    /* next in the object's stack: locator of its task << 32 | its offset in the task's record */
    uint64_t next;
};

/* A task that makes any number of objects, one after the other: item i has the index i + 1 (its
 * result, number 0, is sealed when it ends). Its consumer is its submitter, who frees the task only
 * once it is `closed`. Each word has one writer, so a death leaves nothing to be undone:
 *   - the claimer seals an item with OBJECT_FLAG_PRODUCER and then counts it in `yielded`; of one
 *     sealed and not counted the next run finds the object, and those counted it passes over;
 *   - the consumer takes hold of an item, clears the flag and then counts it in `taken`;
 *   - who frees the task clears the flag of each item in between.
 * Invariant: taken <= yielded + 1, yielded <= taken + room. */
struct stream {
    uint64_t yielded; /* written by the claimer; counts over all runs */
    uint64_t taken;   /* written by the submitter */
    uint32_t room;    /* how many items may be yielded and not taken */
    uint32_t closed;  /* 1: nobody will take any more; written by the submitter, or its heir */
    uint32_t waiting; /* 1 + the slot of a claimer that sleeps until there is room; 0: none */
    uint32_t pad;
};
#define STREAM_ITEMS_MAX 0x3ffffff0u

/* ---- queues: ready queues (one per job and resource shape) and actor mailboxes --------------- */

/* A ready queue may have lanes: queues whose tasks the same workers take before its own, or after
 * them. Workers are granted the first made of such queues, the *base*, and sleep there. The
 * scheduler alone makes lanes and links them, first come first: `first_lane` of the base, then
 * `next_lane` of each; the base is one of the chain. They end together. */
/* cell: locator of a task | lap << 32. An empty cell of lap n holds n << 32. Producers fill the
 * cell at `tail` by CAS and then advance `tail`; anybody may advance it for them, so a producer
 * that dies in between stops nobody. */
struct queue {
    uint32_t magic;
    uint32_t capacity; /* cells, a power of two */
    uint32_t kind;     /* 1: ready queue, 2: mailbox */
    uint32_t closed;   /* nothing will be taken from it any more */
    uint8_t job_id[16];
    uint8_t key[16]; /* shape id, or actor id */
    /* written by the scheduler: poke it when a task is enqueued and nobody sleeps here */
    uint32_t wants_scheduler;
    uint32_t reserved_cells;  /* cells whose pages are known to exist */
    uint32_t base;            /* of a lane; 0: workers are granted this very queue */
    uint32_t first_lane;      /* of a base that has lanes; 0: none */
    uint64_t tail;
    uint64_t pad1[7];
    uint64_t head;
    uint64_t pad2[7];
    uint64_t sleepers[SLOT_WORDS]; /* workers asleep here; who clears a bit must wake its slot */
    /* Of a base, a bit for each lane that may have tasks: set after a push, and cleared by who
     * found the lane empty, and then looks once more. Where a death left a bit clear, the
     * scheduler sets it, who counts the tasks of all lanes whenever it looks. */
    uint64_t busy_lanes;
    uint32_t next_lane;   /* which comes after this one; 0: none */
    uint32_t lane_number; /* its bit in `busy_lanes` */
    int32_t priority;     /* of the tasks in it */
    uint32_t depth;       /* how many tasks are above those in it: 0 for what drivers submit */
    uint64_t pad3[5];
    /* follows at offset 512: uint64_t cells[capacity] */
};
/* How often the ring had been filled before the position. */
#define LAP(position, capacity) (((position) / (capacity)) & 0xffffffffu)
#define LANES_MAX 64u
#define QUEUE_MAGIC 0x52515545u
#define QUEUE_CELLS_OFFSET 512u

#ifdef __cplusplus
#error "this layout is C"
#endif
_Static_assert(sizeof(struct slot) == 256, "slot");
_Static_assert(sizeof(struct object) == OBJECT_SIZE, "object");
_Static_assert(sizeof(struct wide_record) == 240, "wide_record");
_Static_assert(WIDE_CHUNK % 4096 == 0, "wide records of a chunk fill whole pages");
_Static_assert(sizeof(struct compound) == 64, "compound");
_Static_assert(sizeof(struct short_head) == INLINE_SIZE, "short_head");
_Static_assert(sizeof(struct event) == 64, "event");
_Static_assert(sizeof(struct contained) == 32, "contained");
_Static_assert(sizeof(struct index_group) == 64, "index_group");
_Static_assert(sizeof(struct task) == 80, "task");
_Static_assert(sizeof(struct dependency) == 16, "dependency");
_Static_assert(sizeof(struct stream) == 32, "stream");
_Static_assert(sizeof(struct queue) <= QUEUE_CELLS_OFFSET, "queue");
_Static_assert(sizeof(struct header) <= 4096, "header");

#endif
