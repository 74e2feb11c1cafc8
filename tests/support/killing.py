"""Child processes that are killed at chosen points. They are forked from a process that has imported everything, in
milliseconds instead of ten seconds. That process must have no threads (OMP_NUM_THREADS=1)."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fmgs_nerfstudio.files import remove_abandoned

Work = Callable[[], object]


class Ended(NamedTuple):
    """How a child ended: its exit status, or minus the signal that killed it; and what it said."""

    status: int
    said: str


@dataclass
class Found:
    """What came of the kill points of one writer."""

    killed: int = 0
    """Processes that died where they were meant to."""
    lost: int = 0
    """Training steps, the most that a kill cost."""
    problems: list[str] = field(default_factory=list)

    def expect(self, good: bool, problem: object) -> None:
        if not good:
            self.problems.append(str(problem)[-3000:])


class Child:
    """`work` in a forked process, after `first` has prepared its death."""

    def __init__(self, work: Work, log: Path, first: Work = lambda: None) -> None:
        self.log = log
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_run(work, log, first))

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait(self, seconds: float = 120) -> Ended:
        end = time.monotonic() + seconds
        while (ended := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return Ended(-99, self.said())
            time.sleep(0.005)
        return Ended(os.waitstatus_to_exitcode(ended[1]), self.said())

    def wait_until(self, there: Callable[[], bool], seconds: float = 120) -> None:
        """Until something is so, or the child has ended."""
        end = time.monotonic() + seconds
        while not there() and time.monotonic() < end and os.waitid(os.P_PID, self.pid, _LOOK) is None:
            time.sleep(0.002)


_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT


def _run(work: Work, log: Path, first: Work) -> int:
    """Exit status as Python gives it."""
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        remove_abandoned.cache_clear()  # a process of its own
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        first()
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def spread(total: int, most: int) -> list[int]:
    """Up to `most` of the events 1 to `total`."""
    return sorted({round(x) for x in np.linspace(1, total, min(total, most))})


def command(main: Callable[[], object], *arguments: object) -> Work:
    """A program as the shell would start it."""

    def run() -> None:
        sys.argv = [str(argument) for argument in arguments]
        main()

    return run


def both(*works: Work) -> Work:
    return lambda: [work() for work in works]


_EVENTS = ("open", "os.", "shutil.", "tempfile.")


def at_event(number: int, under: Path) -> Work:
    """Killed before the n-th time that Python opens, makes, renames or removes something under a folder."""
    return lambda: _count(under, lambda n: n == number and os.kill(os.getpid(), signal.SIGKILL))


def events(work: Work, under: Path, log: Path) -> int:
    """How many points `at_event` has to offer in a run of `work`; it must end well."""
    result = os.open(log.with_suffix(".count"), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    ended = Child(work, log, lambda: _count(under, lambda n: os.pwrite(result, b"%9d" % n, 0))).wait()
    assert ended.status == 0, ended
    return int(os.pread(result, 9, 0))


def _count(under: Path, each: Callable[[int], object]) -> None:
    count = itertools.count(1)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_EVENTS) and any(str(under) in str(argument) for argument in arguments):
            each(next(count))

    sys.addaudithook(hook)


def at_byte(number: int) -> Work:
    """Killed by the kernel in the write that takes any file beyond a size."""

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))

    return prepare


def at_most(number: int) -> Work:
    """No file can grow beyond a size: as on a full disk, writing fails."""

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))

    return prepare


def killed(ended: Ended) -> bool:
    return ended.status in (-signal.SIGKILL, -signal.SIGXFSZ)


@contextmanager
def small_disk(folder: Path, size: int) -> Generator[bool]:
    """A new, empty disk of `size` bytes at `folder`. Yields False where this process may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    mounted = _succeeds(mount)
    try:
        yield mounted
    finally:
        if mounted:
            _succeeds(["umount", "--lazy", str(folder)])


def enlarge(disk: Path, size: int) -> None:
    """Give a `small_disk` another size."""
    _succeeds(["mount", "-o", f"remount,size={size}", str(disk)])


@contextmanager
def read_only(folder: Path) -> Generator[bool]:
    """`folder` cannot be written, by root neither: mounted read-only on itself. False where this may not be."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = _succeeds(["mount", "--bind", str(folder), str(folder)])
    try:
        yield mounted and _succeeds(["mount", "-o", "remount,ro,bind", str(folder)])
    finally:
        if mounted:
            _succeeds(["umount", "--lazy", str(folder)])


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
