"""The one door for files that strangers wrote: opened so that none blocks, fills the memory, or takes forever.

Only regular files pass, no larger than their kind needs; what a file declares (pixels, entries) is compared with a
limit before anything of that size is allocated. Links are followed: people keep their images elsewhere.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import pickle
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import yaml
from PIL import Image

from fmgs_nerfstudio.arrays import Array

TEXT = 16 * 2**20
"""Bytes of JSON and lists: a few kilobytes for each of some thousand frames. Parsed, they can be 25 times that."""
IMAGE = 256 * 2**20
"""Bytes of an image file: 8K frames, 16 bits a channel, not packed."""
ARRAYS = 400 * 2**20
"""Bytes of arrays that one file may unpack to: the largest body models have 170 million."""
NUMBERS = 2**24
"""Numbers of one array that becomes float64: poses of an hour of video."""
SIDE, PIXELS = 16_384, 50_000_000
"""Longest side and area of an image: 8K video has 35, the best phones 50 million pixels."""
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_READS = 1_000_000  # Pillow looks for a JPEG's next marker byte by byte
_SCANS = 200  # of a JPEG: each costs a pass over all pixels; programs write 10 or so
_STRIP_TAGS, _STRIPS = (273, 279, 324, 325), 200_000  # places and sizes of a TIFF's strips and tiles; tiles of 16 x 16
_EXIF_ORIENTATION = 0x0112

FAILURES = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    OSError,
    SyntaxError,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    zipfile.BadZipFile,
    BufferError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    tokenize.TokenError,
    Image.DecompressionBombError,
)
"""What pickle, numpy, zipfile, Pillow and the decompressors raise at a corrupt file."""


class FileError(ValueError):
    """A file cannot be used; the message names it and says what was expected."""


def check_file(path: Path, most: int | None = None) -> os.stat_result:
    """Facts of a regular file of `most` bytes or fewer, which is not opened.

    Raises:
        FileError: it is a folder, pipe, device or socket, or larger.
        OSError: it is missing, or may not be read.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise FileError(f"{path} is {_kind(facts.st_mode)}; expected a file")
    if most is not None and facts.st_size > most:
        raise FileError(
            f"{path} has {facts.st_size / 2**20:,.0f} MiB; files of its kind have at most {most / 2**20:,.0f}"
        )
    return facts


def check_solid(path: Path, most: int = 2**24) -> None:
    """For files of any size: zeros that were never written cost nothing to send, and minutes to read.

    Raises:
        FileError: as `check_file`, or it has a longer hole than `most` bytes.
    """
    size, end = check_file(path).st_size, 0
    with open_file(path, size) as file:
        while end < size and hasattr(os, "SEEK_HOLE"):
            hole = os.lseek(file.fileno(), end, os.SEEK_HOLE)
            try:
                end = os.lseek(file.fileno(), hole, os.SEEK_DATA) if hole < size else size
            except OSError:  # no data behind it
                end = size
            if end - hole > most:
                raise FileError(f"{path} lacks {(end - hole) / 2**20:,.0f} MiB of its content: half copied")


