"""Conversions there and back, by hypothesis; and cameras that trackers assume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.conventions import BodyFile, axis_angle, checked, rotation, seen_from, upward
from fmgs_dataparsers.own_video import humans4d_focal, longest_track, romp_focal, rows_by_frame, wham_focal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from support.known_person import ASSET

BODY = BodyFile(ASSET)
SEEDS = st.integers(0, 2**31)


def turns(seed: int, n: int = 1) -> Rotation:
    """Rotations drawn evenly, up to a half turn."""
    return Rotation.from_quat(np.random.default_rng(seed).normal(size=(n, 4)))


def random_fit(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pose = rng.normal(size=72)
    pose[:3] = turns(seed)[0].as_rotvec()
    return pose, rng.normal(size=3) * 5, rng.normal(size=10)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_easymocap_there_and_back(seed: int) -> None:
    """transl = Th + R J - J, and back: Th = transl + J - R J."""
    pose, Th, betas = random_fit(seed)
    fit = BODY.fit_easymocap(Path("x"), pose, pose[:3], Th, betas)
    J = BODY.joints(betas)[0]
    transl = fit.pelvis - J
    assert np.abs(transl + J - Rotation.from_rotvec(pose[:3]).as_matrix() @ J - Th).max() < 1e-12
    assert np.array_equal(fit.pose, pose)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_smplx_there_and_back(seed: int) -> None:
    pose, transl, betas = random_fit(seed)
    fit = BODY.fit(Path("x"), pose, transl, betas)
    assert np.abs(fit.pelvis - BODY.joints(fit.betas)[0] - transl).max() < 1e-12


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_into_a_camera_and_back(seed: int) -> None:
    pose, transl, betas = random_fit(seed)
    fit = BODY.fit(Path("x"), pose, transl, betas)
    to_camera = np.eye(4)
    to_camera[:3, :3] = turns(seed + 1)[0].as_matrix()
    to_camera[:3, 3] = transl[::-1]
    back = seen_from(seen_from(fit, to_camera), np.linalg.inv(to_camera))
    assert np.abs(back.pelvis - fit.pelvis).max() < 1e-12
    turned = (Rotation.from_rotvec(back.pose[:3]) * Rotation.from_rotvec(fit.pose[:3]).inv()).magnitude()
    assert turned < 1e-7


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_shape_from_joints(seed: int) -> None:
    """HumanNeRF's files hold joints in place of betas; where they are counted from does not matter."""
    _, transl, betas = random_fit(seed)
    assert np.abs(BODY.betas(BODY.joints(betas) + transl) - betas).max() < 1e-5


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_matrices_and_low_precision(seed: int) -> None:
    many = turns(seed, 24)
    assert np.abs(axis_angle(many.as_matrix()).reshape(24, 3) - many.as_rotvec()).max() < 1e-7
    R = many[0].as_matrix()
    assert np.abs(rotation(np.round(R, 3)) - R).max() < 2e-3
    assert np.abs(rotation(np.round(R, 3)) @ rotation(np.round(R, 3)).T - np.eye(3)).max() < 1e-12


def test_up_is_where_heads_are() -> None:
    lying = np.zeros((2, 72))
    lying[:, 0] = np.pi  # PeopleSnapshot's camera: y down
    assert np.allclose(upward(lying), [0, -1, 0])


def test_focal_lengths() -> None:
    assert romp_focal(512, 512) == pytest.approx(443.4, abs=0.05)
    assert romp_focal(1920, 1080) == pytest.approx(443.4 * 1920 / 512, abs=0.1)
    assert wham_focal(1920, 1080) == pytest.approx(2202.9, abs=0.1)
    assert humans4d_focal(1080, 1920) == pytest.approx(37500)


def test_values_are_checked() -> None:
    with pytest.raises(CaptureError, match=r"fits\.npz: expected pose \[72\]"):
        checked(Path("fits.npz"), np.zeros(69), np.zeros(3), np.zeros(10))
    with pytest.raises(CaptureError, match="not finite"):
        checked(Path("fits.npz"), np.full(72, np.inf), np.zeros(3), np.zeros(10))


def test_frames_of_trackers_are_found_by_name_order_or_number(tmp_path: Path) -> None:
    images = [tmp_path / f"{i:06d}.jpg" for i in range(3)]
    assert rows_by_frame(tmp_path, ["out/000002.jpg", "out/000000.jpg"], images) == {
        0: "out/000000.jpg",
        2: "out/000002.jpg",
    }
    assert rows_by_frame(tmp_path, ["b_1.jpg", "b_2.jpg", "b_3.jpg"], images) == {
        0: "b_1.jpg",
        1: "b_2.jpg",
        2: "b_3.jpg",
    }
    assert rows_by_frame(tmp_path, ["x_2.jpg"], images) == {2: "x_2.jpg"}
    # PHALP counts from 1: neither all nor some of its names may be taken for the stems of our frames.
    from_one = [f"img/{i:06d}.jpg" for i in (1, 2, 3)]
    assert rows_by_frame(tmp_path, from_one, images) == dict(enumerate(from_one))
    assert rows_by_frame(tmp_path, from_one[1:], images) == {1: from_one[1], 2: from_one[2]}
    with pytest.raises(CaptureError, match="have not the names of the images"):
        rows_by_frame(tmp_path, ["noon.jpg"], images)


def test_the_longest_track() -> None:
    tracks = {1: {"pose": np.zeros((3, 72))}, 2: {"pose": np.zeros((9, 72))}, "meta": 4}
    assert len(longest_track(Path("x"), tracks)["pose"]) == 9
    with pytest.raises(CaptureError, match="tracks nobody"):
        longest_track(Path("x"), {})
