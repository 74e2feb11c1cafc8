"""The rows of the least squares: what each source of knowledge says of a guess, divided by how far it errs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.model import N_JOINTS
from fmgs_nerfstudio.track.chain import (
    PER_FRAME,
    Marks,
    Posed,
    exponential,
    inverse_right_jacobian,
    logarithm,
)
from fmgs_nerfstudio.track.landmarks import FEET, HIPS, Calibration, Lifted, along_rays
from fmgs_nerfstudio.track.least_squares import NormalEquations
from fmgs_nerfstudio.track.pose_prior import beyond_limits, usual_pose
from fmgs_nerfstudio.track.records import Sightings
from fmgs_nerfstudio.track.state import Shared, State, up_of

_CHUNK = 64  # frames whose derivatives are held at once
_NEAR, _LEAST_SCORE = 0.1, 0.03  # metres before the camera; what an unseen landmark counts
_HEAVY_TAIL = 4.0  # degrees of freedom of Student's t
_TOGETHER = 1.6  # by which lifted points of a frame, which err together, say less than so many alone
_CORRELATED = 0.12  # seconds in which errors of the network stay the same
# How restless: variance of the velocity that a second adds, of turns (rad^2/s^3) and of the pelvis (m^2/s^3).
_RESTLESS = np.array([40, 60, 60, 5, 100, 100, 5, 60, 60, 5, 5, 5, 20, 10, 10, 30, 150, 150, 150, 150, 60, 60, 5, 5.0])
_PELVIS_RESTLESS = np.array([0.5, 1.5, 0.5])
_CONTACT, _SAME_PLANE = (
    0.03,
    0.015,
)  # metres: how much higher the other foot may be; of a ground's unevenness
_SLIDING = 0.01  # metres that a foot that stands moves in a second, at random
_UPRIGHT, _ERECT = 0.04, 0.06  # radians: of a clip's backs in the mean, and of one that is held upright
_BACK = Marks(np.array([0, 12]), np.array([0, 12]), np.zeros((2, 3)))
_LEAN = 0.07  # radians by which a clip's lifted points lean, all alike
_FRAMES_OF_SHAPE = 0.3  # as which a clip counts for shape and focal length: what landmarks say of them is wrong alike
_STATURE = 0.002  # of a given height, relative, counted as the shape: it must not give way to what landmarks say
_HELD = 1e4
_LEVEL = 0.03  # radians of a camera's roll


@dataclass(frozen=True, eq=False)
class Stature:
    """How tall the person is."""

    height: float
    """Metres."""
    usual: float
    """Of the mean shape, metres."""
    by_shape: Float[Array, "S"]

    @staticmethod
    def of(body: BodyModel, height: float, shapes: int = 10) -> Stature:
        """From crown to soles of the T-pose."""
        y = body.v_template[:, 1]
        ends = [int(y.argmax()), int(y.argmin())]
        top, sole = body.shapedirs[ends, 1, :shapes].double().numpy()
        return Stature(height, float(y[ends[0]] - y[ends[1]]), top - sole)

    @staticmethod
    def likely(body: BodyModel, betas: Float[Array, "S"], calibration: Calibration) -> Stature:
        """Of a person whom a fit gives this shape: fits differ less in size than people do."""
        stature, (constant, slope) = Stature.of(body, 0.0, len(betas)), calibration.size
        fitted = np.log1p(stature.by_shape @ betas / stature.usual)
        return replace(stature, height=stature.usual * float(np.exp(constant + slope * fitted)))


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that is known of a clip before it is fitted."""

    sightings: Sightings
    lifted: Lifted
    calibration: Calibration
    focal: float
    """Pixels, as given or supposed."""
    focal_spread: float
    """Standard deviation of its logarithm."""

    stature: Stature | None = None
    held: Float[Array, "G"] | None = None
    """What frames share, where it is known from other frames."""

    def of(self, frames: slice) -> Evidence:
        """Some of the frames."""
        seen, lifted = self.sightings, self.lifted
        values = {name: value[frames] for name, value in vars(seen).items() if name != "size"}
        return replace(
            self,
            sightings=Sightings(**values, size=seen.size),
            lifted=Lifted(lifted.points[frames], lifted.turned[frames]),
        )

    def share(self) -> Float[Array, "F"]:
        """How much a frame counts: frames close in time err alike."""
        time = self.sightings.time
        if len(time) < 2:
            return np.ones(1)
        step = np.gradient(time)
        return np.sqrt(np.clip(step / _CORRELATED, 1e-3, 1))


