"""What a person sees of a training: one line that stays where it is on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from nerfstudio.configs.base_config import LocalWriterConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from rich.live import Live
from rich.text import Text

RECENT = 50
"""Steps that loss, PSNR and speed are means of: those of one frame say little."""
_REDRAWN, _NOW_AND_THEN = 0.1, 10.0
"""Seconds between two lines at least: on a terminal, and elsewhere, where there are a hundred in a run at most."""


@dataclass
class ProgressConfig(LocalWriterConfig):
    """What training shows on the terminal."""

    enable: bool = True
    """Show progress. Off: it goes to training.log in the run's folder alone."""
    table: bool = False
    """Show nerfstudio's table of times, in place of the line."""

    def setup(self, banner_messages: list[str] | None = None, **kwargs: Any) -> Any:
        """The host's table, or what says only where the viewer is: the line is the trainer's."""
        return super().setup(banner_messages, **kwargs) if self.table else _NoTable(self, banner_messages)


class _NoTable(writer.LocalWriter):
    def __init__(self, config: LocalWriterConfig, banner_messages: list[str] | None = None) -> None:
        super().__init__(config, banner_messages)
        for message in banner_messages or ():  # where the viewer is
            CONSOLE.print(message, markup=False, highlight=False, soft_wrap=True)

    def write_stats_log(self, step: int) -> None:
        """Nothing."""


class Progress:
    """Steps, time left, loss and PSNR of a run.

    Args:
        steps: how many it does; the first one that is done may be any.
        log: file that lines are added to now and then. Its folder is there by the first step.
        shown: also on nerfstudio's console.
    """

    def __init__(self, steps: int, log: Path, shown: bool = True) -> None:
        self.steps, self.log, self.shown = steps, log, shown
        self._end: int | None = None
        self._line, self._logged, self._drawn, self._said = "", "", 0.0, float("-inf")
        self._seen: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._at: deque[float] = deque(maxlen=RECENT + 1)
        self._live: Live | None = None
        self._began = time.perf_counter()

    def __enter__(self) -> Progress:
        self._began = time.perf_counter()
        if self.shown and CONSOLE.is_interactive:
            self._live = Live(console=CONSOLE, auto_refresh=False)
            self._live.start()
            CONSOLE.show_cursor(True)  # a killed program could not give it back
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._say()
        if error is not None:
            self.note(f"ended by {kind.__name__ if kind else ''}: {error}")
        if self._live is not None:
            self._draw(refresh=False)  # the end does
            self._live.stop()
            self._live = None

    def saw(self, loss: float, psnr: float) -> None:
        """Keep what a step came to."""
        self._seen.append((loss, psnr))

    def done(self, step: int) -> None:
        """A step is done: redraw the line, or say it, if that is due."""
        now = time.perf_counter()
        self._at.append(now)
        if self._end is None:
            self._end = step + self.steps
        self._line = self._parts(step + 1, self._end)
        if self._live is not None and now - self._drawn > _REDRAWN:
            self._drawn = now
            self._draw()
        if now - self._said >= max(_NOW_AND_THEN, self._pace * self.steps / 100):
            self._said = now
            self._say()

    @property
    def _pace(self) -> float:
        """Seconds of a step, its evaluations and checkpoints included; the first one prepares much."""
        return (self._at[-1] - self._at[0]) / (len(self._at) - 1) if len(self._at) > 1 else 0.0

    def _parts(self, done: int, end: int) -> str:
        parts = [f"step {done:,}/{end:,}"]
        if done == end:
            parts.append(f"took {in_words(time.perf_counter() - self._began)}")
        elif self._pace > 0:
            parts.append(f"{in_words(self._pace * (end - done))} left")
        if self._seen:
            loss, psnr = (sum(values) / len(self._seen) for values in zip(*self._seen, strict=True))
            parts += [f"loss {loss:.4f}", f"PSNR {psnr:.1f} dB"]
        if self._pace > 0:
            parts.append(f"{self._pace:.2f} s a step")
        return ", ".join(parts)

    def _draw(self, refresh: bool = True) -> None:
        assert self._live is not None
        self._live.update(Text(fitting(self._line, shutil.get_terminal_size().columns - 1)), refresh=refresh)

    def _say(self) -> None:
        if self._line == self._logged:
            return
        self._logged = self._line
        self.note(self._line)
        if self.shown and self._live is None:
            CONSOLE.print(self._line, markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line of the log, with the time; training goes on where it cannot be written."""
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")
        except OSError as error:
            CONSOLE.print(f"{self.log} misses a line: {error}", markup=False, highlight=False, soft_wrap=True)


def fitting(line: str, width: int) -> str:
    """The first parts of `line` (`, ` between them), as many as go into `width` columns; at least a piece of one."""
    while len(line) > width and ", " in line:
        line = line[: line.rindex(", ")]
    return line[: max(width, 0)]


def in_words(seconds: float) -> str:
    """'8 s', '4 min 10 s', '2 h 5 min', '3 d 2 h'."""
    whole = round(seconds)
    for size, unit, smaller, its_unit in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {its_unit}"
    return f"{whole} s"
