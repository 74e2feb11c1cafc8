"""Motions: time, rigid motions of the world, and the axes and units that a file does not name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.canonical import CanonicalBody
from fmgs_nerfstudio.motion.motion import Motion, MotionError, find_metres, find_up, joints, rotation_between

Z_UP = (0.0, 0.0, 1.0)


def random_motion(frames: int, up: tuple[float, float, float] = Z_UP, fps: float = 30.0) -> Motion:
    """Upright people (SMPL stands along +y) in a world with this upward axis, turned about it."""
    rng = np.random.default_rng(3)
    poses = rng.normal(size=(frames, 72)) * 0.2
    to_world = rotation_between(np.array([0.0, 1.0, 0.0]), np.array(up))
    turns = Rotation.from_rotvec(np.outer(rng.uniform(0, 6, frames), up))
    poses[:, :3] = (turns * to_world).as_rotvec()
    return Motion(poses, rng.normal(size=(frames, 3)), fps, up, "random")


@pytest.fixture(scope="module")
def shaped() -> CanonicalBody:
    from support.small_avatar import small_avatar

    return small_avatar().canonical


def test_resampling_a_steady_turn_is_exact() -> None:
    """Every joint turns about its own axis with constant speed: the pose at t is known, also between frames."""
    rng = np.random.default_rng(0)
    speed = rng.normal(size=(24, 3)) * 0.6
    at = lambda t: (t[:, None, None] * speed).reshape(len(t), 72)  # noqa: E731
    drift = np.array([0.3, -0.2, 0.1])
    t = np.arange(61) / 60
    motion = Motion(at(t), t[:, None] * drift, 60.0, Z_UP, "turn")
    for fps in (24.0, 30.0, 100.0):
        resampled = motion.resample(fps)
        wanted = np.arange(math.floor(fps) + 1) / fps
        assert len(resampled) == len(wanted)
        assert resampled.fps == fps
        np.testing.assert_allclose(resampled.transl, wanted[:, None] * drift, atol=1e-9)
        error = Rotation.from_rotvec(resampled.poses.reshape(-1, 3)).inv() * Rotation.from_rotvec(
            at(wanted).reshape(-1, 3)
        )
        assert error.magnitude().max() < 1e-6


def test_resampling_goes_the_short_way_around() -> None:
    """Two degrees on either side of half a turn: axis-angle jumps from +pi to -pi, the person does not."""
    poses = np.zeros((2, 72))
    poses[:, 1] = math.radians(178), -math.radians(178)
    halfway = Motion(poses, np.zeros((2, 3)), 1.0, Z_UP, "jump").resample(2.0).poses[1]
    assert np.linalg.norm(halfway) == pytest.approx(math.pi)


def test_one_pose_stays_one_pose() -> None:
    assert len(random_motion(1).resample(10.0)) == 1


def test_clip_takes_seconds() -> None:
    motion = random_motion(90)
    part = motion.clip(1.0, 2.0)
    np.testing.assert_array_equal(part.poses, motion.poses[30:60])
    assert len(motion.clip(0.0, None)) == 90
    assert len(motion.clip(1.0, 1.99)) == 30  # to the end of the pose that is shown then
    with pytest.raises(MotionError, match=r"3\.0 s"):
        motion.clip(4.0, None)


def test_a_moved_motion_moves_every_vertex(body: BodyModel) -> None:
    betas = torch.linspace(-1, 1, 10)
    pelvis = body.shape(betas)[1][0].numpy().astype(float)
    motion = random_motion(2)
    rotation, shift = Rotation.from_rotvec([0.4, -1.2, 2.0]), np.array([1.0, 2.0, -3.0])
    moved = motion.moved(rotation, shift, pelvis)

    def vertices(of: Motion, frame: int) -> np.ndarray:
        pose, transl = (torch.from_numpy(values[frame]).float() for values in (of.poses, of.transl))
        return body.vertices(betas, pose, transl).numpy()

    for frame in range(2):
        expected = rotation.apply(vertices(motion, frame)) + shift
        np.testing.assert_allclose(vertices(moved, frame), expected, atol=2e-5)
    np.testing.assert_allclose(moved.up, rotation.apply(Z_UP))


@pytest.mark.parametrize("up", [(0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0)])
def test_a_motion_stands_in_for_another(shaped: CanonicalBody, up: tuple[float, float, float]) -> None:
    own, motion = random_motion(5), random_motion(7, up)
    placed = motion.stand_in_for(own, shaped)
    assert placed.up == pytest.approx(Z_UP)
    ours, theirs = joints(own, shaped), joints(placed, shaped)
    np.testing.assert_allclose(theirs[0, 0, :2], ours[0, 0, :2], atol=1e-5)
    assert np.median(theirs[..., 2].min(1)) == pytest.approx(np.median(ours[..., 2].min(1)), abs=1e-5)
    a, b = (value / np.linalg.norm(value) for value in (own.facing()[0], placed.facing()[0]))
    np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(placed.poses[:, 3:], motion.poses[:, 3:])
    # Distances between joints are the motion's own, over time too.
    before, after = joints(motion, shaped).reshape(-1, 3), theirs.reshape(-1, 3)
    lengths = [np.linalg.norm(points - points[0], axis=1) for points in (before, after)]
    np.testing.assert_allclose(*lengths, atol=1e-4)


def test_who_lies_stays_lying_in_another_world(shaped: CanonicalBody) -> None:
    """On the back in a world with z up: the head to a side, the front upwards, there and where y is up."""
    poses = np.zeros((4, 72))
    poses[:, :3] = [0, 0, -math.pi / 2]
    own = random_motion(5, (0.0, 1.0, 0.0))
    placed = Motion(poses, np.zeros((4, 3)), 30.0, Z_UP, "lying").stand_in_for(own, shaped)
    np.testing.assert_allclose(placed.root().apply([0, 0, 1]), np.tile(own.up, (4, 1)), atol=1e-6)
    assert np.ptp(joints(placed, shaped) @ np.array(own.up), axis=1).max() < 0.5  # metres, of a body of 1.7


@pytest.mark.parametrize("up", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)])
def test_up_is_where_heads_point(up: tuple[float, float, float]) -> None:
    assert find_up(random_motion(20, up).poses) == up


def test_no_up_where_people_lie_all_ways() -> None:
    poses = np.zeros((300, 72))
    poses[:, :3] = Rotation.from_quat(np.random.default_rng(0).normal(size=(300, 4))).as_rotvec()
    assert find_up(poses) is None


def test_units_by_size() -> None:
    """A walk of 3 m in 3 s; the same 540 units from the origin; 48 m in 12 s, which is a run and not a shuffle."""
    walk = np.linspace([0.0, 0.9, 0.0], [3.0, 0.9, 1.0], 90)
    assert [find_metres(walk * scale, 30) for scale in (1, 100, 1000)] == [1.0, 0.01, 0.001]
    assert find_metres(walk + 540, 30) == 1.0
    assert find_metres(np.linspace([0.0, 0.9, 0.0], [48.0, 0.9, 0.0], 60), 5) == 1.0
    assert find_metres(walk[:1] * 100, 30) == 1.0


def test_shortest_rotations() -> None:
    rng = np.random.default_rng(1)
    pairs = [(np.eye(3)[0], -np.eye(3)[0]), (np.eye(3)[1], np.eye(3)[1]), (np.eye(3)[1], np.eye(3)[2])]
    pairs += [tuple(v / np.linalg.norm(v, axis=1, keepdims=True)) for v in rng.normal(size=(5, 2, 3))]
    for a, b in pairs:
        rotation = rotation_between(a, b)
        np.testing.assert_allclose(rotation.apply(a), b, atol=1e-9)
        assert rotation.magnitude() == pytest.approx(math.acos(np.clip(a @ b, -1, 1)), abs=1e-6)