def robust(residual: Float[Array, "F M D"]) -> Float[Array, "F M 1"]:
    """Square roots of the weights by which least squares becomes the likelihood of a heavy-tailed error."""
    squared = (residual**2).sum(-1, keepdims=True)
    return np.sqrt((_HEAVY_TAIL + residual.shape[-1]) / (_HEAVY_TAIL + squared))


def gather(state: State, evidence: Evidence, grounded: bool) -> NormalEquations:
    """All rows of a clip."""
    frames = len(state.local)
    equations = NormalEquations(frames, PER_FRAME, len(state.shared))
    share = evidence.share()
    for first in range(0, frames, _CHUNK):
        chunk = slice(first, min(first + _CHUNK, frames))
        posed = state.posed(chunk)
        see(equations, state, posed, evidence, chunk, share[chunk])
        if grounded:
            stand(equations, state, posed, evidence, chunk, share[chunk], frames)
            if (pairs := slice(first, min(chunk.stop, frames - 1))).stop > first:
                stay(equations, state, evidence, pairs, share)
    behave(equations, state, share)
    be_smooth(equations, state, evidence.sightings.time)
    suppose(equations, state, evidence)
    return equations


def see(
    equations: NormalEquations, state: State, posed: Posed, evidence: Evidence, chunk: slice, share: Float[Array, "C"]
) -> None:
    """Landmarks in the image, their lifted points and rotations."""
    marks = evidence.calibration.marks
    points, arms = posed.points(marks)
    at = _Points(points, posed.moves(arms), posed.by_shape[:, marks.joint])
    weight = np.sqrt(np.clip(evidence.sightings.score[chunk], _LEAST_SCORE, 1))[..., None] * share[:, None, None]
    see_in_image(equations, state, at, evidence, chunk, weight, posed.joints[:, :1, 2:])
    rays = along_rays(evidence.sightings.landmarks[chunk][:, list(HIPS)].mean(1), state.K)
    lean = exponential(np.array([state.shared[Shared.LEAN], 0.0, 0.0]))
    see_in_space(equations, state, at, evidence.lifted.points[chunk] @ lean.T, rays, evidence, chunk, weight)
    if np.isfinite(evidence.calibration.turn).any():
        turned = (rays @ lean)[:, None] @ evidence.lifted.turned[chunk]
        see_turned(equations, state, posed, turned, rays, evidence, chunk, share)


class _Points(NamedTuple):
    """Landmarks on the guess."""

    at: Float[Array, "C 33 3"]
    moves: Float[Array, "C 33 3 75"]
    by_shape: Float[Array, "C 33 3 S"]


def see_in_image(
    equations: NormalEquations,
    state: State,
    points: _Points,
    evidence: Evidence,
    chunk: slice,
    weight: Float[Array, "C 33 1"],
    away: Float[Array, "C 1 1"],
) -> None:
    """Where landmarks are; they err by metres at the person's distance `away`."""
    z = np.maximum(points.at[..., 2:], _NEAR)
    flat = points.at[..., :2] / z
    scale = away / state.focal / evidence.calibration.across[:, None]
    error = state.focal * flat + state.middle - evidence.sightings.landmarks[chunk]
    weight = weight * robust(error * scale * weight) * scale
    project = np.zeros((*flat.shape, 3))
    project[..., 0, 0] = project[..., 1, 1] = 1
    project[..., 2] = -flat
    project *= (state.focal / z * weight)[..., None]
    shared = np.zeros((*flat.shape, len(state.shared)))
    shared[..., : state.shapes] = project @ points.by_shape
    shared[..., Shared.FOCAL] = state.focal * flat * weight
    _add(equations, chunk, error * weight, project @ points.moves, shared)


def see_in_space(
    equations: NormalEquations,
    state: State,
    points: _Points,
    lifted: Float[Array, "C 33 3"],
    rays: Float[Array, "C 3 3"],
    evidence: Evidence,
    chunk: slice,
    weight: Float[Array, "C 33 1"],
) -> None:
    """Where landmarks are from the middle of the hips, along the `rays` to it and across; sizes may all be wrong."""
    hips = list(HIPS)
    lifted = lifted * np.exp(state.shared[Shared.SCALE])
    back = rays.swapaxes(-1, -2)[:, None]
    at, moves, by_shape = (value - value[:, hips].mean(1, keepdims=True) for value in points)
    error = (back @ at[..., None])[..., 0] - lifted
    spread = _TOGETHER * evidence.calibration.space
    weight = weight * robust(error / spread * weight) / spread
    turned = back * weight[..., None]
    shared = np.zeros((*error.shape, len(state.shared)))
    shared[..., : state.shapes] = turned @ by_shape
    shared[..., Shared.SCALE] = -lifted * weight
    shared[..., Shared.LEAN] = -np.cross([1.0, 0.0, 0.0], lifted) * weight
    _add(equations, chunk, error * weight, turned @ moves, shared)


