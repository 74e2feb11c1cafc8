"""ZJU-MoCap as it is downloaded: `annots.npy`, `Camera_B1/000000.jpg`, `mask_cihp/`, `new_params/0.npy`.

Subjects 313 and 315 have folders `Camera (1)` and count frames from 1, in the names of images and of parameters. The
refined release is read here too: it differs in the names of its folders (`zju_mocap_refined`). Millimetres, Rh / Th
and OpenCV's pixel centres end here. `fmgs-demo` writes this layout.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from fmgs_dataparsers.assemble import Calibration, ReadOptions, Recording, Shot, assemble
from fmgs_dataparsers.capture import Capture, CaptureError, Split
from fmgs_dataparsers.conventions import BodyFile, Fit, PixelCentres, world_to_camera
from fmgs_dataparsers.files import arrays, entries, inside, read_npy
from fmgs_dataparsers.masks import MaskSource, NonzeroMask, UnionMask
from fmgs_dataparsers.protocols import choose

NAME = "zju-mocap"
SIGNATURE = "annots.npy with new_params/ or params/"
PIXEL_CENTRES: PixelCentres = "whole"
"""OpenCV's calibration and distortion; NeuralBody (`get_rays`) casts its rays through whole numbers."""
# new_params are fits with pose blend shapes, the later of the two.
_PARAMS = ("new_params", "params")


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    return (root / "annots.npy").is_file() and any((root / name).is_dir() for name in _PARAMS)


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    annots = root / "annots.npy"
    calibration, ims = entries(annots, read_npy(annots), "cams", "ims")
    params = next(root / name for name in _PARAMS if (root / name).is_dir())
    return read_annotated(root, NAME, options, annots, calibration, listed(annots, ims), params)


def listed(annots: Path, ims: Any) -> list[list[str]]:
    """Names of images by time step, then by camera, as `annots` lists them.

    Raises:
        CaptureError: it is no such list.
    """
    try:
        images = [list(step["ims"]) for step in ims]
    except (KeyError, TypeError, IndexError) as error:
        raise CaptureError(f"{annots}: 'ims' is no list of {{'ims': names}}: {error}") from error
    if not images or not all(images):
        raise CaptureError(f"{annots}: 'ims' names no images, or none at some time step")
    return images


def read_annotated(
    root: Path,
    layout: str,
    options: ReadOptions,
    annots: Path,
    calibration: Any,
    images: Sequence[Sequence[str]],
    params: Path,
) -> Capture:
    """A capture whose images are named by time step, then by camera, relative to `root`.

    Raises:
        CaptureError: as `read`.
    """
    names = [inside(root, image, annots).parent.name for image in images[0]]
    split = choose(options.protocol, "humannerf", root, names, len(images))
    shots: dict[Split, list[Shot]] = {
        name: [_shot(root, images[i], camera, annots) for camera, i in members]
        for name, members in split.indices.items()
    }
    used = {shot.camera for members in shots.values() for shot in members}
    cameras = {name: _calibration(annots, calibration, i) for i, name in enumerate(names) if name in used}
    body = options.body(root)
    fit = partial(_fit, body, params)
    return assemble(Recording(root, layout, split, cameras, shots, fit, body, up=(0.0, 0.0, 1.0)), options)


def _shot(root: Path, images: Sequence[str], camera: int, annots: Path) -> Shot:
    if camera >= len(images):
        raise CaptureError(f"{annots}: the time step of {images[0]} has {len(images)} images, not one of each camera")
    path = inside(root, images[camera], annots)
    mask = _mask(root, PurePosixPath(path.relative_to(root)))
    return Shot(path.parent.name, path, mask, frame_id(path.stem))


def frame_id(stem: str) -> int:
    """Number of the parameter file: `000012`, or `CoreView_313_Camera_(1)_0012_2019-08-23_...` (counted from 1)."""
    found = re.search(r"\)_(\d+)_", stem) or re.fullmatch(r"(\d+)", stem)
    if found is None:
        raise CaptureError(f"the image name {stem} has no frame number; expected 000012 or ..._Camera_(1)_0012_...")
    return int(found[1])


def _mask(root: Path, image: PurePosixPath) -> MaskSource | None:
    """The union of the two sets, as HumanNeRF does; the refined release has its masks where its images are."""
    inner = PurePosixPath(*image.parts[1:]) if image.parts[0] == "images" else image
    files = [(root / folder / inner).with_suffix(".png") for folder in ("mask_cihp", "mask", "schp")]
    parts = tuple(NonzeroMask(file) for file in files if file.is_file())
    return UnionMask(parts[:2]) if len(parts) > 1 else next(iter(parts), None)


def _fit(body: BodyFile, folder: Path, frame: int) -> Fit:
    path = folder / f"{frame}.npy"
    return body.fit_easymocap(path, *arrays(path, read_npy(path), poses=(72,), Rh=(3,), Th=(3,), shapes=(-1,)))


def _calibration(annots: Path, cameras: Any, i: int) -> Calibration:
    try:
        camera = {key: cameras[key][i] for key in ("K", "R", "T", "D")}
    except (KeyError, IndexError, TypeError) as error:
        raise CaptureError(f"{annots}: camera {i} has no K, R, T, D: {error}") from error
    K, R, T, D = arrays(annots, camera, K=(3, 3), R=(3, 3), T=(3,), D=(5,))
    return Calibration(K, world_to_camera(R, T / 1000), D, file=annots)
