"""The suite `track` of scripts/benchmark: its measures on the truth itself, seen from another world, and on what it is
not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from benchmark_avatar import Shared
from benchmark_report import show
from benchmark_run import Bench
from benchmark_suites import SUITES
from benchmark_tracking import Truth, fit_errors, masks_iou, means
from fmgs_dataparsers.capture import Uncertainty
from fmgs_dataparsers.parser import open_capture
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo import video
from fmgs_nerfstudio.demo.capture import DemoOptions, Preset, make_capture
from fmgs_nerfstudio.demo.skinned_surface import BODY
from fmgs_nerfstudio.metrics.tracking import CameraBodies
from fmgs_nerfstudio.track.records import Fits

FRAMES = 5
INDEX = np.arange(FRAMES)
ZERO = {"mpjpe_mm", "absolute_mm", "procrustes_mm", "in_plane_mm", "along_axis_mm", "distance_mm", "size_percent",
        "root_degrees", "lean_degrees", "local_degrees", "swapped", "focal_percent"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("track") / "video"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(video.VIDEO_PRESETS, "ci", video.VideoPreset(128, Preset(32, 0, FRAMES, 1, 0, ())))
        make_capture(out, DemoOptions(preset="ci", seed=31, video=True))
        yield out


def tracked(folder: Path) -> Fits:
    """The truth as a tracker would write it: in a world whose y points up and whose ground is y = 0."""
    with np.load(folder / "truth" / "ground_truth" / "clip.npz") as clip:
        truth = dict(clip)
    turn = Rotation.from_euler("yx", [30, -90], degrees=True)  # z up -> y up, and another way to face
    J0 = BodyModel.load(BODY).shape(torch.from_numpy(truth["betas"]).float())[1][0].double().numpy()
    pose = truth["pose"].copy()
    pose[:, :3] = (turn * Rotation.from_rotvec(pose[:, :3])).as_rotvec()
    moved = np.array([1.0, 0, -2])
    transl = turn.apply(truth["transl"] + J0) + moved - J0
    world_to_camera = truth["world_to_camera"].copy()
    world_to_camera[:3, :3] = world_to_camera[:3, :3] @ turn.as_matrix().T
    world_to_camera[:3, 3] -= world_to_camera[:3, :3] @ moved
    return Fits(truth["betas"], pose, transl, truth["K"], world_to_camera, Uncertainty(0, (0, 0, 0), 0, 0, 0))


def test_the_truth_has_no_errors_whatever_its_world(folder: Path) -> None:
    errors = fit_errors(tracked(folder), INDEX, Truth.read(folder), BodyModel.load(BODY))
    assert errors.keys() == ZERO
    assert all(value == pytest.approx(0, abs=0.02) for value in errors.values()), errors


def test_a_camera_that_was_thought_to_look_elsewhere(folder: Path) -> None:
    """2 degrees of pitch: bodies in the picture are where they are, so that in the world they lean."""
    fits, truth = tracked(folder), Truth.read(folder)
    extrinsic = fits.world_to_camera.copy()
    extrinsic[:3] = Rotation.from_euler("x", 2, degrees=True).as_matrix() @ extrinsic[:3]
    errors = fit_errors(replace(fits, world_to_camera=extrinsic), INDEX, truth, BodyModel.load(BODY))
    assert errors["lean_degrees"] == pytest.approx(2, abs=0.01)
    assert errors["root_degrees"] == pytest.approx(2, abs=0.01)
    assert errors["local_degrees"] == pytest.approx(0, abs=0.01)


def test_frames_are_told_by_their_numbers(folder: Path) -> None:
    fits, truth = tracked(folder), Truth.read(folder)
    some = replace(fits, pose=fits.pose[[1, 3]], transl=fits.transl[[1, 3]])
    assert fit_errors(some, np.array([1, 3]), truth, BodyModel.load(BODY))["absolute_mm"] < 0.1
    assert fit_errors(some, np.array([0, 1]), truth, BodyModel.load(BODY))["absolute_mm"] > 5


def test_a_focal_length_is_of_the_size_that_was_tracked(folder: Path) -> None:
    fits, truth = tracked(folder), Truth.read(folder)
    half = np.diag([0.5, 0.5, 1]) @ fits.K
    assert fit_errors(replace(fits, K=half), INDEX, truth, BodyModel.load(BODY))["focal_percent"] < 1e-9
    longer = np.diag([1.1, 1.1, 1]) @ fits.K
    longer[:2, 2] = fits.K[:2, 2]
    errors = fit_errors(replace(fits, K=longer), INDEX, truth, BodyModel.load(BODY))
    assert errors["focal_percent"] == pytest.approx(10)
    assert truth.focal((36, 64)) == pytest.approx(fits.K[0, 0] / 2)


def test_masks_of_the_video(folder: Path, tmp_path: Path) -> None:
    truth = Truth.read(folder)
    for frame in (0, 2):
        mask = truth.mask(frame)
        assert mask.shape == truth.size[::-1]
        cv2.imwrite(str(tmp_path / f"{frame:06d}.png"), np.rint(255 * mask).astype(np.uint8))
    assert masks_iou(tmp_path, np.array([0, 2]), truth) == pytest.approx(1)
    covered = truth.mask(2) > 0.5
    lower = covered.copy()
    lower[: truth.size[1] // 2] = False
    cv2.imwrite(str(tmp_path / "000002.png"), 255 * lower.astype(np.uint8))
    assert masks_iou(tmp_path, np.array([2]), truth) == pytest.approx(lower.sum() / covered.sum())


def test_means_of_clips() -> None:
    rows = [
        {"mpjpe_mm": 10.0, "lean_degrees": -2.0, "swapped": 1},
        {"mpjpe_mm": 20.0, "lean_degrees": 1.0, "swapped": 2},
    ]
    assert means(rows) == {"mpjpe_mm": 15, "lean_degrees": 1.5, "swapped": 3}


class Told(Bench):
    """Jobs that have been done."""

    def capture(self, preset: str, *options: str) -> str:
        assert "--video" in options
        return options[-1]

    def job(self, kind: str, who: str = "ours", threads: int | None = None, **arguments: Any) -> dict[str, Any]:
        assert kind == "track"
        if arguments["video"] == "32":
            return {"error": "no person"}
        seed = float(arguments["video"])
        return {"given": {"mpjpe_mm": seed}, "sought": {"mpjpe_mm": 2 * seed}}


def test_the_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = SUITES["track"](Told(tmp_path, tmp_path, "none", 1, False, (31, 32, 33)), ())
    assert [row["what"] for row in rows] == [
        "seed 31, focal length given", "seed 31, focal length sought", "seed 32", "seed 33, focal length given",
        "seed 33, focal length sought", "mean, focal length given", "mean, focal length sought",
    ]  # fmt: skip
    assert rows[-1]["errors"] == {"mpjpe_mm": 64}
    show("track", rows, {})
    said = capsys.readouterr().out
    assert "64.0" in said
    assert "no person" in said


def test_the_truth_s_cameras_and_poses_in_the_tracked_world(folder: Path) -> None:
    """The tracked body in the tracked world is seen by a camera of the truth where the true body is."""
    truth, fits = open_capture(folder / "truth", downscale=1), tracked(folder)
    (name,) = {frame.camera for frame in truth.splits["train"]}
    camera = replace(truth.cameras[name], world_to_camera=fits.world_to_camera)
    found = replace(truth, cameras={"camera": camera}, poses=fits.pose, transl=fits.transl)
    shared = Shared(truth, found)
    body = BodyModel.load(BODY)
    pelvis = body.shape(torch.from_numpy(truth.betas).float())[1][0].double().numpy()
    assert truth.splits["novel_view"]
    for frame in truth.splits["novel_view"]:
        row = shared.pose_id(frame)
        assert row is not None
        assert row == int(frame.stem)
        true, ours = (
            CameraBodies.of(body, truth.betas, one.poses[[row]], one.transl[[row]], extrinsic).joints
            for one, extrinsic in (
                (truth, truth.cameras[frame.camera].world_to_camera), (found, shared.camera(frame.camera)),
            )
        )  # fmt: skip
        np.testing.assert_allclose(ours, true, atol=1e-5)
        pose, transl = shared.exact(frame, pelvis)
        np.testing.assert_allclose(pose, fits.pose[row], atol=1e-6)
        np.testing.assert_allclose(transl, fits.transl[row], atol=1e-6)


def test_the_suite_chain(tmp_path: Path, folder: Path) -> None:
    calls = list[tuple[str, ...]]()

    class Chain(Bench):
        def capture(self, preset: str, *options: str) -> str:
            return str(folder)

        def program(self, line: str, *arguments: str, who: str = "ours", status: int = 0) -> dict[str, Any]:
            calls.append((line.split("=")[0], *arguments))
            return {"error": "no person"} if "tracked-33" in " ".join(arguments) else {}

        def job(self, kind: str, who: str = "ours", threads: int | None = None, **arguments: Any) -> dict[str, Any]:
            assert kind == "avatar"
            assert arguments["truth"] == f"{folder}/truth"
            return {"views_psnr": 20.0 if "/31/" in arguments["run"] else 30.0}

    bench = Chain(tmp_path, tmp_path, "none", 1, False, (31, 32, 33))
    rows = SUITES["chain"](bench, ())
    assert [row.get("errors", row.get("error")) for row in rows] == [
        {"views_psnr": 20}, {"views_psnr": 30}, "no person", {"views_psnr": 25},
    ]  # fmt: skip
    assert [call[0] for call in calls] == ["fmgs-track", "ns-train", "fmgs-track", "ns-train", "fmgs-track"]
    truth = Truth.read(folder)
    focal = ("--focal", f"{truth.K[0, 0]:.2f}px")
    assert calls[0][-2:] == focal
    assert calls[1][calls[1].index("--max-num-iterations") + 1] == "1200"
    calls.clear()
    assert SUITES["chain-height"](bench, ()) == rows
    assert calls[0][-4:] == (*focal, "--height", f"{truth.height:.3f}")
