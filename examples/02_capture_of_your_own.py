"""Write a capture from arrays of your own, and check it before training.

It shows the smallest layout that is read (InstantAvatar's), with a drawn person in place of yours:

    python examples/02_capture_of_your_own.py my_capture
    ns-train fmgs-avatar --data my_capture
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import tyro
from fmgs_dataparsers.parser import open_capture
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio import demo
from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.judge.fit_check import check_capture

BODY = Path(demo.__file__).parent / "assets" / "body_demo.npz"  # yours: SMPL_NEUTRAL.pkl


@dataclass
class Options:
    """Write a small capture and check it."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write."""
    frames: int = 20
    """Number of frames; the person turns around once."""
    size: int = 256
    """Width and height of the images, in pixels."""


def main(options: Options) -> None:
    n, size, out = options.frames, options.size, options.out
    # OpenCV's conventions: x right, y down, z forward, metres; pixel centres at whole numbers.
    K = np.array([[1.2 * size, 0, (size - 1) / 2], [0, 1.2 * size, (size - 1) / 2], [0, 0, 1]])
    poses = np.random.default_rng(0).normal(scale=0.1, size=(n, 72))  # rotation vectors of 24 joints, in radians
    turns = Rotation.from_rotvec(np.linspace(0, 2 * np.pi, n)[:, None] * [0, 1, 0])
    poses[:, :3] = (turns * Rotation.from_euler("x", 180, degrees=True)).as_rotvec()  # upright before the camera
    transl, betas = np.tile([0, 0.1, 3.0], (n, 1)), np.zeros(10)

    for folder in (out / "images", out / "masks"):
        folder.mkdir(parents=True, exist_ok=True)
    body = BodyModel.load(BODY)
    for i in range(n):
        shape, pose, place = (torch.from_numpy(value).float() for value in (betas, poses[i], transl[i]))
        image = draw(body.vertices(shape, pose, place).numpy()[body.faces.numpy()], K, size)
        cv2.imwrite(str(out / "images" / f"{i:04d}.png"), image)
        cv2.imwrite(str(out / "masks" / f"{i:04d}.png"), np.where(image.any(axis=-1), 255, 0).astype(np.uint8))
    np.savez(out / "cameras.npz", intrinsic=K, extrinsic=np.eye(4), height=size, width=size)
    np.savez(out / "poses.npz", global_orient=poses[:, :3], body_pose=poses[:, 3:], transl=transl, betas=betas)
    shutil.copy(BODY, out / "SMPL_NEUTRAL.npz")

    report = check_capture(open_capture(out.resolve()))
    print(f"IoU of body and masks: {report.mean:.2f}")
    print("\n".join(report.problems) or "ready")


def draw(triangles: Array, K: Array, size: int) -> Array:
    """Image [H, W, 3] of triangles [F, 3, 3] on black, painted from back to front."""
    image = np.zeros((size, size, 3), np.uint8)
    for corners in triangles[np.argsort(-triangles[:, :, 2].mean(axis=1))]:
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        shade = 150 - 90 * normal[2] / np.linalg.norm(normal)
        pixels = np.round(16 * ((corners / corners[:, 2:]) @ K.T)[:, :2]).astype(np.int32)  # to 1/16 of a pixel
        cv2.fillConvexPoly(image, pixels, (0.7 * shade, 0.8 * shade, shade), shift=4)
    return image


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