def see_turned(
    equations: NormalEquations,
    state: State,
    posed: Posed,
    turned: Float[Array, "C 24 3 3"],
    rays: Float[Array, "C 3 3"],
    evidence: Evidence,
    chunk: slice,
    share: Float[Array, "C"],
) -> None:
    """How joints are turned in the camera."""
    vectors = logarithm(turned.swapaxes(-1, -2) @ posed.turned)
    scale = share[:, None, None] / evidence.calibration.turn[:, None]
    weight = robust(vectors * scale) * scale
    slope = inverse_right_jacobian(vectors) * weight[..., None]
    shared = np.zeros((*vectors.shape, len(state.shared)))
    shared[..., Shared.LEAN] = -(slope @ (posed.turned.swapaxes(-1, -2) @ rays[:, None, :, :1]))[..., 0]
    _add(equations, chunk, vectors * weight, slope @ posed.turns(), shared)


def _add(
    equations: NormalEquations,
    chunk: slice,
    residual: Float[Array, "C M D"],
    moves: Float[Array, "C M D 75"],
    shared: Float[Array, "C M D G"],
) -> None:
    frames = len(residual)
    rows, moved = residual.reshape(frames, -1), moves.reshape(frames, -1, PER_FRAME)
    equations.add(chunk, rows, moved, shared.reshape(frames, -1, shared.shape[-1]))


def behave(equations: NormalEquations, state: State, share: Float[Array, "F"]) -> None:
    """Poses that people take, and hinges."""
    vectors = logarithm(state.local)
    middle, deviation = usual_pose()
    past, slope = beyond_limits(vectors)
    jacobian = inverse_right_jacobian(vectors)
    for residual, weight in (((vectors - middle) / deviation, 1 / deviation + 0 * vectors), (past, slope)):
        residual = (residual * share[:, None, None])[:, 1:]
        slopes = (jacobian * (weight * share[:, None, None])[..., None])[:, 1:]
        blocks = np.zeros((len(vectors), N_JOINTS - 1, 3, PER_FRAME))
        for joint in range(1, N_JOINTS):
            blocks[:, joint - 1, :, 3 * joint : 3 * joint + 3] = slopes[:, joint - 1]
        equations.add(slice(None), residual.reshape(len(vectors), -1), blocks.reshape(len(vectors), -1, PER_FRAME))


def be_smooth(equations: NormalEquations, state: State, time: Float[Array, "F"]) -> None:
    """Velocities change at random, as much as seconds pass."""
    if len(time) < 3:
        return
    step = np.maximum(np.diff(time), 1e-3)
    over = state.local[:-1].swapaxes(-1, -2) @ state.local[1:]
    vectors = logarithm(over)
    later = inverse_right_jacobian(vectors) / step[:, None, None, None]
    earlier = -later @ over.swapaxes(-1, -2)
    speed = vectors / step[:, None, None]
    between = (step[1:] + step[:-1]) / 2
    weight = 1 / np.sqrt(_RESTLESS * between[:, None])
    turn_rows = (speed[1:] - speed[:-1]) * weight[..., None]
    blocks = (-earlier[:-1], earlier[1:] - later[:-1], later[1:])
    shift = np.diff(state.pelvis, axis=0) / step[:, None]
    loose = 1 / np.sqrt(_PELVIS_RESTLESS * between[:, None])
    shift_rows = (shift[1:] - shift[:-1]) * loose
    shift_blocks = (1 / step[:-1], -1 / step[1:] - 1 / step[:-1], 1 / step[1:])
    moves: list[Float[Array, "T 75 75"]] = []
    for block, straight in zip(blocks, shift_blocks, strict=True):
        full = np.zeros((len(between), PER_FRAME, PER_FRAME))
        scaled = block * weight[..., None, None]
        for joint in range(N_JOINTS):
            at = slice(3 * joint, 3 * joint + 3)
            full[:, at, at] = scaled[:, joint]
        full[:, [-3, -2, -1], [-3, -2, -1]] = straight[:, None] * loose
        moves.append(full)
    equations.add_steps(np.c_[turn_rows.reshape(len(between), -1), shift_rows], tuple(moves))


