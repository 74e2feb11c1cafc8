"""A small capture in the raw ZJU-MoCap layout, written by code that shares nothing with the reader."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio import demo
from fmgs_nerfstudio.body import BodyModel

ASSET = Path(demo.__file__).parent / "assets" / "body_demo.npz"
SIZE = 64


def write_capture(root: Path, n_frames: int = 3, distortion: float = 0.0) -> list[np.ndarray]:
    """Two cameras, `n_frames` time steps. Returns each step's vertices in the world, metres."""
    body = BodyModel.load(ASSET)
    rng = np.random.default_rng(0)
    betas = rng.normal(size=10)
    K = np.array([[90.0, 0, SIZE / 2 - 0.5], [0, 90.0, SIZE / 2 - 0.5], [0, 0, 1]])
    R = [Rotation.from_euler("xz", [-90, turn], degrees=True).as_matrix() for turn in (0, 140)]
    cams = {"K": [K] * 2, "R": R, "T": [np.array([[0.0], [0], [3000]])] * 2, "D": [np.full((5, 1), distortion)] * 2}
    names = ["Camera_B1", "Camera_B2"]
    (root / "new_params").mkdir(parents=True)
    (root / "SMPL_NEUTRAL.npz").write_bytes(ASSET.read_bytes())
    vertices, images = [], []
    for i in range(n_frames):
        pose, Rh, Th = rng.normal(size=72) * 0.2, rng.normal(size=3), rng.normal(size=3) * 0.1
        pose[:3] = 0
        local = body.vertices(torch.tensor(betas).float(), torch.tensor(pose).float(), torch.zeros(3)).numpy()
        vertices.append(local @ Rotation.from_rotvec(Rh).as_matrix().T + Th)
        params = {"poses": pose[None], "Rh": Rh[None], "Th": Th[None], "shapes": betas[None]}
        np.save(root / "new_params" / f"{i}.npy", params)  # pyright: ignore[reportArgumentType]
        images.append({"ims": [f"{name}/{i:06d}.jpg" for name in names]})
        for name in names:
            for folder, suffix in ((root / name, "jpg"), (root / "mask_cihp" / name, "png")):
                folder.mkdir(parents=True, exist_ok=True)
                picture = np.full((SIZE, SIZE, 3) if suffix == "jpg" else (SIZE, SIZE), 40 * i + 5, np.uint8)
                picture[:8] = 0
                cv2.imwrite(str(folder / f"{i:06d}.{suffix}"), picture)
    np.save(root / "annots.npy", {"cams": cams, "ims": images})  # pyright: ignore[reportArgumentType]
    return vertices
