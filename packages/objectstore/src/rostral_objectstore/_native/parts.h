/* Where the parts of a segment lie, which follows from how many chunks it has and from nothing
 * else. Who makes a segment writes it into the header; who maps one compares, since every pointer
 * into the segment comes of these fields. */
#ifndef ROSTRAL_PARTS_H
#define ROSTRAL_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "layout.h"

/* Room for seven ids in the place of eight of the smallest objects, or more: it is hardly ever
 * what is full first. It costs nothing until it is touched. */
#define BYTES_PER_INDEX_GROUP (1u << 10)
/* The chunks begin on a huge page. */
#define CHUNKS_ALIGNMENT (2u << 20)

static inline uint64_t parts_round_up(uint64_t value, uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

/* Writes where the parts lie; returns the size of the segment in bytes. Nothing overflows below
 * 2^40 chunks. */
static inline uint64_t place_parts(struct header *h, uint64_t chunk_count) {
    uint64_t groups = INDEX_FIRST_GROUPS, level = INDEX_FIRST_GROUPS, levels = 1;
    while (groups * BYTES_PER_INDEX_GROUP < chunk_count * CHUNK_SIZE && levels < INDEX_LEVELS_MAX) {
        level *= 4;
        levels += 1;
        groups += level;
    }
    h->chunk_count = chunk_count;
    h->index_group_count = groups;
    h->slots_offset = 4096;
    h->events_offset = h->slots_offset + MAX_SLOTS * sizeof(struct slot);
    h->chunk_words_offset = h->events_offset + EVENT_COUNT * sizeof(struct event);
    h->page_bits_offset = h->chunk_words_offset + chunk_count * 8;
    h->index_offset = parts_round_up(h->page_bits_offset + (chunk_count + 63) / 64 * 8, 4096);
    h->chunk_records_offset = h->index_offset + groups * sizeof(struct index_group);
    h->chunks_offset = parts_round_up(
        h->chunk_records_offset + chunk_count * sizeof(struct chunk_record), CHUNKS_ALIGNMENT);
    h->wide_offset = h->chunks_offset + chunk_count * CHUNK_SIZE;
    h->segment_size = h->wide_offset + chunk_count * WIDE_CHUNK;
    return h->segment_size;
}

/* Whether both say that the parts lie at the same places. */
static inline bool same_parts(const struct header *h, const struct header *other) {
    return h->segment_size == other->segment_size && h->chunk_count == other->chunk_count &&
           h->slots_offset == other->slots_offset && h->events_offset == other->events_offset &&
           h->index_offset == other->index_offset &&
           h->index_group_count == other->index_group_count &&
           h->chunk_words_offset == other->chunk_words_offset &&
           h->page_bits_offset == other->page_bits_offset &&
           h->chunk_records_offset == other->chunk_records_offset &&
           h->chunks_offset == other->chunks_offset && h->wide_offset == other->wide_offset;
}

#endif
