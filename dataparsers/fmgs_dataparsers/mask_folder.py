"""What the values of a folder of masks mean: decided once for all of its files, from some of them together.

A frame where nobody is seen must not change what a value means in the next. Alpha is the mask where it varies; of a
palette the index counts, not the colour; of two values the larger is the person; few values that reach nowhere near
white are ids, of which the fitted body tells the person's; anything else is coverage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from fmgs_dataparsers.files import CaptureError, check_pixels, image_size, is_whole
from fmgs_dataparsers.files import open_array as open_numbers
from fmgs_nerfstudio import gate
from fmgs_nerfstudio.arrays import Array

Mask = Float[Array, "H W"]
Channel = Literal["alpha", "values"]
_SAMPLE = 24  # files that are looked at
_MOST_IDS = 32
_WHITE = 0.78  # of the type's largest value: some pixel of any mask that is coverage is as white as this
_VOID = 255  # of an index image: the seams between objects
_ALPHA = ("RGBA", "LA", "PA")
_ON_BODY = 0.4  # share of an id's pixels on the body, from which on it is the person's: hair and skirts reach beyond
_CLASSES = 6  # parts of a person from which on it is a parsing map
_PLAIN = ((0, 1), (0, 255), (0, 65535))


@dataclass(frozen=True)
class Meaning:
    """How values become coverage."""

    channel: Channel = "values"
    low: float = 0.0
    """Value of the background."""
    top: float = 255.0
    """Value that is wholly the person."""
    ids: tuple[int, ...] = ()
    """If any: the ids of what is seen, and neither `low` nor `top` count."""
    told: str = ""
    """What people should know of the decision; nothing where it is what everybody does."""
    refused: str = ""
    """Why the values mean nothing."""


class MaskFolder:
    """The masks of one folder, images or `.npy`."""

    def __init__(self, files: Iterable[Path], inverted: bool = False) -> None:
        self._files = list(files)
        self.inverted = inverted
        self._person: tuple[int, ...] | None = None

    @cached_property
    def meaning(self) -> Meaning:
        """Looks into the files when it is first asked."""
        return _decide(self._files)

    @property
    def place(self) -> Path:
        return self._files[0].parent

    def mask(self, file: Path) -> FolderMask:
        """That of one of its files."""
        return FolderMask(file, self)

    def choose_person(self, seen: Iterable[tuple[Array, Bool[Array, "H W"]]]) -> str:
        """Which ids are the person: those that lie on the body. Returns what was decided, for people.

        `seen`: of some frames the ids, and where the fitted body is, with a margin.
        """
        ids = self.meaning.ids
        counts = {i: np.zeros(2) for i in ids}
        for labels, body in seen:
            for i in ids:
                counts[i] += ((labels == i) & body).sum(), (labels == i).sum()
        on_body = {i: on / max(total, 1) for i, (on, total) in counts.items()}
        person = tuple(i for i in ids if on_body[i] >= _ON_BODY)
        self._person = person or ids
        found, shown = _listed(ids), _listed(self._person)
        if not person:
            return f"hold the ids {found}; the fitted body lies on none of them, so all are taken for the person"
        if len(person) >= _CLASSES:
            return f"are a parsing map with the classes {found}; the fitted body says that {shown} are the person"
        others = "" if len(person) == len(ids) else "; if it is another, leave only theirs above 0"
        return f"hold the ids {found}; the person is {shown}, by where the fitted body lies{others}"

    def coverage(self, values: Array) -> Mask:
        """0..1 of the values of one file."""
        meaning = self.meaning
        if meaning.refused:
            raise CaptureError(f"{self.place}: {meaning.refused}")
        if meaning.ids:
            covered = np.isin(values, meaning.ids if self._person is None else self._person).astype(np.float32)
        else:
            covered = (values.astype(np.float32) - meaning.low) / np.float32(meaning.top - meaning.low)
        return np.clip(1 - covered if self.inverted else covered, 0, 1)


@dataclass(frozen=True)
class FolderMask:
    """A mask whose values mean what they mean in its folder."""

    file: Path
    folder: MaskFolder

    def size(self) -> tuple[int, int]:
        return mask_size(self.file)

    def read(self) -> Mask:
        return self.folder.coverage(self.values())

    def values(self) -> Array:
        """[H, W] as stored: ids, where the folder has ids."""
        return read_values(self.file, self.folder.meaning.channel)


def alpha_of(images: Sequence[Path]) -> MaskFolder | None:
    """The masks in the images' own alpha channel; none where they have none, or the same everywhere."""
    if not any(_mode(path) in _ALPHA for path in _some(images)):
        return None
    folder = MaskFolder(images)
    return folder if folder.meaning.channel == "alpha" else None


def mask_size(path: Path) -> tuple[int, int]:
    """Width and height, as `read_values` gives it, from headers alone.

    Raises:
        CaptureError: the file is missing, cut off, or no mask.
    """
    if path.suffix.lower() == ".npy":
        height, width = open_array(path).shape
        return width, height
    size = image_size(path)
    if not is_whole(path):
        raise CaptureError(f"{path} is truncated; copy it again from its source")
    return size


