"""Map and reduce: counts the words of many texts, and adds the counts up in a tree of tasks.

Run: python tree_aggregation.py
"""

from collections import Counter

import rostral

TEXTS = 64
WORDS = ("task", "actor", "object", "worker", "driver", "lineage")


@rostral.remote
def count(seed):
    """Map: the words of one text."""
    return Counter(WORDS[(seed * n) % len(WORDS)] for n in range(1000))


@rostral.remote
def add(left, right):
    """Reduce: runs as soon as both are there, on any worker."""
    return left + right


def main():
    """Maps, reduces and prints."""
    with rostral.init():
        counts = [count.remote(seed) for seed in range(TEXTS)]
        while len(counts) > 1:
            # Two from the front become one at the back: a tree as deep as log2(TEXTS).
            counts = [*counts[2:], add.remote(counts[0], counts[1])]
        total = rostral.get(counts[0])
        for word, times in total.most_common():
            print(f"{times:6} {word}")
        print(f"{sum(total.values())} words in {TEXTS} texts")


if __name__ == "__main__":
    main()
