"""The form that ARAH and 3DGS-Avatar train on, of ZJU-MoCap and of PeopleSnapshot: one `.npz` of SMPL per frame.

ZJU-MoCap (`CoreView_377`): `cam_params.json` (metres), `1/000000.jpg` with its mask `1/000000.png`, and
`models/000000.npz`; of the refined release the folders are called `00`, `01`, ... PeopleSnapshot (`male-3-casual`):
`camera.pkl`, `image/*.jpg`, `mask/*.png`, `animnerf_models/000000.npz`, for the frames of its protocol only.

In the `.npz`, `root_orient` and `trans` are in smplx's sense. 3DGS-Avatar moves the principal point into the
extrinsics, because its rasteriser has none; ours has one.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from fmgs_dataparsers.assemble import Calibration, Options, Recording, Shot, assemble, monocular
from fmgs_dataparsers.capture import Capture, CaptureError, Split
from fmgs_dataparsers.conventions import BodyFile, Fit, opencv_intrinsics, world_to_camera
from fmgs_dataparsers.files import by_name, entries, images_in, number, read_npz
from fmgs_dataparsers.masks import ImageMask
from fmgs_dataparsers.people_snapshot import gender_of, read_camera
from fmgs_dataparsers.protocols import choose

NAME = "arah"
SIGNATURE = "cam_params.json with models/, or camera.pkl with animnerf_models/ (3DGS-Avatar's data)"


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    zju = (root / "cam_params.json").is_file() and (root / "models").is_dir()
    return zju or ((root / "camera.pkl").is_file() and (root / "animnerf_models").is_dir())


def read(root: Path, options: Options) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    return _read_zju(root, options) if (root / "cam_params.json").is_file() else _read_snapshot(root, options)


def _read_zju(root: Path, options: Options) -> Capture:
    calibrations = _calibrations(root / "cam_params.json")
    folders = {name: _folder(root, name) for name in calibrations}
    names = [name for name, folder in folders.items() if folder is not None]
    if not names:
        raise CaptureError(f"{root} has none of the folders of cam_params.json: {', '.join(calibrations)}")
    images = {name: sorted((folders[name] or root).glob("*.jpg")) for name in names}
    stems = [image.stem for image in max(images.values(), key=len)]
    split = choose(options.protocol, "humannerf", root, names, len(stems))

    def shot(camera: int, i: int) -> Shot:
        folder = folders[names[camera]] or root
        mask = folder / f"{stems[i]}.png"
        source = ImageMask(mask, "nonzero") if mask.is_file() else None
        return Shot(names[camera], folder / f"{stems[i]}.jpg", source, i)

    shots: dict[Split, list[Shot]] = {
        name: [shot(camera, i) for camera, i in members] for name, members in split.indices.items()
    }
    body = options.body(root)
    fit = partial(_fit, body, root / "models", stems)
    return assemble(Recording(root, NAME, split, calibrations, shots, fit, body, up=(0.0, 0.0, 1.0)), options)


def _read_snapshot(root: Path, options: Options) -> Capture:
    calibration = read_camera(root / "camera.pkl")
    images = images_in(root / "image")
    mask_of = by_name((root / "mask").glob("*.png"))

    def mask(i: int) -> ImageMask | None:
        file = mask_of(images[i])
        return ImageMask(file, "nonzero") if file else None

    body = options.body(root, gender_of(root))
    return monocular(
        root,
        NAME,
        options,
        protocol="instantavatar",
        images=images,
        mask=mask,
        calibration=lambda i: calibration,
        fit=partial(_fit, body, root / "animnerf_models", [f"{i:06d}" for i in range(len(images))]),
        body=body,
    )


def _fit(body: BodyFile, folder: Path, stems: list[str], i: int) -> Fit:
    path = folder / f"{stems[i]}.npz"
    keys = ("root_orient", "pose_body", "pose_hand", "trans", "betas")
    root_orient, pose_body, pose_hand, trans, betas = entries(path, read_npz(path, keys), *keys)
    return body.fit(path, np.r_[root_orient.ravel(), pose_body.ravel(), pose_hand.ravel()], trans, betas)


def _calibrations(path: Path) -> dict[str, Calibration]:
    try:
        content = json.loads(path.read_text())
        cameras = {str(name): content[str(name)] for name in content["all_cam_names"]}
        return {
            name: Calibration(
                opencv_intrinsics(camera["K"]),
                world_to_camera(np.array(camera["R"]), np.array(camera["T"])),
                np.array(camera["D"], np.float64).ravel(),
            )
            for name, camera in cameras.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CaptureError(f"{path} does not hold all_cam_names and K, D, R, T of each: {error}") from error


def _folder(root: Path, name: str) -> Path | None:
    count = number(name)
    names = [name] if count is None else [name, f"{count - 1:02d}"]  # the refined release counts from 00
    return next((root / folder for folder in names if (root / folder).is_dir()), None)
