"""A raw ZJU-MoCap capture whose masks are the drawn body, dressed by a few pixels; conventions can be broken."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation
from support.known_person import Person, body_model, smpl, write

WIDTH, HEIGHT = 224, 192


@dataclass
class Content:
    """What is written; tests spoil it first."""

    K: list[np.ndarray]
    R: list[np.ndarray]
    T: list[np.ndarray]
    """Metres here, millimetres in the file."""
    fits: list[dict[str, np.ndarray]]
    """EasyMocap's: poses, Rh, Th, shapes; each [1, .]."""
    masks: list[list[np.ndarray]] = field(default_factory=list)
    """Bool [H, W], by frame and camera."""


def content(n: int = 6, cameras: int = 2, dressed: int = 1) -> Content:
    """A person beside the middle of the image, the same in each call; masks wider by `dressed` pixels."""
    person = Person(n)
    K = np.array([[210.0, 0, WIDTH / 2 - 8], [0, 210.0, HEIGHT / 2 + 6], [0, 0, 1]])
    made = Content(
        K=[K.copy() for _ in range(cameras)],
        R=[Rotation.from_euler("XZ", [-80, 50 * k], degrees=True).as_matrix() for k in range(cameras)],
        T=[np.array([0.35, 0.1, 2.9 + 0.2 * k]) for k in range(cameras)],
        fits=[person.easymocap(i) for i in range(n)],
    )
    faces = smpl().faces
    for vertices in person.vertices:
        made.masks.append(
            [_silhouette(vertices @ R.T + T, faces, K, dressed) for R, T in zip(made.R, made.T, strict=True)]
        )
    return made


def _silhouette(points: np.ndarray, faces: Any, K: np.ndarray, dressed: int) -> np.ndarray:
    """By OpenCV, triangle after triangle, to 1/16 pixel."""
    pixels = (points / points[:, 2:]) @ K[:2].T
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    for triangle in np.round(pixels[faces.astype(np.int64)] * 16).astype(np.int32):
        cv2.fillConvexPoly(drawn, triangle, (1,), shift=4)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * dressed + 1, 2 * dressed + 1))
    return cv2.dilate(drawn, kernel) > 0


def write_content(root: Path, made: Content) -> Path:
    """The capture in the raw ZJU-MoCap layout. Returns its folder."""
    names = [f"Camera_B{k + 1}" for k in range(len(made.K))]
    cams = {
        "K": made.K,
        "R": made.R,
        "T": [T[:, None] * 1000 for T in made.T],
        "D": [np.zeros((5, 1))] * len(names),
    }
    ims = [{"ims": [f"{name}/{i:06d}.jpg" for name in names]} for i in range(len(made.fits))]
    root.mkdir(parents=True)
    np.save(root / "annots.npy", np.array({"cams": cams, "ims": ims}, dtype=object))
    (root / "new_params").mkdir()
    for i, (fit, masks) in enumerate(zip(made.fits, made.masks, strict=True)):
        np.save(root / "new_params" / f"{i}.npy", np.array(fit, dtype=object))
        for name, mask in zip(names, masks, strict=True):
            write(root / name / f"{i:06d}.jpg", np.dstack([np.where(mask, 160, 60).astype(np.uint8)] * 3))
            write(root / "mask_cihp" / name / f"{i:06d}.png", mask.astype(np.uint8))
    body_model(root)
    return root
