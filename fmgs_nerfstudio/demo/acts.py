"""What the person of a video does: acts of about two seconds, one after another, with feet that do not slide.

Seeds that are `MEASURED` also draw acts that no other seed shows: what was calibrated on others is measured on motions
that it has not seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo.easing import smoothstep
from fmgs_nerfstudio.demo.motion import Limbs
from fmgs_nerfstudio.demo.studio import Motion

MEASURED = range(30, 100)
_SOLE = 0.02  # metres that shoes keep the body above the ground
_BLEND = 0.35  # seconds from one act to the next
_SECONDS = 1.25  # of an act, about
_CONTACT = 0.008  # metres; a point so much higher than the lowest carries a third as much

Times = Float[Array, "T"]
Angles = dict[str, Times]
"""Radians over time; see `Limbs` for signs. Of arms and legs, `_0` is the left one and `_1` the right."""
_REST = {"lower_0": 1.27, "lower_1": 1.27, "swing_0": 0.04, "swing_1": 0.04, "elbow_0": 0.22, "elbow_1": 0.22,
         "lift_0": 0.04, "lift_1": 0.04, "knee_0": 0.08, "knee_1": 0.08, "apart_0": 0.07, "apart_1": 0.07,
         "bend": 0.04}  # fmt: skip
_CHANNELS = (*(f"{name}_{side}" for name in ("lower", "swing", "elbow", "twist", "lift", "knee", "apart")
               for side in (0, 1)), "bend", "turn", "lean", "nod", "look")  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """What a seed decides about one act."""

    side: int
    """0 left, 1 right."""
    beats: float
    """How often it is done."""
    much: float
    """About 1."""
    phase: float
    other: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "other", 1 - self.side)


Act = Callable[[Times, Draw], Angles]
"""Of times 0..1 within the act, the angles that differ from rest."""


def _rise(u: Times, beats: float = 1.0) -> Times:
    """From 0 to 1 and back, `beats` times."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * beats * u)


def turn(u: Times, draw: Draw) -> Angles:
    """Small steps; the turn itself is in the yaw of the clip."""
    beat = np.sin(2 * np.pi * (2 + draw.beats) * u + draw.phase)
    return {"lift_0": 0.35 * beat.clip(0), "knee_0": 0.6 * beat.clip(0), "lift_1": 0.35 * (-beat).clip(0),
            "knee_1": 0.6 * (-beat).clip(0), "swing_0": -0.2 * beat, "swing_1": 0.2 * beat,
            "lower_0": 1.05 - 0.25 * draw.much * np.sin(np.pi * u), "elbow_0": 0.4 + 0 * u}  # fmt: skip


def march(u: Times, draw: Draw) -> Angles:
    """Walking in place."""
    beat = np.sin(2 * np.pi * (1 + draw.beats) * u + draw.phase)
    return {"lift_0": 0.95 * draw.much * beat.clip(0), "knee_0": 1.3 * draw.much * beat.clip(0),
            "lift_1": 0.95 * draw.much * (-beat).clip(0), "knee_1": 1.3 * draw.much * (-beat).clip(0),
            "swing_0": -0.6 * beat, "swing_1": 0.6 * beat, "elbow_0": 0.9 + 0 * u, "elbow_1": 0.9 + 0 * u}  # fmt: skip


def raise_arms(u: Times, draw: Draw) -> Angles:
    """Both arms sideways, up and down again."""
    up = 1.27 - (1.6 + 0.6 * draw.much) * _rise(u)
    return {"lower_0": up, "lower_1": up, "elbow_0": 0.1 + 0 * u, "elbow_1": 0.1 + 0 * u, "nod": -0.2 * _rise(u)}


def squat(u: Times, draw: Draw) -> Angles:
    """Down and up, arms forward."""
    low, arms = draw.much * _rise(u), 1.4 * _rise(u)
    return {"lift_0": 1.35 * low, "lift_1": 1.35 * low, "knee_0": 1.75 * low, "knee_1": 1.75 * low,
            "apart_0": 0.07 + 0.04 * low, "apart_1": 0.07 + 0.04 * low, "bend": 0.04 + 0.45 * low,
            "swing_0": arms, "swing_1": arms, "elbow_0": 0.15 + 0 * u, "elbow_1": 0.15 + 0 * u}  # fmt: skip


def reach(u: Times, draw: Draw) -> Angles:
    """One arm forward and across, the other one back."""
    far, across = _rise(u), 1.0 if draw.side == 0 else -1.0
    return {f"swing_{draw.side}": (1.3 + 0.5 * draw.much) * far, f"elbow_{draw.side}": 0.1 + 0 * u,
            f"swing_{draw.other}": -0.4 * far, "turn": -0.45 * across * far, "bend": 0.04 + 0.3 * far,
            f"lift_{draw.side}": 0.3 * far, f"knee_{draw.side}": 0.4 * far}  # fmt: skip


