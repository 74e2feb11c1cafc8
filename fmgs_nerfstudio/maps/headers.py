"""What the header of a prior map says: thousands of files are looked at before training, too many to decode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fmgs_nerfstudio.maps.files import PriorsError
from fmgs_nerfstudio.maps.info import Kind
from fmgs_nerfstudio.unpickle import FAILURES

_MODES: dict[Kind, tuple[str, ...]] = {
    "semantics": ("P", "L"), "depth": ("I;16", "I"), "normal": ("RGB", "RGBA"), "mask": ("L",),
}  # fmt: skip
_ARRAYS: dict[Kind, tuple[str, int]] = {
    "semantics": ("iu", 2), "depth": ("f", 2), "normal": ("f", 3), "mask": ("b", 2),
}  # fmt: skip


def size_of_png(path: Path, kind: Kind) -> tuple[int, int]:
    """Width and height; only header and end of the file are read.

    Raises:
        PriorsError: it is cut off, no image, or not one of this kind.
    """
    try:
        with Image.open(path) as image:
            size, mode, text = image.size, image.mode, image.info
            if image.format != "PNG" or not _ends(path):
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PriorsError(f"{path}: truncated or not a PNG ({error})") from error
    if mode not in _MODES[kind]:
        raise PriorsError(f"{path}: an image of mode {mode}; {kind} is stored as {' or '.join(_MODES[kind])}")
    if kind == "depth" and len(str(text.get("range", "")).split()) != 2:
        raise PriorsError(f'{path}: no PNG text chunk "range" of two numbers, so its depth has no scale')
    return size


def size_of_npy(path: Path, kind: Kind) -> tuple[int, int]:
    """As `size_of_png`, of an array."""
    dtypes, dimensions = _ARRAYS[kind]
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FAILURES as error:
        raise PriorsError(f"{path}: truncated or not an .npy file ({error})") from error
    if values.dtype.kind not in dtypes or values.ndim != dimensions or (dimensions == 3 and values.shape[2] != 3):
        raise PriorsError(f"{path}: unexpected array {values.dtype} {values.shape} for {kind}")
    return values.shape[1], values.shape[0]


def _ends(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 16), 2)
        return b"IEND" in file.read()
