"""fmgs-check's cause search: each broken convention is named, a good capture is ready."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fmgs_dataparsers.capture import Capture
from fmgs_dataparsers.parser import open_capture
from scipy.spatial.transform import Rotation
from support.known_person import Person
from support.silhouette_capture import Content, content, write_content

from fmgs_nerfstudio.judge.fit_check import FitReport, check_capture, chosen_frames, corrected
from fmgs_nerfstudio.judge.silhouette import Silhouettes, view_of

good_content = functools.cache(content)
FLIP = np.diag([1.0, -1.0, -1.0])
TO_Y_UP = Rotation.from_euler("x", -90, degrees=True)


def spoiled(root: Path, spoil: Callable[[Content], None]) -> FitReport:
    made = copy.deepcopy(good_content())
    spoil(made)
    return check_capture(open_capture(write_content(root / "CoreView_1", made)))


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    root = write_content(tmp_path_factory.mktemp("good") / "CoreView_1", copy.deepcopy(good_content()))
    return open_capture(root)


def test_silhouettes_are_the_projected_body(tmp_path: Path) -> None:
    """OpenCV fills the pixels that a triangle of smplx's body touches, not only those whose centre it covers."""
    capture = open_capture(write_content(tmp_path / "CoreView_1", content(dressed=0)))
    silhouettes = Silhouettes(capture)
    for frame in capture.splits["train"][:2] + capture.splits["novel_view"]:
        view = view_of(capture, frame, 4096)
        drawn = silhouettes.draw(view)
        assert drawn.sum() > 1000
        assert not (drawn & ~view.mask).any()
        beside = cv2.dilate(drawn.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert (view.mask & ~beside).sum() <= 2  # a finger between two centres


def test_a_reduced_view_shows_the_same(capture: Capture) -> None:
    frame, silhouettes = capture.splits["train"][0], Silhouettes(capture)
    whole, half = (view_of(capture, frame, size) for size in (4096, 112))
    assert half.mask.shape == (96, 112)
    assert silhouettes.draw(half).sum() * 4 == pytest.approx(silhouettes.draw(whole).sum(), rel=0.1)
    assert silhouettes.overlap(half) == pytest.approx(silhouettes.overlap(whole), abs=0.1)


def test_triangles_behind_the_camera_are_not_drawn(capture: Capture) -> None:
    view = view_of(capture, capture.splits["train"][0], 256)
    behind = view.world_to_camera.copy()
    behind[2, 3] -= 8
    assert Silhouettes(capture).draw(view._replace(world_to_camera=behind)).sum() == 0


def test_a_good_capture_is_ready(capture: Capture) -> None:
    report = check_capture(capture)
    assert report.ready
    assert report.cause is None
    assert 0.7 < report.mean < 0.98
    assert len(report.frames) == len(capture.splits["train"]) + len(capture.splits["novel_view"])
    assert report.worst(1)[0].iou == min(frame.iou for frame in report.frames)
    assert [remark for remark in report.remarks if "missing priors" in remark]


def half_the_intrinsics(made: Content) -> None:
    for K in made.K:
        K[:2] /= 2


def twice_the_intrinsics(made: Content) -> None:
    for K in made.K:
        K[:2] *= 2


def a_guessed_focal_length(made: Content) -> None:
    for K in made.K:
        K[[0, 1], [0, 1]] *= 0.7


def metres_for_millimetres(made: Content) -> None:
    made.T = [T / 1000 for T in made.T]


def Th_in_millimetres(made: Content) -> None:
    for fit in made.fits:
        fit["Th"] = fit["Th"] * 1000


def standard_transl_as_Th(made: Content) -> None:
    for fit, transl in zip(made.fits, Person(len(made.fits)).transl, strict=True):
        fit["Th"] = transl[None]


def inverted_masks(made: Content) -> None:
    made.masks = [[~mask for mask in masks] for masks in made.masks]


def a_pose_late(made: Content) -> None:
    made.fits = [*made.fits[1:], made.fits[-1]]


def a_pose_early(made: Content) -> None:
    made.fits = [made.fits[0], *made.fits[:-1]]


def opengl_cameras(made: Content) -> None:
    made.R, made.T = [FLIP @ R for R in made.R], [FLIP @ T for T in made.T]


def camera_to_world(made: Content) -> None:
    made.R, made.T = [R.T for R in made.R], [np.negative(R.T @ T) for R, T in zip(made.R, made.T, strict=True)]


def opengl_camera_to_world(made: Content) -> None:
    opengl = [(FLIP @ R, FLIP @ T) for R, T in zip(made.R, made.T, strict=True)]
    made.R, made.T = [R.T for R, _ in opengl], [np.negative(R.T @ T) for R, T in opengl]


def y_up_poses(made: Content) -> None:
    for fit in made.fits:
        fit["Rh"] = (TO_Y_UP * Rotation.from_rotvec(fit["Rh"][0])).as_rotvec()[None]
        fit["Th"] = TO_Y_UP.apply(fit["Th"])


def mirrored(made: Content) -> None:
    made.masks = [[mask[:, ::-1] for mask in masks] for masks in made.masks]


def upside_down(made: Content) -> None:
    made.masks = [[mask[::-1, ::-1] for mask in masks] for masks in made.masks]


def turned(made: Content) -> None:
    made.masks = [[np.rot90(mask) for mask in masks] for masks in made.masks]


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (half_the_intrinsics, "intrinsics x 2"),
        (twice_the_intrinsics, "intrinsics x 0.5"),
        (a_guessed_focal_length, "focal length x 1.41"),
        (metres_for_millimetres, "the cameras' translations x 1000"),
        (Th_in_millimetres, "Th (EasyMocap's translations) x 0.001"),
        (standard_transl_as_Th, "transl as Th"),
        (inverted_masks, "inverted mask"),
        (a_pose_late, "pose of frame -1"),
        (a_pose_early, "pose of frame +1"),
        (opengl_cameras, "OpenGL camera"),
        (camera_to_world, "camera-to-world"),
        (opengl_camera_to_world, "OpenGL camera-to-world"),
        (y_up_poses, "world about x by 90"),
        (mirrored, "mirrored"),
        (upside_down, "upside down"),
        (turned, "turned by 270"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_mistake_is_named(tmp_path: Path, spoil: Callable[[Content], None], cause: str) -> None:
    report = spoiled(tmp_path, spoil)
    assert not report.ready
    assert report.cause is not None
    assert report.cause.alternative.name == cause
    assert report.cause.after > 0.7
    assert report.cause.alternative.mistake in report.problems[0]
    assert "What to do" in report.problems[0]


def test_Th_taken_for_transl(capture: Capture) -> None:
    """No raw ZJU-MoCap file can hold this mistake; a reader, or a file of standard SMPL, can."""
    row = {int(frame.stem): frame.pose_id for frame in capture.splits["train"]}
    transl = np.stack([good_content().fits[i]["Th"][0] for i in sorted(row)])
    report = check_capture(dataclasses.replace(capture, transl=transl))
    assert report.cause is not None
    assert report.cause.alternative.name == "Th as transl"
    undone = corrected(report, report.frames[0])
    assert undone is not None
    assert undone.transl == pytest.approx(capture.transl[report.frames[0].frame.pose_id], abs=1e-5)


def test_one_wrong_camera_is_named(tmp_path: Path) -> None:
    def spoil(made: Content) -> None:
        made.R[1] = made.R[1] @ Rotation.from_euler("z", 3.0).as_matrix()
        made.T[1] = made.T[1] + 0.6

    report = spoiled(tmp_path, spoil)
    assert not report.ready
    assert report.problems[0].startswith("in Camera_B2: ")
    assert "calibration" in report.problems[0]


def test_masks_of_something_else_have_no_cause(tmp_path: Path) -> None:
    def spoil(made: Content) -> None:
        noise = np.random.default_rng(0)
        made.masks = [[noise.random(mask.shape) < 0.5 for mask in masks] for masks in made.masks]

    report = spoiled(tmp_path, spoil)
    assert report.cause is None
    assert "None of the usual mistakes" in report.problems[0]


def test_a_lost_fit_in_some_frames(tmp_path: Path) -> None:
    def spoil(made: Content) -> None:
        for fit in made.fits[::3]:
            fit["Th"] = fit["Th"] + 0.7

    problem = spoiled(tmp_path, spoil).problems[0]
    assert "in 3 of 7 frames, in others it is: Camera_B1/000000, Camera_B1/000003, Camera_B2/000000" in problem


def test_corrupt_files_are_named_and_left_out(tmp_path: Path) -> None:
    capture = open_capture(write_content(tmp_path / "CoreView_1", copy.deepcopy(good_content())))
    frames = capture.splits["train"]
    for path in (frames[1].image, frames[2].mask.file):
        path.write_bytes(path.read_bytes()[:40])
    report = check_capture(capture)
    assert report.ready
    assert len(report.frames) == len(frames) - 1
    assert str(frames[1].image) in report.remarks[0]
    assert str(frames[2].mask.file) in report.remarks[1]


def test_frames_are_spread_over_every_camera(capture: Capture) -> None:
    chosen = chosen_frames(capture, 4)
    assert [(split, frame.stem) for split, frame in chosen] == [
        ("train", "000000"),
        ("train", "000005"),
        ("novel_view", "000000"),
    ]