def wave(u: Times, draw: Draw) -> Angles:
    """One arm up, its hand to and fro."""
    held = smoothstep(0, 0.25, u) * smoothstep(1, 0.75, u)
    to_and_fro = np.sin(2 * np.pi * 2.5 * u + draw.phase)
    return {f"lower_{draw.side}": 1.27 - 1.35 * draw.much * held, f"twist_{draw.side}": -1.4 * held,
            f"elbow_{draw.side}": 0.22 + held * (1.25 + 0.4 * to_and_fro), "look": 0.2 * held,
            "lean": 0.06 * held * (1 if draw.side else -1)}  # fmt: skip


def lunge(u: Times, draw: Draw) -> Angles:
    """One leg far forward, both knees bent."""
    low = _rise(u)
    return {f"lift_{draw.side}": 1.15 * low, f"knee_{draw.side}": 1.2 * low, f"lift_{draw.other}": -0.35 * low,
            f"knee_{draw.other}": 0.9 * draw.much * low, "lower_0": 1.27 - 0.5 * low, "lower_1": 1.27 - 0.5 * low,
            "elbow_0": 0.22 + low, "elbow_1": 0.22 + low}  # fmt: skip


def kick(u: Times, draw: Draw) -> Angles:
    """A straight leg forward, the opposite arm with it."""
    high = _rise(u) ** 2
    return {
        f"lift_{draw.side}": 1.1 * draw.much * high,
        f"knee_{draw.side}": 0.1 + 0.8 * high * (1 - high),
        f"swing_{draw.other}": 1.2 * high,
        f"swing_{draw.side}": -0.5 * high,
        "bend": 0.04 - 0.1 * high,
    }


def jack(u: Times, draw: Draw) -> Angles:
    """Arms over the head, twice, while one leg and then the other steps out and back."""
    up, beat = _rise(u, 2), np.sin(2 * np.pi * u)
    angles: Angles = {"lower_0": 1.27 - 2.2 * draw.much * up, "lower_1": 1.27 - 2.2 * draw.much * up}
    for side, out in ((draw.side, beat.clip(0)), (draw.other, (-beat).clip(0))):
        moving = 4 * out * (1 - out)
        angles |= {f"apart_{side}": 0.07 + 0.4 * out, f"lift_{side}": 0.04 + 0.25 * moving,
                   f"knee_{side}": 0.08 + 0.5 * moving}  # fmt: skip
    return angles


def bow(u: Times, draw: Draw) -> Angles:
    """Hips and back forward, arms hanging."""
    low = draw.much * _rise(u)
    return {"bend": 0.04 + 0.9 * low, "lift_0": 0.04 + 0.1 * low, "lift_1": 0.04 + 0.1 * low, "nod": 0.3 * low,
            "swing_0": 0.04 + 0.7 * low, "swing_1": 0.04 + 0.7 * low}  # fmt: skip


def box(u: Times, draw: Draw) -> Angles:
    """Fists before the chin, straight punches in turn."""
    held, beat = smoothstep(0, 0.2, u) * smoothstep(1, 0.8, u), np.sin(2 * np.pi * 2 * u + draw.phase)
    angles: Angles = {"turn": 0.35 * held * beat, "knee_0": 0.3 * held, "knee_1": 0.3 * held,
                      "bend": 0.04 + 0.15 * held, "lift_0": 0.2 * held, "lift_1": 0.1 * held}  # fmt: skip
    for side, out in ((0, beat.clip(0)), (1, (-beat).clip(0))):
        angles |= {f"swing_{side}": held * (0.7 + 0.75 * out), f"elbow_{side}": 0.22 + held * (1.9 - 1.8 * out)}
    return angles


def stretch(u: Times, draw: Draw) -> Angles:
    """One arm over the head, the body bent to the other side, that hand on the hip."""
    far, away = _rise(u), 1.0 if draw.side == 0 else -1.0
    return {f"lower_{draw.side}": 1.27 - 2.4 * far, "lean": -0.5 * draw.much * away * far,
            f"lower_{draw.other}": 1.27 - 0.45 * far, f"elbow_{draw.other}": 0.22 + 1.3 * far,
            f"twist_{draw.other}": 0.9 * far}  # fmt: skip


COMMON: tuple[Act, ...] = (march, raise_arms, squat, reach, wave)
UNSEEN: tuple[Act, ...] = (lunge, kick, jack, bow, box, stretch)


