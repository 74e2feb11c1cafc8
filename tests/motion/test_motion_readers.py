"""Motion files of every format, written here as their sources describe them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support.zju_capture import write_capture

from fmgs_nerfstudio.motion.motion import MotionError
from fmgs_nerfstudio.motion.readers import Reading, read_motion

FRAMES = 6


def upright(joints: int, axis: str) -> np.ndarray:
    """Random poses [T, 3 joints] of a person whose head points to `axis`."""
    rng = np.random.default_rng(5)
    poses = rng.normal(size=(FRAMES, 3 * joints)) * 0.3
    stand = {"y": [0, 0, 0], "z": [np.pi / 2, 0, 0], "-y": [np.pi, 0, 0]}[axis]
    tilts = Rotation.from_rotvec(rng.normal(size=(FRAMES, 3)) * 0.1)
    poses[:, :3] = (tilts * Rotation.from_rotvec(stand)).as_rotvec()
    return poses


TRANSL = np.random.default_rng(6).normal(size=(FRAMES, 3)) + np.array([0, 1, 0])


def test_amass_smplh(tmp_path: Path) -> None:
    poses = upright(52, "z")
    np.savez(
        tmp_path / "walk_poses.npz", poses=poses, trans=TRANSL, betas=np.zeros(16), dmpls=np.zeros((FRAMES, 8)),
        gender=np.array("female"), mocap_framerate=np.array(120.0),
    )  # fmt: skip
    motion = read_motion(tmp_path / "walk_poses.npz")
    np.testing.assert_allclose(motion.poses[:, :66], poses[:, :66])
    # SMPL's hands 22 and 23 are SMPL-H's joints 22 and 37.
    np.testing.assert_allclose(motion.poses[:, 66:], np.c_[poses[:, 66:69], poses[:, 111:114]])
    np.testing.assert_allclose(motion.transl, TRANSL)
    assert (motion.fps, motion.up, motion.name) == (120.0, (0.0, 0.0, 1.0), "walk_poses")


def test_amass_smplx_whole_and_in_parts(tmp_path: Path) -> None:
    poses = upright(55, "z")
    np.savez(tmp_path / "whole.npz", poses=poses, trans=TRANSL, mocap_frame_rate=np.array(60.0))
    np.savez(
        tmp_path / "parts.npz", root_orient=poses[:, :3], pose_body=poses[:, 3:66], pose_hand=poses[:, 75:165],
        trans=TRANSL, mocap_frame_rate=np.array(60.0), surface_model_type=np.array("smplx"),
    )  # fmt: skip
    whole, parts = (read_motion(tmp_path / f"{name}.npz") for name in ("whole", "parts"))
    np.testing.assert_allclose(whole.poses[:, 66:], np.c_[poses[:, 75:78], poses[:, 120:123]])
    np.testing.assert_allclose(whole.poses, parts.poses)
    assert whole.fps == parts.fps == 60.0


def test_aist(tmp_path: Path) -> None:
    """Centimetres by the dancer's size: the API divides by the scaling."""
    poses, scaling = upright(24, "y"), 93.5
    content = {
        "smpl_poses": poses.astype(np.float32), "smpl_trans": (TRANSL * scaling).astype(np.float32),
        "smpl_scaling": np.array([scaling]), "smpl_loss": 0.5,
    }  # fmt: skip
    (tmp_path / "gBR.pkl").write_bytes(pickle.dumps(content, protocol=2))
    motion = read_motion(tmp_path / "gBR.pkl")
    np.testing.assert_allclose(motion.poses, poses, atol=1e-6)
    np.testing.assert_allclose(motion.transl, TRANSL, atol=1e-5)
    assert (motion.fps, motion.up) == (60.0, (0.0, 1.0, 0.0))


def test_instant_avatar_in_a_camera_frame(tmp_path: Path) -> None:
    poses = upright(24, "-y")
    np.savez(tmp_path / "poses.npz", thetas=poses, transl=TRANSL + np.array([0, 0, 5]), betas=np.zeros(10))
    np.savez(
        tmp_path / "anim_nerf_train.npz", global_orient=poses[:, :3], body_pose=poses[:, 3:], transl=TRANSL,
        betas=np.zeros((1, 10)),
    )  # fmt: skip
    for name in ("poses", "anim_nerf_train"):
        motion = read_motion(tmp_path / f"{name}.npz")
        np.testing.assert_allclose(motion.poses, poses)
        assert motion.up == (0.0, -1.0, 0.0)
        assert motion.fps == 30.0


def test_a_capture(tmp_path: Path) -> None:
    root = tmp_path / "CoreView_1"
    write_capture(root)
    motion = read_motion(root)
    assert motion.up == (0.0, 0.0, 1.0)
    for i, pose in enumerate(motion.poses):
        params = np.load(root / "new_params" / f"{i}.npy", allow_pickle=True).item()
        np.testing.assert_allclose(pose[3:], params["poses"][0, 3:], atol=1e-6)
        np.testing.assert_allclose(pose[:3], params["Rh"][0], atol=1e-6)


def test_what_is_named_wins(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", poses=upright(24, "z"), trans=TRANSL * 100)
    found = read_motion(tmp_path / "a.npz")
    np.testing.assert_allclose(found.transl, TRANSL)
    named = read_motion(tmp_path / "a.npz", Reading(up="-x", unit="mm", fps=12.5))
    np.testing.assert_allclose(named.transl, TRANSL * 0.1)
    assert (named.up, named.fps) == ((-1.0, 0.0, 0.0), 12.5)


def test_a_file_that_is_no_motion_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "sizes.npz", poses=np.zeros((4, 99)), trans=np.zeros((4, 3)))
    np.savez(tmp_path / "lengths.npz", poses=upright(24, "y"), trans=np.zeros((2, 3)))
    np.savez(tmp_path / "nan.npz", poses=np.full((4, 72), np.nan), trans=np.zeros((4, 3)))
    np.savez(tmp_path / "empty.npz", poses=np.zeros((0, 72)), trans=np.zeros((0, 3)))
    np.savez(tmp_path / "words.npz", poses=np.array(["a", "b"]))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "text.pkl").write_text("hello")
    for name, said in {
        "other.npz": "AMASS", "sizes.npz": "99 numbers", "lengths.npz": r"\(6, 3\)", "nan.npz": "finite",
        "empty.npz": "is empty", "words.npz": "else than numbers", "cut.npz": "cannot be read",
        "text.pkl": "cannot be read", "missing.npz": "does not exist",
    }.items():  # fmt: skip
        with pytest.raises(MotionError, match=said) as error:
            read_motion(tmp_path / name)
        assert name in str(error.value)


def test_a_pickle_with_a_payload_does_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "harm"),)

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"smpl_poses": Payload()}))
    with pytest.raises(MotionError, match=r"evil\.pkl"):
        read_motion(tmp_path / "evil.pkl")
    assert not (tmp_path / "harm").exists()
