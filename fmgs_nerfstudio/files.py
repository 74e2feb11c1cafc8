"""Files and folders that are either whole or not there.

What is being written lies beside its place under a name of our own, and its writer holds a lock on it (flock). The
kernel drops the lock when the process ends, however it ends. So what bears such a name and is not locked was abandoned,
by `kill -9` or a power cut, and the next process that writes to the folder removes it. A file system without locks
keeps it.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from fmgs_nerfstudio.arrays import Array

_PREFIX = ".fmgs-aside-"
_ASIDE = re.compile(rf"{re.escape(_PREFIX)}[a-z0-9_]{{8}}-.*", re.DOTALL)


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

    A reader, or a run that was interrupted, never sees half a file. Missing folders are made. A full disk's error names
    `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _aside(path, folder=False) as temporary:
        try:
            yield temporary
        except OSError as error:
            if error.errno is None or error.filename not in (None, str(temporary)):
                raise
            raise OSError(error.errno, error.strerror, str(path)) from error  # a write knows no name, or ours
        temporary.chmod(0o644)  # mkstemp's 0600 would lock other users out
        os.replace(temporary, path)


def write_image(path: Path, image: Array, *parameters: int) -> None:
    """Write an image (OpenCV's order of channels) in the format of the suffix.

    `cv2.imwrite` takes a file for written whose last block did not fit on the disk.
    """
    done, content = cv2.imencode(path.suffix, image, parameters)
    if not done:
        raise OSError(f"OpenCV could not encode {path}")
    path.write_bytes(content.tobytes())


def write_array(path: Path, values: Array) -> None:
    """Write an array as .npy. `numpy.save` tells of a full disk by counts of items, without a cause or a name."""
    content = io.BytesIO()
    np.save(content, values)
    path.write_bytes(content.getbuffer())


@contextmanager
def folder_beside(path: Path) -> Generator[Path]:
    """Yield a new, empty folder beside `path`, on its file system; what is still in it when the block ends is removed.

    Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _aside(path, folder=True) as temporary:
        yield temporary


def to_disk(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _aside(path: Path, folder: bool) -> Generator[Path]:
    remove_abandoned(path.parent)
    temporary, handle = _locked_aside(path, folder)
    try:
        yield temporary
    finally:
        _remove(temporary)
        os.close(handle)


def _locked_aside(path: Path, folder: bool) -> tuple[Path, int]:
    while True:
        if folder:
            temporary = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=f"-{path.name}", dir=path.parent))
            handle = os.open(temporary, os.O_RDONLY)
        else:
            handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=f"-{path.name}", dir=path.parent)
            temporary = Path(name)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, handle
        os.close(handle)  # another process took it for abandoned before it was locked


@cache  # once per folder and process: a folder of prior maps has thousands of files
def remove_abandoned(folder: Path) -> None:
    """Remove what processes that are no more were writing in a folder."""
    for path in [path for path in folder.iterdir() if _ASIDE.fullmatch(path.name)]:
        with suppress(OSError):  # another's, or on a file system without locks: it stays
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
