"""Fits of clips whose landmarks are projected from a known body: they must come back."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from fmgs_dataparsers.files import CaptureError
from scipy.spatial.transform import Rotation
from support.track_clip import FOCAL, SIZE, Clip, error, exact_calibration, joints_in_camera, make_clip

from fmgs_nerfstudio.body.view import PosedBody
from fmgs_nerfstudio.track.fit import fit
from fmgs_nerfstudio.track.landmarks import Calibration
from fmgs_nerfstudio.track.records import Fits


@cache
def turning(pitch: float = 0.12) -> Clip:
    """A full turn in two seconds."""
    time = np.arange(50) / 25
    return make_clip(time, 0.3 + 2 * np.pi * time / 2, pitch=pitch)


def fitted(clip: Clip, focal: float | None = FOCAL, height: float | None = None) -> Fits:
    return fit(clip.sightings, None, clip.body, focal, height=height, calibration=clip.calibration)


def root_error(fits: Fits, clip: Clip) -> np.ndarray:
    """[F, 3] degrees about the body's axes, of the root in the camera."""
    turned = fits.world_to_camera[:3, :3] @ Rotation.from_rotvec(fits.pose[:, :3]).as_matrix()
    true = clip.world_to_camera[:3, :3] @ Rotation.from_rotvec(clip.pose[:, :3]).as_matrix()
    return np.degrees(Rotation.from_matrix(true.swapaxes(1, 2) @ turned).as_rotvec())


def up_in_camera(world_to_camera: np.ndarray) -> np.ndarray:
    return world_to_camera[:3, 1]


def test_a_turning_person_comes_back() -> None:
    clip = turning()
    fits = fitted(clip)
    assert error(fits, clip) < 0.008
    assert np.linalg.norm(root_error(fits, clip), axis=-1).max() < 5


@pytest.mark.parametrize("pitch", [-0.05, 0.3])
def test_camera_and_ground_come_back(pitch: float) -> None:
    clip = turning(pitch)
    fits = fitted(clip)
    up, true = up_in_camera(fits.world_to_camera), up_in_camera(clip.world_to_camera)
    assert np.degrees(np.arccos(up @ true)) < 1.3
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
    """A steady turn whose frames come in pairs, 0.02 and 0.14 seconds apart, seen by a network that errs more."""
    time = np.cumsum(np.tile([0.02, 0.14], 12))
    clip = make_clip(time, 3.0 * time)
    clip = replace(clip, calibration=replace(clip.calibration, across=np.full(33, 0.02), space=np.full((33, 3), 0.05)))
    even = clip.seen(time=np.linspace(time[0], time[-1], len(time)))
    jitter, of_even = (np.abs(np.diff(root_error(fitted(seen), clip)[:, 1])).mean() for seen in (clip, even))
    assert jitter < 1.5
    assert jitter < of_even / 3


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


@pytest.mark.parametrize("centimetres", [-12, 12])
def test_a_stature_is_met_whatever_landmarks_say(centimetres: float) -> None:
    clip = turning()
    y = clip.body.v_template.numpy()[:, 1]
    height = float(np.ptp(y)) + centimetres / 100  # those who stand in the clip are of the mean shape
    assert height_of(fitted(sized(clip, 0.1, 2), height=height), clip) == pytest.approx(height, abs=0.005)


def height_of(fits: Fits, clip: Clip) -> float:
    return float(np.ptp(clip.body.v_template.numpy()[:, 1] + clip.body.shapedirs.numpy()[:, 1] @ fits.betas))


def sized(clip: Clip, constant: float, slope: float) -> Clip:
    """Where the calibration says so of people's sizes."""
    return replace(clip, calibration=replace(clip.calibration, size=np.array([constant, slope])))


@pytest.mark.parametrize("larger", [0.05, -0.04])
def test_people_are_as_large_as_the_calibration_says(larger: float) -> None:
    """Body, distance and the camera's height grow together: the picture stays."""
    clip = turning()
    before, after = fitted(sized(clip, 0, 1)), fitted(sized(clip, larger, 1))
    assert height_of(after, clip) == pytest.approx(np.exp(larger) * height_of(before, clip), rel=0.006)
    joints = [in_camera(fits, clip) for fits in (before, after)]
    assert joints[1][:, 0, 2].mean() == pytest.approx(np.exp(larger) * joints[0][:, 0, 2].mean(), rel=0.01)
    flat = [FOCAL * j[..., :2] / j[..., 2:] for j in joints]
    assert np.linalg.norm(flat[1] - flat[0], axis=-1).mean() < 3
    cameras = [-f.world_to_camera[:3, :3].T @ f.world_to_camera[:3, 3] for f in (before, after)]
    assert cameras[1][1] == pytest.approx(np.exp(larger) * cameras[0][1], rel=0.02)


def test_sizes_differ_by_the_calibrations_slope() -> None:
    betas = np.zeros(10)
    betas[0] = -1.0  # taller
    time = np.arange(24) / 12
    clip = make_clip(time, 1.5 * time, betas=betas)
    usual = float(np.ptp(clip.body.v_template.numpy()[:, 1]))
    as_fitted, doubled = (np.log(height_of(fitted(sized(clip, 0, slope)), clip) / usual) for slope in (1, 2))
    assert as_fitted > 0.01
    assert doubled == pytest.approx(2 * as_fitted, rel=0.1)


