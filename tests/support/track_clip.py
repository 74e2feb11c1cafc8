"""A clip without networks: landmarks projected from a known body, as a perfect network would see them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo.skinned_surface import BODY
from fmgs_nerfstudio.track.landmarks import Calibration
from fmgs_nerfstudio.track.records import N_LANDMARKS, Fits, Sightings

SIZE = (720, 1280)
FOCAL = 1400.0


@dataclass(frozen=True)
class Clip:
    """Truth in a world with y up and the ground at y = 0."""

    body: BodyModel
    betas: np.ndarray
    pose: np.ndarray
    transl: np.ndarray
    K: np.ndarray
    world_to_camera: np.ndarray
    sightings: Sightings
    calibration: Calibration

    def joints(self) -> np.ndarray:
        """[F, 24, 3] in the camera, metres."""
        return joints_in_camera(self.body, self.betas, self.pose, self.transl, self.world_to_camera)

    def seen(self, **changes: np.ndarray) -> Clip:
        """With other sightings."""
        return replace(self, sightings=replace(self.sightings, **changes))


def joints_in_camera(
    body: BodyModel, betas: np.ndarray, pose: np.ndarray, transl: np.ndarray, world_to_camera: np.ndarray
) -> np.ndarray:
    """By smplx."""
    bones, rest = _bones(body, betas, pose, transl)
    world = _joints(bones, rest)
    return world @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]


def error(fits: Fits, clip: Clip) -> float:
    """Mean distance of joints in the camera, metres."""
    found = joints_in_camera(clip.body, fits.betas, fits.pose, fits.transl, fits.world_to_camera)
    return float(np.linalg.norm(found - clip.joints(), axis=-1).mean())


def make_clip(
    time: np.ndarray, yaw: np.ndarray, pitch: float = 0.12, height: float = 1.4, betas: np.ndarray | None = None
) -> Clip:
    """Someone who marches and swings their arms, seen from `height` metres, `pitch` radians downward, 4 m away."""
    body = BodyModel.load(BODY)
    betas = np.zeros(10) if betas is None else betas
    pose = _march(time, yaw)
    bones, rest = _bones(body, betas, pose, np.zeros((len(time), 3)))
    feet = _joints(bones, rest)[:, [7, 8, 10, 11]]
    transl = np.c_[0.1 * np.sin(time), 0.06 - feet[..., 1].min(1), 0.15 * np.cos(time)]
    rotation = np.diag([1.0, -1.0, -1.0])
    rotation = Rotation.from_rotvec([pitch, 0, 0]).as_matrix() @ rotation
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = rotation
    world_to_camera[:3, 3] = -rotation @ np.array([0.0, height, 4.0])
    K = np.array([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])
    calibration = exact_calibration()
    bones, _ = _bones(body, betas, pose, transl)
    bones = world_to_camera @ bones
    marks = calibration.marks
    turned = bones[:, marks.axes][..., :3, :3]
    points = _joints(bones, rest)[:, marks.joint] + np.einsum("fmab,mb->fma", turned, marks.offset)
    return Clip(body, betas, pose, transl, K, world_to_camera, _sightings(points, K, time), calibration)


def exact_calibration() -> Calibration:
    """Of a network that errs by 3 mm and corrects nothing."""
    offset = np.random.default_rng(0).normal(0, 0.03, (N_LANDMARKS, 3))
    offset[29:, 1] = -0.04  # heels and toes below ankles and balls, at the ground
    offset[29:31, 1] = -0.06
    return Calibration(
        offset=offset,
        across=np.full(N_LANDMARKS, 0.003),
        space=np.full((N_LANDMARKS, 3), 0.01),
        turn=np.full(24, np.inf),
        dressed=np.zeros(24),
        sole=0.0,
        scale=0.02,
        middle=np.zeros(232),
        spread=np.ones(232),
        layers=((np.zeros((232, 315)), np.zeros(315)),),
        size=np.array([0.0, 1.0]),
        errors=np.array([0.12, 0.006, 0.01, 0.006, 0.04, 0.05]),
    )


def _march(time: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    pose = np.zeros((len(time), 24, 3))
    beat = np.sin(2 * np.pi * 0.8 * time)
    pose[:, 0, 1] = yaw
    for side, sign in ((0, 1.0), (1, -1.0)):
        lift = np.clip(sign * beat, 0, None)
        pose[:, 1 + side, 0] = -0.7 * lift
        pose[:, 4 + side, 0] = 0.1 + 0.9 * lift
        pose[:, 16 + side, 2] = -sign * (1.0 - 0.3 * np.sin(time))
        pose[:, 16 + side, 1] = -sign * 0.2
        pose[:, 18 + side, 1] = -sign * (0.7 + 0.4 * beat)
    pose[:, 3, 0] = 0.05
    return pose.reshape(-1, 72)


def _bones(body: BodyModel, betas: np.ndarray, pose: np.ndarray, transl: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rest = body.shape(torch.from_numpy(betas).float())[1]
    bones = body.bones_reference(rest, torch.from_numpy(pose).float(), torch.from_numpy(transl).float())
    return bones.double().numpy(), rest.double().numpy()


def _joints(bones: np.ndarray, rest: np.ndarray) -> np.ndarray:
    return np.einsum("fjab,jb->fja", bones[..., :3, :3], rest) + bones[..., :3, 3]


def _sightings(points: np.ndarray, K: np.ndarray, time: np.ndarray) -> Sightings:
    flat = points @ K.T
    landmarks = flat[..., :2] / flat[..., 2:]
    hips = landmarks[:, [23, 24]].mean(1)
    # A network sees a person as if they were in the middle of its picture.
    rays = np.c_[(hips - K[:2, 2]) / K[0, 0], np.ones(len(hips))]
    turn = [Rotation.align_vectors([ray / np.linalg.norm(ray)], [[0, 0, 1]])[0].as_matrix() for ray in rays]
    world = np.einsum("fba,fmb->fma", np.array(turn), points - points[:, [23, 24]].mean(1, keepdims=True))
    scale = K[0, 0] / points[:, [23, 24], 2].mean(1)
    return Sightings(
        np.arange(len(time)), time, landmarks, world[..., 2] * scale[:, None], world,
        np.ones(landmarks.shape[:2]), SIZE,
    )  # fmt: skip
