"""What is finished: records on disk, and the fingerprints by which they hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import fmgs_dataparsers

import fmgs_nerfstudio
from fmgs_nerfstudio.batch.tasks import Order, Record, Task, read_record

_UNRELATED = ("batch", "viewer")  # packages of ours that no result of a task depends on


class State:
    """Records and logs of a batch in `out`/state, a file each per task."""

    def __init__(self, out: Path, code: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        """`code`: stands for the version of the code. Default: the version, and the content of its files."""
        self.out, self.folder = out, out / "state"
        self.code = code_version() if code is None else code
        self.environment = dict(environment or {})
        self._fingerprints: dict[str, str] = {}

    def open(self) -> None:
        """Make the folder, by which workers recognise a shared path."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def fingerprint(self, task: Task) -> str:
        """Of inputs, configuration and code, of this task and those before it; asked for after theirs."""
        if task.id not in self._fingerprints:
            before = [self._fingerprints[need] for need in task.needs]
            command = [word.replace(str(self.out), "OUT") for word in task.command]
            facts = [facts_of(path, task.ignore) for path in task.inputs]
            content = json.dumps([self.code, command, before, facts])
            self._fingerprints[task.id] = hashlib.sha256(content.encode()).hexdigest()[:32]
        return self._fingerprints[task.id]

    def finished(self, task: Task) -> Record | None:
        """The record of a task that need not be done again."""
        return finished(self.order(task))

    def order(self, task: Task) -> Order:
        """The task for a worker."""
        return Order(task, self.fingerprint(task), self.folder, self.environment)


def finished(order: Order) -> Record | None:
    """Its record, where it is done, with the same fingerprint, and what it wrote is still there."""
    record = read_record(order.record)
    good = record is not None and record.done and record.fingerprint == order.fingerprint
    return record if good and all(path.exists() for path in order.task.outputs) else None


def facts_of(path: Path, ignore: tuple[str, ...] = ()) -> str:
    """A hash of names, sizes and times of change of a file or of all files below a folder; empty where there is none.

    Contents are not read: a data set has terabytes. Hidden files, and `ignore` in the folder itself, do not count.
    """
    if not path.exists():
        return ""
    facts = hashlib.sha256()
    for name, size, changed in sorted(_files(path, "", ignore)):
        facts.update(f"{name}\0{size}\0{changed}\n".encode(errors="surrogateescape"))
    return facts.hexdigest()


def _files(path: Path | str, name: str, ignore: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    if not os.path.isdir(path):
        facts = os.stat(path)
        yield name, facts.st_size, facts.st_mtime_ns
        return
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in ignore:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, f"{name}/{entry.name}", ())
            else:  # of a link to a file, the file; to a folder, the link: it may lead in a circle
                facts = entry.stat(follow_symlinks=not entry.is_dir())
                yield f"{name}/{entry.name}", facts.st_size, facts.st_mtime_ns


def code_version() -> str:
    """The version of this package and a hash of its files."""
    content = hashlib.sha256()
    for package in (fmgs_nerfstudio, fmgs_dataparsers):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            if name.parts[0] not in _UNRELATED and "__pycache__" not in name.parts and path.is_file():
                content.update(f"{name}\0".encode() + path.read_bytes())
    return f"{fmgs_nerfstudio.__version__} {content.hexdigest()[:16]}"