def test_outlines_do_not_undo_the_size(tmp_path: Path) -> None:
    clip = make_clip(np.arange(6) / 10, 0.5 * np.arange(6))
    masks = masks_of(clip, tmp_path)
    before, after = (
        height_of(fit(clip.sightings, masks, clip.body, FOCAL, calibration=sized(clip, c, 1).calibration), clip)
        for c in (0, 0.05)
    )
    assert after == pytest.approx(np.exp(0.05) * before, rel=0.008)


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


def masks_of(clip: Clip, folder: Path) -> Path:
    """What the camera sees of the body itself."""
    body = PosedBody(clip.body, clip.betas, clip.pose)
    for frame in range(len(clip.pose)):
        view = body.view(frame, clip.transl[frame], clip.K, clip.world_to_camera, *SIZE)
        cv2.imwrite(str(folder / f"{frame:06d}.png"), 255 * view.silhouette.astype(np.uint8))
    return folder


def in_camera(fits: Fits, clip: Clip) -> np.ndarray:
    return joints_in_camera(clip.body, fits.betas, fits.pose, fits.transl, fits.world_to_camera)


def test_outlines_correct_landmarks(tmp_path: Path) -> None:
    """Landmarks that are all too far to the right, and arms that are seen too low, against exact masks."""
    time = np.arange(10) / 10
    clip = make_clip(time, 1.5 * time)
    landmarks = clip.sightings.landmarks + np.array([4.0, 0.0])
    landmarks[:, 13:23, 1] += 8
    wrong = replace(clip.seen(landmarks=landmarks), calibration=replace(clip.calibration, across=np.full(33, 0.012)))
    masks = masks_of(clip, tmp_path)
    without = fitted(wrong)
    fits = fit(wrong.sightings, masks, clip.body, FOCAL, calibration=wrong.calibration)
    across = [np.linalg.norm((in_camera(f, clip) - clip.joints())[..., :2], axis=-1) for f in (without, fits)]
    assert across[1].mean() < 0.7 * across[0].mean()
    assert across[1][:, [18, 19]].mean() < 0.7 * across[0][:, [18, 19]].mean()


def test_a_mask_that_is_missing_is_named(tmp_path: Path) -> None:
    clip = make_clip(np.arange(2) / 10, np.zeros(2))
    with pytest.raises(CaptureError, match=r"000000\.png"):
        fit(clip.sightings, tmp_path, clip.body, FOCAL, calibration=clip.calibration)


def test_empty_masks_change_nothing(tmp_path: Path) -> None:
    clip = make_clip(np.arange(3) / 10, np.zeros(3))
    for frame in range(3):
        cv2.imwrite(str(tmp_path / f"{frame:06d}.png"), np.zeros(SIZE[::-1], np.uint8))
    fits = fit(clip.sightings, tmp_path, clip.body, FOCAL, calibration=clip.calibration)
    assert error(fits, clip) < 0.03


def test_any_body_in_smpls_schema() -> None:
    """Another template, fewer shape directions: a body that is 0.9 times as large."""
    clip = turning()
    body = replace(clip.body, v_template=0.9 * clip.body.v_template, shapedirs=clip.body.shapedirs[..., :4])
    sightings = replace(clip.sightings, world=0.9 * clip.sightings.world)
    calibration = replace(clip.calibration, offset=0.9 * clip.calibration.offset)
    fits = fit(sightings, None, body, FOCAL, calibration=calibration)
    assert fits.betas.shape == (4,)
    found = joints_in_camera(body, fits.betas, fits.pose, fits.transl, fits.world_to_camera)
    assert np.linalg.norm(found - 0.9 * clip.joints(), axis=-1).mean() < 0.012


def test_the_packages_calibration() -> None:
    """It is complete, and what it corrects is of the size of a body."""
    calibration, clip = Calibration.load(), turning()
    lifted = calibration.lift(clip.sightings, FOCAL)
    assert lifted.points.shape == (50, 33, 3)
    assert np.linalg.norm(lifted.points, axis=-1).max() < 1.5
    assert np.allclose(np.linalg.det(lifted.turned), 1)
    assert 0.03 < calibration.errors[0] < 0.3
    assert abs(calibration.size[0]) < 0.1
    assert 1 <= calibration.size[1] < 4  # people differ more than fits do
    fits = fit(clip.sightings, None, clip.body, FOCAL)
    assert np.linalg.norm(root_error(fits, clip), axis=-1).max() < 45  # no side is swapped


def test_a_calibration_is_read_as_written(tmp_path: Path) -> None:
    calibration = Calibration.load()
    calibration.write(tmp_path / "calibration.npz")
    again = Calibration.load(tmp_path / "calibration.npz")
    assert np.array_equal(again.offset, calibration.offset)
    assert np.array_equal(again.size, calibration.size)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(again.layers, calibration.layers, strict=True))


def test_what_is_hardly_seen_counts_little() -> None:
    """Hands that are seen too low for a while: believed where the network is sure."""
    time = np.arange(16) / 25
    clip = make_clip(time, 0.5 * time)
    clip = replace(clip, calibration=replace(clip.calibration, across=np.full(33, 0.01)))
    landmarks, unsure = clip.sightings.landmarks.copy(), clip.sightings.score.copy()
    landmarks[6:10, 15:23, 1] += 10
    unsure[6:10, 15:23] = 0
    sure = clip.seen(landmarks=landmarks)
    wrists = [
        np.linalg.norm(in_camera(fitted(seen), clip) - clip.joints(), axis=-1)[6:10, 20:22].mean()
        for seen in (sure, sure.seen(score=unsure))
    ]
    assert wrists[1] < 0.8 * wrists[0]
