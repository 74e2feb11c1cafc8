"""What the header of a prior map says: thousands of files are looked at before training, too many to decode."""

from __future__ import annotations

from pathlib import Path

from fmgs_nerfstudio import gate
from fmgs_nerfstudio.maps.files import PriorsError
from fmgs_nerfstudio.maps.info import Kind
from fmgs_nerfstudio.unpickle import open_array

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
        with gate.open_image(path) as image:
            size, mode, text, is_png = image.size, image.mode, image.info, image.format == "PNG"
        if not is_png or not gate.is_whole(path):
            gate.load(path)
    except (gate.FileError, OSError) as error:
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
        values = open_array(path)
    except (ValueError, OSError) as error:
        raise PriorsError(f"{path}: truncated or not an .npy file ({error})") from error
    if values.dtype.kind not in dtypes or values.ndim != dimensions or (dimensions == 3 and values.shape[2] != 3):
        raise PriorsError(f"{path}: unexpected array {values.dtype} {values.shape} for {kind}")
    return values.shape[1], values.shape[0]
