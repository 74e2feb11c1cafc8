"""A video of the demo person: what is in the file, and that the truth beside it is the truth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import smplx
import torch
from fmgs_dataparsers.parser import open_capture
from fmgs_dataparsers.video import source_frames
from scipy.ndimage import binary_dilation
from scipy.spatial.transform import Rotation
from smplx.utils import Struct

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.cli import demo as cli
from fmgs_nerfstudio.demo import acts, video
from fmgs_nerfstudio.demo.capture import DemoError, DemoOptions, Preset, make_capture
from fmgs_nerfstudio.demo.video import VideoPreset, clock, place_camera, video_plan

LANDSCAPE, PORTRAIT = 4, 33
TINY = VideoPreset(256, Preset(64, 0, 8, 1, 1, ("Camera_B2",)))


@pytest.fixture(scope="module", autouse=True)
def tiny_preset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(video.VIDEO_PRESETS, "ci", TINY)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_preset: None) -> dict[int, Path]:
    out = tmp_path_factory.mktemp("videos")
    for seed in (LANDSCAPE, PORTRAIT):
        assert make_capture(out / str(seed), DemoOptions(preset="ci", seed=seed, video=True))
    return {seed: out / str(seed) for seed in (LANDSCAPE, PORTRAIT)}


def clip(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "truth" / "ground_truth" / "clip.npz") as file:
        return dict(file)


def mask(folder: Path, frame: int) -> np.ndarray:
    path = folder / "truth" / "ground_truth" / "mask" / "Camera_B1" / f"{frame:06d}.png"
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED) / 255


def image(folder: Path, frame: int) -> np.ndarray:
    return cv2.imread(str(folder / "truth" / "Camera_B1" / f"{frame:06d}.jpg"))


def bodies(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """smplx's vertices [F, V, 3] and joints [F, 24, 3] of the truth, world."""
    truth = clip(folder)
    with np.load(folder / "truth" / "SMPL_NEUTRAL.npz") as file:
        model = smplx.SMPL("", data_struct=Struct(**dict(file)), num_betas=10)
    pose, betas = truth["pose"], np.tile(truth["betas"], (len(truth["pose"]), 1))
    parts = {"betas": betas, "global_orient": pose[:, :3], "body_pose": pose[:, 3:], "transl": truth["transl"]}
    posed = model(**{name: torch.tensor(value, dtype=torch.float32) for name, value in parts.items()})
    return posed.vertices.detach().numpy(), posed.joints[:, :24].detach().numpy()