def _kind(mode: int) -> str:
    names = {"a folder": stat.S_ISDIR, "a named pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((name for name, is_kind in names.items() if is_kind(mode)), "a device")


def open_file(path: Path, most: int, kind: type[io.BufferedReader] = io.BufferedReader) -> io.BufferedReader:
    """A file opened for reading, as `check_file` admits it."""
    check_file(path, most)
    # Should it become a pipe between the two calls, opening does not wait for a writer.
    return kind(io.FileIO(path, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))))


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file, as `check_file` admits it."""
    with open_file(path, most) as file:
        return file.read(most)


def read_text(path: Path, most: int = TEXT) -> str:
    """The content of a text file.

    Raises:
        FileError: as `check_file`, or it is no UTF-8.
    """
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is no text: {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileError: as `check_file`, or it is no JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read as JSON: {error}") from error


def read_plain_yaml(path: Path) -> Any:
    """Dictionaries, lists and words (numbers too are words) of a YAML file; tags mean nothing, OpenCV's first line too.

    Raises:
        FileError: as `check_file`, or it is no YAML, or has aliases, which unfold without end.
    """
    text = read_text(path, TEXT // 16)  # PyYAML is slow
    if text.startswith("%YAML:1.0"):
        text = text.partition("\n")[2]
    loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise FileError(f"{path} has aliases (*name); expected plain values")
        return yaml.load(text, loader)
    except (yaml.YAMLError, RecursionError, TypeError) as error:
        raise FileError(f"{path} cannot be read as YAML: {error}") from error


# Images ---------------------------------------------------------------------------


class _Patient(io.BufferedReader):
    """A file that ends the search of a header that has no end."""

    left = _READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError("its header has no end")
        return super().read(size)


@contextmanager
def open_image(path: Path) -> Generator[Image.Image]:
    """An image of which only the header has been read.

    Raises:
        FileError: as `check_file`, or it is no image, or has more pixels than `SIDE` and `PIXELS` allow; or what is
            done with it inside the block shows that it is corrupt.
        FileNotFoundError: it is missing.
    """
    try:
        with open_file(path, IMAGE, _Patient) as file:
            _check_strips(path, file)
            with Image.open(file, formats=_FORMATS) as image:
                check_pixels(path, *image.size)
                yield image
    except (FileError, FileNotFoundError):
        raise
    except FAILURES as error:
        raise FileError(f"{path} cannot be read as an image: {error}") from error


def _check_strips(path: Path, file: BinaryIO) -> None:
    """A TIFF's directory may name more strips than pictures have rows, and readers make a list of them all."""
    head = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is not None:
        file.seek(struct.unpack(order + "I", head[4:])[0])
        entries = file.read(12 * struct.unpack(order + "H", file.read(2))[0])
        for tag, _, count, _ in struct.iter_unpack(order + "HHII", entries[: len(entries) // 12 * 12]):
            if tag in _STRIP_TAGS and count > _STRIPS:
                raise FileError(f"{path} has {count:,} strips or tiles; expected at most {_STRIPS:,}")
    elif head[:4] in (b"II+\0", b"MM\0+"):
        raise FileError(f"{path} is a BigTIFF, made for more than 4 GB; save it as TIFF or PNG")
    file.seek(0)


def check_pixels(path: Path, width: int, height: int) -> None:
    """Raises:
    FileError: the image or map in `path` is larger than any that cameras make.
    """
    if max(width, height) > SIDE or width * height > PIXELS:
        raise FileError(
            f"{path} has {width} x {height} pixels; expected at most {SIDE:,} on a side and {PIXELS:,} in all"
        )


def image_size(path: Path) -> tuple[int, int]:
    """Width and height as `decode` gives it; only its header is read.

    Raises:
        FileError, FileNotFoundError: as `open_image`.
    """
    with open_image(path) as image:
        return image.size if _orientation(image) < 5 else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; of a header, since `Image.load` may find another one behind the pixels."""
    return int(image.getexif().get(_EXIF_ORIENTATION, 1)) if "exif" in image.info else 1


def turned(path: Path, pixels: Array) -> Array:
    """Pixels [H, W, ...] as the file has them, held as its EXIF orientation says. For every reader of images: which
    formats OpenCV and others turn depends on their version."""
    with open_image(path) as image:
        orientation = _orientation(image)
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def is_whole(path: Path) -> bool:
    """JPEG and PNG say where they end; other formats, and files with something behind their end, are decoded."""
    with open_file(path, IMAGE) as file:
        head = file.read(8)
        file.seek(-min(os.fstat(file.fileno()).st_size, 16), 2)
        tail = file.read()
    if head.startswith(b"\xff\xd8") and b"\xff\xd9" in tail:
        return True
    if head == b"\x89PNG\r\n\x1a\n" and b"IEND" in tail:
        return True
    try:
        load(path)
    except FileError:
        return False
    return True


def load(path: Path) -> Image.Image:
    """An image as Pillow reads it; corruption anywhere in the file is an error.

    Raises:
        FileError, FileNotFoundError: as `open_image`.
    """
    with open_image(path) as image:
        if image.format in ("JPEG", "MPO"):
            _check_scans(path, read_bytes(path, IMAGE))
        image.load()
        return image


def _check_scans(path: Path, content: bytes) -> None:
    if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > _SCANS:
        raise FileError(f"{path} is a JPEG of more than {_SCANS} scans; save it again as another")


def decode(path: Path, flags: int) -> Array:
    """An image as OpenCV reads it, held as its EXIF orientation says.

    Raises:
        FileError, FileNotFoundError: as `open_image`.
    """
    image_size(path)
    content = read_bytes(path, IMAGE)
    _check_scans(path, content)
    try:
        kept = flags if flags < 0 else flags | cv2.IMREAD_IGNORE_ORIENTATION
        image: Any = cv2.imdecode(np.frombuffer(content, np.uint8), kept)  # None where it cannot
    except cv2.error as error:
        raise FileError(f"{path} cannot be read as an image: {error}") from error
    if image is None:
        raise FileError(f"{path} cannot be read as an image; copy it again from its source")
    return turned(path, image)
