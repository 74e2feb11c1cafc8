"""EasyMocap's output: `intri.yml`, `extri.yml` (metres), `images/<camera>/`, `mask/<camera>/`, `output/smpl/*.json`.

Rh and Th turn about the origin, as in ZJU-MoCap. Of several people, the one seen most often is read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fmgs_dataparsers.assemble import Calibration, Options, Recording, Shot, assemble
from fmgs_dataparsers.capture import Capture, CaptureError, Split
from fmgs_dataparsers.conventions import Fit, opencv_intrinsics, world_to_camera
from fmgs_dataparsers.files import by_name, entries, images_in, number
from fmgs_dataparsers.masks import ImageMask
from fmgs_dataparsers.protocols import choose

NAME = "easymocap"
SIGNATURE = "intri.yml, extri.yml, images/<camera>/ and output/smpl/*.json"
_MASKS = ("mask", "masks", "mask-schp", "mask_cihp")


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    return (root / "intri.yml").is_file() and (root / "extri.yml").is_file() and _results(root) != []


def read(root: Path, options: Options) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    calibrations = _calibrations(root)
    images = {name: images_in(root / "images" / name) for name in calibrations}
    names = [name for name in calibrations if images[name]]
    if not names:
        raise CaptureError(f"{root / 'images'} has no images of the cameras {', '.join(calibrations)}")
    first = images[names[0]]
    split = choose(options.protocol, "last-fifth", root, names, len(first))
    masks = {name: _mask_finder(root, name) for name in names}

    def shot(camera: int, i: int) -> Shot:
        name = names[camera]
        image = root / "images" / name / first[i].name
        mask = masks[name](image)
        return Shot(name, image, ImageMask(mask, "nonzero") if mask else None, i)

    shots: dict[Split, list[Shot]] = {
        name: [shot(camera, i) for camera, i in members] for name, members in split.indices.items()
    }
    results = {number(path.stem): path for path in _results(root)}
    people = {frame: _people(path) for frame, path in results.items()}
    person = Counter(found for members in people.values() for found in members).most_common(1)
    body = options.body(root)

    def fit(i: int) -> Fit:
        frame = number(first[i].stem)
        if not person or frame not in people or person[0][0] not in people[frame]:
            raise CaptureError(f"{root / 'output'} has no fit of the person for frame {first[i].stem}")
        path = results[frame]
        keys = ("Rh", "Th", "poses", "shapes")
        Rh, Th, poses, betas = entries(path, people[frame][person[0][0]], *keys)
        return body.fit_easymocap(path, np.asarray(poses), Rh, Th, betas)

    return assemble(Recording(root, NAME, split, calibrations, shots, fit, body), options)


def _results(root: Path) -> list[Path]:
    folders = (root / "output" / "smpl", root / "output" / "smpl" / "smpl", root / "output-smpl-3d" / "smpl")
    return next((files for folder in folders if (files := sorted(folder.glob("*.json")))), [])


def _people(path: Path) -> Mapping[Any, dict[str, Any]]:
    try:
        content = json.loads(path.read_text())
        people = content["annots"] if isinstance(content, dict) else content
        return {person["id"]: person for person in people}
    except (ValueError, KeyError, TypeError) as error:
        raise CaptureError(f"{path} is no list of people with id, Rh, Th, poses, shapes: {error}") from error


def _mask_finder(root: Path, camera: str) -> Any:
    folder = next((root / name / camera for name in _MASKS if (root / name / camera).is_dir()), None)
    return by_name(images_in(folder) if folder else [])


def _calibrations(root: Path) -> dict[str, Calibration]:
    intri, extri = (_storage(root / name) for name in ("intri.yml", "extri.yml"))
    names = intri.getNode("names")
    calibrations = {}
    for i in range(names.size()):
        name = names.at(i).string()
        K, D = (intri.getNode(f"{key}_{name}").mat() for key in ("K", "dist"))
        T = extri.getNode(f"T_{name}").mat()
        R, r = (extri.getNode(f"{key}_{name}").mat() for key in ("Rot", "R"))
        if K is None or T is None or (R is None and r is None):
            raise CaptureError(f"{root / 'intri.yml'} or extri.yml lacks K, T or Rot of camera {name}")
        R = cv2.Rodrigues(r)[0] if R is None else R
        distortion = None if D is None else np.asarray(D, np.float64).ravel()
        calibrations[name] = Calibration(opencv_intrinsics(K), world_to_camera(R, T), distortion)
    return calibrations


def _storage(path: Path) -> cv2.FileStorage:
    try:
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    except cv2.error as error:
        raise CaptureError(f"{path} cannot be read as OpenCV's YAML: {error}") from error
    if not storage.isOpened():
        raise CaptureError(f"{path} cannot be read as OpenCV's YAML; copy it again from its source")
    return storage
