"""What the readers of people's own videos share: masks beside the images, and the cameras that trackers assume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import radians, tan
from pathlib import Path
from typing import Any

import numpy as np

from fmgs_dataparsers.assemble import Calibration
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.conventions import centred_intrinsics
from fmgs_dataparsers.files import IMAGE_SUFFIXES, by_name, entries, image_size, natural, number
from fmgs_dataparsers.mask_folder import FolderMask, MaskFolder

_FOLDERS = ("masks", "mask")


def masks_beside(root: Path, images: Sequence[Path]) -> Callable[[int], FolderMask | None]:
    """Masks in `masks/`: images or `.npy`, with the image's stem or number.

    Without that folder, masks are looked for among the capture's prior maps.
    """
    folder = next((root / name for name in _FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        return lambda i: None
    files = sorted((path for path in folder.iterdir() if path.suffix.lower() in (*IMAGE_SUFFIXES, ".npy")), key=natural)
    find, masks = by_name(files), MaskFolder(files)

    def mask(i: int) -> FolderMask | None:
        file = find(images[i])
        return masks.mask(file) if file else None

    return mask


def centred_camera(images: Sequence[Path], focal: Callable[[int, int], float]) -> Callable[[int], Calibration]:
    """A camera at the origin that looks at the middle of the image; `focal(width, height)` in pixels."""
    if not images:
        raise CaptureError("there are no images")

    @cache
    def first() -> Calibration:
        for image in images:
            try:
                width, height = image_size(image)
            except CaptureError:
                continue
            return Calibration(centred_intrinsics(focal(width, height), width, height), np.eye(4))
        raise CaptureError(f"{images[0]} cannot be read as an image, and no other image of its folder")

    return lambda i: first()


def romp_focal(width: int, height: int) -> float:
    """ROMP sees 60 degrees along the longer side: 443.4 pixels for its 512."""
    return max(width, height) / 2 / tan(radians(30))


def wham_focal(width: int, height: int) -> float:
    """WHAM, where it was given no calibration: the image's diagonal."""
    return float(np.hypot(width, height))


def humans4d_focal(width: int, height: int) -> float:
    """4D-Humans (HMR 2.0, PHALP): 5000 pixels for its crop of 256."""
    return 5000 / 256 * max(width, height)


def longest_track(path: Path, tracks: Any) -> Mapping[str, Any]:
    """Of {person: {key: values per frame}}, the person seen for the longest."""
    members = tracks.values() if isinstance(tracks, dict) else ()
    people = [track for track in members if isinstance(track, dict) and track]
    if not people:
        raise CaptureError(f"{path} tracks nobody; expected {{person: {{'pose': [N, 72], ...}}}}")
    return max(people, key=lambda track: np.size(entries(path, dict(track), "pose")[0]))


def row_of(images: Sequence[Path], n_rows: int) -> Callable[[int], int]:
    """The row of an image in a file with one row per frame: by order where there are as many of them; else images are
    missing, and the numbers in their names count the rows from the first on."""
    numbers = [number(image.stem) for image in images]
    known = [value for value in numbers if value is not None]
    if len(images) == n_rows or len(set(known)) < len(numbers):
        return lambda i: i
    return lambda i: known[i] - min(known)


def rows_by_frame(path: Path, names: Sequence[str], images: Sequence[Path]) -> dict[int, str]:
    """For each image's place in the video, the name under which a tracker filed it.

    Names match where every one is an image's stem, or every image has one; else, where there are as many, by order;
    else by the number in them, counted from 1 where the last image's says so.
    """
    ordered = sorted(names, key=natural)
    stems = {Path(name).stem: name for name in ordered}
    shown = {image.stem for image in images}
    if stems.keys() <= shown or shown <= stems.keys():
        return {i: stems[image.stem] for i, image in enumerate(images) if image.stem in stems}
    if len(ordered) == len(images):
        return dict(enumerate(ordered))
    numbers = {number(Path(name).stem): name for name in ordered}
    first = 1 if len(images) in numbers and 0 not in numbers else 0
    found = {i: numbers[i + first] for i in range(len(images)) if i + first in numbers}
    if not found:
        raise CaptureError(f"{path}: its {len(ordered)} frames ({ordered[:1]} ...) have not the names of the images")
    return found
