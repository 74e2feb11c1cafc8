"""A task in a worker, on whatever machine: its command, its log, its outputs, its record."""

from __future__ import annotations

import fcntl
import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fmgs_nerfstudio.batch.state import finished
from fmgs_nerfstudio.batch.tasks import Order, Record, Task
from fmgs_nerfstudio.files import folder_beside

TAIL = 5
"""Lines of the log that a failure is told with."""
_TIME_OF_DAY = re.compile(r"^\[\d\d:\d\d:\d\d\]")  # rich leaves as many spaces where it is that of the line before
# Linux ends the process with the thread that started it, however that ends (kill -9 of a worker); then becomes the
# program. Asked in a process of its own, because nothing may be asked between fork and exec where threads run.
_DIES_WITH_US = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or os._exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)
_running = set[int]()
_stopped = False


def execute(order: Order) -> Record:
    """Do a task and write down what came of it. Whoever is at the same task at the same time is waited for.

    The lock is on the log, which the command inherits: it lasts until the last of its processes has ended.
    """
    task, host = order.task, socket.gethostname()
    if not order.state.is_dir():
        why = f"{host} has no folder {order.state}: captures and --out must be on a path that all machines share"
        return Record(task.id, "failed", why, order.fingerprint, host=host)
    order.log.parent.mkdir(parents=True, exist_ok=True)
    with _locked(order.log) as log:
        if (record := finished(order)) is not None:
            return record
        order.record.unlink(missing_ok=True)
        log.write(f"# {time.strftime('%Y-%m-%d %H:%M:%S')} {host}, process {os.getpid()}: {shlex.join(task.command)}\n")
        log.flush()
        begun, start = Record(task.id, "done", "", order.fingerprint, host=host, command=task.command), time.monotonic()
        try:
            why, used = _carry_out(order, log)
        except OSError as error:  # a full disk, a folder that may not be written
            why, used = str(error), _Used()
        if why:
            why = "\n".join([why, *tail(order.log)])
        seconds = time.monotonic() - start
        status = "failed" if why else "done"
        record = replace(begun, status=status, why=why, seconds=seconds, **used._asdict())
        if not _stopped:  # by the user: that says nothing of the task
            record.write(order.record)
    return record


def stop_all() -> None:
    """End what this process runs, gently; for good where that takes long. No command starts any more."""
    global _stopped  # noqa: PLW0603
    _stopped = True
    for number, seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
        for process in list(_running):
            _signal(process, number)
        end = time.monotonic() + seconds
        while _running and time.monotonic() < end:
            time.sleep(0.02)


def _signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process, number)


def tail(log: Path, lines: int = TAIL) -> list[str]:
    """The last lines of a log that are not empty, without the time of day: the same wherever and whenever it was."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode(errors="replace").replace("\r", "\n")
    said = (_TIME_OF_DAY.sub(" " * 10, line).rstrip() for line in text.splitlines() if not line.startswith("# "))
    return [line for line in said if line][-lines:]


@contextmanager
def _locked(path: Path) -> Generator[io.TextIOWrapper]:
    with path.open("a", encoding="utf-8") as file:
        while not _stopped:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield file


class _Used(NamedTuple):
    """What a command used, as in `Record`."""

    peak_mb: float = 0.0
    cpu_seconds: float = 0.0


def _carry_out(order: Order, log: io.TextIOWrapper) -> tuple[str, _Used]:
    """Why it failed, empty where it did not; and what it used."""
    task = order.task
    if task.writes != "aside" or not task.outputs:
        for path in task.outputs if task.writes == "afresh" else ():
            _remove(path)
        return _call(order, task.outputs, log)
    with folder_beside(task.outputs[0]) as aside:
        written = tuple(aside / path.name for path in task.outputs)
        why, used = _call(order, written, log)
        if not why:
            for path, final in zip(written, task.outputs, strict=True):
                _remove(final)
                os.replace(path, final)
        return why, used


def _call(order: Order, outputs: tuple[Path, ...], log: io.TextIOWrapper) -> tuple[str, _Used]:
    """As `_carry_out`; `outputs`: where the command shall write them."""
    task = order.task
    if _stopped:
        return "stopped", _Used()
    code, used = 0, _Used()
    if task.command:
        code, used = _run(_words(task, outputs), log, os.environ | dict(order.environment))
    if _stopped:
        return "stopped", used
    if code:
        return f"{task.command[0]} {_ending(code)}", used
    if absent := [str(path) for path, there in zip(task.outputs, outputs, strict=True) if not there.exists()]:
        return f"{task.command[0]} ended well and did not write {', '.join(absent)}", used
    return "", used


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    why = ", as where memory runs out" if code == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{why}"


def _words(task: Task, outputs: tuple[Path, ...]) -> list[str]:
    """The command with the program's place on this machine, and with `outputs` for its own."""
    elsewhere = {str(path): str(place) for path, place in zip(task.outputs, outputs, strict=True)}
    beside = Path(sys.executable).with_name(task.command[0])
    program = str(beside) if beside.exists() else shutil.which(task.command[0])
    if program is None:
        raise FileNotFoundError(f"{socket.gethostname()} has no {task.command[0]} beside {sys.executable}")
    return [program, *(elsewhere.get(word, word) for word in task.command[1:])]


def _run(words: list[str], log: io.TextIOWrapper, environment: dict[str, str]) -> tuple[int, _Used]:
    """Exit code, or minus the signal; and what it used."""
    if sys.platform == "linux":
        words = [sys.executable, "-I", "-S", "-c", _DIES_WITH_US, str(os.getpid()), *words]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    _running.add(process.pid)
    try:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        _running.discard(process.pid)
    return process.returncode, _Used(usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
