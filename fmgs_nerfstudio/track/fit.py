"""Bodies and a camera for a clip, from what the networks saw: least squares over all frames at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from fmgs_dataparsers.capture import Uncertainty
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.track.chain import Skeleton, exponential, logarithm, nearest_rotation
from fmgs_nerfstudio.track.ground import in_the_world
from fmgs_nerfstudio.track.landmarks import HIPS, Calibration, along_rays
from fmgs_nerfstudio.track.outlines import Outlines
from fmgs_nerfstudio.track.pose_prior import usual_pose
from fmgs_nerfstudio.track.records import Fits, Sightings
from fmgs_nerfstudio.track.state import Shared, State
from fmgs_nerfstudio.track.terms import Evidence, Stature, gather

USUAL_FOCAL, FOCAL_SPREAD = 1.05, 0.25
"""Of a video camera, in longer sides of the image: the middle, and the deviation of its logarithm."""
KNOWN_FOCAL = 1e-3
"""Deviation of the logarithm of a focal length that is given."""
Progress = Callable[[int, int], None]
_KNOWN_SIZE = 0.01  # deviation of the size where a stature is given
_SOUGHT_FOCAL = 0.18  # deviation of the logarithm of a focal length that was sought: landmarks hardly tell it
_AT_ONCE, _OVERLAP = 400, 20  # frames
_GROUND_STEPS, _ROUNDS, _SIZE_ROUNDS = 8, 4, 2
_DAMPING = 1e-4
_TRUNK = [11, 12, 23, 24]
_STEPS = 14
_DONE = 2e-4  # radians or metres, root mean square of a step


def fit(
    sightings: Sightings,
    masks: Path | None,
    body: BodyModel,
    focal: float | None = None,
    height: float | None = None,
    progress: Progress = lambda done, total: None,
    calibration: Calibration | None = None,
) -> Fits:
    """Fit one person's clip.

    Args:
        masks: folder of soft masks named by the number of their frame, `000012.png`; without it, outlines do not count.
        focal: pixels; None: it is sought, from what is usual.
        height: of the person in metres, if it is known: one camera sees shapes and angles, and sizes hardly at all.
        progress: told how much is done, and of how much: frames, once for each stage.
        calibration: of the landmarks; None: the package's own.
    """
    clip = _Clip(sightings, masks, body, focal, height, calibration or Calibration.load(), progress)
    return clip.fits()


class _Clip:
    """A clip while it is fitted."""

    def __init__(
        self,
        sightings: Sightings,
        masks: Path | None,
        body: BodyModel,
        focal: float | None,
        height: float | None,
        calibration: Calibration,
        progress: Progress,
    ) -> None:
        supposed = USUAL_FOCAL * max(sightings.size) if focal is None else focal
        self.body, self.skeleton, self.masks, self.progress = body, Skeleton.of(body), masks, progress
        self.evidence = Evidence(
            sightings,
            calibration.lift(sightings, supposed),
            calibration,
            focal=supposed,
            focal_spread=FOCAL_SPREAD if focal is None else KNOWN_FOCAL,
            stature=None if height is None else Stature.of(body, height),
        )

    def fits(self) -> Fits:
        """Of all frames: where they are many, what they share is found from some of them."""
        frames = len(self.evidence.sightings.time)
        apart = -(-frames // _AT_ONCE)
        parts = _windows(frames) if apart > 1 else []
        self._done, self._total = 0, len(range(0, frames, apart)) + sum(b - a for a, b, _ in parts)
        state, information = self._solved(self.evidence.of(slice(None, None, apart)), None)
        if parts:
            solved = [(self._solved(self.evidence.of(slice(a, b)), state.shared)[0], keep) for a, b, keep in parts]
            local, pelvis = (
                np.concatenate([getattr(part, name)[keep] for part, keep in solved]) for name in ("local", "pelvis")
            )
            state = replace(state, local=local, pelvis=pelvis)
        return self._in_the_world(state, information)

    def _solved(self, evidence: Evidence, shared: Float[Array, "G"] | None) -> tuple[State, Float[Array, "G G"]]:
        """A guess, improved by landmarks, then with the ground, then with outlines, then of a likely size.

        `shared` is held.
        """
        state = first_guess(self.skeleton, evidence)
        if shared is not None:
            state, evidence = replace(state, shared=shared), replace(evidence, held=shared)
        frames, outlined = len(state.local), self.masks is not None
        state, _ = solve(state, evidence, grounded=False)
        self._tell(frames, outlined)
        state, information = solve(state, evidence, grounded=True, steps=_GROUND_STEPS)
        self._tell(frames, outlined)
        improved = self._improvement(evidence)
        for _ in range(_ROUNDS * outlined):
            state = improved(state, evidence)
            self._tell(frames, outlined)
        if evidence.stature is None and shared is None:
            evidence = replace(evidence, stature=Stature.likely(self.body, state.betas, evidence.calibration))
            for _ in range(_SIZE_ROUNDS):
                state = improved(state, evidence)
        return state, information

    def _improvement(self, evidence: Evidence) -> Callable[[State, Evidence], State]:
        """A step with outlines; without masks, some with landmarks and ground."""
        if self.masks is not None:
            return Outlines(self.body, evidence.sightings, self.masks).improve
        return lambda state, evidence: solve(state, evidence, grounded=True, steps=_GROUND_STEPS)[0]

    def _tell(self, frames: int, outlined: bool) -> None:
        """A stage of some frames is over."""
        self._done += frames
        self.progress(self._done, self._total * (2 + _ROUNDS * outlined))

    def _in_the_world(self, state: State, information: Float[Array, "G G"]) -> Fits:
        world_to_camera = in_the_world(state, self.evidence.calibration.sole)
        axes, origin = world_to_camera[:3, :3], world_to_camera[:3, 3]
        local = state.local.copy()
        local[:, 0] = axes.T @ local[:, 0]
        return Fits(
            betas=state.betas,
            pose=logarithm(local).reshape(-1, 72),
            transl=(state.pelvis - origin) @ axes - self.skeleton.joints(state.betas)[0],
            K=state.K,
            world_to_camera=world_to_camera,
            uncertainty=self._uncertainty(state, information),
        )

    def _uncertainty(self, state: State, information: Float[Array, "G G"]) -> Uncertainty:
        """What the calibration measured; a wrong focal length or size puts the whole clip nearer or farther."""
        errors, away = self.evidence.calibration.errors, float(state.pelvis[:, 2].mean())
        known = self.evidence.focal_spread == KNOWN_FOCAL
        sought = float(np.sqrt(np.linalg.inv(information)[Shared.FOCAL, Shared.FOCAL]))
        focal = KNOWN_FOCAL if known else float(np.clip(sought, _SOUGHT_FOCAL, FOCAL_SPREAD))
        size = float(errors[5]) if self.evidence.stature is None else _KNOWN_SIZE
        return Uncertainty(
            rotation=float(errors[0]),
            position=(float(errors[1]), float(errors[2]), away * float(errors[3])),
            lean=float(errors[4]),
            distance=away * float(np.hypot(size, focal)),
            focal=focal,
        )


def _windows(frames: int) -> list[tuple[int, int, slice]]:
    """First and last frame of pieces that overlap, and what to keep of each."""
    pieces = -(-frames // _AT_ONCE)
    ends = np.linspace(0, frames, pieces + 1).round().astype(int).tolist()
    found: list[tuple[int, int, slice]] = []
    for a, b in pairwise(ends):
        first, last = max(a - _OVERLAP, 0), min(b + _OVERLAP, frames)
        found.append((first, last, slice(a - first, b - first)))
    return found


def solve(state: State, evidence: Evidence, grounded: bool, steps: int = _STEPS) -> tuple[State, Float[Array, "G G"]]:
    """Gauss and Newton's steps until they are small; and what is then known of what frames share."""
    information = np.eye(len(state.shared))
    for _ in range(steps):
        equations = gather(state, evidence, grounded)
        own, shared, information = equations.step(_DAMPING)
        state = state.moved(own, shared)
        if np.sqrt((own**2).mean()) < _DONE:
            break
    return state, information


