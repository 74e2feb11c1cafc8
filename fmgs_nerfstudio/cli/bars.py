"""Progress bars of programs that go through frames: how many, how fast, how long yet."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Tell = Callable[[int, int], None]
"""tell(done, total)."""


class _Speed(ProgressColumn):
    """Frames per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} frames/s")


def frames_bar() -> Progress:
    """A bar for frames."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn()
    )


@contextmanager
def counting(what: str, frames: bool = True) -> Generator[Tell]:
    """A bar for one thing that is done, to frames or otherwise; yields what is told of them."""
    plain = Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with frames_bar() if frames else plain as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
