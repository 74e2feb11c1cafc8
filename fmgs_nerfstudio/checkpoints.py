"""Checkpoints on disk: which of them is whole, and the newest that is."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from fmgs_nerfstudio.gate import FAILURES

_NAME = re.compile(r"step-(\d{9,})\.ckpt")
_LARGEST = 4 << 30
"""Bytes. Checkpoints of an avatar have some hundred megabytes; a sparse file of terabytes is not read to its end."""


class CheckpointError(ValueError):
    """No checkpoint can be used, or none can be written; the message names the files."""


def newest_whole_checkpoint(folder: Path) -> Path:
    """The checkpoint of the latest step in a run's `nerfstudio_models` that is whole; torn ones are named on the way.

    Files with other names are passed over.

    Raises:
        CheckpointError: there is none.
    """
    torn: list[str] = []
    for path in checkpoints(folder):
        if (reason := why_torn(path)) is None:
            for line in torn:
                CONSOLE.log(f"Passed over {line}; {path.name} is used", markup=False)
            return path
        torn.append(f"{path}: {reason}")
    if torn:
        raise CheckpointError("no checkpoint is whole: " + "; ".join(torn) + ". Copy the run again, or train it again")
    raise CheckpointError(f"{folder} has no checkpoint (step-000000499.ckpt and so on); let ns-train save one first")


def checkpoints(folder: Path) -> list[Path]:
    """What is named like a checkpoint in a folder, the latest step first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The last step that went into a checkpoint, from its name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not named like a checkpoint; expected step-000000499.ckpt or another number")
    return int(match[1])


def why_torn(path: Path) -> str | None:
    """What is wrong with a checkpoint as a file; None where it is whole.

    It is a zip archive, written from front to back with its list of contents last. So a file that was cut, is empty, or
    whose end was never written has no list; and each content has a checksum, which a hole or a flipped bit changes
    (torch.load does not look at it). Read once at the disk's speed, 0.1 s for 120 MB; nothing is unpickled. Values
    that were written wrong are not seen.
    """
    try:
        if not path.is_file():
            return "not a file"
        return _damage(path, path.stat().st_size)
    except zipfile.BadZipFile:
        return "torn: it does not end as a checkpoint does"
    except (OSError, EOFError, ValueError, OverflowError, RuntimeError, struct.error) as error:
        return f"cannot be read ({error})"


def read_checkpoint(path: Path) -> Any:
    """The content of a checkpoint, on the CPU: data alone, nothing in it runs.

    Raises:
        CheckpointError: it is none.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FAILURES as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error


def _damage(path: Path, size: int) -> str | None:
    if size > _LARGEST:
        return f"{size / 2**30:.0f} GiB, more than any checkpoint has"
    with zipfile.ZipFile(path) as archive:
        contents = archive.infolist()
        # torch compresses nothing: what says otherwise is not its own, and could be a bomb
        plain = all(content.compress_type == zipfile.ZIP_STORED for content in contents)
        if not plain or sum(content.file_size for content in contents) > size:
            return "a zip archive, but not as torch writes it"
        if not any(content.filename.endswith("/data.pkl") for content in contents):
            return "a zip archive, but not of torch"
        damaged = archive.testzip()
        return None if damaged is None else f"damaged inside ({damaged})"
