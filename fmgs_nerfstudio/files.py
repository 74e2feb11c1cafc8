"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def ensure_writable(folder: Path) -> None:
    """Try whether files can be put into `folder`, which may be still to be made: before the work, not after it.

    Raises:
        OSError: they cannot; names the folder.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written to: {error.strerror}") from error


@contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path`, with its suffix; moved onto `path` when the block ends without an error.

    A reader, or a run that was interrupted, never sees half a file. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's 0600 would lock other users out
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
