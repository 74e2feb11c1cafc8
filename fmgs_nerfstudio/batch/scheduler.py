"""Which task is next. The same for a local pool, a Ray cluster and the simulation."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fmgs_nerfstudio.batch.tasks import Record, Task


class Engine(Protocol):
    """Where tasks are done."""

    @property
    def room(self) -> int:
        """Tasks that it takes now."""
        ...

    def start(self, task: Task) -> None:
        """Begin a task, and return."""
        ...

    def wait(self) -> Sequence[Record]:
        """What has ended since the last call; comes back now and then without."""
        ...


_BLOCK = 8
"""Captures for each worker that are begun before the first of them is finished: fewer leave workers idle at the end,
more let the first results wait."""


def ordered(tasks: Sequence[Task], seconds: Mapping[str, float], workers: int) -> list[Task]:
    """The tasks as they should begin: capture by capture in blocks, and in a block those first that most work follows.

    Args:
        seconds: expected time of each task.
        workers: tasks at a time.
    """
    group = {id: i for i, id in enumerate(dict.fromkeys(task.group for task in tasks))}
    blocks = max(1, len(group) // (_BLOCK * workers))
    follows: dict[str, float] = {}
    for task in reversed(tasks):  # those that need it have said so before
        chain = follows[task.id] = follows.get(task.id, 0.0) + seconds[task.id]
        for need in task.needs:
            follows[need] = max(follows.get(need, 0.0), chain)
    return sorted(tasks, key=lambda task: (group[task.group] * blocks // len(group), -follows[task.id]))


@dataclass
class _Open:
    """A task that is not begun."""

    waits_for: set[str]
    children: list[str]


def run(
    tasks: Sequence[Task],
    engine: Engine,
    finished: Callable[[Task], Record | None] = lambda task: None,
    tell: Callable[[Task, Record | None], None] = lambda task, record: None,
) -> dict[str, Record]:
    """Do all tasks that can be done, each after those it needs, and return what came of each, in the order of `tasks`.

    Of those that are ready, the first in `tasks` comes first. What needs a failed task is not run; nothing else suffers
    from it.

    Args:
        finished: the record of a task that was done before. Asked once, when those that it needs are done.
        tell: called with each task when it begins (None) and when it ends.
    """
    places = {task.id: place for place, task in enumerate(tasks)}
    nodes = {task.id: _Open(set(task.needs), []) for task in tasks}
    for task in tasks:
        for need in task.needs:
            nodes[need].children.append(task.id)
    ready = [place for place, task in enumerate(tasks) if not task.needs]
    records: dict[str, Record] = {}
    flying = 0

    def settle(record: Record) -> None:
        stack = [record]
        while stack:
            record = stack.pop()
            task = tasks[places[record.task]]
            records[task.id] = record
            tell(task, record)
            for child in nodes[task.id].children:
                if not record.done:
                    if child not in records:
                        stack.append(Record(child, "not run", f"{_cause(record)} failed"))
                    continue
                nodes[child].waits_for.discard(task.id)
                if not nodes[child].waits_for and child not in records:
                    heapq.heappush(ready, places[child])

    while ready or flying:
        while ready and engine.room > 0:
            task = tasks[heapq.heappop(ready)]
            if (record := finished(task)) is not None:
                settle(record)
            else:
                tell(task, None)
                engine.start(task)
                flying += 1
        if flying:
            for record in engine.wait():
                flying -= 1
                settle(record)
    return {task.id: records[task.id] for task in tasks}


def _cause(record: Record) -> str:
    """Of a task that is not done, the name of the one that failed."""
    return record.why.removesuffix(" failed") if record.status == "not run" else record.task
