"""What the calibration looks at: the same wherever a person is in the image, in metres, and alike for both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support.track_clip import FOCAL, SIZE, exact_calibration, make_clip

from fmgs_nerfstudio.track.fit import USUAL_FOCAL, fit
from fmgs_nerfstudio.track.landmarks import Calibration, Lifted, in_numbers
from fmgs_nerfstudio.track.mirror import mirrored, mirrored_joints, mirrored_landmarks, mirrored_rotations
from fmgs_nerfstudio.track.records import Sightings

WORLD, FLAT, DEPTH, NEAR, SCORE = slice(0, 99), slice(99, 165), slice(165, 198), 198, slice(199, 232)
HAIR = 1e-3  # metres by which the middle of two pixels is beside the middle of what they show
WRIST, OTHER_WRIST, LEFT_HIP, RIGHT_HIP = 15, 16, 23, 24


def sighting(points: np.ndarray, ray: np.ndarray, away: float, focal: float = FOCAL, grow: float = 1.0) -> Sightings:
    """One frame: points [33, 3] from the middle of the hips, which are `away` along a ray, facing the camera there."""
    axis = np.cross([0, 0, 1], ray)
    angle = np.arccos(ray[2] / np.linalg.norm(ray))
    turn = Rotation.from_rotvec(axis / max(np.linalg.norm(axis), 1e-12) * angle).as_matrix()
    at = (points + np.array([0, 0, away])) @ turn.T
    size = (round(SIZE[0] * grow), round(SIZE[1] * grow))
    pixels = focal * grow * at[:, :2] / at[:, 2:] + np.array(size) / 2
    score = np.linspace(0.2, 1, 33)
    return Sightings(
        np.zeros(1, int), np.zeros(1), pixels[None], (points[:, 2] * focal * grow / away)[None], points[None],
        score[None], size,
    )  # fmt: skip


def body(flat: bool) -> np.ndarray:
    """[33, 3] metres, the middle of the hips at zero."""
    points = np.random.default_rng(4).normal(0, 0.3, (33, 3)) * ([1, 1, 0] if flat else [1, 1, 0.5])
    points[LEFT_HIP], points[RIGHT_HIP] = [0.1, 0, 0], [-0.1, 0, 0]
    return points


@pytest.mark.parametrize("ray", [(0.0, 0.0, 1.0), (0.25, -0.3, 1.0)])
def test_points_on_a_plane_before_the_camera_are_seen_in_metres(ray: tuple[float, float, float]) -> None:
    points = body(flat=True)
    world, numbers = in_numbers(sighting(points, np.array(ray), 3.2), FOCAL)
    assert np.allclose(world[0], points)
    assert np.allclose(numbers[0, FLAT].reshape(33, 2), points[:, :2], atol=HAIR)
    assert numbers[0, NEAR] == pytest.approx(1 / 3.2, rel=1e-3)
    assert np.allclose(numbers[0, SCORE], np.linspace(0.2, 1, 33))


def test_depth_is_in_metres() -> None:
    points = body(flat=True)
    points[:, 2] = 0.01 * np.random.default_rng(0).normal(size=33)  # so little that perspective hardly sees it
    points[[LEFT_HIP, RIGHT_HIP], 2] = 0
    _, numbers = in_numbers(sighting(points, np.array([0.0, 0, 1]), 3.2), FOCAL)
    assert np.allclose(numbers[0, DEPTH], points[:, 2], rtol=0.02, atol=1e-4)


def test_place_and_resolution_do_not_matter() -> None:
    points = body(flat=False)
    middle, aside, large = (
        in_numbers(sighting(points, np.array(ray), 2.5, grow=grow), FOCAL * grow)[1]
        for ray, grow in (((0.0, 0, 1), 1.0), ((-0.3, 0.2, 1), 1.0), ((0.0, 0, 1), 2.0))
    )
    assert np.allclose(middle, aside, atol=HAIR)
    assert np.allclose(middle, large, atol=1e-9)


def test_perspective_is_seen() -> None:
    """The same body from near and far: what is in front looks larger from near."""
    points = body(flat=False)
    near, far = (in_numbers(sighting(points, np.array([0.0, 0, 1]), away), FOCAL)[1] for away in (1.5, 6.0))
    assert near[0, NEAR] > 3 * far[0, NEAR]
    assert np.abs(near[0, FLAT] - far[0, FLAT]).max() > 0.02


def test_the_mirror() -> None:
    seen = make_clip(np.arange(3) / 10, np.full(3, 0.4)).sightings
    seen = replace(seen, score=np.linspace(0, 1, 99).reshape(3, 33))
    other = mirrored(seen)
    assert np.allclose(other.score[:, WRIST], seen.score[:, OTHER_WRIST])
    assert np.allclose(other.landmarks[:, WRIST], [SIZE[0], 0] + seen.landmarks[:, OTHER_WRIST] * [-1, 1])
    assert np.allclose(other.world[:, WRIST], seen.world[:, OTHER_WRIST] * [-1, 1, 1])
    again = mirrored(other)
    for name in ("landmarks", "depth", "world", "score"):
        assert np.allclose(getattr(again, name), getattr(seen, name))


def test_mirrored_rotations_turn_the_mirrored_points() -> None:
    """A point that hangs on a joint is, mirrored, the mirrored point on the joint of the other side."""
    rng = np.random.default_rng(1)
    turned = Rotation.from_rotvec(rng.normal(size=(24, 3))).as_matrix()[None]
    joints, arm = rng.normal(size=(1, 24, 3)), rng.normal(size=(24, 3))
    tips = joints + np.einsum("fjab,jb->fja", turned, arm)
    arms = mirrored_joints(arm[None])[0]
    again = mirrored_joints(joints) + np.einsum("fjab,jb->fja", mirrored_rotations(turned), arms)
    assert np.allclose(again, mirrored_joints(tips))
    assert np.allclose(np.linalg.det(mirrored_rotations(turned)), 1)


def test_both_sides_are_lifted_alike() -> None:
    calibration, clip = Calibration.load(), make_clip(np.arange(4) / 10, 0.3 + np.arange(4))
    lifted, other = (calibration.lift(seen, FOCAL) for seen in (clip.sightings, mirrored(clip.sightings)))
    assert np.allclose(mirrored_landmarks(lifted.points), other.points, atol=1e-9)
    assert np.allclose(mirrored_rotations(lifted.turned), other.turned, atol=1e-9)


@pytest.mark.parametrize(("given", "used"), [(FOCAL, FOCAL), (None, USUAL_FOCAL * max(SIZE))])
def test_points_are_lifted_by_the_focal_length_that_is_known(given: float | None, used: float) -> None:
    asked: list[float] = []

    class Spy(Calibration):
        def lift(self, sightings: Sightings, focal: float) -> Lifted:
            asked.append(focal)
            return super().lift(sightings, focal)

    clip = make_clip(np.arange(2) / 10, np.zeros(2))
    values = {name: value for name, value in vars(exact_calibration()).items() if name != "marks"}
    fit(replace(clip.sightings), None, clip.body, given, calibration=Spy(**values))
    assert asked[0] == pytest.approx(used)
