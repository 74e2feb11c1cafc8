"""One known person before known cameras, for tests of readers: poses, vertices and pixels by smplx and numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import smplx
import torch
from scipy.spatial.transform import Rotation
from smplx.utils import Struct

from fmgs_nerfstudio import demo

ASSET = Path(demo.__file__).parent / "assets" / "body_demo.npz"
WIDTH, HEIGHT = 96, 80
DISTORTION = np.array([0.1, -0.05, 0.002, -0.001, 0.01])
MASKED = (slice(20, 60), slice(30, 70))
"""Rows and columns that every mask covers; columns more by the number of the frame."""


def smpl() -> smplx.SMPL:
    with np.load(ASSET) as file:
        return smplx.SMPL("", data_struct=Struct(**dict(file)), num_betas=10)


@dataclass(frozen=True)
class Person:
    """`n` poses in smplx's sense, in a world that is z-up."""

    n: int = 4

    @cached_property
    def betas(self) -> np.ndarray:
        return np.random.default_rng(1).normal(size=10)

    @cached_property
    def pose(self) -> np.ndarray:
        pose = np.random.default_rng(2).normal(size=(self.n, 72)) * 0.2
        pose[:, 66:] = 0  # SMPL-X has no such joints
        upright = Rotation.from_euler("x", 90, degrees=True)
        turns = Rotation.from_euler("z", 0.7 * np.arange(self.n)[:, None])
        pose[:, :3] = (turns * upright * Rotation.from_rotvec(pose[:, :3])).as_rotvec()
        return pose

    @cached_property
    def transl(self) -> np.ndarray:
        return np.random.default_rng(3).normal(size=(self.n, 3)) * 0.1 + [0.0, 0.1, 0.2]

    @cached_property
    def joints(self) -> np.ndarray:
        """Joints of the shaped T-pose [24, 3]."""
        return smpl()(betas=torch.tensor(self.betas[None]).float()).joints[0, :24].detach().double().numpy()

    @cached_property
    def vertices(self) -> np.ndarray:
        """[n, V, 3], world."""
        pose, transl = (torch.from_numpy(value).float() for value in (self.pose, self.transl))
        betas = torch.tensor(self.betas[None]).float().expand(self.n, -1)
        model = smpl()
        return (
            model(betas=betas, global_orient=pose[:, :3], body_pose=pose[:, 3:], transl=transl)
            .vertices.detach()
            .numpy()
        )

    def easymocap(self, i: int) -> dict[str, np.ndarray]:
        """Rh and Th of V = R X + Th, poses with the root at zero, shapes; each [1, .]."""
        R = Rotation.from_rotvec(self.pose[i, :3]).as_matrix()
        Th = self.transl[i] + self.joints[0] - R @ self.joints[0]
        poses = np.r_[np.zeros(3), self.pose[i, 3:]]
        return {"poses": poses[None], "Rh": self.pose[i, None, :3], "Th": Th[None], "shapes": self.betas[None]}

    def before(self, camera: View, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Pose [72] and transl [3] in the camera's axes."""
        root = Rotation.from_matrix(camera.R) * Rotation.from_rotvec(self.pose[i, :3])
        pelvis = camera.R @ (self.transl[i] + self.joints[0]) + camera.T
        return np.r_[root.as_rotvec(), self.pose[i, 3:]], pelvis - self.joints[0]


@dataclass(frozen=True)
class View:
    """A camera in OpenCV's sense: pixel centres at whole numbers; metres."""

    K: np.ndarray
    R: np.ndarray
    T: np.ndarray

    def pixels(self, vertices: np.ndarray) -> np.ndarray:
        """[V, 3] of the world -> [V, 2], without distortion."""
        local = vertices @ self.R.T + self.T
        return (local / local[:, 2:]) @ self.K[:2].T


def intrinsics(focal: float = 90.0) -> np.ndarray:
    return np.array([[focal, 0, WIDTH / 2 + 1.5], [0, focal * 1.01, HEIGHT / 2 - 2.0], [0, 0, 1]])


def middle(focal: float) -> np.ndarray:
    """A camera that looks at the middle of the image, in OpenCV's pixels."""
    return np.array([[focal, 0, WIDTH / 2 - 0.5], [0, focal, HEIGHT / 2 - 0.5], [0, 0, 1]])


def view(turn: float = 0.0, K: np.ndarray | None = None, distance: float = 3.0) -> View:
    R = Rotation.from_euler("xz", [-90, turn], degrees=True).as_matrix()
    return View(intrinsics() if K is None else K, R, np.array([0.05, 0.02, distance]))


def picture(i: int) -> np.ndarray:
    """An image whose gray says which frame it is."""
    return np.full((HEIGHT, WIDTH, 3), 20 + 10 * i, np.uint8)


def which(image: np.ndarray) -> int:
    """The frame that `picture` drew."""
    return round((float(np.median(image)) - 20) / 10)


def mask(i: int) -> np.ndarray:
    """Bool [H, W]."""
    covered = np.zeros((HEIGHT, WIDTH), bool)
    covered[MASKED[0], MASKED[1].start : MASKED[1].stop + i] = True
    return covered


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def body_model(root: Path, name: str = "SMPL_NEUTRAL.npz") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(ASSET.read_bytes())
