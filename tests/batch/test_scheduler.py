"""Which task is next: order, failures, retries; the same code on a simulated clock."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from fmgs_nerfstudio.batch.scheduler import ordered, run
from fmgs_nerfstudio.batch.simulate import (
    EXPECTED,
    SimulatedEngine,
    Simulation,
    ideal_seconds,
    simulate,
)
from fmgs_nerfstudio.batch.tasks import BatchError, Record, Task, check_graph


def chain(name: str, length: int) -> list[Task]:
    return [Task(f"{name}/{i}", needs=(f"{name}/{i - 1}",) if i else (), group=name) for i in range(length)]


class OneByOne:
    """Does tasks at once, up to `room` of them; some fail."""

    def __init__(self, room: int, failing: Sequence[str] = ()) -> None:
        self.most, self.failing, self.begun, self.flying = room, failing, list[str](), list[str]()

    @property
    def room(self) -> int:
        return self.most - len(self.flying)

    def start(self, task: Task) -> None:
        assert self.room > 0
        self.begun.append(task.id)
        self.flying.append(task.id)

    def wait(self) -> list[Record]:
        return [Record(id, "failed" if id in self.failing else "done") for id in [self.flying.pop(0)]]


@pytest.mark.parametrize("room", [1, 3, 100])
def test_each_task_once_and_after_those_it_needs(room: int) -> None:
    tasks = [task for name in "abc" for task in chain(name, 4)]
    tasks.append(Task("all", needs=("a/3", "b/3", "c/3")))
    engine = OneByOne(room)
    records = run(tasks, engine)
    assert sorted(engine.begun) == sorted(records) == sorted(task.id for task in tasks)
    for task in tasks:
        assert all(engine.begun.index(need) < engine.begun.index(task.id) for need in task.needs)


def test_a_failed_task_stops_what_needs_it_and_nothing_else() -> None:
    tasks = [*chain("bad", 4), *chain("good", 4), Task("both", needs=("bad/3", "good/3"))]
    engine = OneByOne(2, failing=["bad/1"])
    records = run(tasks, engine)
    statuses = {name: record.status for name, record in records.items()}
    assert statuses == {f"good/{i}": "done" for i in range(4)} | {
        "bad/0": "done",
        "bad/1": "failed",
        "bad/2": "not run",
        "bad/3": "not run",
        "both": "not run",
    }
    assert not {"bad/2", "bad/3", "both"} & set(engine.begun)
    assert records["both"].why == "bad/1 failed"


def test_finished_tasks_are_not_begun_again() -> None:
    engine = OneByOne(1)
    tasks = chain("a", 3)
    old = Record("a/0", "done", kept=True)
    assert run(tasks, engine, lambda task: old if task.id == "a/0" else None)["a/0"].kept
    assert engine.begun == ["a/1", "a/2"]


@pytest.mark.parametrize(("wrong", "why"), [
    ([Task("a"), Task("a")], "two tasks are called a"),
    ([Task("a", needs=("b",)), Task("b")], "a needs b"),
])  # fmt: skip
def test_graphs_that_cannot_be_done_are_refused(wrong: list[Task], why: str) -> None:
    with pytest.raises(BatchError, match=why):
        check_graph(wrong)


def test_long_chains_come_first_within_a_block_of_captures() -> None:
    tasks = [task for i in range(40) for task in chain(f"{i:02d}", 2)]
    order = [task.id for task in ordered(tasks, dict.fromkeys((task.id for task in tasks), 1.0), workers=2)]
    assert order[:20] == [f"{i:02d}/0" for i in range(20)]  # 40 captures in blocks of at least 16
    assert order[20:40] == [f"{i:02d}/1" for i in range(20)]
    assert order[40] == "20/0"


def test_the_simulated_clock_against_times_by_hand() -> None:
    """Three chains of 2 + 1 seconds: two workers need 5 s, three 3 s, one 9 s."""
    tasks = [task for name in "abc" for task in chain(name, 2)]
    seconds = {task.id: 2.0 if task.id.endswith("0") else 1.0 for task in tasks}
    for workers, expected in ((1, 9.0), (2, 5.0), (3, 3.0), (9, 3.0)):
        engine = SimulatedEngine(workers, seconds)
        records = run(ordered(tasks, seconds, workers), engine)
        assert engine.clock == expected
        assert ideal_seconds(tasks, records, workers) == pytest.approx(max(3.0, 9.0 / workers))


def test_workers_that_die_lose_their_task_and_no_other() -> None:
    """Every task is done in the end, and the time that was worked is what the tasks take and what was lost."""
    tasks = [task for i in range(200) for task in chain(str(i), 3)]
    engine = SimulatedEngine(1, dict.fromkeys((task.id for task in tasks), 10.0), failures=(50.0, 7.0))
    records = run(tasks, engine)
    assert {record.status for record in records.values()} == {"done"}
    assert 60 < engine.deaths < 240  # 6000 s and a mean of 50 s: 120 or so, and those of the lost time
    assert engine.clock == pytest.approx(6000 + engine.lost + 7 * engine.deaths)


def test_simulated_clusters_come_near_the_ideal() -> None:
    outcomes = simulate(Simulation(subjects=400, workers=(1, 8, 40), stragglers=0), EXPECTED)
    for one in outcomes:
        assert one.ideal <= one.makespan
        assert one.ideal / one.makespan > 0.95, one
    assert all(a.makespan > b.makespan for a, b in itertools.pairwise(outcomes))
    with pytest.raises(BatchError):
        simulate(Simulation(workers=(0,)), EXPECTED)
