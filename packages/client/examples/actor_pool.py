"""A pool of actors: simulations of unequal length go to whichever actor is free.

Run: python actor_pool.py
"""

import random
import time

import rostral

ACTORS, ROLLOUTS = 4, 40


@rostral.remote
class Simulator:
    """Expensive to make, so made once and used often."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def rollout(self, number):
        """Takes as long as it takes."""
        length = self.random.randint(1, 20)
        time.sleep(length / 1000)
        return number, length


def main():
    """Keeps every actor busy until all rollouts are done."""
    with rostral.init():
        waiting = list(range(ROLLOUTS))
        busy = {}
        for seed in range(ACTORS):
            simulator = Simulator.remote(seed)
            busy[simulator.rollout.remote(waiting.pop())] = simulator
        steps = 0
        while busy:
            # Whichever is done first gets the next one: no actor waits for the slowest.
            [ref], _ = rostral.wait(list(busy))
            simulator = busy.pop(ref)
            _, length = rostral.get(ref)
            steps += length
            if waiting:
                busy[simulator.rollout.remote(waiting.pop())] = simulator
        print(f"{ROLLOUTS} rollouts of {steps} steps by {ACTORS} actors")


if __name__ == "__main__":
    main()
