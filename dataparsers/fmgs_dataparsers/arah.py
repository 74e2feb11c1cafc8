"""The form that ARAH and 3DGS-Avatar train on, of ZJU-MoCap and of PeopleSnapshot: one `.npz` of SMPL per frame.

ZJU-MoCap (`CoreView_377`): `cam_params.json` (metres), `1/000000.jpg` with its mask `1/000000.png`, and
`models/000000.npz`; of the refined release the folders are called `00`, `01`, ... PeopleSnapshot (`male-3-casual`):
`camera.pkl`, `image/*.jpg`, `mask/*.png`, `animnerf_models/000000.npz`, for the frames of its protocol only.

In the `.npz`, `root_orient` and `trans` are in smplx's sense. 3DGS-Avatar moves the principal point into the
extrinsics, because its rasteriser has none; ours has one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from fmgs_dataparsers.assemble import Calibration, ReadOptions, Recording, Shot, assemble, monocular
from fmgs_dataparsers.capture import Capture, CaptureError, Split
from fmgs_dataparsers.conventions import BodyFile, Fit, PixelCentres, world_to_camera
from fmgs_dataparsers.files import arrays, by_name, entries, images_in, inside, natural, number, read_json, read_npz
from fmgs_dataparsers.masks import NonzeroMask
from fmgs_dataparsers.own_video import row_of
from fmgs_dataparsers.people_snapshot import gender_of, read_camera
from fmgs_dataparsers.protocols import choose

NAME = "arah"
SIGNATURE = "cam_params.json with models/, or camera.pkl with animnerf_models/ (3DGS-Avatar's data)"
PIXEL_CENTRES: PixelCentres = "whole"
"""ZJU-MoCap's and PeopleSnapshot's numbers, copied."""


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    zju = (root / "cam_params.json").is_file() and (root / "models").is_dir()
    return zju or ((root / "camera.pkl").is_file() and (root / "animnerf_models").is_dir())


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    return _read_zju(root, options) if (root / "cam_params.json").is_file() else _read_snapshot(root, options)


def _read_zju(root: Path, options: ReadOptions) -> Capture:
    calibrations = _calibrations(root / "cam_params.json")
    folders = {name: _folder(root, name) for name in calibrations}
    names = [name for name, folder in folders.items() if folder is not None]
    if not names:
        raise CaptureError(f"{root} has none of the folders of cam_params.json: {', '.join(calibrations)}")
    images = {name: sorted((folders[name] or root).glob("*.jpg"), key=natural) for name in names}
    stems = [image.stem for image in max(images.values(), key=len)]
    split = choose(options.protocol, "humannerf", root, names, len(stems))

    def shot(camera: int, i: int) -> Shot:
        folder = folders[names[camera]] or root
        mask = folder / f"{stems[i]}.png"
        source = NonzeroMask(mask) if mask.is_file() else None
        return Shot(names[camera], folder / f"{stems[i]}.jpg", source, i)

    shots: dict[Split, list[Shot]] = {
        name: [shot(camera, i) for camera, i in members] for name, members in split.indices.items()
    }
    body = options.body(root)
    fit = partial(_fit, body, root / "models", stems)
    return assemble(Recording(root, NAME, split, calibrations, shots, fit, body, up=(0.0, 0.0, 1.0)), options)


def _read_snapshot(root: Path, options: ReadOptions) -> Capture:
    calibration = read_camera(root / "camera.pkl")
    images = images_in(root / "image")
    mask_of = by_name((root / "mask").glob("*.png"))

    def mask(i: int) -> NonzeroMask | None:
        file = mask_of(images[i])
        return NonzeroMask(file) if file else None

    body = options.body(root, gender_of(root))
    models = root / "animnerf_models"
    row = row_of(images, len(list(models.glob("*.npz"))))
    return monocular(
        root,
        NAME,
        options,
        protocol="instantavatar",
        images=images,
        mask=mask,
        calibration=lambda i: calibration,
        fit=partial(_fit, body, models, [f"{row(i):06d}" for i in range(len(images))]),
        body=body,
    )


def _fit(body: BodyFile, folder: Path, stems: list[str], i: int) -> Fit:
    path = folder / f"{stems[i]}.npz"
    shapes = {"root_orient": (3,), "pose_body": (63,), "pose_hand": (6,), "trans": (3,), "betas": (-1,)}
    *pose, trans, betas = arrays(path, read_npz(path, tuple(shapes)), **shapes)
    return body.fit(path, np.concatenate(pose), trans, betas)


def _calibrations(path: Path) -> dict[str, Calibration]:
    content = read_json(path)
    (names,) = entries(path, content, "all_cam_names")
    if not isinstance(names, list):
        raise CaptureError(f"{path}: expected all_cam_names to be a list")
    calibrations = {}
    for name in names:
        (camera,) = entries(path, content, name)
        K, R, T, D = arrays(path, camera, K=(3, 3), R=(3, 3), T=(3,), D=(5,))
        calibrations[name] = Calibration(K, world_to_camera(R, T), D, file=path)
    return calibrations


def _folder(root: Path, name: str) -> Path | None:
    count = number(name)
    names = [name] if count is None else [name, f"{count - 1:02d}"]  # the refined release counts from 00
    paths = [inside(root, folder, root / "cam_params.json") for folder in names]
    return next((path for path in paths if path.is_dir()), None)
