"""What a batch says while it runs, before it runs, and of its simulation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fmgs_nerfstudio.batch.execute import tail
from fmgs_nerfstudio.batch.scheduler import ordered, run
from fmgs_nerfstudio.batch.simulate import (
    EXPECTED,
    Outcome,
    SimulatedEngine,
    Simulation,
    expected_seconds,
    recorded_in,
)
from fmgs_nerfstudio.batch.state import State
from fmgs_nerfstudio.batch.tasks import Record, Task
from fmgs_nerfstudio.console import printable

_LINES = 20
"""Tasks shown while they run."""


class Progress:
    """A line when a task ends; and on a terminal, below them, a line for each that runs, with its log's last."""

    def __init__(self, total: int, state: Path) -> None:
        self._total, self._state, self._ended = total, state, 0
        self._running: dict[str, float] = {}
        self._console = Console()
        self._live = Live(get_renderable=self._lines, console=self._console, refresh_per_second=1, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def tell(self, task: Task, record: Record | None) -> None:
        """A task begins (None) or has ended."""
        if record is None:
            self._running[task.id] = time.monotonic()
            return
        self._running.pop(task.id, None)
        self._ended += 1
        if record.done:
            what = "finished before" if record.kept else f"{record.seconds:.1f} s, {record.peak_mb:,.0f} MB"
        else:
            what = record.why
        style = {"done": "green", "failed": "bold red", "not run": "yellow"}[record.status]
        text = Text(f"[{self._ended}/{self._total}] ").append(record.status, style)
        self._console.print(text.append(printable(f" {task.id}: {what}")), soft_wrap=True, highlight=False)

    def _lines(self) -> Text:
        now, lines = time.monotonic(), list[str]()
        for task, begun in list(self._running.items())[:_LINES]:
            log = self._state / f"{task}.log"
            last = tail(log, 1) if log.is_file() else []
            lines.append(printable(f"{task}  {now - begun:.0f} s  {''.join(last)}")[: self._console.width - 1])
        if len(self._running) > _LINES:
            lines.append(f"and {len(self._running) - _LINES} more")
        return Text("\n".join(lines), "dim")


def graph(tasks: Sequence[Task], state: State, workers: int, most: int = 200) -> str:
    """The tasks, what each waits for, which are finished; how many of each kind; and how long the rest takes."""
    recorded = dict(EXPECTED) | (own := recorded_in(state.folder))
    seconds = expected_seconds(tasks, recorded)
    finished = {task.id for task in tasks if state.finished(task) is not None}
    lines: list[str] = []
    for task in tasks[:most]:
        what = "finished" if task.id in finished else duration(seconds[task.id])
        after = f"after {', '.join(task.needs)}" if task.needs else ""
        lines.append(f"{task.id:<40} {what:<10} {after}".rstrip())
        if task.id not in finished and task.command:
            lines.append(f"    {' '.join(task.command)}")
    if len(tasks) > most:
        lines.append(f"and {len(tasks) - most} more")
    kinds = Counter(task.kind for task in tasks)
    lines.append(f"{len(tasks)} tasks: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}")
    engine = SimulatedEngine(workers, {id: 0.0 if id in finished else value for id, value in seconds.items()})
    run(ordered(tasks, seconds, workers), engine)
    source = "as recorded there" if own else "a guess: nothing is recorded there yet"
    lines.append(
        f"{len(finished)} finished; the rest takes about {duration(engine.clock)}, {workers} at a time ({source})"
    )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def outcomes_table(simulation: Simulation, outcomes: Sequence[Outcome]) -> str:
    """The simulation as a table in Markdown."""
    header = ["workers", "makespan", "ideal", "of the ideal", "workers died", "work lost", "scheduler, a task"]
    rows = [
        [
            f"{o.workers:,}",
            duration(o.makespan),
            duration(o.ideal),
            f"{o.ideal / o.makespan:.3f}",
            f"{o.deaths:,}",
            f"{o.lost / (o.ideal * o.workers):.2%}",
            f"{o.per_task * 1e6:.0f} µs",
        ]
        for o in outcomes
    ]
    lines = "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *rows))
    return f"{simulation.subjects:,} subjects x 8 tasks\n\n{lines}"
