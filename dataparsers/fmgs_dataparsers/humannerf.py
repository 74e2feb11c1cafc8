"""What HumanNeRF's preparation writes, and MonoHuman and GoMAvatar read: one camera, one entry per frame.

Prepared (`zju/377`, or a video): `images/frame_000000.png`, `masks/frame_000000.png` (soft), `cameras.pkl`,
`mesh_infos.pkl`. A video before its preparation: `images/`, `masks/`, `metadata.json`. The images keep their lens
distortion. The camera moves from frame to frame; here the person moves before a camera at rest instead. Shapes are not
stored: they are found from the joints of the T-pose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from fmgs_dataparsers.assemble import Calibration, Options, monocular
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.conventions import BodyFile, Fit, checked, easymocap_pelvis, opencv_intrinsics, seen_from
from fmgs_dataparsers.files import entries, images_in, read_npy, read_pickle
from fmgs_dataparsers.own_video import masks_beside
from fmgs_dataparsers.protocols import subject_of

NAME = "humannerf"
SIGNATURE = "images/ with cameras.pkl and mesh_infos.pkl, or with metadata.json"


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    prepared = (root / "cameras.pkl").is_file() and (root / "mesh_infos.pkl").is_file()
    return (root / "images").is_dir() and (prepared or (root / "metadata.json").is_file())


def read(root: Path, options: Options) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    body = options.body(root)
    images = images_in(root / "images")
    prepared = (root / "mesh_infos.pkl").is_file()
    known, camera_of, fit_of = _prepared(root, body) if prepared else _metadata(root, body)
    stems = [image.stem for image in images if image.stem in known]
    if images and not stems:
        raise CaptureError(
            f"{root}: none of the {len(images)} images is named in {'cameras.pkl' if prepared else 'metadata.json'}"
        )

    def calibration(i: int) -> Calibration:
        # An image without a camera has no fit either, and is left out.
        K, distortion, _ = camera_of(images[i].stem if images[i].stem in known else stems[0])
        return Calibration(opencv_intrinsics(K), np.eye(4), distortion)

    def fit(i: int) -> Fit:
        return seen_from(fit_of(images[i].stem), camera_of(images[i].stem)[2])

    return monocular(
        root,
        NAME,
        options,
        protocol="humannerf" if subject_of(root).isdigit() else "last-fifth",
        images=images,
        mask=masks_beside(root, images),
        calibration=calibration,
        fit=fit,
        body=body,
    )


Camera = tuple[np.ndarray, np.ndarray | None, np.ndarray]
"""K, distortion, and the world seen from the camera."""
_Readers = tuple[Collection[str], Callable[[str], Camera], Callable[[str], Fit]]
"""Stems with a camera; camera and fit of a stem."""


def _prepared(root: Path, body: BodyFile) -> _Readers:
    cameras_file, infos_file = root / "cameras.pkl", root / "mesh_infos.pkl"
    cameras, infos = read_pickle(cameras_file), read_pickle(infos_file)
    entries(cameras_file, cameras)
    mean_betas = read_npy(root / "avg_betas.npy") if (root / "avg_betas.npy").is_file() else None

    def camera(stem: str) -> Camera:
        entry = _entry(cameras_file, cameras, stem)
        K, E = entries(cameras_file, entry, "intrinsics", "extrinsics")
        distortion = np.asarray(entry["distortions"], np.float64).ravel() if "distortions" in entry else None
        return np.asarray(K)[:3, :3], distortion, np.asarray(E, np.float64)

    def fit(stem: str) -> Fit:
        entry = _entry(infos_file, infos, stem)
        Rh, Th, poses, joints = entries(infos_file, entry, "Rh", "Th", "poses", "tpose_joints")
        joints = np.asarray(joints, np.float64)
        betas = next((entry[key] for key in ("betas", "beats") if key in entry), mean_betas)  # MonoHuman's spelling
        betas = body.betas(joints) if betas is None else np.asarray(betas)
        Rh, Th = (np.asarray(value, np.float64).ravel() for value in (Rh, Th))
        # Joints are stored from the pelvis (videos) or from SMPL's origin (ZJU-MoCap): this holds for both.
        pelvis = easymocap_pelvis(Rh, Th, joints[0])
        return checked(infos_file, np.r_[Rh, np.asarray(poses).ravel()[3:]], pelvis, betas)

    return cameras, camera, fit


def _metadata(root: Path, body: BodyFile) -> _Readers:
    path = root / "metadata.json"
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise CaptureError(f"{path} is no JSON: {error}") from error

    entries(path, content)

    def camera(stem: str) -> Camera:
        K, E = entries(path, _entry(path, content, stem), "cam_intrinsics", "cam_extrinsics")
        return np.asarray(K, np.float64), None, np.asarray(E, np.float64)

    def fit(stem: str) -> Fit:
        poses, betas = entries(path, _entry(path, content, stem), "poses", "betas")
        return body.fit(path, np.asarray(poses), np.zeros(3), np.asarray(betas))

    return content, camera, fit


def _entry(path: Path, content: Any, stem: str) -> Any:
    if not isinstance(content, dict) or stem not in content:
        raise CaptureError(f"{path} has no entry for the image {stem}")
    return content[stem]
