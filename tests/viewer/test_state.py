"""What the viewer state makes the viewer show, without a viewer."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numba
import numpy as np
import pytest
import torch
from fmgs_dataparsers.parser import FMGSDataParserConfig
from nerfstudio.cameras.cameras import Cameras
from support.small_avatar import lit, small_avatar
from support.zju_capture import write_capture
from torch import Tensor

from fmgs_nerfstudio.fields.light import Light
from fmgs_nerfstudio.files import write_image
from fmgs_nerfstudio.kernels.compiled import kernel, uninterrupted
from fmgs_nerfstudio.maps.classes import NUM_CLASSES
from fmgs_nerfstudio.modalities import MODALITIES
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.relighting import Relighting
from fmgs_nerfstudio.rendering import Camera
from fmgs_nerfstudio.viewer.control import AvatarViewer
from fmgs_nerfstudio.viewer.frame_overlay import FrameOverlay
from fmgs_nerfstudio.viewer.parts import Parts, Tint, classes_of
from fmgs_nerfstudio.viewer.pose import SmplPose
from fmgs_nerfstudio.viewer.state import ViewerState

ELBOW = 18


@pytest.fixture
def model() -> FMGSModel:
    return small_avatar()


@pytest.fixture
def control(model: FMGSModel) -> Iterator[AvatarViewer]:
    """A viewer of the small avatar that no other test has touched."""
    yield AvatarViewer(model)
    model.interactive_renderer = None


@pytest.fixture
def state(control: AvatarViewer) -> ViewerState:
    return control.state


def viewer_camera(model: FMGSModel, time: float = 0.0, pose_id: int | None = None) -> Cameras:
    """As nerfstudio's viewer makes them; with `pose_id` as a data set does."""
    capture = model.kwargs["metadata"]["capture"]
    camera = capture.cameras["Camera_B1"]
    to_world = torch.from_numpy(np.linalg.inv(camera.world_to_camera) @ np.diag([1.0, -1, -1, 1])).float()
    metadata = {"cam_idx": 0} if pose_id is None else {"pose_id": torch.tensor([[pose_id]])}
    return Cameras(to_world[None, :3], 90.0, 90.0, 32.0, 32.0, 64, 64, times=torch.tensor([time]), metadata=metadata)


def outputs(model: FMGSModel, time: float = 0.0, pose_id: int | None = None) -> dict[str, Tensor]:
    return model.get_outputs_for_camera(viewer_camera(model, time, pose_id))


def write_motion(path: Path, frames: int = 5) -> np.ndarray:
    """AMASS's form; people in it stand along z. Returns the poses."""
    poses = np.random.default_rng(3).normal(size=(frames, 156)) * 0.2
    poses[:, :3] = [np.pi / 2, 0.0, 0.0]
    np.savez(path, poses=poses, trans=np.full((frames, 3), 7.0), mocap_framerate=60.0)
    return poses


@pytest.mark.parametrize("time", [0.0, 0.5, 1.0])
def test_an_untouched_state_shows_what_the_model_renders(model: FMGSModel, state: ViewerState, time: float) -> None:
    with torch.no_grad():
        expected = model.get_outputs(viewer_camera(model, time))
    shown = outputs(model, time)
    assert list(shown) == list(expected)
    assert all(torch.equal(shown[name], expected[name]) for name in expected)


def test_data_set_cameras_never_see_the_viewer_state(model: FMGSModel, state: ViewerState) -> None:
    before = outputs(model, pose_id=1)
    state.turn(ELBOW, np.array([0.0, -1.5, 0.0]))
    state.parts = Parts().only(3).with_tint(3, Tint((255, 0, 0), 1.0))
    state.frame_overlay, state.relighting = FrameOverlay("Camera_B1", amount=1.0), Relighting(turn=90.0)
    after = outputs(model, pose_id=1)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_hidden_and_painted_parts_are_seen(model: FMGSModel, state: ViewerState) -> None:
    whole = outputs(model)
    state.parts = Parts(frozenset(range(NUM_CLASSES)))
    assert not outputs(model)["accumulation"].any()
    parts = classes_of(model.pose_avatar(0)).unique().tolist()
    state.parts = Parts(tints={part: Tint((255, 0, 0), 1.0) for part in parts})
    painted = outputs(model)
    assert torch.equal(painted["accumulation"], whole["accumulation"])
    assert painted["rgb"][..., 0].any()
    assert not painted["rgb"][..., 1:].any()  # all in shades of red, on black


