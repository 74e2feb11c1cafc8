"""How the commands end: errors that users can do something about are one line, not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

from fmgs_nerfstudio.console import printable
from fmgs_nerfstudio.signals import Stopped, StopSignals


@contextmanager
def in_one_line(program: str, *errors: type[Exception], interrupted: str) -> Generator[None]:
    """Exit with status 1 on `errors` and OSError, 130 on Ctrl-C, 143 on SIGTERM, after one line that says which; others
    pass."""
    try:
        with StopSignals():
            yield
    except (*errors, OSError) as error:
        print(printable(f"{program}: {error}"), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as stop:
        print(f"{program}: interrupted; {interrupted}", file=sys.stderr)
        sys.exit(stop.status if isinstance(stop, Stopped) else 130)
