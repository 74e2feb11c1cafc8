"""Runs a function in a child process that has little time and memory, and may open files of one folder only."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

BYTES = 2**30
SECONDS = 60.0
"""Of the processor: what takes longer counts as never ending. Not a measure of speed: seconds are enough for each."""
_PATIENCE = 300  # seconds by the wall clock for a child, on a machine that does much else
_REPOSITORY = Path(__file__).parents[2]
_OWN = tuple(
    str(Path(place).resolve())
    for place in (sys.prefix, sys.base_prefix, _REPOSITORY, "/proc", "/sys", "/usr/lib", "/usr/share", "/etc")
)
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "os.symlink")


@dataclass
class Outcome:
    """What became of one call."""

    value: Any = None
    error: BaseException | None = None
    seconds: float = 0.0
    """Of the processor."""
    bytes: int = 0
    """More than before, at most."""
    strayed: list[str] = field(default_factory=list)
    """What it did outside its folder."""


_watching: list[tuple[str, list[str]]] = []
_hooked = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    folder, strayed = _watching[-1]
    if event in _FORBIDDEN:
        strayed.append(f"{event} {arguments}")
    elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if not path.startswith((folder, *_OWN)):
            strayed.append(f"open {path}")


def measured(function: Callable[[], Any], folder: Path) -> Outcome:
    """The outcome of a call in this process: memory by its high-water mark, files by Python's audit."""
    global _hooked  # noqa: PLW0603 (a hook stays for the life of a process)
    if not _hooked:
        sys.addaudithook(_watch)
        _hooked = True
    outcome = Outcome()
    before, start = _reset_peak(), time.process_time()
    _watching.append((str(folder.resolve()), outcome.strayed))
    try:
        outcome.value = function()
    except Exception as error:
        outcome.error = error
    finally:
        _watching.pop()
    outcome.seconds = time.process_time() - start
    outcome.bytes = max(_peak() - before, 0)
    return outcome


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def in_child(function: Callable[[], Any]) -> Any:
    """What `function` returns in a fork of this process that can have 1 GiB more memory than it has.

    Raises:
        ChildProcessError: it died: of a signal, or was still waiting after minutes.
    """
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(here)
        try:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends what waits inside a library, too
            signal.alarm(_PATIENCE)
            torch.set_num_threads(1)  # a fork has none of the threads that its OpenMP would wait for
            answer = pickle.dumps((True, function()))
        except BaseException as error:
            answer = pickle.dumps((False, f"{type(error).__name__}: {error}"))
        with os.fdopen(there, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if not answer:
        raise ChildProcessError(f"the child ended with status {status} (signal {os.WTERMSIG(status)})")
    good, value = pickle.loads(answer)
    if not good:
        raise ChildProcessError(value)
    return value