def read_values(path: Path, channel: Channel = "values") -> Array:
    """Values [H, W] of a mask, held as the EXIF orientation says: of a palette the index, of colours the largest.

    Raises:
        CaptureError: the file is missing, broken, no mask, or has no alpha channel where that is asked for.
    """
    if path.suffix.lower() == ".npy":
        values = np.asarray(open_array(path))
        return values.astype(np.uint8) if values.dtype == bool else values
    image = _opened(path)
    if channel == "alpha":
        if image.mode not in _ALPHA:
            raise CaptureError(f"{path} has no alpha channel, in which other masks of its folder have the person")
        return gate.turned(path, np.asarray(image.getchannel("A")))
    if image.mode in ("PA", "CMYK") or (image.mode == "P" and _is_gray(image)):
        image = image.convert("RGB")
    values = np.asarray(image)
    if values.ndim == 3:
        values = values[..., : 1 if image.mode == "LA" else 3].max(axis=-1)
    return gate.turned(path, values.astype(np.uint8) if values.dtype == bool else values)


def open_array(path: Path) -> Array:
    """A mask [H, W] in a `.npy` file, of which only what is used is read."""
    array = open_numbers(path)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise CaptureError(f"{path}: expected a mask [H, W] of numbers, found {array.shape} {array.dtype}")
    check_pixels(path, array.shape[1], array.shape[0])
    return array


def around(pixels: Float[Array, "V 2"], width: int, height: int) -> Bool[Array, "H W"]:
    """Where a body is, with a margin: near its vertices in the image."""
    inside = pixels[(pixels >= 0).all(1) & (pixels < (width, height)).all(1)].astype(int)
    seen = np.zeros((height, width), np.uint8)
    seen[inside[:, 1], inside[:, 0]] = 1
    radius = max(2, round(0.03 * float(np.ptp(pixels, axis=0).max(initial=0)))) if len(inside) else 2
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(seen, kernel) > 0


def _decide(files: Sequence[Path]) -> Meaning:
    some = _some(files)
    # Where none of those looked at shows anybody, the others are asked, until one does.
    order = [*some, *(path for path in files if path not in set(some))]
    channel: Channel = "alpha" if _is_in_alpha(order, len(some)) else "values"
    values = np.zeros(0, np.uint8)
    for i, path in enumerate(order):
        if i >= len(some) and len(values) > 1:
            break
        try:
            found = np.unique(read_values(path, channel))
        except CaptureError:  # told when the frame is looked at
            continue
        values = np.union1d(values, found) if len(values) else found
    if not len(values):
        return Meaning(channel)
    indexed = channel == "values" and any(_is_index(path) for path in some)
    told = "are read from the alpha channel" if channel == "alpha" else ""
    return _meaning(values, channel, indexed, told)


def _is_in_alpha(files: Sequence[Path], count: int) -> bool:
    """Does alpha vary? Of the first `count` files; where it is 0 in all of them, of the others."""
    for i, path in enumerate(files):
        alpha = _alpha_range(path)
        if alpha is not None and alpha[0] < alpha[1]:
            return True
        if i >= count - 1 and alpha != (0, 0):
            return False
    return False


def _meaning(values: Array, channel: Channel, indexed: bool, told: str) -> Meaning:
    """Of all values that were found, sorted."""
    low, high = float(values[0]), float(values[-1])
    if not np.isfinite(values.astype(np.float64)).all():
        return Meaning(channel, refused="masks hold numbers that are not finite; write them again as 0 and 255")
    if len(values) == 1:
        return Meaning(channel, 0.0, high if high > 0 else 255.0, told=told)
    if indexed and len(values) > 2 and high == _VOID:
        values, high = values[:-1], float(values[-2])
    if len(values) == 2:
        if not told and (low, high) not in _PLAIN:
            told = f"hold {low:g} and {high:g}, of which {high:g} is taken for the person"
        if indexed:
            told = f"are index images; index {high:g} is taken for the person, whatever its colour"
        return Meaning(channel, low, high, told=told) if not indexed else Meaning(channel, ids=(int(high),), told=told)
    if low < 0:
        return Meaning(
            channel, refused=f"masks hold {low:g} to {high:g}: logits? Write them again as (values > 0) * 255"
        )
    whole = bool((values == np.round(values)).all())
    full = 1.0 if high <= 1 else 255.0 if high <= 255 else 65535.0
    if whole and len(values) <= _MOST_IDS and (indexed or high < _WHITE * full):
        return Meaning(channel, ids=tuple(int(value) for value in values if value > 0))
    if high < _WHITE * full:
        return Meaning(channel, top=high, told=f"reach {high:g} only, which is taken for full coverage")
    return Meaning(channel, top=max(full, high), told=told)


def _some(files: Sequence[Path]) -> list[Path]:
    picked = np.linspace(0, len(files) - 1, min(_SAMPLE, len(files))).round().astype(int)
    return [files[i] for i in picked]


def _opened(path: Path) -> Image.Image:
    try:
        return gate.load(path)
    except (gate.FileError, FileNotFoundError) as error:
        raise CaptureError(f"{error}; copy it again from its source") from error


def _mode(path: Path) -> str:
    try:
        with gate.open_image(path) as image:
            return image.mode
    except (gate.FileError, FileNotFoundError):
        return ""


def _alpha_range(path: Path) -> tuple[int, int] | None:
    """The least and the greatest alpha; none in a file without."""
    if _mode(path) not in _ALPHA:
        return None
    try:
        alpha = read_values(path, "alpha")
    except CaptureError:
        return None
    return int(alpha.min()), int(alpha.max())


def _is_index(path: Path) -> bool:
    try:
        return _mode(path) == "P" and not _is_gray(_opened(path))
    except CaptureError:
        return False


def _is_gray(image: Image.Image) -> bool:
    """Is an index image only a gray one that was packed? Then its shades count, as in any gray image."""
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    used = colours[used[used < len(colours)]]
    return bool((used == used[:, :1]).all())


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(str(i) for i in ids[:12]) + (f" and {len(ids) - 12} more" if len(ids) > 12 else "")
