"""A stream: a remote generator reads a log piece by piece, and each piece is parsed while it reads.

The reader stays at most eight pieces ahead of who takes them, so memory stays flat however long the
log is. Run: python streaming_generator.py
"""

import time
from collections import Counter

import rostral

PIECES, LINES = 50, 2_000
LEVELS = ("info", "info", "info", "warning", "error")


@rostral.remote(_generator_backpressure_num_objects=8)
def read_log():
    """Yields the log in pieces; each is there for others while the next is read."""
    for piece in range(PIECES):
        time.sleep(0.002)  # a disk
        yield [f"{LEVELS[(piece * line) % len(LEVELS)]}: line {line}" for line in range(LINES)]


@rostral.remote
def parse(lines):
    """How many lines of each level."""
    return Counter(line.partition(":")[0] for line in lines)


def main():
    """Reads, parses and prints."""
    with rostral.init():
        began_s = time.perf_counter()
        counts = []
        for piece in read_log.remote():
            if not counts:
                print(f"first piece after {(time.perf_counter() - began_s) * 1e3:.0f} ms")
            # A reference: the lines go from the reader to the parser, not through here.
            counts.append(parse.remote(piece))
        total = sum(rostral.get(counts), Counter())
        for level, lines in total.most_common():
            print(f"{lines:7} {level}")
        print(f"{sum(total.values())} lines in {len(counts)} pieces")


if __name__ == "__main__":
    main()