def stand(
    equations: NormalEquations,
    state: State,
    posed: Posed,
    evidence: Evidence,
    chunk: slice,
    share: Float[Array, "C"],
    total: int,
) -> None:
    """The lower foot is on the ground, and backs are upright, most of the time."""
    points, arms = posed.points(evidence.calibration.marks)
    feet = list(FEET)
    up, by_tilt = up_of(state.shared)
    moves, by_shape = posed.moves(arms[:, feet]), posed.by_shape[:, evidence.calibration.marks.joint[feet]]
    feet_at = points[:, feet]
    height = feet_at @ up
    carries = _carrying(height)
    error = height + state.shared[Shared.HEIGHT]
    scale = np.sqrt(carries) * share[:, None] / _SAME_PLANE
    weight = robust((error * scale)[..., None])[..., 0] * scale
    shared = np.zeros((*error.shape, len(state.shared)))
    shared[..., : len(state.betas)] = up @ by_shape
    shared[..., [Shared.PITCH, Shared.ROLL]] = feet_at @ by_tilt
    shared[..., Shared.HEIGHT] = 1
    equations.add(chunk, error * weight, (up @ moves) * weight[..., None], shared * weight[..., None])

    points, arms = posed.points(_BACK)
    back = points[:, 1] - points[:, 0]
    length = np.linalg.norm(back, axis=-1)[:, None]
    axis = back / length
    error = axis - up
    erect = robust((error / _ERECT)[:, None])[:, 0]
    weight = erect * share[:, None] / (_UPRIGHT * np.sqrt(total))
    aside = (np.eye(3) - axis[:, :, None] * axis[:, None]) * (weight / length)[..., None]
    moves, by_shape = posed.moves(arms), posed.by_shape[:, _BACK.joint]
    shared = np.zeros((*error.shape, len(state.shared)))
    shared[..., : len(state.betas)] = aside @ (by_shape[:, 1] - by_shape[:, 0])
    shared[..., [Shared.PITCH, Shared.ROLL]] = -by_tilt * weight[..., None]
    equations.add(chunk, error * weight, aside @ (moves[:, 1] - moves[:, 0]), shared)


def stay(equations: NormalEquations, state: State, evidence: Evidence, chunk: slice, share: Float[Array, "F"]) -> None:
    """A foot on the ground stays where it is, from the frames of `chunk` to those after them."""
    both = slice(chunk.start, chunk.stop + 1)
    posed = state.posed(both)
    feet = list(FEET)
    marks = evidence.calibration.marks
    points, arms = posed.points(Marks(marks.joint[feet], marks.axes[feet], marks.offset[feet]))
    moves = posed.moves(arms)
    carries = _carrying(points @ state.up)
    step = np.maximum(np.diff(evidence.sightings.time[both]), 1e-3)[:, None]
    scale = np.sqrt(carries[1:] * carries[:-1] * share[chunk, None] ** 2 / step) / _SLIDING
    error = np.diff(points, axis=0)
    weight = robust(error * scale[..., None]) * scale[..., None]
    count = len(error)
    rows = (error * weight).reshape(count, -1)
    earlier, later = ((m * weight[..., None]).reshape(count, -1, PER_FRAME) for m in (-moves[:-1], moves[1:]))
    equations.add_steps(rows, (earlier, later), first=chunk.start)


def _carrying(height: Float[Array, "F 4"]) -> Float[Array, "F 4"]:
    """How much of the body heels and toes carry, by their heights."""
    carries = np.exp(-(height - height.min(1, keepdims=True)) / _CONTACT)
    return carries / carries.sum(1, keepdims=True)


def suppose(equations: NormalEquations, state: State, evidence: Evidence) -> None:
    """What is likely of shape, focal length and camera before anything is seen."""
    middle, weight = np.zeros(len(state.shared)), np.ones(len(state.shared))
    middle[Shared.FOCAL], weight[Shared.FOCAL] = np.log(evidence.focal), 1 / max(evidence.focal_spread, 1e-6)
    shapes = state.shapes
    often = np.sqrt(1 + (evidence.share() ** 2).sum() / _FRAMES_OF_SHAPE)
    weight[:shapes] = often
    weight[Shared.FOCAL] *= often
    weight[Shared.SCALE] = 1 / evidence.calibration.scale
    weight[Shared.LEAN] = 1 / _LEAN
    weight[Shared.PITCH], weight[Shared.ROLL] = 1 / 0.5, 1 / _LEVEL
    middle[Shared.HEIGHT], weight[Shared.HEIGHT] = 1.3, 1 / 0.6
    if evidence.held is not None:
        middle, weight = evidence.held, np.full_like(weight, _HELD)
    equations.add_shared((state.shared - middle) * weight, np.diag(weight))
    if evidence.stature is not None:
        tall = evidence.stature
        slope = np.zeros((1, len(state.shared)))
        firm = often / (_STATURE * tall.height)
        slope[0, :shapes] = firm * tall.by_shape
        error = firm * (tall.usual + tall.by_shape @ state.betas - tall.height)
        equations.add_shared(np.array([error]), slope)
