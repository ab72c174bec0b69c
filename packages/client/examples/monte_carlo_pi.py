"""Monte Carlo pi: samples run on all cores while an actor shows how far they are.

Run: python monte_carlo_pi.py
"""

import math

import numpy as np

import rostral

TASKS, BATCHES, BATCH = 8, 10, 100_000


@rostral.remote
class Progress:
    """Adds up what the samplers tell it."""

    def __init__(self):
        self.hits = self.samples = 0

    def add(self, hits, samples):
        """Called by samplers, whenever they have a batch."""
        self.hits += hits
        self.samples += samples

    def estimate(self):
        """Samples so far, and pi as they have it."""
        return self.samples, 4 * self.hits / max(1, self.samples)


@rostral.remote
def sample(seed, progress):
    """Throws darts at the unit square; tells of those that hit the circle."""
    rng = np.random.default_rng(seed)
    for _ in range(BATCHES):
        x, y = rng.random((2, BATCH))
        # Nobody waits for the answer: the sampler goes on at once.
        progress.add.remote(int(np.count_nonzero(x * x + y * y < 1)), BATCH)


def main():
    """Prints the estimate as tasks finish."""
    with rostral.init():
        progress = Progress.remote()
        running = [sample.remote(seed, progress) for seed in range(TASKS)]
        while running:
            _, running = rostral.wait(running)
            samples, pi = rostral.get(progress.estimate.remote())
            print(f"{samples:>9} samples: pi is about {pi:.5f}")
    print(f"error after {TASKS * BATCHES * BATCH} samples: {abs(pi - math.pi):.5f}")


if __name__ == "__main__":
    main()
