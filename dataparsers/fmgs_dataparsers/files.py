"""Files of a capture, read so that a broken one is told by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import numpy as np

from fmgs_nerfstudio import gate, unpickle
from fmgs_nerfstudio.arrays import Array

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_OTHER_SUFFIXES = frozenset(
    f".{name}"
    for name in "heic heif avif jxl jp2 gif exr psd dng cr2 cr3 nef arw raf orf rw2".split()  # noqa: SIM905
)
"""Pictures that people have and that OpenCV does not read everywhere."""
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


def read_npz(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Entries of an `.npz`, those named or all, objects through the restricted unpickler."""
    return _read(lambda file: unpickle.read_npz(file, keys), path)


def read_tensors(path: Path) -> Any:
    """What `torch.save` wrote, tensors as arrays, through the restricted unpickler."""
    return _read(unpickle.read_tensors, path)


def open_array(path: Path) -> Array:
    """A `.npy` array of numbers, mapped into memory."""
    return _read(unpickle.open_array, path)


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return _read(gate.read_json, path)


def read_yaml(path: Path) -> Any:
    """Dictionaries, lists and words of a YAML file, OpenCV's too."""
    return _read(gate.read_plain_yaml, path)


def read_text(path: Path, most: int = gate.TEXT) -> str:
    """The content of a text file."""
    return _read(lambda file: gate.read_text(file, most), path)


def inside(root: Path, name: Any, source: Path) -> Path:
    """The path of what `source` calls `name`, in the folder `root`: names of files come from files.

    Raises:
        CaptureError: it lies elsewhere.
    """
    path = PurePosixPath(str(name).replace("\\", "/"))  # some were written on Windows
    if path.is_absolute() or PureWindowsPath(path).anchor or ".." in path.parts or not path.name or "\0" in str(path):
        raise CaptureError(f"{source} names {str(name)[:200]!r}; expected a name inside {root}")
    return root / path


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
        found = np.asarray(value)
        if found.size > gate.NUMBERS:  # which may be one byte each, or one number again and again
            raise ValueError(f"an array {list(found.shape)}, more than {gate.NUMBERS:,} numbers")
        return found.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
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
    return _read(gate.image_size, path)


def is_whole(path: Path) -> bool:
    """JPEG and PNG say where they end; other formats, and files with something behind their end, are decoded."""
    return _read(gate.is_whole, path)


def check_solid(path: Path) -> None:
    """Refuse a folder, pipe, device or socket, and a file of holes."""
    _read(gate.check_solid, path)


def check_pixels(path: Path, width: int, height: int) -> None:
    """Refuse a map that is larger than any camera's, by its size alone."""
    _read(lambda file: gate.check_pixels(file, width, height), path)


def decode(path: Path, flags: int) -> Array:
    """An image as OpenCV reads it, held as its EXIF orientation says."""
    return _read(lambda file: gate.decode(file, flags), path)
