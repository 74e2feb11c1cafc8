"""Tasks on a Ray cluster: Ray finds the machine, watches over the worker, and starts its task again if that is lost."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fmgs_nerfstudio.batch.execute import execute
from fmgs_nerfstudio.batch.tasks import BatchError, Order, Record, Task

RETRIES = 3
"""Times that a task whose worker was lost is started again."""
_AHEAD = 500
"""Tasks that Ray has at most beyond those that its processors can run: enough to keep it busy, not to fill it."""
_OF_A_NEW_CLUSTER = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
}
"""A cluster that is begun here reports to nobody, and may take its time on a busy machine."""


@dataclass(frozen=True)
class Cluster:
    """What Ray says that there is."""

    nodes: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.nodes} node{'s' * (self.nodes != 1)}, {self.cpus:g} CPUs, {self.gpus:g} GPUs"


class RayEngine:
    """Ray Core: one remote function, `execute`, with each task's demands."""

    def __init__(
        self, order: Callable[[Task], Order], address: str | None, workers: int | None, threads: int, memory_gb: float
    ) -> None:
        """`address`: of the cluster; local: a new one; None: $RAY_ADDRESS, or (without `workers`) the one that runs
        here, or a new one. `workers`: tasks at a time, of a new cluster and in one that is there.

        Raises:
            BatchError: Ray is not installed, there is no such cluster, or no node of it bears a task.
        """
        own = address == "local" or (address is None and "RAY_ADDRESS" not in os.environ)
        ray = self._ray = _connected(address, workers and workers * threads if own else None)
        self._order, self._threads, self._flying = order, threads, dict[Any, str]()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.cluster = Cluster(len(nodes), *(sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")))
        fit = [node.get("memory", 0.0) for node in nodes if node.get("CPU", 0.0) >= threads]
        if not fit:
            raise BatchError(f"no node of the cluster has {threads} CPUs, which --threads asks for")
        if (most := max(fit)) < memory_gb * 2**30:
            raise BatchError(
                f"no node of the cluster offers {memory_gb:g} GB for a task (the most is {most / 2**30:.1f}); "
                "give less with --memory"
            )
        self._memory = int(memory_gb * 2**30)
        self._remote = ray.remote(max_retries=RETRIES)(execute)
        there = max(1, int(self.cluster.cpus // threads))
        self.workers = min(workers or there, there)
        self._most = self.workers + (_AHEAD if own or not workers else 0)

    @property
    def room(self) -> int:
        return self._most - len(self._flying)

    def start(self, task: Task) -> None:
        gpus = 1 if task.card and self.cluster.gpus else 0
        demands = {"num_cpus": self._threads, "num_gpus": gpus, "memory": self._memory}
        self._flying[self._remote.options(name=task.id, **demands).remote(self._order(task))] = task.id

    def wait(self, seconds: float = 1.0) -> list[Record]:
        ready, rest = self._ray.wait(list(self._flying), num_returns=1, timeout=seconds)
        if ready and rest:  # the others that are there, too
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return [self._record(reference) for reference in ready]

    def _record(self, reference: Any) -> Record:
        task = self._flying.pop(reference)
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            lost = str(error).strip().splitlines()
            return Record(task, "failed", f"its worker was lost {RETRIES + 1} times: {lost[0] if lost else error!r}")

    def close(self) -> None:
        """End what is in hand, and leave the cluster."""
        for reference in self._flying:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself asks an address that does not answer for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise BatchError(f"no Ray cluster at {address}: {error}") from error


def _connected(address: str | None, cpus: int | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise BatchError("--engine ray needs Ray: pip install 'fmgs-nerfstudio[ray]'") from error
    for name, value in _OF_A_NEW_CLUSTER.items():
        os.environ.setdefault(name, value)
    if address not in (None, "local"):
        _check_address(address)
    options: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False} if cpus else {}
    try:
        ray.init(address=address or ("local" if options else None), log_to_driver=False, **options)
    except Exception as error:  # what Ray raises here has no common kind
        raise BatchError(f"no Ray cluster {'at ' + address if address else 'can begin here'}: {error}") from error
    return ray
