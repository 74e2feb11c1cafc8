"""What HumanNeRF's preparation writes, and MonoHuman and GoMAvatar read: one camera, one entry per frame.

Prepared (`zju/377`, or a video): `images/frame_000000.png`, `masks/frame_000000.png` (soft), `cameras.pkl`,
`mesh_infos.pkl`. A video before its preparation: `images/`, `masks/`, `metadata.json`. The images keep their lens
distortion. The camera moves from frame to frame; here the person moves before a camera at rest instead. Shapes are not
stored: they are found from the joints of the T-pose.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from fmgs_dataparsers.assemble import Calibration, ReadOptions, monocular
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.conventions import BodyFile, Fit, PixelCentres, checked, easymocap_pelvis, seen_from
from fmgs_dataparsers.files import array, arrays, entries, images_in, read_json, read_npy, read_pickle, stack
from fmgs_dataparsers.own_video import masks_beside
from fmgs_dataparsers.plausible import ImpossibleError, place_fault
from fmgs_dataparsers.protocols import subject_of
from fmgs_nerfstudio.arrays import Array

NAME = "humannerf"
SIGNATURE = "images/ with cameras.pkl and mesh_infos.pkl, or with metadata.json"
PIXEL_CENTRES: PixelCentres = "whole"
"""HumanNeRF (`get_rays_from_KRT`) casts its rays through whole numbers, those of videos too."""


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    prepared = (root / "cameras.pkl").is_file() and (root / "mesh_infos.pkl").is_file()
    return (root / "images").is_dir() and (prepared or (root / "metadata.json").is_file())


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    body = options.body(root)
    images = images_in(root / "images")
    prepared = (root / "mesh_infos.pkl").is_file()
    source = root / ("cameras.pkl" if prepared else "metadata.json")
    known, camera_of, fit_of = _prepared(root, body) if prepared else _metadata(root, body)
    stems = [image.stem for image in images if image.stem in known]
    if images and not stems:
        raise CaptureError(f"{root}: none of the {len(images)} images is named in {source.name}")

    def calibration(i: int) -> Calibration:
        # An image without a camera has no fit either, and is left out.
        K, distortion, _ = camera_of(images[i].stem if images[i].stem in known else stems[0])
        return Calibration(K, np.eye(4), distortion, file=source)

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


Camera = tuple[Array, Array | None, Array]
"""K, distortion, and the world seen from the camera."""
_Readers = tuple[Collection[str], Callable[[str], Camera], Callable[[str], Fit]]
"""Stems with a camera; camera and fit of a stem."""


def _prepared(root: Path, body: BodyFile) -> _Readers:
    cameras_file, infos_file = root / "cameras.pkl", root / "mesh_infos.pkl"
    cameras, infos = read_pickle(cameras_file), read_pickle(infos_file)
    entries(cameras_file, cameras)
    mean = root / "avg_betas.npy"
    mean_betas = array(mean, "betas", read_npy(mean), -1) if mean.is_file() else None

    def camera(stem: str) -> Camera:
        entry = _entry(cameras_file, cameras, stem)
        K, E = entries(cameras_file, entry, "intrinsics", "extrinsics")
        K = stack(cameras_file, "intrinsics", K, -1)[:3, :3]  # some write 4 x 4
        K, E = array(cameras_file, "intrinsics", K, 3, 3), array(cameras_file, "extrinsics", E, 4, 4)
        distortion = entry.get("distortions")
        if distortion is not None:
            distortion = array(cameras_file, "distortions", distortion, 5)
        return K, distortion, _rigid(cameras_file, stem, E)

    def fit(stem: str) -> Fit:
        entry = _entry(infos_file, infos, stem)
        shapes = {"Rh": (3,), "Th": (3,), "poses": (72,), "tpose_joints": (24, 3)}
        Rh, Th, poses, joints = arrays(infos_file, entry, **shapes)
        betas = next((entry[key] for key in ("betas", "beats") if key in entry), mean_betas)  # MonoHuman's spelling
        betas = body.betas(joints) if betas is None else betas
        # Joints are stored from the pelvis (videos) or from SMPL's origin (ZJU-MoCap): this holds for both.
        pelvis = easymocap_pelvis(Rh, Th, joints[0])
        return checked(infos_file, np.r_[Rh, poses[3:]], pelvis, betas)

    return cameras, camera, fit


def _metadata(root: Path, body: BodyFile) -> _Readers:
    path = root / "metadata.json"
    content = read_json(path)
    entries(path, content)

    def camera(stem: str) -> Camera:
        K, E = arrays(path, _entry(path, content, stem), cam_intrinsics=(3, 3), cam_extrinsics=(4, 4))
        return K, None, _rigid(path, stem, E)

    def fit(stem: str) -> Fit:
        poses, betas = entries(path, _entry(path, content, stem), "poses", "betas")
        return body.fit(path, poses, np.zeros(3), betas)

    return content, camera, fit


def _rigid(path: Path, stem: str, world_to_camera: Array) -> Array:
    if fault := place_fault(world_to_camera):
        raise ImpossibleError(f"{path}: the camera of {stem}: {fault}; correct the calibration")
    return world_to_camera


def _entry(path: Path, content: Any, stem: str) -> Any:
    if not isinstance(content, dict) or stem not in content:
        raise CaptureError(f"{path} has no entry for the image {stem}")
    return content[stem]
