"""PeopleSnapshot as it is downloaded: `camera.pkl`, `masks.hdf5`, `reconstructed_poses.hdf5` and a video.

Frames of the video are written to `video_frames/` once; frames in `images/` are taken where there are any. The lens
distortion of `camera.pkl` is undone when an image is read. SMPL is of the gender in the folder's name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fmgs_dataparsers.assemble import Calibration, ReadOptions, monocular
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.conventions import Fit, PixelCentres
from fmgs_dataparsers.files import array, arrays, entries, read_pickle, stack
from fmgs_dataparsers.masks import HdfMask, count_masks, dataset, open_hdf
from fmgs_dataparsers.video import source_frames
from fmgs_nerfstudio.arrays import Array

NAME = "people-snapshot"
SIGNATURE = "camera.pkl with masks.hdf5 and reconstructed_poses.hdf5"
PIXEL_CENTRES: PixelCentres = "whole"
"""Assumed, as the distortion is OpenCV's; InstantAvatar casts its rays through whole numbers of these files' K."""


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    return all((root / name).is_file() for name in ("camera.pkl", "masks.hdf5", "reconstructed_poses.hdf5"))


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    calibration = read_camera(root / "camera.pkl")
    poses, trans, betas = _poses(root / "reconstructed_poses.hdf5")
    masks = root / "masks.hdf5"
    n_masks = count_masks(masks)
    # Where there are more poses than masks, the first are of frames before the video.
    first = max(0, len(poses) - n_masks)
    body = options.body(root, gender_of(root))
    images = source_frames(root)

    def fit(i: int) -> Fit:
        if first + i >= len(poses):
            raise CaptureError(f"{root / 'reconstructed_poses.hdf5'} has {len(poses) - first} frames, none for {i}")
        return body.fit(root / "reconstructed_poses.hdf5", poses[first + i], trans[first + i], betas)

    return monocular(
        root,
        NAME,
        options,
        protocol="instantavatar",
        images=images,
        mask=lambda i: HdfMask(masks, i) if i < n_masks else None,
        calibration=lambda i: calibration,
        fit=fit,
        body=body,
    )


def gender_of(root: Path) -> str:
    """PeopleSnapshot names its subjects `female-3-casual` and `male-3-casual`."""
    return next((gender for gender in ("female", "male") if root.name.lower().startswith(gender)), "neutral")


def read_camera(path: Path) -> Calibration:
    """PeopleSnapshot's `camera.pkl`; the camera is the world."""
    f, c, k, width, height = arrays(
        path, read_pickle(path), camera_f=(2,), camera_c=(2,), camera_k=(5,), width=(), height=()
    )
    K = np.array([[f[0], 0, c[0]], [0, f[1], c[1]], [0, 0, 1]])
    return Calibration(K, np.eye(4), k, (int(width), int(height)), path)


def _poses(path: Path) -> tuple[Array, Array, Array]:
    with open_hdf(path) as file:
        content = {key: np.asarray(dataset(path, file, key)) for key in ("pose", "trans", "betas") if key in file}
    pose, trans, betas = entries(path, content, "pose", "trans", "betas")
    poses = stack(path, "pose", pose, 72)
    return poses, stack(path, "trans", trans, 3, counts=[len(poses)]), array(path, "betas", betas, -1)
