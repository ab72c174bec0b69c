"""Map-reduce: counts words of many texts, every word of one reducer's part in one place.

Run: python map_reduce.py
"""

import random
import zlib
from collections import Counter

import rostral

TEXTS, WORDS_PER_TEXT, REDUCERS = 40, 2000, 4
WORDS = ["store", "seal", "get", "put", "wait", "task", "actor", "future", "lineage", "bottom-up"]


@rostral.remote(num_returns=REDUCERS)
def count(text):
    """Counts the words of one text; one part for each reducer."""
    parts = [Counter() for _ in range(REDUCERS)]
    for word in text.split():
        parts[zlib.crc32(word.encode()) % REDUCERS][word] += 1
    return parts


@rostral.remote
def merge(*parts):
    """Adds up what all texts have for one reducer."""
    return sum(parts, Counter())


def main():
    """Counts, and looks whether nothing was lost."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=WORDS_PER_TEXT)) for _ in range(TEXTS)]
    with rostral.init():
        # Parts go from mapper to reducer through shared memory; the driver sees references.
        counted = [count.remote(text) for text in texts]
        merged = [merge.remote(*parts) for parts in zip(*counted, strict=True)]
        total = sum(rostral.get(merged), Counter())
    word, times = total.most_common(1)[0]
    print(f"{sum(total.values())} words in {TEXTS} texts, most often {word!r}: {times} times")


if __name__ == "__main__":
    main()