@pytest.fixture
def light(model: FMGSModel) -> Iterator[Light]:
    light = Light()
    light.irradiance[1:] = torch.linspace(-0.3, 0.4, 8)[:, None]
    with lit(model, light):
        yield light


def test_the_light_turns(model: FMGSModel, state: ViewerState, light: Light) -> None:
    still = outputs(model)["rgb"]
    state.relighting = Relighting(turn=90.0)
    turned = outputs(model)["rgb"]
    assert (turned - still).abs().max() > 0.01
    up = torch.tensor(state.capture.up)
    camera = viewer_camera(model)
    with torch.no_grad():
        avatar = model.pose_avatar(0)
        rgb = model.shade(avatar, camera.camera_to_worlds[0, :, 3], light.turned(up, np.pi / 2))
        expected = model.render(avatar, rgb, Camera.from_nerfstudio(camera), MODALITIES)["rgb"]
    torch.testing.assert_close(turned, expected)
    state.relighting = Relighting(turn=360.0)
    torch.testing.assert_close(outputs(model)["rgb"], still, atol=1e-4, rtol=0)
    state.relighting = Relighting("none")
    with torch.no_grad():
        colour = model.shade(avatar, camera.camera_to_worlds[0, :, 3], Light())
        expected = model.render(avatar, colour, Camera.from_nerfstudio(camera), MODALITIES)["rgb"]
    torch.testing.assert_close(outputs(model)["rgb"], expected)
    state.relighting = Relighting(colour=(1.0, 0.0, 0.0))
    red = outputs(model)["rgb"]
    torch.testing.assert_close(red[..., 0], still[..., 0])
    assert red[..., 1].sum() < 0.5 * still[..., 1].sum()


def test_a_map_that_is_none_leaves_the_light(model: FMGSModel, state: ViewerState, tmp_path: Path) -> None:
    assert not state.load_environment(str(tmp_path / "missing.hdr"))
    assert "missing.hdr" in state.message
    assert state.relighting == Relighting()
    write_image(tmp_path / "map.png", np.full((8, 16, 3), 128, np.uint8))
    assert state.load_environment(str(tmp_path / "map.png"))
    assert state.relighting.environment == tmp_path / "map.png"
    outputs(model)  # an avatar without a light says so, and is drawn as it is
    assert "trained without a light" in state.message
    assert state.load_environment("")
    assert state.relighting.environment is None


def test_joints_start_from_the_pose_shown_last(model: FMGSModel, state: ViewerState) -> None:
    rotation = np.array([0.2, -1.5, 0.1])
    outputs(model, time=1.0)  # the last of three poses
    state.turn(ELBOW, rotation)
    state.turn(0, np.array([0.0, 0.5, 0.0]))
    with torch.no_grad():
        pose, transl = (value.clone() for value in model.poses(2))
        pose[3 * ELBOW : 3 * ELBOW + 3] = torch.from_numpy(rotation)
        pose[:3] = torch.tensor([0.0, 0.5, 0.0])
        avatar = model.pose_avatar_at(pose, transl)
        camera = viewer_camera(model)
        shown, still = outputs(model, time=0.0), outputs(model, pose_id=2)
        centre = camera.camera_to_worlds[0, :, 3]
        view = Camera.from_opengl(camera.camera_to_worlds[0], 90.0, 90.0, 32.0, 32.0, 64, 64)
        expected = model.render(avatar, model.shade(avatar, centre), view, MODALITIES)
    torch.testing.assert_close(shown["rgb"], expected["rgb"])
    assert shown["rgb"].sub(still["rgb"]).abs().max() > 0.1
    state.reset_joints()
    assert torch.equal(outputs(model)["rgb"], still["rgb"])


def test_a_motion_starts_where_the_person_stood(model: FMGSModel, state: ViewerState, tmp_path: Path) -> None:
    poses = write_motion(tmp_path / "walk.npz")
    assert state.load_motion(str(tmp_path / "walk.npz"))
    assert (state.source, state.motion_length, state.message) == ("motion", 5, "")
    state.show_frame(4)
    outputs(model, time=0.7)
    np.testing.assert_allclose(state.shown.pose[3:66], poses[4, 3:66], atol=1e-9)
    state.show_frame(0)
    outputs(model)
    up = np.array(state.capture.up)
    moved = state.shown.transl - state.captured(0).transl
    np.testing.assert_allclose(moved - (moved @ up) * up, 0, atol=1e-5)
    assert state.shown.pose_id is None
    state.show_frame(99)  # a slider of a longer motion
    assert state.motion is not None
    np.testing.assert_array_equal(state.wanted(0).pose, state.motion.poses[4])


