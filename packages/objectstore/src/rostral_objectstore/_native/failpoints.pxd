# Declarations of failpoints.h, and nothing else: the steps, and the macro that says "here".
cdef extern from "failpoints.h" nogil:
    enum: CHUNK_STEP_CLAIMED, CHUNK_STEP_FORMATTED, CHUNK_STEP_SLAB, CHUNK_STEP_ADOPTED
    enum: CHUNK_STEP_GIVEN_BACK
    enum: RUN_STEP_CLAIMING, RUN_STEP_BODIES, RUN_STEP_MADE, RUN_STEP_TAKEN_BACK, RUN_STEP_UNSAID
    enum: RUN_STEP_BODY_FREED, RUN_STEP_FREED
    enum: BLOCK_STEP_USED, RECORD_STEP_SIGNED, RECORD_STEP_USED, RECORD_STEP_FREED
    enum: RELEASE_STEP_SAID, RELEASE_STEP_UNNAMED, RELEASE_STEP_OWN_FREED
    enum: RELEASE_STEP_MARKED_FREED, RELEASE_STEP_DONE
    enum: COLLECT_STEP_TAKEN, COLLECT_STEP_DONE

    enum: FAILPOINT_COUNT, FAILPOINT_COUNTS, FAILPOINT_KILLS, FAILPOINT_STOPS
    const char *FAILPOINT_NAMES[FAILPOINT_COUNT]

    struct failpoint_plan:
        unsigned long long hits[FAILPOINT_COUNT]
        unsigned long long at[FAILPOINT_COUNT]
        unsigned char action[FAILPOINT_COUNT]

    void reach_failpoint(failpoint_plan *plan, int id)
    void FAILPOINT(failpoint_plan *plan, int id)