def acts_of(seed: int, count: int, rng: np.random.Generator) -> list[Act]:
    """The acts of a clip in order, `turn` among them; of seeds to measure with, half of the others are unseen ones."""
    unseen = count // 2 if seed in MEASURED else 0

    def drawn(pool: tuple[Act, ...], n: int) -> list[Act]:
        order: list[int] = [int(i) for _ in range(-(-n // len(pool))) for i in rng.permutation(len(pool))]
        return [pool[i] for i in order[:n]]

    chosen = [turn, *drawn(UNSEEN, unseen), *drawn(COMMON, count - 1 - unseen)]
    return [chosen[int(i)] for i in rng.permutation(count)]


def perform(times: Times, seed: int) -> Float[Array, "T 72"]:
    """Axis-angle of 24 joints at these seconds, the root in a world whose z is up; facing about -y at the start."""
    rng = np.random.default_rng([seed, 51])
    length = float(times[-1] - times[0]) + 1e-9
    count = max(2, round(length / _SECONDS - 0.8))
    acts = acts_of(seed, count, rng)
    share = np.array([1.8 if act is turn else 1.0 for act in acts])  # a full turn takes longer
    ends = np.r_[0, np.cumsum(share / share.sum())] * length
    t = times - times[0]
    angles = {name: np.full(len(t), _REST.get(name, 0.0)) for name in _CHANNELS}
    yaw = np.full(len(t), rng.uniform(-0.5, 0.5))
    for act, begin, end in zip(acts, ends, ends[1:], strict=False):
        draw = Draw(int(rng.integers(2)), float(rng.integers(1, 3)), rng.uniform(0.8, 1.1), rng.uniform(0, 2 * np.pi))
        weight = smoothstep(begin - _BLEND / 2, begin + _BLEND / 2, t) * smoothstep(
            end + _BLEND / 2, end - _BLEND / 2, t
        )
        if act is turn:
            yaw += (1 if draw.side else -1) * 2 * np.pi * smoothstep(begin, end, t)
        for name, value in act(((t - begin) / (end - begin)).clip(0, 1), draw).items():
            angles[name] += weight * (value - _REST.get(name, 0.0))
    return _limbs(angles, yaw)


def _limbs(angles: Angles, yaw: Times) -> Float[Array, "T 72"]:
    body = Limbs(len(yaw))
    for side in (0, 1):
        lower, swing, elbow, twist = (angles[f"{name}_{side}"] for name in ("lower", "swing", "elbow", "twist"))
        body.arm(side, lower=lower, swing=swing, elbow=elbow, twist=twist)
        lift, knee, apart = (angles[f"{name}_{side}"] for name in ("lift", "knee", "apart"))
        body.leg(side, lift=lift, knee=knee, apart=apart, ankle=(lift - knee) * 0.75)
    body.spine(bend=angles["bend"], twist=angles["turn"], lean=angles["lean"])
    body.head(nod=angles["nod"] - 0.3 * angles["bend"], look=angles["look"] - 0.5 * angles["turn"])
    return body.clip(yaw).pose


def on_the_ground(body: BodyModel, betas: Float[Array, "10"], pose: Float[Array, "T 72"]) -> Motion:
    """The motion over the ground z = 0: the lowest points touch it, and what touches it does not slide."""
    floating = Motion(body, betas, pose, np.zeros((len(pose), 3)))
    points = floating.vertices
    height = points[..., 2] - points[..., 2].min(1, keepdims=True)
    carries = np.exp(-height / _CONTACT)
    carries = carries[1:] + carries[:-1]
    carries /= carries.sum(1, keepdims=True)
    stays = -np.einsum("tv,tvk->tk", carries, np.diff(points[..., :2], axis=0))
    path = np.r_[np.zeros((1, 2)), np.cumsum(stays, axis=0)]
    pelvis = np.einsum("tij,j->ti", floating.bones[:, 0, :3, :3], floating.joints[0]) + floating.bones[:, 0, :3, 3]
    path -= (path + pelvis[:, :2]).mean(0)
    return dataclasses.replace(floating, transl=np.c_[path, _SOLE - points[..., 2].min(1)])


def video_motion(
    body: BodyModel, betas: Float[Array, "10"], times: Times, seed: int, novel: Float[Array, "N 72"]
) -> Motion:
    """The clip of a seed at these times, and after it `novel` poses, each standing where the clip's middle is."""
    clip = on_the_ground(body, betas, perform(times, seed))
    alone = [on_the_ground(body, betas, pose[None]) for pose in novel]
    pose = np.concatenate([clip.pose, *(one.pose for one in alone)])
    return Motion(body, betas, pose, np.concatenate([clip.transl, *(one.transl for one in alone)]))
