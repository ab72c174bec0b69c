"""A parameter server: workers compute gradients of a linear model, one actor applies them."""

import numpy as np

import rostral

WORKERS, STEPS, FEATURES, RATE = 4, 200, 10, 0.05


@rostral.remote
class ParameterServer:
    """Holds the weights; whoever pushes a gradient gets them as they are then."""

    def __init__(self, size):
        self.weights = np.zeros(size)

    def push(self, gradient):
        """Takes one step."""
        self.weights -= RATE * gradient
        return self.weights

    def pull(self):
        """The weights as they are."""
        return self.weights


@rostral.remote
class Worker:
    """Has a part of the data, and never sends it anywhere."""

    def __init__(self, seed, target):
        rng = np.random.default_rng(seed)
        self.inputs = rng.normal(size=(1000, FEATURES))
        self.outputs = self.inputs @ target

    def gradient(self, weights):
        """Of the mean squared error on this worker's data."""
        error = self.inputs @ weights - self.outputs
        return self.inputs.T @ error / len(error)


def main():
    """Trains until the steps are done."""
    target = np.arange(FEATURES, dtype=float)
    with rostral.init():
        server = ParameterServer.remote(FEATURES)
        workers = [Worker.remote(seed, target) for seed in range(WORKERS)]
        weights = server.pull.remote()
        for _ in range(STEPS):
            # References travel, not values: nothing of this loop waits for anything.
            gradients = [worker.gradient.remote(weights) for worker in workers]
            weights = [server.push.remote(gradient) for gradient in gradients][-1]
        error = np.abs(rostral.get(weights) - target).max()
        print(f"largest error of a weight after {STEPS} steps: {error:.6f}")


if __name__ == "__main__":
    main()
