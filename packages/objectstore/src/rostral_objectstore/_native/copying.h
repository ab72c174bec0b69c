/* A copy that goes past the caches, which neither Cython nor the C library offers by name.
 *
 * glibc switches to such stores only for copies of most of the last cache. Measured from 2 MiB on,
 * stores that do not first read the line they overwrite are 1.1 to 1.7 times as fast; below, the
 * reader is likely to find the bytes in a cache if they are left there.
 */
#ifndef ROSTRAL_COPYING_H
#define ROSTRAL_COPYING_H

#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define STREAMED_MIN (2u << 20)

/* memcpy to a place that nobody reads before a later atomic store publishes it. Any size: for who
 * knows that the bytes are not read again soon. */
static inline void copy_past_caches(char *target, const char *source, uint64_t size) {
#if defined(__SSE2__)
    uint64_t head = -(uintptr_t)target & 63, i;
    head = head < size ? head : size;
    memcpy(target, source, head);
    target += head, source += head, size -= head;
    for (i = 0; i + 64 <= size; i += 64) {
        __m128i a = _mm_loadu_si128((const __m128i *)(source + i));
        __m128i b = _mm_loadu_si128((const __m128i *)(source + i + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(source + i + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(source + i + 48));
        _mm_stream_si128((__m128i *)(target + i), a);
        _mm_stream_si128((__m128i *)(target + i + 16), b);
        _mm_stream_si128((__m128i *)(target + i + 32), c);
        _mm_stream_si128((__m128i *)(target + i + 48), d);
    }
    /* Such stores are not ordered with later ones by themselves. */
    _mm_sfence();
    memcpy(target + i, source + i, size - i);
#else
    memcpy(target, source, size);
#endif
}

/* The same where that is quicker, and memcpy elsewhere. */
static inline void copy_streamed(char *target, const char *source, uint64_t size) {
    if (size < STREAMED_MIN)
        memcpy(target, source, size);
    else
        copy_past_caches(target, source, size);
}

#endif
