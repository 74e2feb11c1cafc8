"""Tasks as processes of this machine: as many at a time as it bears."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from fmgs_nerfstudio.batch.execute import execute, stop_all
from fmgs_nerfstudio.batch.tasks import Order, Record, Task

_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Machine:
    """What this process may use."""

    cores: int
    memory_gb: float
    cards: tuple[str, ...]
    """As `CUDA_VISIBLE_DEVICES` names them."""

    @staticmethod
    def here() -> Machine:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if _CGROUP.is_file() and (limit := _CGROUP.read_text().strip()).isdigit():
            memory = min(memory, int(limit))
        return Machine(cores, memory / 2**30, _cards())

    def workers(self, threads: int, memory_gb: float) -> int:
        """Tasks at a time: of `threads` and `memory_gb` each, and one on a card, where there are cards."""
        borne = min(self.cores // threads, int(self.memory_gb // memory_gb), len(self.cards) or self.cores)
        return max(1, borne)

    def __str__(self) -> str:
        cards = f"{len(self.cards)} card{'s' * (len(self.cards) != 1)}" if self.cards else "no card"
        return f"{self.cores} cores, {self.memory_gb:.0f} GB, {cards}"


def _cards() -> tuple[str, ...]:
    if not any(Path("/dev").glob("nvidia[0-9]*")):  # torch takes seconds to import
        return ()
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return tuple(names[: torch.cuda.device_count()])


class LocalEngine:
    """A thread of the standard library's pool for each task in hand; it waits for the task's process."""

    def __init__(self, workers: int, order: Callable[[Task], Order], cards: Sequence[str] = ()) -> None:
        """`order`: makes of a task what a worker needs. `cards`: taken in turn, one for each worker."""
        self._order, self._cards = order, [cards[i % len(cards)] for i in range(workers)] if cards else []
        self._pool = ThreadPoolExecutor(workers)
        self._flying: dict[Future[Record], tuple[Task, str | None]] = {}
        self._workers = workers

    @property
    def room(self) -> int:
        return self._workers - len(self._flying)

    def start(self, task: Task) -> None:
        order, card = self._order(task), self._cards.pop() if self._cards else None
        if card is not None:
            order = replace(order, environment={**order.environment, "CUDA_VISIBLE_DEVICES": card})
        self._flying[self._pool.submit(execute, order)] = (task, card)

    def wait(self, seconds: float = 1.0) -> list[Record]:
        records: list[Record] = []
        for future in wait(self._flying, seconds, FIRST_COMPLETED).done:
            task, card = self._flying.pop(future)
            if card is not None:
                self._cards.append(card)
            error = future.exception()
            records.append(future.result() if error is None else Record(task.id, "failed", repr(error)))
        return records

    def close(self) -> None:
        """End what is in hand."""
        if self._flying:
            stop_all()
        self._pool.shutdown(cancel_futures=True)