def test_without_a_file_the_motion_is_the_capture_s(model: FMGSModel, state: ViewerState) -> None:
    assert state.load_motion("  ")
    state.show_frame(2)
    shown = outputs(model, time=0.0)
    with torch.no_grad():
        expected = model.get_outputs(viewer_camera(model, time=1.0))
    assert torch.equal(shown["rgb"], expected["rgb"])


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no archive", b"text"])
def test_a_file_that_is_no_motion_leaves_everything_as_it_was(
    model: FMGSModel, state: ViewerState, tmp_path: Path, content: bytes | None
) -> None:
    write_motion(tmp_path / "walk.npz")
    assert state.load_motion(str(tmp_path / "walk.npz"))
    state.show_frame(3)
    motion, before = state.motion, outputs(model)
    path = tmp_path / "broken.npz"
    if content is not None:
        path.write_bytes(content)
    assert not state.load_motion(str(path))
    assert str(path) in state.message
    assert state.motion is motion
    assert torch.equal(outputs(model)["rgb"], before["rgb"])


def test_the_frame_of_the_pose_is_laid_over_the_picture(
    model: FMGSModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_capture(tmp_path / "CoreView_1")
    config = FMGSDataParserConfig(data=tmp_path / "CoreView_1")
    capture = config.setup().get_dataparser_outputs("train").metadata["capture"]
    monkeypatch.setitem(model.kwargs["metadata"], "capture", capture)
    monkeypatch.setattr(model, "interactive_renderer", None)
    state = AvatarViewer(model).state
    rendered = outputs(model, time=1.0)
    state.frame_overlay = FrameOverlay("Camera_B1", amount=0.5)
    wiped = outputs(model, time=1.0)
    frame = next(f for split in capture.splits.values() for f in split if (f.camera, f.pose_id) == ("Camera_B1", 2))
    expected = torch.from_numpy(capture.image(frame)).float() / 255
    torch.testing.assert_close(wiped["rgb"][:, :32], expected[:, :32], atol=2e-2, rtol=0)
    assert torch.equal(wiped["rgb"][:, 32:], rendered["rgb"][:, 32:])
    assert torch.equal(wiped["depth"], rendered["depth"])


def test_a_frame_that_cannot_be_had_is_a_message(model: FMGSModel, state: ViewerState, tmp_path: Path) -> None:
    """The small avatar's images are gone, and a motion has none."""
    rendered = outputs(model)
    state.frame_overlay = FrameOverlay("Camera_B1", amount=0.5)
    assert torch.equal(outputs(model)["rgb"], rendered["rgb"])
    assert ".jpg is missing" in state.message
    write_motion(tmp_path / "walk.npz")
    state.load_motion(str(tmp_path / "walk.npz"))
    outputs(model)
    assert "no camera frames" in state.message


def test_a_pose_of_the_capture_is_marked_as_such(model: FMGSModel, state: ViewerState) -> None:
    smpl_pose = state.captured(1)
    assert smpl_pose.captured
    assert smpl_pose.pose_id == 1
    assert SmplPose(smpl_pose.pose, smpl_pose.transl).pose_id is None


class _Interrupted(Exception):
    pass


def test_an_interrupted_rendering_leaves_no_lock_behind() -> None:
    """nerfstudio's viewer raises from a trace function at the next line; here while a kernel runs."""
    lock, running, asked = threading.RLock(), threading.Event(), threading.Event()

    def check(frame: FrameType, event: str, arg: object) -> object:
        if event == "line" and asked.is_set():
            raise _Interrupted
        return check

    @uninterrupted
    def compute() -> None:
        with lock:
            running.set()
            asked.wait(10)

    def rendering() -> bool:
        compute()
        return True

    raised = []

    def render() -> None:
        sys.settrace(check)  # pyright: ignore[reportArgumentType]
        try:
            raised.append(not rendering())
        except _Interrupted:
            raised.append(True)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=render)
    thread.start()
    running.wait(10)
    asked.set()
    thread.join(10)
    assert raised == [True]  # after the lock was given back
    assert lock.acquire(timeout=5)


def test_kernels_are_not_interrupted() -> None:
    @kernel
    def add(count: int) -> int:
        total = 0
        for i in numba.prange(count):
            total += i
        return total

    entered: list[str] = []

    def note(frame: FrameType, event: str, arg: object) -> None:
        entered.append(frame.f_code.co_name)

    sys.settrace(note)
    assert add(5) == 10
    assert sys.gettrace() is note
    sys.settrace(None)
    assert entered == ["call"]  # the wrapper; nothing inside it could be cut off
