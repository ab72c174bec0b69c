"""A joblib backend: `Parallel()(...)` under `joblib.parallel_backend("rostral")` uses a cluster."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

import rostral


@rostral.remote
def _run(batch: Callable[[], Any]) -> Any:
    return batch()


class RostralBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Batches of joblib's calls as tasks. Short calls are gathered into batches, as joblib does.

    Connects to a cluster, or starts one, if this process has not.

    Args:
        ray_remote_args: Options of the tasks, such as `{"num_cpus": 2}`.
    """

    supports_retrieve_callback = True
    supports_timeout = True
    uses_threads = False
    supports_sharedmem = False

    def __init__(self, *, ray_remote_args: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._task: Any = _run.options(**(ray_remote_args or {})) if ray_remote_args else _run
        self._futures: set[Future[Any]] = set()

    def effective_n_jobs(self, n_jobs: int) -> int:
        """How many run at once: all CPUs for -1, one less for -2."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if not rostral.is_initialized():
            rostral.init()
        cpus = max(1, int(rostral.cluster_resources().get("CPU", 1)))
        return n_jobs if n_jobs > 0 else max(1, cpus + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Joblib's call at the start of each Parallel."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None
    ) -> Future[Any]:
        """Starts one batch; the callback gets its future."""
        future: Future[Any] = self._task.remote(func).future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The values of a batch that is done. Raises what one of its calls raised."""
        try:
            return out.result()
        except CancelledError as error:
            raise RuntimeError("the batch was given up") from error

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: FBT001 - joblib's
        """Gives up on what is still under way, after an error."""
        for future in list(self._futures):
            future.cancel()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)


def register_rostral() -> None:
    """Makes the backend known to joblib as "rostral"."""
    register_parallel_backend("rostral", RostralBackend)


def register_ray() -> None:
    """As `register_rostral`, under the name that programs written for Ray use."""
    register_parallel_backend("ray", RostralBackend)
