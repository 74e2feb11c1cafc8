"""Fits of clips whose landmarks are projected from a known body: they must come back."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support.track_clip import FOCAL, SIZE, Clip, error, exact_calibration, joints_in_camera, make_clip

from fmgs_nerfstudio.track.fit import fit
from fmgs_nerfstudio.track.records import Fits


@cache
def turning(pitch: float = 0.12) -> Clip:
    """A full turn in two seconds."""
    time = np.arange(50) / 25
    return make_clip(time, 0.3 + 2 * np.pi * time / 2, pitch=pitch)


def fitted(clip: Clip, focal: float | None = FOCAL, height: float | None = None) -> Fits:
    return fit(clip.sightings, None, clip.body, focal, height=height, calibration=clip.calibration)


def up_in_camera(world_to_camera: np.ndarray) -> np.ndarray:
    return world_to_camera[:3, 1]


def test_a_turning_person_comes_back() -> None:
    clip = turning()
    fits = fitted(clip)
    assert error(fits, clip) < 0.012
    turned = fits.world_to_camera[:3, :3] @ Rotation.from_rotvec(fits.pose[:, :3]).as_matrix()
    true = clip.world_to_camera[:3, :3] @ Rotation.from_rotvec(clip.pose[:, :3]).as_matrix()
    assert np.degrees(Rotation.from_matrix(turned.swapaxes(1, 2) @ true).magnitude()).max() < 5


@pytest.mark.parametrize("pitch", [-0.05, 0.3])
def test_camera_and_ground_come_back(pitch: float) -> None:
    clip = turning(pitch)
    fits = fitted(clip)
    up, true = up_in_camera(fits.world_to_camera), up_in_camera(clip.world_to_camera)
    assert np.degrees(np.arccos(up @ true)) < 1.5
    camera = -fits.world_to_camera[:3, :3].T @ fits.world_to_camera[:3, 3]
    assert camera[1] == pytest.approx(1.4, abs=0.08)
    rotation = fits.world_to_camera[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_lowest_joint_is_above_the_ground() -> None:
    clip = turning()
    fits = fitted(clip)
    world = joints_in_camera(clip.body, fits.betas, fits.pose, fits.transl, np.eye(4))
    assert world[:, [7, 8, 10, 11], 1].min(1) == pytest.approx(0.05, abs=0.04)


def test_time_stamps_decide_what_is_smooth() -> None:
    """The same motion, seen at a rate that changes from 60 to 10 frames a second."""
    time = np.r_[np.arange(30) / 60, 0.5 + np.arange(1, 16) / 10]
    clip = make_clip(time, 2.0 * time)
    assert error(fitted(clip), clip) < 0.015
    wrong = clip.seen(time=np.linspace(0, time[-1] / 20, len(time)))
    assert error(fitted(wrong), clip) > 1.5 * error(fitted(clip), clip)


def test_wrong_and_missing_landmarks_do_not_matter() -> None:
    clip = turning()
    sight = clip.sightings
    landmarks, world, score = sight.landmarks.copy(), sight.world.copy(), sight.score.copy()
    legs, other = [25, 27, 29, 31], [26, 28, 30, 32]
    for frame in (7, 20, 21, 33):  # the network takes one leg for the other
        for values in (landmarks, world):
            values[frame, legs + other] = values[frame, other + legs]
    landmarks[40, 15] += 300  # a wrist somewhere else
    score[10:14, 13:21], landmarks[10:14, 13:21] = 0.0, 0.0  # arms that are not seen
    assert error(fitted(clip.seen(landmarks=landmarks, world=world, score=score)), clip) < 0.03


def test_focal_length_is_sought_and_said_to_be_uncertain() -> None:
    clip = turning()
    given, sought = fitted(clip), fitted(clip, focal=None)
    assert given.K[0, 0] == pytest.approx(FOCAL, rel=5e-3)
    assert given.uncertainty.focal < 0.01
    assert sought.K[0, 0] == pytest.approx(FOCAL, rel=0.2)
    assert abs(sought.K[0, 0] / 1.05 / max(SIZE) - 1) > 0.005  # not only what is usual
    assert sought.uncertainty.focal >= 0.1
    assert sought.uncertainty.distance > 1.5 * given.uncertainty.distance
    assert sought.K[:2, 2].tolist() == [360, 640]


def test_a_stature_gives_the_size() -> None:
    betas = np.zeros(10)
    betas[0] = -1.3  # taller
    time = np.arange(24) / 12
    clip = make_clip(time, 1.5 * time, betas=betas)
    y = clip.body.v_template.numpy() + clip.body.shapedirs.numpy() @ betas
    height = float(np.ptp(y[:, 1]))
    without, given = fitted(clip), fitted(clip, height=height)
    assert error(given, clip) < 0.04
    assert error(given, clip) < error(without, clip)
    assert given.uncertainty.distance < without.uncertainty.distance


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_few_frames(frames: int) -> None:
    clip = make_clip(np.arange(frames) / 25, np.full(frames, 0.4))
    fits = fitted(clip)
    assert fits.pose.shape == (frames, 72)
    assert error(fits, clip) < 0.03


def test_long_clips_are_fitted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmgs_nerfstudio.track.fit._AT_ONCE", 20)
    monkeypatch.setattr("fmgs_nerfstudio.track.fit._OVERLAP", 5)
    clip, told = turning(), []
    fits = fit(
        clip.sightings, None, clip.body, FOCAL, calibration=clip.calibration,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert fits.pose.shape == (50, 72)
    assert error(fits, clip) < 0.02
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert exact_calibration().scale == clip.calibration.scale