@pytest.mark.parametrize(
    ("seed", "size", "stored"), [(LANDSCAPE, (256, 144), (256, 144)), (PORTRAIT, (144, 256), (256, 144))]
)
def test_the_video_is_what_the_camera_took(
    folders: dict[int, Path], tmp_path: Path, seed: int, size: tuple[int, int], stored: tuple[int, int]
) -> None:
    """An upright one lies on its side in the file, and its player turns it; our readers are such players."""
    folder = folders[seed]
    truth = clip(folder)
    with av.open(str(folder / "video.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height) == stored
        frames = list(container.decode(video=0))
    assert all(abs(frame.rotation) == (90 if size != stored else 0) for frame in frames)
    np.testing.assert_allclose([frame.time for frame in frames], truth["time"], atol=1e-5)
    assert truth["size"].tolist() == list(size)
    (tmp_path / "video.mp4").write_bytes((folder / "video.mp4").read_bytes())
    read = [cv2.imread(str(path)).astype(int) for path in source_frames(tmp_path)]
    assert len(read) == TINY.rest.train_frames
    for i, seen in enumerate(read):
        assert seen.shape[:2] == size[::-1]
        assert np.abs(seen - image(folder, i)).mean() < 6  # two lossy formats


@pytest.mark.parametrize("seed", [LANDSCAPE, PORTRAIT])
def test_the_true_body_is_where_the_true_mask_is(folders: dict[int, Path], seed: int) -> None:
    truth, (vertices, _) = clip(folders[seed]), bodies(folders[seed])
    K, E = truth["K"], truth["world_to_camera"]
    np.testing.assert_allclose(E[:3, :3] @ E[:3, :3].T, np.eye(3), atol=1e-12)
    for frame in range(len(vertices)):
        seen = (vertices[frame] @ E[:3, :3].T + E[:3, 3]) @ K.T
        x, y = np.floor(seen[:, :2] / seen[:, 2:]).astype(int).T
        covered = mask(folders[seed], frame) > 0.5
        assert binary_dilation(covered)[y, x].mean() > 0.98
        hull = np.zeros(covered.shape, np.uint8)
        cv2.fillConvexPoly(hull, cv2.convexHull(np.stack([x, y], 1)), (1,))
        outside = covered & ~np.asarray(binary_dilation(hull > 0, iterations=4), bool)
        assert outside.sum() < 0.05 * covered.sum()  # hair and cloth alone


@pytest.mark.parametrize("seed", [LANDSCAPE, PORTRAIT])
def test_the_person_stands_upright_on_the_ground(folders: dict[int, Path], seed: int) -> None:
    truth, (vertices, joints) = clip(folders[seed]), bodies(folders[seed])
    assert truth["up"].tolist() == [0, 0, 1]
    np.testing.assert_allclose(vertices[..., 2].min(1), 0.02, atol=1e-3)  # of the shoes' soles
    assert (joints[:, 15, 2] - joints[:, [7, 8], 2].min(1)).min() > 0.7  # the head above the feet, squatting as well


@pytest.mark.parametrize("act", [acts.squat, acts.wave, acts.reach, acts.bow, acts.stretch])
def test_feet_that_stand_do_not_slide(act: acts.Act, body: BodyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "acts_of", lambda seed, count, rng: [act] * count)
    motion = acts.on_the_ground(body, np.zeros(10), acts.perform(np.arange(100) / 30, 5))
    points = motion.vertices
    speed = np.linalg.norm(np.diff(points[..., :2], axis=0), axis=-1) * 30
    touching = points[:-1, :, 2] < 0.022  # soles are 2 cm thick
    assert touching.any(1).all()
    still = [np.median(each[touches]) for each, touches in zip(speed, touching, strict=True)]
    assert np.quantile(still, 0.95) < 0.12  # metres a second
    assert np.ptp(motion.pose[:, 3:], axis=0).max() > 0.5  # something moves


def test_cameras_differ_and_see_everything() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.6, -0.5, 0], [0.6, 0.5, 1.75], (400, 3))
    found = []
    for seed in range(12):
        width, height = (720, 1280) if seed % 2 else (1280, 720)
        camera = place_camera(points, width, height, seed)
        R, t = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
        assert np.linalg.det(R) == pytest.approx(1)
        assert R[0] == pytest.approx([1, 0, 0])  # level, and it looks along +y
        seen = (points @ R.T + t) @ camera.K.T
        pixels = seen[:, :2] / seen[:, 2:] / (width, height)
        assert pixels.min() > 0.02
        assert pixels.max() < 0.98
        assert np.ptp(pixels, axis=0).max() > 0.55
        pitch = np.degrees(np.arcsin(-R[2, 2]))
        found.append((camera.K[0, 0] / 1280, pitch, (-R.T @ t)[2], -(R.T @ t)[1]))
    focal, pitch, height, _ = np.array(found).T
    assert (focal.min() >= 0.72, focal.max() <= 1.5, np.ptp(focal) > 0.4) == (True, True, True)
    assert (height.min() >= 0.5, height.max() <= 2.1, np.ptp(height) > 0.8) == (True, True, True)
    assert np.ptp(pitch) > 8
    assert np.corrcoef(pitch, height)[0, 1] > 0.7  # from high up it looks down


def test_motions_to_measure_with_are_not_those_to_calibrate_with() -> None:
    for seed in (*range(60), 99, 100, 1000):
        drawn = acts.acts_of(seed, 4, np.random.default_rng([seed, 51]))
        assert drawn.count(acts.turn) == 1
        assert sum(act in acts.UNSEEN for act in drawn) == (2 if 30 <= seed < 100 else 0)
        pose = acts.perform(np.arange(200) / 40, seed)
        facing = Rotation.from_rotvec(pose[:, :3]).apply([0.0, 0.0, 1.0])
        angle = np.unwrap(np.arctan2(facing[:, 1], facing[:, 0]))
        assert abs(angle[-1] - angle[0]) == pytest.approx(2 * np.pi, abs=1e-6)


