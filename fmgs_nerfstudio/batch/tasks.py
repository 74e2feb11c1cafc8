"""What there is to do, and what came of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.gate import FileError, read_json

Status = Literal["done", "failed", "not run"]


class BatchError(ValueError):
    """A mistake of the user's; the message says what to do."""


@dataclass(frozen=True)
class Task:
    """One call of a program."""

    id: str
    """Its name, and the place of its record and log: `377/check`, `377-full-0/train`. The last part is its kind."""
    command: tuple[str, ...] = ()
    """A program that lies beside Python, and its arguments. Empty: nothing is called."""
    outputs: tuple[Path, ...] = ()
    """What it writes, all in one folder; without them it has failed."""
    inputs: tuple[Path, ...] = ()
    """Files and folders whose change means to do it again; what other tasks write is not among them."""
    ignore: tuple[str, ...] = ()
    """Names in the inputs' folders that other programs write there."""
    needs: tuple[str, ...] = ()
    """Tasks that must be done before."""
    writes: Literal["aside", "afresh", "on"] = "aside"
    """aside: to another place first, moved when all is there. afresh: in place, after what is there was removed. on: in
    place, going on with what is there."""
    card: bool = False
    """Whether it uses a card where there is one."""
    group: str = ""
    """The capture that it belongs to."""

    @property
    def kind(self) -> str:
        return self.id.rpartition("/")[2]


@dataclass(frozen=True)
class Record:
    """What came of a task."""

    task: str
    status: Status
    why: str = ""
    """Why it failed or was not run: a line, and the last lines of the log."""
    fingerprint: str = ""
    kept: bool = dataclasses.field(default=False, compare=False)
    """It was finished before."""
    seconds: float = 0.0
    peak_mb: float = 0.0
    """Most memory that one of its processes had, MB; not less than the process has that started it."""
    cpu_seconds: float = 0.0
    """Processor time of its processes."""
    host: str = ""
    command: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        return self.status == "done"

    def write(self, path: Path) -> None:
        """As JSON: whole or not at all."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")


def read_record(path: Path) -> Record | None:
    """What `Record.write` wrote; None where there is none, or it is torn."""
    try:
        values: Any = read_json(path)
        return Record(**(values | {"command": tuple(values["command"]), "kept": True}))
    except (OSError, FileError, TypeError, KeyError):
        return None


@dataclass(frozen=True)
class Order:
    """A task as a worker gets it."""

    task: Task
    fingerprint: str
    state: Path
    """Folder of records and logs."""
    environment: Mapping[str, str]
    """Variables for its processes, beside the worker's own."""

    @property
    def record(self) -> Path:
        return self.state / f"{self.task.id}.json"

    @property
    def log(self) -> Path:
        return self.state / f"{self.task.id}.log"


def check_graph(tasks: Sequence[Task]) -> None:
    """Raises:
    BatchError: two tasks have one name, or one needs what is not there before it.
    """
    known = set[str]()
    for task in tasks:
        if task.id in known:
            raise BatchError(f"two tasks are called {task.id}; give captures and variants names of their own")
        if absent := [need for need in task.needs if need not in known]:
            raise BatchError(f"{task.id} needs {', '.join(absent)}, which the plan does not have before it")
        known.add(task.id)
