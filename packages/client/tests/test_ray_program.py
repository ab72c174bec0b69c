"""A program written against Ray's core API, run with `import rostral as ray`."""

from __future__ import annotations

import pytest

from .command_line import run_program

pytestmark = pytest.mark.slow

PROGRAM = """
import numpy as np
import rostral as ray

ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
assert ray.is_initialized()

@ray.remote
def square(x):
    return x * x

@ray.remote(num_cpus=1, max_retries=2)
def add(a, b=1):
    return a + b

refs = [square.remote(i) for i in range(4)]
assert ray.get(refs) == [0, 1, 4, 9]
assert ray.get(add.remote(refs[2], b=refs[3])) == 13

@ray.remote
class ParameterServer:
    def __init__(self, size):
        self.weights = np.zeros(size)

    def push(self, gradient):
        self.weights += gradient
        return self.weights

    @ray.method(num_returns=2)
    def halves(self):
        return np.array_split(self.weights, 2)

server = ParameterServer.options(name="server").remote(10)
ray.get([server.push.remote(np.ones(10)) for _ in range(3)])
left, right = server.halves.remote()
assert ray.get(left).sum() == 15
assert ray.get_actor("server") == server

@ray.remote
def worker(server, step):
    return ray.get(server.push.remote(np.full(10, step))).sum()

pending = [worker.remote(server, i) for i in range(4)]
while pending:
    done, pending = ray.wait(pending, num_returns=1, timeout=10.0)
    ray.get(done[0])

@ray.remote
def fail():
    raise ValueError("expected")

try:
    ray.get(fail.remote())
except ray.exceptions.RayTaskError as error:
    assert isinstance(error, ValueError)
else:
    raise AssertionError

try:
    ray.get(ray.remote(lambda: __import__("time").sleep(5)).remote(), timeout=0.01)
except ray.exceptions.GetTimeoutError:
    pass

ray.kill(server)
try:
    ray.get(server.push.remote(np.ones(10)))
except ray.exceptions.RayActorError:
    pass
else:
    raise AssertionError

assert ray.cluster_resources()["CPU"] == 2
assert ray.nodes()[0]["Alive"]
ray.shutdown()
assert not ray.is_initialized()
print("done")
"""


def test_a_program_written_against_rays_core_runs(leaves_nothing: str) -> None:
    del leaves_nothing
    assert run_program(PROGRAM) == "done\n"