def test_some_videos_have_uneven_frames() -> None:
    even, uneven = np.diff(clock(50, 4)), np.diff(clock(50, 33))
    assert np.ptp(even) < 1e-4
    assert 1 / even.mean() == pytest.approx(round(1 / even.mean()), rel=1e-3)
    assert np.ptp(uneven) > 0.1 * uneven.mean()
    assert uneven.min() > 0
    assert clock(50, 33)[0] == 0


def test_the_room_rests_and_the_person_casts_a_shadow(folders: dict[int, Path]) -> None:
    folder, frames = folders[LANDSCAPE], range(TINY.rest.train_frames)
    person = np.max([mask(folder, frame) for frame in frames], axis=0) > 0
    images = np.stack([image(folder, frame).astype(float) for frame in frames])
    far = ~np.asarray(binary_dilation(person, iterations=40), bool)
    assert far.any()
    assert np.abs(images[:, far] - images[0, far]).max() < 12  # JPEG's
    assert images[0][far].std() > 15  # not plain
    plan, _ = video_plan(DemoOptions(preset="ci", seed=LANDSCAPE, video=True))
    points = plan.exact.vertices[0]
    camera = plan.cameras["Camera_B1"]
    room = video.Room(camera, video.LIGHTS["studio"], points.min(0), points.max(0), LANDSCAPE)
    person_mesh = plan.person.posed(plan.exact.bones[0], plan.exact.pose[0])
    lit = room.behind(video.PosedPerson(plan.person, person_mesh, video.LIGHTS["studio"], 0).scene) / room.picture
    feet = bodies(folder)[1][0, [10, 11]].mean(0) * [1, 1, 0]
    seen = camera.K @ (camera.world_to_camera[:3, :3] @ feet + camera.world_to_camera[:3, 3])
    x, y = (seen[:2] / seen[2]).astype(int)
    assert lit[y, x].mean() < 0.9
    assert lit[:5].min() > 0.95


def test_the_truth_is_a_capture_with_exact_fits(folders: dict[int, Path]) -> None:
    folder = folders[PORTRAIT]
    capture, truth = open_capture(folder / "truth", downscale=1), clip(folder)
    assert capture.layout == "zju-mocap"
    counts = {split: len(frames) for split, frames in capture.splits.items()}
    assert counts == {"train": 8, "novel_view": 4, "novel_pose": 1}
    np.testing.assert_allclose(capture.poses[:8], truth["pose"], atol=1e-5)
    np.testing.assert_allclose(capture.transl[:8], truth["transl"], atol=1e-5)
    np.testing.assert_allclose(capture.cameras["Camera_B1"].K, truth["K"], atol=1e-9)
    np.testing.assert_allclose(capture.cameras["Camera_B1"].world_to_camera, truth["world_to_camera"], atol=1e-9)
    frame = capture.splits["train"][3]
    np.testing.assert_array_equal(capture.mask(frame) > 0.5, mask(folder, 3) > 0.5)
    assert set(capture.truth(capture.splits["novel_view"][0])) == {"depth", "normal", "semantics", "mask"}
    assert capture.priors is None


def test_a_video_is_kept_and_others_are_refused(folders: dict[int, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = folders[LANDSCAPE]
    before = (folder / "video.mp4").stat().st_mtime_ns
    options = DemoOptions(preset="ci", seed=LANDSCAPE, video=True)
    assert not make_capture(folder, options)
    assert not make_capture(folder, dataclasses.replace(options, pose_noise=2, priors="sapiens-npy"))  # has no say
    assert (folder / "video.mp4").stat().st_mtime_ns == before
    with pytest.raises(DemoError, match=r"seed 4 -> 5.*--overwrite"):
        make_capture(folder, dataclasses.replace(options, seed=5))
    with pytest.raises(DemoError, match=r"video True -> None"):
        make_capture(folder, DemoOptions(preset="ci", seed=LANDSCAPE))
    record = json.loads((folder / "truth" / "protocol.json").read_text())["generator"]
    assert (record["video"], record["pose_noise"], record["priors"]) == (True, 0.0, "none")
    assert "video" not in DemoOptions().generator()


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(video.VIDEO_PRESETS, "ci", VideoPreset(64, Preset(32, 0, 2, 1, 0, ())))
    monkeypatch.setattr("sys.argv", ["fmgs-demo", str(tmp_path / "out"), "--preset", "ci", "--video", "--seed", "2"])
    cli.main()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"video.mp4", "truth"}
