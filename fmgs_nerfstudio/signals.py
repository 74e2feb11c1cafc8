"""Ctrl-C and its kin as a request to stop, raised where nothing is half done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP (the terminal was closed)"}
_SIGNALS = {getattr(signal, name): words for name, words in _NAMES.items() if hasattr(signal, name)}
_HEARD = b"\nStopping after this step; press Ctrl-C again to stop at once, without saving\n"


class Stopped(KeyboardInterrupt):
    """Someone asked the process to stop. As a KeyboardInterrupt, it passes by whatever handles errors."""

    def __init__(self, number: int) -> None:
        super().__init__(_SIGNALS[signal.Signals(number)])
        self.status = 128 + number
        """Exit status that shells expect: 130 for Ctrl-C, 143 for SIGTERM."""


class StopSignals:
    """The first SIGINT, SIGTERM or SIGHUP inside becomes `Stopped`; a second one ends the process at once.

    It is raised where the signal comes, or, while it is held, at the release. What was ignored stays ignored (nohup).
    Signals reach the main thread alone: elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._former: dict[signal.Signals, Any] = {}
        self._holds = 0
        self._asked: int | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._former = {number: signal.signal(number, self._receive) for number in heeded}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """Until `release`, a signal waits."""
        self._holds += 1

    def release(self) -> None:
        """Undo one `hold`.

        Raises:
            Stopped: a signal came meanwhile.
        """
        self._holds -= 1
        self._raise()

    @contextmanager
    def held(self) -> Generator[None]:
        """Hold during a block; when it fails, its own error counts."""
        self.hold()
        try:
            yield
        except BaseException:
            self._holds -= 1
            raise
        self.release()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        for each in self._former:
            signal.signal(each, signal.SIG_DFL)
        self._asked = number
        if self._holds:
            with suppress(OSError):  # nobody may be there to read it
                os.write(2, _HEARD)
        self._raise()

    def _raise(self) -> None:
        if self._asked is not None and not self._holds:
            number, self._asked = self._asked, None
            raise Stopped(number)
