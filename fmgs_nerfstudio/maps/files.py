"""One prior map, one file: PNGs that any image viewer shows, and the arrays that Sapiens' demos save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fmgs_nerfstudio import gate
from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.files import atomic_path, write_image
from fmgs_nerfstudio.gate import FileError
from fmgs_nerfstudio.maps.classes import PALETTE
from fmgs_nerfstudio.unpickle import open_array

_T = TypeVar("_T")


class PriorsError(ValueError):
    """A prior map or its description cannot be used; the message names the file and what to do."""


def write_labels(path: Path, labels: UInt8[Array, "H W"]) -> None:
    """8-bit index PNG with the Goliath palette."""
    image = Image.fromarray(labels)
    image.putpalette(PALETTE.tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, compress_level=3)


def read_labels(path: Path) -> UInt8[Array, "H W"]:
    """Ids of an index PNG (or an 8-bit gray one)."""
    image = _open(path)
    if image.mode not in ("P", "L"):
        raise PriorsError(
            f"{path}: expected class ids (an 8-bit index or gray PNG), got an image of mode {image.mode}."
        )
    return np.asarray(image)


def write_mask(path: Path, mask: Float[Array, "H W"]) -> None:
    """8-bit gray PNG of a mask in 0..1."""
    with atomic_path(path) as temporary:
        Image.fromarray(np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8)).save(temporary, compress_level=3)


def read_mask(path: Path) -> Float[Array, "H W"]:
    """0..1 of an 8-bit gray PNG."""
    return _read_gray(path, bits=8)[0].astype(np.float32) / 255


def write_depth(path: Path, depth: Float[Array, "H W"]) -> None:
    """16-bit gray PNG, scaled to the map's own range, which the text chunk "range" keeps."""
    low, high = float(depth.min()), float(depth.max())
    scaled = (depth.astype(np.float64) - low) * (65535 / max(high - low, 1e-12))
    text = PngInfo()
    text.add_text("range", f"{low!r} {high!r}")
    with atomic_path(path) as temporary:
        Image.fromarray(np.rint(scaled).astype(np.uint16)).save(temporary, compress_level=3, pnginfo=text)


def read_depth(path: Path) -> Float[Array, "H W"]:
    """What `write_depth` wrote, within 1 / 131070 of its range."""
    image, text = _read_gray(path, bits=16)
    try:
        low, high = (float(word) for word in text["range"].split())
    except (KeyError, ValueError) as error:
        raise PriorsError(f'{path}: no PNG text chunk "range" of two numbers, so its depth has no scale.') from error
    return np.float32(low) + image.astype(np.float32) * np.float32((high - low) / 65535)


def write_normal(path: Path, normal: Float[Array, "H W 3"], bits: Literal[8, 16]) -> None:
    """RGB PNG of (n + 1) / 2; vectors of length 0 become black, which is no unit vector."""
    top, dtype = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    colour = np.rint((np.clip(normal, -1, 1) + 1) * (top / 2)).astype(dtype)
    colour[~np.any(normal, axis=-1)] = 0
    with atomic_path(path) as temporary:
        write_image(temporary, colour[..., ::-1], cv2.IMWRITE_PNG_COMPRESSION, 3)


def read_normal(path: Path) -> Float[Array, "H W 3"]:
    """Unit vectors of an 8- or 16-bit RGB(A) PNG of (n + 1) / 2; 0 where no unit vector was stored or alpha is low."""
    _open(path)  # OpenCV would return the readable half of a corrupt file
    colour = _read(lambda file: gate.decode(file, cv2.IMREAD_UNCHANGED), path)
    if colour.ndim != 3 or colour.shape[2] not in (3, 4):
        raise PriorsError(f"{path}: expected normals as an RGB PNG of 8 or 16 bits.")
    top = 255 if colour.dtype == np.uint8 else 65535
    normal = unit_or_zero(colour[..., 2::-1].astype(np.float32) * np.float32(2 / top) - 1)
    if colour.shape[2] == 4:
        normal[colour[..., 3] < top / 2] = 0
    return normal


def unit_or_zero(vectors: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
    """Directions at length 1; 0 where what was stored is none."""
    # Black decodes to length 1.73 and mid-gray to 0.01: neither is a direction. Sapiens' own are not exactly unit.
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    valid = (length > 0.5) & (length < 1.5)
    return np.where(valid, vectors / np.where(valid, length, 1), 0).astype(np.float32)


def read_npy(path: Path, dtype_kinds: str, ndim: int) -> Array:
    """An array [H, W] or [H, W, 3] whose dtype is of one of numpy's one-letter kinds."""
    values = _read(open_array, path)
    if values.dtype.kind not in dtype_kinds or values.ndim != ndim or (ndim == 3 and values.shape[2] != 3):
        raise PriorsError(f"{path}: unexpected array {values.dtype} {values.shape} for this kind of map.")
    _read(lambda file: gate.check_pixels(file, values.shape[1], values.shape[0]), path)
    return np.array(values)


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of a stored map; only its header is read."""
    return _read(gate.image_size, path)


def _open(path: Path) -> Image.Image:
    """A decoded PNG; corruption anywhere in the file is an error."""
    return _read(gate.load, path)


def _read(reader: Callable[[Path], _T], path: Path) -> _T:
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise PriorsError(f"{path}: no such prior map. Run the estimator again for this frame.") from error
    except (FileError, OSError) as error:
        raise PriorsError(f"{error}. Delete it and run the estimator again.") from error


def _read_gray(path: Path, bits: Literal[8, 16]) -> tuple[Array, dict[Any, Any]]:
    image = _open(path)
    if image.mode not in (("L",) if bits == 8 else ("I;16", "I")):
        raise PriorsError(f"{path}: expected a {bits}-bit gray PNG, got an image of mode {image.mode}.")
    return np.asarray(image), image.info
