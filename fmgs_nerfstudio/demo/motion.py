"""Procedural motions in SMPL's pose parameters; no recorded data, so no licence.

In SMPL's T-pose (y up, facing +z, left = +x) an arm comes down by a turn about z (left: negative), a limb swings
forward by a negative turn about x, a knee bends by a positive one, an elbow by a turn about y (left: negative).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array

Times = Float[Array, "T"]
TO_WORLD = Rotation.from_euler("x", 90, degrees=True)
"""The template's y up, facing +z -> the world's z up, facing -y."""


@dataclass(frozen=True)
class Clip:
    """Poses over time: axis-angle of 24 joints, the first one in the world (z up)."""

    pose: Float[Array, "T 72"]

    def __getitem__(self, frames: Array | list[int]) -> Clip:
        return Clip(self.pose[frames])


@dataclass
class Limbs:
    """Angles in radians over time, by anatomical name; becomes axis-angle at the end."""

    frames: int

    def __post_init__(self) -> None:
        self.turn = [Rotation.identity(self.frames) for _ in range(24)]

    def arm(self, side: int, lower: Times, swing: Times, elbow: Times, twist: Times | float = 0.0) -> None:
        """side 0 left, 1 right; lower 0 = level, 1.3 = down, negative = up; swing > 0 = forward."""
        sign = 1 if side == 0 else -1
        zero = np.zeros(self.frames)
        raised = np.clip(-lower, 0, None) + 0.25 * np.clip(0.9 - lower, 0, None)
        self.turn[13 + side] = _axes(z=sign * 0.30 * raised, frames=self.frames)
        self.turn[16 + side] = (
            _axes(x=-swing, frames=self.frames)
            * _axes(z=-sign * (lower + 0.18 * raised), frames=self.frames)
            * _axes(x=zero + twist, frames=self.frames)
        )
        self.turn[18 + side] = _axes(y=-sign * elbow, frames=self.frames)
        self.turn[20 + side] = _axes(y=-sign * 0.15 * elbow, z=-sign * 0.08 + zero, frames=self.frames)

    def leg(self, side: int, lift: Times, knee: Times, apart: Times | float = 0.08, ankle: Times | None = None) -> None:
        sign = 1 if side == 0 else -1
        zero = np.zeros(self.frames)
        self.turn[1 + side] = _axes(z=sign * (zero + apart), frames=self.frames) * _axes(x=-lift, frames=self.frames)
        self.turn[4 + side] = _axes(x=knee, frames=self.frames)
        self.turn[7 + side] = _axes(x=(lift - knee) * 0.5 if ankle is None else ankle, frames=self.frames)

    def spine(self, bend: Times, twist: Times, lean: Times) -> None:
        for joint in (3, 6, 9):
            self.turn[joint] = _axes(x=bend / 3, y=twist / 3, z=lean / 3, frames=self.frames)

    def head(self, nod: Times, look: Times) -> None:
        for joint in (12, 15):
            self.turn[joint] = _axes(x=nod / 2, y=look / 2, frames=self.frames)

    def clip(self, yaw: Times) -> Clip:
        self.turn[0] = _axes(z=yaw, frames=self.frames) * TO_WORLD
        return Clip(np.concatenate([turn.as_rotvec() for turn in self.turn], axis=1))


def _axes(frames: int, x: Times | float = 0.0, y: Times | float = 0.0, z: Times | float = 0.0) -> Rotation:
    return Rotation.from_rotvec(np.stack([np.broadcast_to(np.asarray(a, float), frames) for a in (x, y, z)], axis=1))


def turn(t: Times, rng: np.random.Generator) -> Clip:
    """Two turns in front of the camera: the first with arms rising and falling, the second marching on the spot.

    `t`: 0..1 over the clip.
    """
    body, wave = Limbs(len(t)), 2 * np.pi * t
    phase = rng.uniform(0, 2 * np.pi, 6)
    march = np.clip((t - 0.42) / 0.16, 0, 1)
    march = march * march * (3 - 2 * march)
    step = 9 * wave + phase[0]
    for side in (0, 1):
        beat = np.sin(step + np.pi * side)
        calm_lower = 0.72 + 0.42 * np.sin(2 * wave + phase[1] + 0.6 * side)
        calm_elbow = 0.30 + 0.25 * np.sin(3 * wave + phase[2] + 1.1 * side)
        body.arm(
            side,
            lower=(1 - march) * calm_lower + march * (1.12 + 0.10 * np.sin(wave + phase[3])),
            swing=(1 - march) * 0.25 * np.sin(2 * wave + phase[4] + side) - march * 0.55 * beat,
            elbow=(1 - march) * calm_elbow + march * (0.75 + 0.35 * np.sin(2 * wave + phase[5])),
        )
        lift = np.clip(beat, 0, 1)
        body.leg(
            side,
            lift=march * 0.85 * lift + (1 - march) * (0.06 + 0.10 * np.clip(np.sin(6 * wave + np.pi * side), 0, 1)),
            knee=march * 1.15 * lift + (1 - march) * (0.10 + 0.20 * np.clip(np.sin(6 * wave + np.pi * side), 0, 1)),
            apart=0.06 + 0.05 * (1 - march),
        )
    body.spine(
        bend=0.06 + 0.10 * np.sin(3 * wave + phase[1]),
        twist=0.22 * np.sin(2.5 * wave + phase[2]) * (1 - march) + 0.25 * march * np.sin(step),
        lean=0.10 * np.sin(2 * wave + phase[3]),
    )
    body.head(nod=0.08 * np.sin(2 * wave + phase[4]), look=0.30 * np.sin(3 * wave + phase[5]))
    return body.clip(2 * wave + 0.2 * np.sin(phase[0]))


def walk(t: Times, rng: np.random.Generator) -> Clip:
    """Long strides with straight swinging arms."""
    body = Limbs(len(t))
    step = 4 * np.pi * t + rng.uniform(0, 2 * np.pi)
    for side in (0, 1):
        beat = np.sin(step + np.pi * side)
        follow = np.cos(step + np.pi * side)
        body.arm(side, lower=np.full(len(t), 1.22), swing=-0.6 * beat, elbow=0.25 + 0.3 * np.clip(-beat, 0, 1))
        body.leg(side, lift=0.55 * beat, knee=0.12 + 0.75 * np.clip(follow, 0, 1), apart=0.02, ankle=-0.15 * beat)
    body.spine(bend=np.full(len(t), 0.08), twist=0.22 * np.sin(step), lean=0.03 * np.cos(step))
    body.head(nod=0.04 * np.cos(2 * step), look=-0.12 * np.sin(step))
    return body.clip(2 * np.pi * t + rng.uniform(0, 2 * np.pi))


def dance(t: Times, rng: np.random.Generator) -> Clip:
    """Arms above the shoulders, twists and lunges."""
    body, wave = Limbs(len(t)), 2 * np.pi * t
    phase = rng.uniform(0, 2 * np.pi, 4)
    for side in (0, 1):
        beat = np.sin(3 * wave + phase[0] + np.pi * side)
        body.arm(
            side,
            lower=0.15 - 0.75 * beat,
            swing=0.45 * np.sin(2 * wave + phase[1] + side),
            elbow=0.75 + 0.6 * np.sin(4 * wave + phase[2] + 2 * side),
        )
        body.leg(
            side,
            lift=0.45 + 0.45 * np.sin(3 * wave + phase[3] + np.pi * side),
            knee=0.55 + 0.50 * np.sin(3 * wave + phase[3] + np.pi * side),
            apart=0.20 + 0.10 * np.sin(2 * wave),
        )
    body.spine(
        bend=0.10 + 0.15 * np.sin(2 * wave),
        twist=0.5 * np.sin(3 * wave + phase[1]),
        lean=0.22 * np.sin(2 * wave + phase[2]),
    )
    body.head(nod=0.15 * np.sin(2 * wave), look=0.4 * np.sin(wave + phase[0]))
    return body.clip(2 * np.pi * (t + rng.random()) + 0.8 * np.sin(2 * wave))


def reach(t: Times, rng: np.random.Generator) -> Clip:
    """Reaching forward and across, kicking."""
    body, wave = Limbs(len(t)), 2 * np.pi * t
    phase = rng.uniform(0, 2 * np.pi, 3)
    for side in (0, 1):
        far = 0.5 + 0.5 * np.sin(2 * wave + phase[0] + np.pi * side)
        body.arm(side, lower=1.25 - 0.2 * far, swing=1.45 * far, elbow=0.15 + 0.9 * (1 - far))
        kick = np.clip(np.sin(2 * wave + phase[1] + np.pi * side), 0, 1)
        body.leg(side, lift=1.05 * kick, knee=0.15 + 0.35 * kick * (1 - kick) * 4, apart=0.10 + 0.15 * kick)
    body.spine(bend=0.18 + 0.12 * np.sin(wave), twist=0.3 * np.sin(2 * wave + phase[0]), lean=0.08 * np.sin(wave))
    body.head(nod=np.full(len(t), 0.05), look=0.3 * np.sin(2 * wave))
    return body.clip(2 * np.pi * rng.random() + 2 * wave)


NOVEL: tuple[Callable[[Times, np.random.Generator], Clip], ...] = (dance, walk, reach)


def training_clip(frames: int, seed: int) -> Clip:
    """What the training camera sees."""
    return turn(np.arange(frames) / frames, np.random.default_rng([seed, 21]))


def novel_poses(count: int, seed: int) -> Clip:
    """Poses of other motions, in turns."""
    rng = np.random.default_rng([seed, 22])
    clips = [motion(np.arange(64) / 64, rng) for motion in NOVEL]
    picked = [
        clips[i % len(clips)][[(7 + 64 * (i // len(clips)) * len(clips) // max(count, 1)) % 64]] for i in range(count)
    ]
    return Clip(np.concatenate([clip.pose for clip in picked]) if picked else np.zeros((0, 72)))
