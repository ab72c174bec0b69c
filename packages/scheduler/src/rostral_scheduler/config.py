"""The configuration of a local scheduler and its limits: all bounds stand here.

This file owns the fields, units, defaults and their reasons. It reads neither environment nor
command line (``cli.py`` does) and starts nothing.
"""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from rostral_gcs.credentials import TlsFiles, tls_files
from rostral_gcs.errors import ConfigError, RostralError
from rostral_gcs.tokens import Tokens
from rostral_objectstore.layout import SLOTS_MAX
from rostral_scheduler.core.lanes import PRIORITIES_MAX
from rostral_scheduler.core.resources import CPU, GPU, ResourceSet
from rostral_scheduler.zygote_start import PRELOADED, WORKER_MODULE

__all__ = ["LocalSchedulerConfig"]


def default_cpu_count() -> float:
    """CPUs that this process may use."""
    return float(len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSchedulerConfig:
    """How one local scheduler runs. Call ``validate()`` before use.

    Attributes:
        store_socket: The object store's Unix socket on this node.
        socket_path: Where the scheduler listens; its directory must exist.
        session_dir: Logs go to ``logs/`` in it; made when missing.
        num_cpus: CPUs to hand out; those this process may use, unless told otherwise.
        num_gpus: GPUs to hand out, by index from 0.
        memory_bytes: Memory to hand out as the resource ``memory``, in bytes; 0: none. Accounted
            for, not enforced.
        resources: Further resources by name.
        labels: Free labels of the node, for placement.
        address: The host that other nodes reach this one at.
        worker_module: What a worker runs, ``module:function`` with one WorkerStart argument.
        preload_modules: Imported in the zygote if installed, so that workers have them at once.
        worker_cgroup: The control group that workers are put into, with all that they start; None:
            they stay in ours.
        worker_user: The user that workers run as, in our group: they cannot read what is ours
            alone, nor end us. None or empty: ours.
        worker_environment: Set in every worker, over what the scheduler's own environment has.
        prestart_count: Workers kept ready; None: one for each whole CPU, as a driver's first tasks
            will want.
        workers_max: Most processes, actors included. Each task that waits for others keeps one,
            so this bounds how deep tasks may nest; each needs a slot of the store, and what is
            left of the 1,024 is for daemons and drivers.
        blocked_workers_free: Tasks that wait for others up to which another process is started for
            each at once; twice the CPUs, where that is more.
        blocked_growth_per_s: Beyond that, how many more are started in a second, as a share of
            those: a node is filled in some ten seconds, and most waits are over by then.
        starts_in_flight_max: Most forks whose worker has not registered yet: more only makes each
            of them slower.
        start_timeout_s: How long the zygote's imports and a worker's registration may take.
        idle_worker_timeout_s: After this, idle workers beyond one for each CPU end.
        venv_dir: Where virtual environments are kept, for all nodes that name it; None: in the
            session's directory, for this node alone.
        environments_max: Runtime environments that running jobs may use at once.
        idle_environment_timeout_s: After this, workers of a runtime environment end that have
            nothing to do, and after as long again its own zygote, which takes some 20 MB.
        environment_failure_kept_s: How long after a failure the next try to make a runtime
            environment is allowed; what asks for it meanwhile fails likewise, and fast.
        packages_kept_max: Unpacked packages that are kept though nobody uses them.
        packages_size_max: Bytes that they may take.
        venvs_kept_max: Virtual environments that are kept though nobody uses them.
        venvs_size_max: Bytes that they may take; one with a deep-learning library takes 5 GB.
        memory_threshold: Share of the machine's memory, of the cgroup's and of
            ``memory_limit_bytes`` above which workers are ended; Ray's. What is left is for those
            who allocate between two checks.
        growth_memory_threshold: Share of the same above which no processes are added for those that
            wait, as long as any task is at work.
        memory_limit_bytes: Memory that the workers may have of their own, together, in bytes; None:
            as much as there is.
        memory_check_interval_s: Between two looks at memory, each of some 0.2 ms.
        task_oom_retries: How often a task that has retries is run again after it was ended for want
            of memory, apart from its retries; -1: for ever, since it is mostly the fault of others.
        oom_retry_pause_s: Before the first such try; each further one waits twice as long.
        oom_retry_pause_s_max: At most this.
        grant_quantum_s: How long a busy worker keeps its queue while another has nobody: long
            against a grant (well under a millisecond), short against a person's patience.
        tick_interval_s: Between two looks at everything, needed or not. What it finds is rare:
            actors that nobody refers to, lost wake-ups.
        poke_interval_s: At least this between two looks when workers call: bounds what a program
            that blocks all the time can cost.
        actor_grace_s: Between asking an actor to end and killing its process: for what it does at
            its exit.
        death_report_timeout_s: How long a dead worker's exit status is waited for.
        ready_queue_capacity: Tasks queued at once for one job and shape, beyond which submitting
            waits; a power of two. Fewer where 8 bytes for each would be over 1/512 of the store.
        queues_per_job_max: Shapes that one job may use, and lanes for priorities and nested tasks.
        priorities_max: Different priorities, beside the first, of one job's tasks of one shape; at
            most 32.
        lane_capacity: Tasks queued at once in one lane beside the queue itself; a power of two.
            Smaller than a queue, since each takes its share of the store.
        mailbox_capacity_max: Calls queued at once for one actor; a power of two.
        proxy_capacity: Calls queued at once on this node for one actor of another; a power of two.
            Smaller than a mailbox, since each job that calls it has one.
        jobs_max: Drivers at once.
        actors_max: Actors, and dead ones that somebody still refers to. Living ones are fewer than
            ``workers_max`` too, by as many processes as are kept ready for tasks.
        placement_groups_max: Placement groups at once.
        group_queue_capacity: Tasks queued at once for one shape in a placement group; a power of
            two. Smaller than other queues, since a program may use up many groups.
        log_line_size_max: Longer lines are split, bytes.
        log_file_size_max: A worker's log file is begun anew after this, bytes.
        log_old_files_kept: Old ones that are kept of each.
        log_dead_workers_kept: Dead workers whose log files are kept: what a session takes on disk
            must not grow with the number of workers it ever had.
        log_lines_kept_max: Lines kept for a driver that is not known yet, for each worker.
        stderr_lines_kept: Last lines of stderr that go into the error of a crash.
        gcs_address: ``host:port`` of the GCS; None: this node is alone.
        gcs_token: The cluster token, with ``gcs_address``; of a file, the one of the moment.
        gcs_writes_queued_max: Writes that wait for the GCS; beyond it the oldest is dropped and
            counted.
        peer_token: The cluster token, with which tasks come from and go to other nodes, where
            there is no ``gcs_token``. With neither none do; nor if ``address`` is not of the
            loopback, without all three files of TLS.
        tls_certificate_file: PEM, this node's chain, shown to other nodes and to the GCS.
        tls_key_file: PEM, the certificate's key, of mode 0600 and ours.
        tls_ca_file: PEM, who signs the cluster's certificates: every other node must show one.
        peer_silence_s: A node that has tasks of this one, and says nothing for so long, over two
            streams at least, is taken for dead.
        peer_grace_s: How long tasks are kept for a node whose stream broke, unless it is known to
            be dead: longer than any that lives takes to come back.
        overflow_wait_s: Tasks that would wait here longer than this, by how long such tasks take,
            go to other nodes, if they begin sooner there. Long against the milliseconds that the
            way takes.
        drain_timeout_s: A node that is told to leave, and was not told how soon, ends what still
            runs after so long.
        forward_inline_bytes: Inputs and results up to this size travel in the message; larger ones
            are fetched. A fetch takes a millisecond, in which so many bytes are copied.
        forward_inline_bytes_max: The same where Arrow Flight is not installed, so that nothing can
            be fetched: what is larger is an error. A message has 64 MiB at most.
        forwarded_per_node_max: Tasks of this node that one other may have at a time: enough that it
            does not run dry between two messages; what waits here can still go elsewhere.
        forwarded_functions_max: Ids of functions that are remembered, to name them to other nodes.
        lineage_bytes_max: What is remembered of tasks whose results are on other nodes, to run them
            again when a node dies: their payloads, and about half a kilobyte each. The oldest are
            forgotten beyond it; then what they made is lost with its node.
        lineage_values_bytes_max: Results on other nodes that nobody needs but those tasks, should
            they run again. The oldest go beyond it, and are made again like what uses them.
        group_hold_s: How long bundles that were prepared for a placement group on several nodes are
            kept before it is asked whether the group was placed: long against the milliseconds that
            placing takes, and what a coordinator's death costs.
        node_lease_s: The node is found dead when it has not renewed for this long.
        allow_shutdown: Whether a client of the same user may stop the scheduler by request.
    """

    store_socket: str
    socket_path: str
    session_dir: Path
    num_cpus: float = field(default_factory=default_cpu_count)
    num_gpus: int = 0
    memory_bytes: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"
    worker_module: str = WORKER_MODULE
    preload_modules: tuple[str, ...] = PRELOADED
    worker_cgroup: Path | None = None
    worker_user: str | None = None
    worker_environment: Mapping[str, str] = field(default_factory=dict)
    prestart_count: int | None = None
    workers_max: int = 1008
    blocked_workers_free: int = 64
    blocked_growth_per_s: float = 0.25
    starts_in_flight_max: int = 16
    start_timeout_s: float = 30.0
    idle_worker_timeout_s: float = 1.0
    venv_dir: Path | None = None
    environments_max: int = 256
    idle_environment_timeout_s: float = 60.0
    environment_failure_kept_s: float = 10.0
    packages_kept_max: int = 64
    packages_size_max: int = 10 << 30
    venvs_kept_max: int = 32
    venvs_size_max: int = 20 << 30
    memory_threshold: float = 0.95
    growth_memory_threshold: float = 0.85
    memory_limit_bytes: int | None = None
    memory_check_interval_s: float = 0.25
    task_oom_retries: int = -1
    oom_retry_pause_s: float = 0.5
    oom_retry_pause_s_max: float = 30.0
    grant_quantum_s: float = 0.05
    tick_interval_s: float = 0.1
    poke_interval_s: float = 0.001
    actor_grace_s: float = 30.0
    death_report_timeout_s: float = 0.1
    ready_queue_capacity: int = 1 << 20
    queues_per_job_max: int = 256
    priorities_max: int = PRIORITIES_MAX
    lane_capacity: int = 1 << 14
    mailbox_capacity_max: int = 1 << 16
    proxy_capacity: int = 1 << 12
    jobs_max: int = 256
    actors_max: int = 10_000
    placement_groups_max: int = 10_000
    group_queue_capacity: int = 1 << 12
    log_line_size_max: int = 64 * 1024
    log_file_size_max: int = 64 * 1024 * 1024
    log_old_files_kept: int = 1
    log_dead_workers_kept: int = 500
    log_lines_kept_max: int = 200
    stderr_lines_kept: int = 20
    gcs_address: str | None = None
    gcs_token: str | Tokens = field(default="", repr=False)
    gcs_writes_queued_max: int = 10_000
    peer_token: str | Tokens = field(default="", repr=False)
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None
    peer_silence_s: float = 4.0
    peer_grace_s: float = 10.0
    overflow_wait_s: float = 1.0
    drain_timeout_s: float = 30.0
    forward_inline_bytes: int = 256 << 10
    forward_inline_bytes_max: int = 16 << 20
    forwarded_per_node_max: int = 1024
    forwarded_functions_max: int = 10_000
    lineage_bytes_max: int = 64 << 20
    lineage_values_bytes_max: int = 256 << 20
    group_hold_s: float = 5.0
    node_lease_s: float = 10.0
    allow_shutdown: bool = True

    def total(self) -> ResourceSet:
        """Everything the node hands out.

        Raises:
            RequestError: An amount is out of range.
        """
        return ResourceSet.of(
            {
                **self.resources,
                CPU: self.num_cpus,
                GPU: self.num_gpus,
                "memory": self.memory_bytes,
            }
        )

    @property
    def cluster_token(self) -> str | Tokens:
        """Of the cluster; empty: this node has no part in one."""
        return self.gcs_token or self.peer_token

    @property
    def tls(self) -> TlsFiles:
        """The files of its TLS."""
        return tls_files(self.tls_certificate_file, self.tls_key_file, self.tls_ca_file)

    @property
    def may_cross(self) -> bool:
        """Whether tasks may come from and go to other nodes: what comes is run."""
        return bool(self.cluster_token) and (self.is_local or self.tls.is_mutual())

    @property
    def is_local(self) -> bool:
        """Whether ``address`` is of the loopback."""
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return self.address == "localhost"

    @property
    def ready_workers(self) -> int:
        """``prestart_count``, decided."""
        if self.prestart_count is not None:
            return self.prestart_count
        return min(int(self.num_cpus), self.workers_max)

    def validate(self) -> None:
        """Checks every field and reports all faults at once.

        Raises:
            ConfigError: One or more fields are wrong; ``problems`` lists them.
        """
        problems = [*self._check_counts(), *self._check_seconds(), *self._check_places()]
        try:
            self.total()
        except RostralError as error:
            problems.append(error.message)
        for name in {CPU, GPU, "memory"} & set(self.resources):
            problems.append(f"resources has {name}; allowed: names of your own, it has a field")
        for name in (
            "ready_queue_capacity",
            "group_queue_capacity",
            "lane_capacity",
            "mailbox_capacity_max",
            "proxy_capacity",
        ):
            capacity = getattr(self, name)
            if capacity > 0 and capacity & (capacity - 1):
                problems.append(f"{name} is {capacity}; allowed: a power of two")
        if self.priorities_max > PRIORITIES_MAX:
            problems.append(
                f"priorities_max is {self.priorities_max}; allowed: at most {PRIORITIES_MAX}"
            )
        if self.workers_max >= SLOTS_MAX:
            problems.append(f"workers_max is {self.workers_max}; allowed: less than {SLOTS_MAX}")
        problems += [
            f"{name} is {getattr(self, name)}; allowed: above 0, at most 1"
            for name in ("memory_threshold", "growth_memory_threshold")
            if not 0 < getattr(self, name) <= 1
        ]
        if self.memory_limit_bytes is not None and self.memory_limit_bytes <= 0:
            problems.append(f"memory_limit_bytes is {self.memory_limit_bytes}; allowed: above 0")
        if self.task_oom_retries < -1:
            problems.append(f"task_oom_retries is {self.task_oom_retries}; allowed: -1 or more")
        if self.ready_workers < 0:
            problems.append(f"prestart_count is {self.prestart_count}; allowed: 0 or more")
        if not 0 <= self.forward_inline_bytes <= self.forward_inline_bytes_max <= 32 << 20:
            problems.append(
                f"forward_inline_bytes is {self.forward_inline_bytes}, forward_inline_bytes_max "
                f"{self.forward_inline_bytes_max}; allowed: the first at most the second, that at "
                "most 32 MiB"
            )
        problems += self.tls.problems()
        if self.gcs_address is not None and not self.gcs_token:
            problems.append("gcs_address is given without gcs_token; allowed: both or neither")
        if problems:
            raise ConfigError(
                "the configuration is wrong: " + "; ".join(problems),
                hint="nothing was started; correct all of these",
                problems=problems,
            )

    def _check_counts(self) -> list[str]:
        names = [f.name for f in fields(self) if f.name.endswith(("_max", "_kept", "_capacity"))]
        return [
            f"{name} is {getattr(self, name)}; allowed: 1 or more"
            for name in names
            if getattr(self, name) < 1
        ]

    def _check_seconds(self) -> list[str]:
        names = [f.name for f in fields(self) if f.name.endswith("_s")]
        return [
            f"{name} is {getattr(self, name)}; allowed: a finite number of seconds above 0"
            for name in names
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0)
        ]

    def _check_places(self) -> list[str]:
        problems = []
        folder = Path(self.socket_path).parent
        if not folder.is_dir():
            problems.append(f"socket_path: the directory {folder} does not exist")
        module, _, function = self.worker_module.partition(":")
        if not module or not function:
            problems.append(f"worker_module is {self.worker_module!r}; allowed: module:function")
        return problems