def first_guess(skeleton: Skeleton, evidence: Evidence) -> State:
    """Trunks as the lifted points have them, the rest in the usual pose, each where its landmarks say."""
    sightings, calibration = evidence.sightings, evidence.calibration
    frames = len(sightings.landmarks)
    shapes = skeleton.shaped.shape[-1]
    shared = np.zeros(shapes + len(Shared))
    shared[Shared.FOCAL], shared[Shared.HEIGHT] = np.log(evidence.focal), 1.3
    local = np.tile(exponential(usual_pose()[0]), (frames, 1, 1, 1))
    state = State(skeleton, local, np.zeros((frames, 3)), shared, np.array(sightings.size) / 2)
    points, _ = state.posed(slice(0, 1)).points(calibration.marks)
    trunk = points[0, _TRUNK] - points[0, _TRUNK].mean(0)
    rays = along_rays(sightings.landmarks[:, list(HIPS)].mean(1), state.K)
    lifted = (rays[:, None] @ evidence.lifted.points[..., None])[..., 0]
    seen = lifted[:, _TRUNK] - lifted[:, _TRUNK].mean(1, keepdims=True)
    root = nearest_rotation(np.einsum("fmi,mj->fij", seen, trunk)) @ local[:, 0]
    local[:, 0] = root
    return replace(state, pelvis=_placed(lifted, sightings, state.K))


def _placed(points: Float[Array, "F 33 3"], sightings: Sightings, K: Float[Array, "3 3"]) -> Float[Array, "F 3"]:
    """Where points must be shifted to project to the landmarks: least squares, linear in the shift."""
    rays = (sightings.landmarks - K[:2, 2]) / K[0, 0]
    weight = sightings.score[..., None]
    rows = np.zeros((*rays.shape, 3))
    rows[..., 0, 0] = rows[..., 1, 1] = 1
    rows[..., 2] = -rays
    right = rays * points[..., 2:] - points[..., :2]
    rows, right = (rows * weight[..., None]).reshape(len(rays), -1, 3), (right * weight).reshape(len(rays), -1, 1)
    turned = rows.swapaxes(1, 2)
    return np.linalg.solve(turned @ rows + 1e-6 * np.eye(3), turned @ right)[..., 0]
