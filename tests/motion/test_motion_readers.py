"""Motion files of every format, written here as their sources describe them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
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


LYING = Rotation.from_rotvec([0, 0, -np.pi / 2])  # on the back: SMPL's +y, the head, along x, and its +z up
TELL = pytest.CaptureFixture[str]


def test_an_amass_person_who_lies_stays_lying(tmp_path: Path, capsys: TELL) -> None:
    poses = upright(52, "z")
    poses[:, :3] = LYING.as_rotvec()
    np.savez(tmp_path / "lying.npz", poses=poses, trans=TRANSL, mocap_framerate=60.0, gender=np.array(b"male"))
    motion = read_motion(tmp_path / "lying.npz")
    assert motion.up == (0.0, 0.0, 1.0)
    assert "heads point to x, so the person lies" in capsys.readouterr().out
    np.testing.assert_allclose(motion.root().apply([0, 0, 1]), np.tile(motion.up, (FRAMES, 1)), atol=1e-12)
    assert read_motion(tmp_path / "lying.npz", Reading(up="x")).up == (1.0, 0.0, 0.0)


def test_a_run_of_48_metres(tmp_path: Path, capsys: TELL) -> None:
    poses, n = np.zeros((60, 72)), 60
    np.savez(
        tmp_path / "run.npz", global_orient=poses[:, :3], body_pose=poses[:, 3:], fps=np.array(5.0),
        transl=np.linspace([0, 0, 0], [48, 0, 0], n), betas=np.zeros((1, 10)),
    )  # fmt: skip
    motion = read_motion(tmp_path / "run.npz")
    assert (motion.span, motion.fps, motion.up) == (48.0, 5.0, (0.0, 1.0, 0.0))
    said = capsys.readouterr().out
    assert "spans 48.00 m (--reading.unit)" in said
    assert "y is up, where heads point (--reading.up)" in said


def test_poses_without_hands_and_mosh(tmp_path: Path) -> None:
    poses = upright(55, "z")
    np.savez(tmp_path / "body.npz", poses=poses[:, :66], trans=TRANSL, mocap_framerate=30.0)
    content = {
        "fullpose": poses,
        "trans": TRANSL,
        "mocap_framerate": 60.0,
        "gender": b"neutral",
        "betas": np.zeros(300),
    }
    (tmp_path / "pose_stageii.pkl").write_bytes(pickle.dumps(content))
    body, mosh = read_motion(tmp_path / "body.npz"), read_motion(tmp_path / "pose_stageii.pkl")
    np.testing.assert_allclose(body.poses, np.c_[poses[:, :66], np.zeros((FRAMES, 6))])
    np.testing.assert_allclose(mosh.poses, np.c_[poses[:, :66], poses[:, 75:78], poses[:, 120:123]])
    assert (mosh.up, mosh.fps) == (body.up, 60.0) == ((0.0, 0.0, 1.0), 60.0)


def test_wham(tmp_path: Path, capsys: TELL) -> None:
    """Of two people the one seen for longer, in the world and not in the camera."""
    poses, seen = upright(24, "y"), upright(24, "-y")
    person = {
        "pose": seen,
        "trans": TRANSL + 4,
        "pose_world": poses,
        "trans_world": TRANSL,
        "frame_ids": np.arange(FRAMES),
    }
    brief = {key: value[:2] for key, value in person.items()}
    joblib.dump({3: brief, 7: person}, tmp_path / "wham_output.pkl")
    motion = read_motion(tmp_path / "wham_output.pkl")
    np.testing.assert_allclose(motion.poses, poses)
    np.testing.assert_allclose(motion.transl, TRANSL)
    assert (motion.up, motion.fps) == ((0.0, 1.0, 0.0), 30.0)
    assert "30 poses a second (--reading.fps)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["hmr4d_results.pt", "hmr4d_results.pt.pkl"])
def test_gvhmr(tmp_path: Path, name: str) -> None:
    poses, lying = upright(22, "y"), LYING.as_rotvec()[None].repeat(FRAMES, 0)
    world = {"global_orient": lying, "body_pose": poses[:, 3:], "transl": TRANSL, "betas": np.zeros((FRAMES, 10))}
    content = {"smpl_params_global": world, "smpl_params_incam": dict.fromkeys(world, np.zeros((FRAMES, 3)))}
    if name.endswith(".pt"):
        tensors = {part: {key: torch.from_numpy(value) for key, value in of.items()} for part, of in content.items()}
        torch.save({**tensors, "K_fullimg": torch.eye(3).repeat(FRAMES, 1, 1), "net_outputs": {}}, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content))
    motion = read_motion(tmp_path / name)
    np.testing.assert_allclose(motion.poses, np.c_[lying, poses[:, 3:], np.zeros((FRAMES, 6))], atol=1e-12)
    np.testing.assert_allclose(motion.transl, TRANSL)
    assert (motion.up, motion.fps) == ((0.0, 1.0, 0.0), 30.0)  # whatever heads do


def test_tram(tmp_path: Path) -> None:
    poses = upright(24, "-y")
    matrices = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(FRAMES, 24, 3, 3)
    track = {
        "pred_rotmat": torch.from_numpy(matrices), "pred_trans": torch.from_numpy(TRANSL[:, None]),
        "pred_cam": torch.zeros(FRAMES, 3), "frame": torch.arange(FRAMES),
    }  # fmt: skip
    np.save(tmp_path / "hps_track_0.npy", np.array(track, object))
    motion = read_motion(tmp_path / "hps_track_0.npy")
    turns = [Rotation.from_rotvec(values.reshape(-1, 3)) for values in (motion.poses, poses)]
    assert (turns[0].inv() * turns[1]).magnitude().max() < 1e-6
    np.testing.assert_allclose(motion.transl, TRANSL)
    assert motion.up == (0.0, -1.0, 0.0)


def test_mdm(tmp_path: Path) -> None:
    """Six numbers are the first two rows of a matrix (of any length); joints come first and time last."""
    poses = upright(24, "y")
    matrices = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(FRAMES, 24, 3, 3)
    six = 1.7 * matrices[:, :, :2].reshape(FRAMES, 24, 6).transpose(1, 2, 0)
    content = {"thetas": six, "motion": np.zeros((25, 6, FRAMES)), "root_translation": TRANSL.T, "text": "walks"}
    np.save(tmp_path / "sample00_rep00_smpl_params.npy", np.array(content, object))
    motion = read_motion(tmp_path / "sample00_rep00_smpl_params.npy")
    np.testing.assert_allclose(motion.poses, poses, atol=1e-9)
    np.testing.assert_allclose(motion.transl, TRANSL)
    assert (motion.up, motion.fps) == ((0.0, 1.0, 0.0), 20.0)


def test_edge(tmp_path: Path) -> None:
    content = {"smpl_poses": upright(24, "z"), "smpl_trans": TRANSL, "full_pose": np.zeros((FRAMES, 24, 3))}
    (tmp_path / "dance.pkl").write_bytes(pickle.dumps(content))
    motion = read_motion(tmp_path / "dance.pkl")
    np.testing.assert_allclose(motion.poses, content["smpl_poses"])
    assert (motion.up, motion.fps) == ((0.0, 0.0, 1.0), 30.0)


def test_what_is_named_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", poses=upright(24, "z"), trans=TRANSL * 100)
    found = read_motion(tmp_path / "a.npz")
    np.testing.assert_allclose(found.transl, TRANSL)
    assert "one unit is 0.01 m" in capsys.readouterr().out  # a guess is told
    named = read_motion(tmp_path / "a.npz", Reading(up="-x", unit="mm", fps=12.5))
    assert "guessed" not in capsys.readouterr().out
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
    (tmp_path / "dance.bvh").write_text("HIERARCHY\nROOT Hips\n")
    (tmp_path / "walk.fbx").write_bytes(b"Kaydara FBX Binary")
    (tmp_path / "notes.txt").write_text("hello")
    np.save(tmp_path / "results.npy", np.array({"motion": np.zeros((1, 22, 3, 8)), "text": ["walks"]}, object))
    np.save(
        tmp_path / "zeros_smpl_params.npy",
        np.array({"thetas": np.zeros((24, 6, 8)), "root_translation": np.zeros((3, 8))}, object),
    )
    joblib.dump({"0001.jpg": {"smpl": [], "camera": []}}, tmp_path / "demo_clip.pkl")
    for name, said in {
        "other.npz": "AMASS", "sizes.npz": "99 numbers", "lengths.npz": r"\(6, 3\)", "nan.npz": "finite",
        "empty.npz": "is empty", "words.npz": "else than numbers", "cut.npz": "cannot be read",
        "text.pkl": "cannot be read", "missing.npz": "does not exist",
        "dance.bvh": r"retarget .* numpy\.savez", "walk.fbx": r"retarget .* numpy\.savez", "notes.txt": "AMASS",
        "results.npy": r"render_mesh\), and give the \*_smpl_params\.npy", "zeros_smpl_params.npy": "no rotations",
        "demo_clip.pkl": "beside a video, give their folder",
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
