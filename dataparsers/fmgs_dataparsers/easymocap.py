"""EasyMocap's output: `intri.yml`, `extri.yml` (metres), `images/<camera>/`, `mask/<camera>/`, `output/smpl/*.json`.

Rh and Th turn about the origin, as in ZJU-MoCap. Of several people, the one seen most often is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from fmgs_dataparsers.assemble import Calibration, ReadOptions, Recording, Shot, assemble
from fmgs_dataparsers.capture import Capture, CaptureError, Split
from fmgs_dataparsers.conventions import Fit, PixelCentres, world_to_camera
from fmgs_dataparsers.files import (
    array,
    arrays,
    by_name,
    entries,
    images_in,
    inside,
    natural,
    number,
    read_json,
    read_yaml,
    stack,
)
from fmgs_dataparsers.mask_folder import MaskFolder
from fmgs_dataparsers.masks import MaskSource, NonzeroMask
from fmgs_dataparsers.protocols import choose
from fmgs_nerfstudio.arrays import Array

NAME = "easymocap"
SIGNATURE = "intri.yml, extri.yml, images/<camera>/ and output/smpl/*.json"
PIXEL_CENTRES: PixelCentres = "whole"
"""Calibrated, written and read with OpenCV."""
_PARSED = ("mask-schp", "mask_cihp")  # body parts
_MASKS = ("mask", "masks", *_PARSED)


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    return (root / "intri.yml").is_file() and (root / "extri.yml").is_file() and _results(root) != []


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    known = _matrices(root / "intri.yml")
    (cameras,) = entries(root / "intri.yml", known, "names")
    images = {name: images_in(inside(root / "images", name, root / "intri.yml")) for name in cameras}
    names = [name for name in cameras if images[name]]
    if not names:
        raise CaptureError(f"{root / 'images'} has no images of the cameras {', '.join(cameras)}")
    calibrations = _calibrations(root, known, names)
    first = max(images.values(), key=len)
    split = choose(options.protocol, "last-fifth", root, names, len(first))
    masks = {name: _mask_finder(root, name) for name in names}

    def shot(camera: int, i: int) -> Shot:
        name = names[camera]
        image = root / "images" / name / first[i].name
        return Shot(name, image, masks[name](image), i)

    shots: dict[Split, list[Shot]] = {
        name: [shot(camera, i) for camera, i in members] for name, members in split.indices.items()
    }
    results = {number(path.stem): path for path in _results(root)}
    results_folder = next(iter(results.values())).parent
    people = {frame: _people(path) for frame, path in results.items()}
    person = Counter(found for members in people.values() for found in members).most_common(1)
    body = options.body(root)

    def fit(i: int) -> Fit:
        frame = number(first[i].stem)
        if frame not in results:
            raise CaptureError(f"{results_folder} has no {first[i].stem}.json")
        path = results[frame]
        if not person or person[0][0] not in people[frame]:
            raise CaptureError(f"{path} has no fit of the person that is seen most often")
        keys = ("Rh", "Th", "poses", "shapes")
        Rh, Th, poses, betas = entries(path, people[frame][person[0][0]], *keys)
        return body.fit_easymocap(path, poses, Rh, Th, betas)

    return assemble(Recording(root, NAME, split, calibrations, shots, fit, body), options)


def _results(root: Path) -> list[Path]:
    folders = (root / "output" / "smpl", root / "output" / "smpl" / "smpl", root / "output-smpl-3d" / "smpl")
    return next((files for folder in folders if (files := sorted(folder.glob("*.json"), key=natural))), [])


def _people(path: Path) -> Mapping[Any, dict[str, Any]]:
    content = read_json(path)
    try:
        people = content["annots"] if isinstance(content, dict) else content
        return {person["id"]: person for person in people}
    except (ValueError, KeyError, TypeError) as error:
        raise CaptureError(f"{path} is no list of people with id, Rh, Th, poses, shapes: {error}") from error


def _mask_finder(root: Path, camera: str) -> Callable[[Path], MaskSource | None]:
    folder = next((root / name / camera for name in _MASKS if (root / name / camera).is_dir()), None)
    files = images_in(folder) if folder else []
    find, masks = by_name(files), MaskFolder(files)

    def mask(image: Path) -> MaskSource | None:
        file = find(image)
        if file is None or folder is None:
            return None
        return NonzeroMask(file) if folder.parent.name in _PARSED else masks.mask(file)

    return mask


def _calibrations(root: Path, intri: Mapping[str, Any], names: Sequence[str]) -> dict[str, Calibration]:
    """Of the cameras that have images: what a file says of others does not matter."""
    intri_file, extri_file = root / "intri.yml", root / "extri.yml"
    extri = _matrices(extri_file)
    calibrations = {}
    for name in names:
        (K,) = arrays(intri_file, intri, **{f"K_{name}": (3, 3)})
        (T,) = arrays(extri_file, extri, **{f"T_{name}": (3,)})
        if f"Rot_{name}" in extri:
            (R,) = arrays(extri_file, extri, **{f"Rot_{name}": (3, 3)})
        else:
            (r,) = arrays(extri_file, extri, **{f"R_{name}": (3,)})
            R = cv2.Rodrigues(r)[0]
        dist = f"dist_{name}"
        distortion = array(intri_file, dist, intri[dist], 5) if dist in intri else None
        calibrations[name] = Calibration(K, world_to_camera(R, T), distortion, file=intri_file)
    return calibrations


def _matrices(path: Path) -> dict[str, Any]:
    """Matrices, and lists of words, of a file in OpenCV's YAML, whose own reader dies of deep nesting."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise CaptureError(f"{path} cannot be read as OpenCV's YAML; copy it again from its source")
    return {key: _matrix(path, key, value) if isinstance(value, dict) else value for key, value in content.items()}


def _matrix(path: Path, name: str, node: dict[str, Any]) -> Array:
    rows, cols, data = entries(path, node, "rows", "cols", "data")
    try:
        # OpenCV's words for what is no number: .Nan, .Inf, -.Inf
        words = [word.replace(".N", "n").replace(".I", "i") if isinstance(word, str) else word for word in data]
        return stack(path, name, words).reshape(int(rows), int(cols))
    except (TypeError, ValueError) as error:
        raise CaptureError(f"{path}: {name} is no matrix of {rows} x {cols}: {error}") from error
