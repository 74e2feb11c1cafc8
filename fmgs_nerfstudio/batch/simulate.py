"""The same scheduler on a clock that does not tick: how long a plan takes, on how many workers, with what failures."""

from __future__ import annotations

import heapq
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from fmgs_nerfstudio.batch.plan import Plan, Source
from fmgs_nerfstudio.batch.scheduler import ordered, run
from fmgs_nerfstudio.batch.steps import STEPS, tasks_of
from fmgs_nerfstudio.batch.tasks import BatchError, Record, Task, read_record

Seconds = Mapping[str, Sequence[float]]
"""Recorded times of tasks, by their kind."""
CHAIN = tuple(name for name in STEPS if name != "demo")
"""The eight tasks of a subject whose video is all that there is."""


@dataclass(frozen=True)
class Simulation:
    """What is simulated."""

    subjects: int = 10_000
    """Subjects, each with eight tasks: track, priors, check, train, eval, animate, export, report."""
    workers: tuple[int, ...] = (1, 10, 100, 1000)
    """Workers, one table row each."""
    hours_between_failures: float = 100.0
    """Mean time until a worker dies with the task in its hands. 0: never."""
    repair_seconds: float = 600.0
    """Time until another takes its place."""
    broken: float = 0.02
    """Share of subjects whose check fails."""
    stragglers: float = 0.01
    """Share of tasks that take five times their time."""
    seed: int = 0
    """Seed of all that is drawn."""


class SimulatedEngine:
    """Workers with a heap of events for a clock. A task whose worker dies starts again, as on Ray."""

    def __init__(
        self,
        workers: int,
        seconds: Mapping[str, float],
        broken: frozenset[str] = frozenset(),
        failures: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        """`seconds`: of each task. `failures`: mean seconds until a worker dies, and until it is replaced."""
        self.clock, self.lost, self.deaths = 0.0, 0.0, 0
        self._seconds, self._broken, self._failures, self._random = seconds, broken, failures, random.Random(seed)
        self._idle, self._again = workers, list[str]()
        self._events: list[tuple[float, int, str, bool]] = []
        self._count = 0

    @property
    def room(self) -> int:
        return self._idle - len(self._again)

    def start(self, task: Task) -> None:
        self._begin(task.id)

    def _begin(self, task: str) -> None:
        self._idle -= 1
        seconds, alive = self._seconds[task], True
        if self._failures is not None:
            death = self._random.expovariate(1 / self._failures[0])
            alive, seconds = death >= seconds, min(seconds, death)
        if not alive:
            self.lost += seconds
        self._at(self.clock + seconds, task, alive)

    def _at(self, clock: float, task: str, alive: bool) -> None:
        self._count += 1
        heapq.heappush(self._events, (clock, self._count, task, alive))

    def wait(self) -> list[Record]:
        self.clock, _, task, alive = heapq.heappop(self._events)
        ended: list[Record] = []
        if not task:  # a worker is back
            self._idle += 1
        elif alive:
            self._idle += 1
            ended.append(Record(task, "failed" if task in self._broken else "done", seconds=self._seconds[task]))
        else:
            assert self._failures is not None
            self.deaths += 1
            self._again.append(task)
            self._at(self.clock + self._failures[1], "", True)
        while self._again and self._idle:
            self._begin(self._again.pop())
        return ended


class Outcome(NamedTuple):
    """Of one number of workers; times in seconds."""

    workers: int
    makespan: float
    ideal: float
    """The longer of the longest chain and all work divided by the workers."""
    deaths: int
    lost: float
    """Work that died with workers."""
    per_task: float
    """Time that the scheduler itself took for a task, on this machine."""


def simulate(simulation: Simulation, recorded: Seconds) -> list[Outcome]:
    """Run the scheduler on every number of workers, with the same tasks and times.

    Raises:
        BatchError: what is asked for is no cluster.
    """
    if simulation.subjects < 1 or min(simulation.workers, default=0) < 1:
        raise BatchError("the simulation needs one subject and one worker or more")
    tasks = _tasks(simulation.subjects)
    draw = random.Random(simulation.seed)
    seconds = {
        task.id: draw.choice(recorded[task.kind]) * (5 if draw.random() < simulation.stragglers else 1)
        for task in tasks
    }
    broken = frozenset(t.id for t in tasks if t.kind == "check" and draw.random() < simulation.broken)
    between = simulation.hours_between_failures * 3600
    failures = (between, simulation.repair_seconds) if between else None
    expected, outcomes = expected_seconds(tasks, recorded), list[Outcome]()
    for workers in simulation.workers:
        engine = SimulatedEngine(workers, seconds, broken, failures, simulation.seed)
        start = time.process_time()
        records = run(ordered(tasks, expected, workers), engine)
        per_task = (time.process_time() - start) / len(tasks)
        ideal = ideal_seconds(tasks, records, workers)
        outcomes.append(Outcome(workers, engine.clock, ideal, engine.deaths, engine.lost, per_task))
    return outcomes


def _tasks(subjects: int) -> list[Task]:
    captures = tuple(Source(f"{i:05d}", Path(f"{i:05d}.mp4"), "track") for i in range(subjects))
    return tasks_of(Plan("simulation", captures, run=CHAIN), Path("out"))


def ideal_seconds(tasks: Sequence[Task], records: Mapping[str, Record], workers: int) -> float:
    """The least time in which what was done can be done: no cluster of so many workers is faster."""
    ends: dict[str, float] = {}
    for task in tasks:
        ends[task.id] = records[task.id].seconds + max((ends[need] for need in task.needs), default=0.0)
    return max(max(ends.values(), default=0.0), sum(record.seconds for record in records.values()) / workers)


# Times of tasks -------------------------------------------------------------------------------------------------------

EXPECTED: Seconds = {
    "demo": (20.0,),
    "track": (120.0,),
    "priors": (300.0,),
    "check": (10.0,),
    "train": (300.0,),
    "eval": (30.0,),
    "animate": (30.0,),
    "export": (60.0,),
    "report": (45.0,),
}
"""Guesses, of one core and captures as the demo's, where nothing is recorded."""


def recorded_in(state: Path) -> dict[str, list[float]]:
    """Seconds by kind of the tasks that are finished there; of some thousand, if there are more."""
    found: dict[str, list[float]] = defaultdict(list)
    for path in islice(state.rglob("*.json"), 4000):
        record = read_record(path)
        if record is not None and record.done:
            found[path.stem].append(record.seconds)
    return dict(found)


def expected_seconds(tasks: Sequence[Task], recorded: Seconds) -> dict[str, float]:
    """Of each task the mean of its kind."""
    return {task.id: sum(times := recorded[task.kind]) / len(times) for task in tasks}
