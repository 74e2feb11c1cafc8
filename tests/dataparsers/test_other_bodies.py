"""Results of trackers whose body is not SMPL's: SAM 3D Body (MHR) and GEM-X (SOMA), and what GEM-SMPL writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fmgs_dataparsers import keypoints
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.conventions import BodyFile
from fmgs_dataparsers.keypoints import NEEDED, fit_points
from fmgs_dataparsers.parser import open_capture
from support.corruption import corruptions
from support.keypoint_capture import gem_joints, gem_smpl, joints_before, sam_3d_body
from support.known_person import ASSET, Person, middle, view, which
from support.layout_capture import Seen

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.model import JOINT_NAMES
from fmgs_nerfstudio.demo.acts import on_the_ground, perform
from fmgs_nerfstudio.metrics.tracking import CameraBodies, body_errors

PERSON = Person()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    open_capture.cache_clear()


def clip_joints(capture: Capture) -> np.ndarray:
    """Joints [P, 24, 3] of the capture's fits in the camera's axes."""
    extrinsic = next(iter(capture.cameras.values())).world_to_camera
    body = BodyModel.load(capture.body_model)
    return CameraBodies.of(body, capture.betas, capture.poses, capture.transl, extrinsic).joints


@pytest.mark.parametrize(("build", "layout"), [(sam_3d_body, "sam-3d-body"), (gem_joints, "gem")])
def test_a_person_by_other_bodies_keypoints(tmp_path: Path, build: Callable[[Path, Person], Seen], layout: str) -> None:
    """Within 2 cm of smplx's joints, whose positions the files hold, for a person bent at random in each frame."""
    seen = build(tmp_path, PERSON)
    capture = open_capture(tmp_path)
    assert capture.layout == layout
    assert capture.left_out == ()
    (camera,) = capture.cameras.values()
    np.testing.assert_allclose(camera.K, seen("", 0).K + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]))
    for members in capture.splits.values():
        for frame in members:
            assert frame.pose_id == which(capture.image(frame))
    apart = np.linalg.norm(clip_joints(capture) - joints_before(PERSON, seen("", 0))[0], axis=-1)
    sure = [JOINT_NAMES.index(name) for name in NEEDED]
    assert apart[:, sure].mean() < 0.016
    assert apart.mean() < 0.02


def test_gem_smpl_is_read_as_gvhmr_is(tmp_path: Path) -> None:
    gem_smpl(tmp_path, PERSON)
    capture = open_capture(tmp_path)
    assert capture.layout == "gem"
    expected = [PERSON.before(view(K=middle(120.0)), i)[0][:66] for i in range(PERSON.n)]
    np.testing.assert_allclose(capture.poses[:, :66], expected, atol=1e-5)


def test_rotations_of_a_clip_come_back() -> None:
    """A turn and a lunge from points alone: sides, facing, hinges."""
    body = BodyFile(ASSET)
    betas = np.random.default_rng(4).normal(0, 0.8, 10)
    motion = on_the_ground(body.model, betas, perform(np.arange(40) / 12, 31))
    truth = CameraBodies.of(body.model, betas, motion.pose, motion.transl, np.eye(4))
    points = {name: truth.joints[:, JOINT_NAMES.index(name)] for name in (*NEEDED, "neck", "left_foot", "right_foot")}
    clip = fit_points(body, points, np.arange(40.0), motion.bones[:, 15, :3, 0])
    transl = clip.pelvis - body.joints(clip.betas)[0]
    errors = body_errors(CameraBodies.of(body.model, clip.betas, clip.pose, transl, np.eye(4)), truth)
    assert errors["swapped"] == 0
    assert errors["mpjpe_mm"] < 12
    assert errors["root_degrees"] < 5
    assert errors["local_degrees"] < 7


def test_of_several_people_the_largest(tmp_path: Path) -> None:
    """The passer-by of each file stands 5 m aside."""
    sam_3d_body(tmp_path, PERSON)
    assert np.abs(clip_joints(open_capture(tmp_path))[:, 0, :2]).max() < 1


def test_frames_without_a_person_are_left_out(tmp_path: Path) -> None:
    sam_3d_body(tmp_path, PERSON)
    (tmp_path / "sam_3d_body" / "000002.npz").unlink()
    empty = {"pred_keypoints_3d": np.zeros((0, 70, 3)), "pred_cam_t": np.zeros((0, 3)), "focal_length": np.zeros(0),
             "bbox": np.zeros((0, 4))}  # fmt: skip
    np.savez(tmp_path / "sam_3d_body" / "000001.npz", **empty)
    capture = open_capture(tmp_path)
    assert [item.name for item in capture.left_out] == ["camera/000001", "camera/000002"]
    assert {item.reason for item in capture.left_out} == {"without parameters"}


def test_what_gem_x_wrote_is_not_enough_and_is_told(tmp_path: Path) -> None:
    gem_joints(tmp_path, PERSON)
    (tmp_path / "gem_joints.npz").rename(tmp_path / "aside.bin")
    (tmp_path / "preprocess").mkdir()
    torch.save({"body_params_incam": {}}, tmp_path / "preprocess" / "hpe_results.pt")
    with pytest.raises(
        CaptureError, match=r"hpe_results\.pt poses SOMA.*gem_joints\.npz with the lines in docs/trackers"
    ):
        open_capture(tmp_path)


@pytest.mark.parametrize(
    ("build", "file", "change", "message"),
    [
        (gem_joints, "gem_joints.npz", {"joints": np.zeros((4, 22, 3))}, r"expected joints \[77, 3\] in each row"),
        (gem_joints, "gem_joints.npz", {"joints": np.full((4, 77, 3), np.nan)}, "no frame's joints are finite"),
        (sam_3d_body, "sam_3d_body/000000.npz", {"pred_cam_t": np.zeros((3, 3))}, "expected 2 rows of pred_cam_t"),
    ],
)
def test_other_shapes_are_told(
    tmp_path: Path, build: Callable[[Path, Person], Seen], file: str, change: dict[str, np.ndarray], message: str
) -> None:
    build(tmp_path, Person(1))
    with np.load(tmp_path / file) as found:
        content = dict(found)
    np.savez(tmp_path / file, **{**content, **change})
    with pytest.raises(CaptureError, match=message):
        open_capture(tmp_path)


@pytest.mark.parametrize(("build", "file"), [(gem_joints, "gem_joints.npz"), (sam_3d_body, "sam_3d_body/000001.npz")])
def test_corruption_is_told_by_name(
    tmp_path: Path, build: Callable[[Path, Person], Seen], file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame is left out by name, or the capture refused; the fits of the others are of all frames, and so move."""
    monkeypatch.setattr(keypoints, "_STEPS", 2)
    build(tmp_path, PERSON)
    path = tmp_path / file
    content = path.read_bytes()
    for label, corrupt in corruptions(path):
        corrupt(path)
        open_capture.cache_clear()
        told = [""]
        try:
            told = [item.name for item in open_capture(tmp_path).left_out]
        except CaptureError as error:
            told = [str(error)]
        assert len(told) == 1, label
        assert path.name in told[0] or told[0].startswith("camera/00000") or not path.exists(), label
        path.write_bytes(content)
