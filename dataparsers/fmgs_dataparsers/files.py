"""Files of a capture, read so that a broken one is told by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from fmgs_nerfstudio import unpickle
from fmgs_nerfstudio.arrays import Array

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_OTHER_SUFFIXES = frozenset(
    f".{name}"
    for name in "heic heif avif jxl jp2 gif exr psd dng cr2 cr3 nef arw raf orf rw2".split()  # noqa: SIM905
)
"""Pictures that people have and that OpenCV does not read everywhere."""
_EXIF_ORIENTATION = 0x0112
_T = TypeVar("_T")


class CaptureError(ValueError):
    """The capture cannot be used; the message names the file, what was expected, and what to do."""


def _read(reader: Callable[[Path], _T], path: Path) -> _T:
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise CaptureError(f"{path} is missing; copy it again from its source") from error
    except (ValueError, OSError) as error:
        raise CaptureError(f"{error}; copy it again from its source") from error


def read_pickle(path: Path) -> Any:
    """A pickle of arrays, through the restricted unpickler."""
    return _read(unpickle.read_pickle, path)


def read_joblib(path: Path) -> Any:
    """A joblib file of arrays, through the restricted unpickler."""
    return _read(unpickle.read_joblib, path)


def read_npy(path: Path) -> Any:
    """A `.npy` array, or the object pickled in it, through the restricted unpickler."""
    return _read(unpickle.read_numpy_object, path)


def read_tensors(path: Path) -> Any:
    """A file of tensors, which torch opens as data."""
    return _read(unpickle.read_tensors, path)


def read_npz(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Entries of an `.npz`, those named or all, objects through the restricted unpickler."""
    return _read(lambda file: unpickle.read_npz(file, keys), path)


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CaptureError(f"{path} cannot be read as JSON: {error}; copy it again from its source") from error


def entries(path: Path, content: Any, *keys: str) -> list[Any]:
    """The values of `keys` in the dictionary `content` that was read from `path`."""
    if not isinstance(content, dict):
        raise CaptureError(f"{path} holds a {type(content).__name__}; expected a dictionary with {', '.join(keys)}")
    if missing := [key for key in keys if key not in content]:
        found = ", ".join(str(key) for key in list(content)[:12])
        raise CaptureError(f"{path} lacks {', '.join(missing)}; found {found}")
    return [content[key] for key in keys]


def array(path: Path, name: str, value: Any, *shape: int) -> Array:
    """`value`, read from `path`, as finite float64 of this shape but for axes of length 1; (-1,): any length but 0."""
    found = _numbers(path, name, value)
    wanted = (found.size,) if shape == (-1,) else shape
    if not found.size or [n for n in found.shape if n != 1] != [n for n in wanted if n != 1]:
        raise CaptureError(f"{path}: expected {name} {list(shape)}; found {list(found.shape)}")
    if not np.isfinite(found).all():
        raise CaptureError(f"{path}: {name} is not finite; copy the file again from its source")
    return found.reshape(shape)


def arrays(path: Path, content: Any, **shapes: tuple[int, ...]) -> list[Array]:
    """The entries of these names in the dictionary `content`, each as `array`."""
    values = entries(path, content, *shapes)
    return [array(path, name, value, *shapes[name]) for name, value in zip(shapes, values, strict=True)]


def stack(path: Path, name: str, value: Any, *shape: int, counts: Collection[int] = ()) -> Array:
    """`value` as float64 [N, *shape], N one of `counts`, if given; -1: any length. Rows may hold a NaN: each is
    checked when it is used, so that one bad row does not cost the others."""
    found = _numbers(path, name, value)
    n = len(found) if found.ndim else 0
    known = int(np.prod([length for length in shape if length != -1]))
    row = tuple(found.size // max(n, 1) // known if length == -1 else length for length in shape)
    if not found.ndim or found.size != n * np.prod(row, dtype=int):
        raise CaptureError(f"{path}: expected {name} {list(shape)} in each row; found {list(found.shape)}")
    if counts and n not in counts:
        wanted = " or ".join(str(count) for count in dict.fromkeys(counts))
        raise CaptureError(f"{path}: expected {wanted} rows of {name}; found {n}")
    return found.reshape(n, *row)


def _numbers(path: Path, name: str, value: Any) -> Array:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise CaptureError(f"{path}: {name} holds something else than numbers: {error}") from error


def natural(name: Path | str) -> tuple[tuple[int, str], ...]:
    """Sorts names as people count: frame_2 before frame_10."""
    parts = re.split(r"(\d+)", str(name))  # words at even places, numbers at odd ones
    return (*((int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)), (0, str(name)))


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder, in the natural order of their names.

    Raises:
        CaptureError: all its pictures are of formats that are not read.
    """
    files = sorted(folder.iterdir(), key=natural) if folder.is_dir() else []
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [path for path in files if path.suffix.lower() in _OTHER_SUFFIXES]
    if others and not images:
        suffix = others[0].suffix
        raise CaptureError(
            f"{folder} holds {len(others)} {suffix} files, which cannot be read. Convert them, for example with "
            f"ImageMagick: magick mogrify -format jpg {folder / ('*' + suffix)}"
        )
    return images


def number(name: str) -> int | None:
    """The last number in a file's stem: 12 of `image_0012`."""
    digits = re.findall(r"\d+", name)
    return int(digits[-1]) if digits else None


def by_name(files: Iterable[Path]) -> Callable[[Path], Path | None]:
    """Finds the file that belongs to an image: the same stem, or else the same number (`mask_0012` to `image_0012`)."""
    files = list(files)
    stems = {path.stem: path for path in files}
    stems |= {path.name.removesuffix(path.suffix).rsplit(".", 1)[0]: path for path in files}  # 0012.png.npy
    numbers = {number(path.stem): path for path in files if number(path.stem) is not None}
    unique = len(numbers) == len(files)

    def find(image: Path) -> Path | None:
        return stems.get(image.stem) or (numbers.get(number(image.stem)) if unique else None)

    return find


def image_size(path: Path) -> tuple[int, int]:
    """Width and height as `decode` gives it; only its header is read."""
    try:
        with Image.open(path) as image:
            return image.size if _orientation(image) < 5 else image.size[::-1]
    except FileNotFoundError as error:
        raise CaptureError(f"{path} is missing") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise CaptureError(f"{path} cannot be read as an image") from error


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; of a header, since `Image.load` may find another one behind the pixels."""
    return int(image.getexif().get(_EXIF_ORIENTATION, 1)) if "exif" in image.info else 1


def turned(path: Path, pixels: Array) -> Array:
    """Pixels [H, W, ...] as the file has them, held as its EXIF orientation says. For every reader of images: which
    formats OpenCV and others turn depends on their version."""
    with Image.open(path) as image:
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
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(-min(path.stat().st_size, 16), 2)
        tail = file.read()
    if head.startswith(b"\xff\xd8") and b"\xff\xd9" in tail:
        return True
    if head == b"\x89PNG\r\n\x1a\n" and b"IEND" in tail:
        return True
    try:
        with Image.open(path) as image:
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False
    return True


def decode(path: Path, flags: int) -> Array:
    """An image as OpenCV reads it, held as its EXIF orientation says."""
    # None where it cannot, though its types do not say so.
    image: Any = cv2.imread(str(path), flags if flags < 0 else flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise CaptureError(f"{path} cannot be read as an image; copy it again from its source")
    return turned(path, image)
