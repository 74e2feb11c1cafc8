"""How the commands end: errors that users can do something about are one line, not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

from fmgs_nerfstudio.console import printable


@contextmanager
def in_one_line(program: str, *errors: type[Exception], interrupted: str) -> Generator[None]:
    """Exit with status 1 on `errors` and OSError, 130 on Ctrl-C, after one line that says which; others pass."""
    try:
        yield
    except (*errors, OSError) as error:
        print(printable(f"{program}: {error}"), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{program}: interrupted; {interrupted}", file=sys.stderr)
        sys.exit(130)
