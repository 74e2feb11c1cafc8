"""Where a frame's mask comes from, and what it means: every layout has its own, all leave as coverage in 0..1."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from fmgs_dataparsers.files import CaptureError, check_pixels, image_size
from fmgs_dataparsers.mask_folder import Mask, mask_size, read_values
from fmgs_nerfstudio import gate
from fmgs_nerfstudio.maps.maps import Priors


class MaskSource(Protocol):
    """The person's coverage of one image."""

    @property
    def file(self) -> Path:
        """The file that holds the mask."""
        ...

    def size(self) -> tuple[int, int]:
        """Width and height, from headers alone.

        Raises:
            CaptureError: the file is missing, cut off, or no mask.
        """
        ...

    def read(self) -> Mask:
        """Coverage in 0..1."""
        ...


@dataclass(frozen=True)
class NoMask:
    """Stands for a mask that is still to be made; nothing is covered."""

    file: Path
    """The image."""

    def size(self) -> tuple[int, int]:
        return image_size(self.file)

    def read(self) -> Mask:
        width, height = self.size()
        return np.zeros((height, width), np.float32)


@dataclass(frozen=True)
class NonzeroMask:
    """An image whose layout says: a person wherever a value is not 0, hard."""

    file: Path

    def size(self) -> tuple[int, int]:
        return mask_size(self.file)

    def read(self) -> Mask:
        return (read_values(self.file) != 0).astype(np.float32)


@dataclass(frozen=True)
class HdfMask:
    """One row of the dataset `masks` of an HDF5 file."""

    file: Path
    row: int

    def size(self) -> tuple[int, int]:
        with open_hdf(self.file) as content:
            _, height, width = _dataset(self.file, content).shape
        return int(width), int(height)

    def read(self) -> Mask:
        with open_hdf(self.file) as content:
            return (_dataset(self.file, content)[self.row] != 0).astype(np.float32)


@dataclass(frozen=True)
class RleMask:
    """COCO's compressed run lengths: columns first, the first run is background."""

    file: Path
    """The file that the runs were read from."""
    height: int
    width: int
    counts: bytes

    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def read(self) -> Mask:
        check_pixels(self.file, self.width, self.height)
        try:
            runs = run_lengths(self.counts)
            if sum(runs) != self.width * self.height or min(runs) < 0:
                raise ValueError(f"they are {sum(runs)} long")
            values = np.repeat(np.arange(len(runs)) % 2, runs)
            return values.reshape(self.width, self.height).T.astype(np.float32)
        except (IndexError, ValueError, OverflowError) as error:
            raise CaptureError(
                f"{self.file}: a mask's run lengths do not fill {self.width} x {self.height} pixels: {error}"
            ) from error


@dataclass(frozen=True)
class UnionMask:
    """A person wherever one of the parts has one."""

    parts: tuple[MaskSource, ...]

    @property
    def file(self) -> Path:
        return self.parts[0].file

    def size(self) -> tuple[int, int]:
        sizes = {part.size() for part in self.parts}
        if len(sizes) > 1:
            raise CaptureError(f"{self.parts[0].file} and {self.parts[1].file} have different sizes")
        return sizes.pop()

    def read(self) -> Mask:
        return np.maximum.reduce([part.read() for part in self.parts])


@dataclass(frozen=True)
class PriorMask:
    """The mask among the capture's prior maps."""

    priors: Priors
    camera: str
    stem: str

    @property
    def file(self) -> Path:
        return self.priors.path("mask", self.camera, self.stem)

    def size(self) -> tuple[int, int]:
        return mask_size(self.file)

    def read(self) -> Mask:
        return self.priors.read("mask", self.camera, self.stem)


def run_lengths(counts: bytes) -> list[int]:
    """COCO's text code of run lengths: 5 bits a character, from the third on as differences to the run before last."""
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value, shift, more = 0, 0, True
        while more:
            code = counts[position] - 48
            value |= (code & 0x1F) << shift
            shift, position, more = shift + 5, position + 1, bool(code & 0x20)
            if not more and code & 0x10:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


@contextmanager
def open_hdf(path: Path) -> Generator[h5py.File]:
    """An HDF5 file for reading.

    Raises:
        CaptureError: it is missing, corrupt (which may show only when it is read), or something else.
    """
    try:
        gate.check_file(path)
        with h5py.File(path, "r") as file:
            yield file
    except CaptureError:
        raise
    except gate.FAILURES as error:
        raise CaptureError(f"{path} cannot be read as HDF5: {error}; copy it again from its source") from error


def count_masks(path: Path) -> int:
    """Rows of the dataset `masks` of an HDF5 file.

    Raises:
        CaptureError: it is no such file.
    """
    with open_hdf(path) as content:
        return len(_dataset(path, content))


def _dataset(path: Path, content: h5py.File) -> h5py.Dataset:
    found = dataset(path, content, "masks", most=2**63)  # of which one row is read at a time
    if found.ndim != 3:
        raise CaptureError(f"{path}: expected a dataset 'masks' [N, H, W] of numbers")
    check_pixels(path, found.shape[2], found.shape[1])
    return found


def dataset(path: Path, content: h5py.File, name: str, most: int = gate.NUMBERS) -> h5py.Dataset:
    """The dataset `name`, of `most` numbers or fewer, which lie in this very file: HDF5 can refer to others.

    Raises:
        CaptureError: it is something else.
    """
    here = isinstance(content.get(name, getlink=True), h5py.HardLink)
    found = content.get(name) if here else None
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual or found.dtype.kind not in "biuf":
        raise CaptureError(f"{path}: expected a dataset {name!r} of numbers in the file itself")
    if prod(found.shape) > most or prod(found.chunks or ()) * found.dtype.itemsize > gate.ARRAYS:
        raise CaptureError(f"{path}: the dataset {name!r} {list(found.shape)} is too large")
    return found
