"""The raw ZJU-MoCap reader on a small capture written here, by code that shares nothing with the reader."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.parser import FMGSDataParserConfig, open_capture
from scipy.spatial.transform import Rotation
from support.zju_capture import SIZE, write_capture

from fmgs_nerfstudio.body import BodyModel


def parse(root: Path, **options: object):
    return FMGSDataParserConfig(data=root, **options).setup()  # pyright: ignore[reportArgumentType]


def test_projected_vertices_agree_with_opencv(tmp_path: Path) -> None:
    """EasyMocap's Rh and Th, millimetres and OpenCV's pixel centres: our projection is cv2's, half a pixel further."""
    vertices = write_capture(tmp_path)
    parser = parse(tmp_path)
    outputs, capture = parser.get_dataparser_outputs("train"), parser.capture()
    body = BodyModel.load(capture.body_model)
    annots = np.load(tmp_path / "annots.npy", allow_pickle=True).item()["cams"]
    for i, frame in enumerate(capture.splits["train"]):
        values = (capture.betas, capture.poses[frame.pose_id], capture.transl[frame.pose_id])
        ours = body.vertices(*(torch.from_numpy(value).float() for value in values)).numpy()
        assert np.abs(ours - vertices[i]).max() < 1e-4  # metres
        camera = outputs.cameras[i]
        c2w = np.vstack([camera.camera_to_worlds.numpy(), [0, 0, 0, 1]])
        local = (np.linalg.inv(c2w) @ np.c_[ours, np.ones(len(ours))].T)[:3]  # OpenGL: looks along -z, y up
        u = float(camera.fx) * local[0] / -local[2] + float(camera.cx)
        v = float(camera.cy) - float(camera.fy) * local[1] / -local[2]
        rvec = Rotation.from_matrix(annots["R"][0]).as_rotvec()
        expected, _ = cv2.projectPoints(vertices[i], rvec, annots["T"][0] / 1000, annots["K"][0], np.zeros(5))
        assert np.abs(np.c_[u, v] - 0.5 - expected[:, 0]).max() < 0.02


def test_splits_poses_and_times(tmp_path: Path) -> None:
    write_capture(tmp_path, n_frames=4)
    protocol = {"name": "test", "train": {"cameras": ["Camera_B1"], "frames": [0, 1, 2]}}
    protocol["novel_view"] = {"cameras": ["Camera_B2"], "frames": [0, 2]}
    protocol["novel_pose"] = {"cameras": ["Camera_B1", "Camera_B2"], "frames": [3]}
    (tmp_path / "protocol.json").write_text(json.dumps(protocol))
    train = parse(tmp_path).get_dataparser_outputs("train")
    held_out = parse(tmp_path).get_dataparser_outputs("test")
    assert [path.parent.name for path in train.image_filenames] == ["Camera_B1"] * 3
    assert held_out.cameras.metadata is not None
    assert held_out.cameras.metadata["pose_id"].flatten().tolist() == [0, 2, 3, 3]
    assert train.cameras.times is not None
    assert torch.allclose(train.cameras.times.flatten(), torch.tensor([0, 1 / 3, 2 / 3]))
    assert len(parse(tmp_path, eval_split="novel_pose").get_dataparser_outputs("test").image_filenames) == 2


@pytest.mark.parametrize("said", [{}, {"exact_poses": False}, {"exact_poses": True}])
def test_a_capture_may_say_that_its_poses_are_exact(said: dict[str, bool], tmp_path: Path) -> None:
    write_capture(tmp_path)
    part = {"cameras": ["Camera_B1"], "frames": [0]}
    splits = dict.fromkeys(("train", "novel_view", "novel_pose"), part)
    (tmp_path / "protocol.json").write_text(json.dumps({"name": "x", **said, **splits}))
    assert parse(tmp_path).capture().exact_poses == any(said.values())


def test_humannerf_split_is_the_default(tmp_path: Path) -> None:
    write_capture(tmp_path, n_frames=31)
    capture = parse(tmp_path).capture()
    assert capture.protocol == "humannerf"
    assert [frame.stem for frame in capture.splits["novel_view"]] == ["000000", "000030"]
    assert {frame.camera for frame in capture.splits["novel_view"]} == {"Camera_B2"}
    assert len(capture.splits["train"]) == 31


def test_short_name_of_a_subject(tmp_path: Path) -> None:
    write_capture(tmp_path / "CoreView_377")
    assert parse(tmp_path / "377").capture().root == tmp_path / "CoreView_377"


def test_images_masks_and_downscale(tmp_path: Path) -> None:
    write_capture(tmp_path)
    capture = parse(tmp_path, downscale_factor=2).capture()
    frame = capture.splits["train"][1]
    image, mask = capture.image(frame), capture.mask(frame)
    assert image.shape == (32, 32, 3)
    assert abs(int(image[-1, -1, 0]) - 45) <= 2
    assert mask[:4].max() == 0
    assert mask[4:].min() == 1
    K, width, height = capture.intrinsics("Camera_B1")
    assert (width, height) == (32, 32)
    assert K[0, 0] == pytest.approx(45)
    assert K[0, 2] == pytest.approx(16)  # the middle of the image stays its middle


def test_undistortion_straightens(tmp_path: Path) -> None:
    """A pixel of the undistorted image comes from where OpenCV's model says the lens put it."""
    write_capture(tmp_path, distortion=0.0)
    annots = np.load(tmp_path / "annots.npy", allow_pickle=True).item()
    annots["cams"]["D"] = [np.array([2.0, 0, 0, 0, 0])[:, None]] * 2
    np.save(tmp_path / "annots.npy", annots)  # pyright: ignore[reportArgumentType]
    ramp = np.repeat(np.arange(SIZE, dtype=np.uint8)[None] * 3, SIZE, axis=0)
    for path in (tmp_path / "Camera_B1").iterdir():
        cv2.imwrite(str(path), np.dstack([ramp] * 3), [cv2.IMWRITE_JPEG_QUALITY, 100])
    capture = parse(tmp_path).capture()
    image = capture.image(capture.splits["train"][0]).astype(float)
    at, K = (40, 52), annots["cams"]["K"][0]
    ray = np.linalg.inv(K) @ [at[1], at[0], 1]
    source, _ = cv2.projectPoints(ray[None], np.zeros(3), np.zeros(3), K, annots["cams"]["D"][0])
    assert image[at][0] / 3 == pytest.approx(source[0, 0, 0], abs=1.0)
    assert abs(image[at][0] / 3 - at[1]) > 1.0  # and it moved


class TestBadInput:
    """One error that names the file, without a traceback: nerfstudio's scripts end with SystemExit's message."""

    def error(self, root: Path, **options: object) -> str:
        open_capture.cache_clear()
        with pytest.raises(SystemExit) as info:
            parse(root, **options).get_dataparser_outputs("train")
        assert info.value.code != 0
        return str(info.value)

    def test_path_that_does_not_exist(self, tmp_path: Path) -> None:
        message = self.error(tmp_path / "nowhere")
        assert str(tmp_path / "nowhere") in message
        assert "does not exist" in message
        assert "zju-mocap: annots.npy" in message

    def test_file_and_empty_and_unknown(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        assert "is a file" in self.error(tmp_path / "file")
        (tmp_path / "empty").mkdir()
        assert "it is empty" in self.error(tmp_path / "empty")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "notes.txt").write_text("x")
        assert "notes.txt" in self.error(tmp_path / "other")

    def test_missing_body_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SMPL_MODEL_DIR", raising=False)
        write_capture(tmp_path)
        (tmp_path / "SMPL_NEUTRAL.npz").unlink()
        assert "smpl.is.tue.mpg.de" in self.error(tmp_path)

    def test_truncated_calibration(self, tmp_path: Path) -> None:
        write_capture(tmp_path)
        path = tmp_path / "annots.npy"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert str(path) in self.error(tmp_path)

    def test_calibration_without_cameras(self, tmp_path: Path) -> None:
        write_capture(tmp_path)
        np.save(tmp_path / "annots.npy", {"cams": {"K": []}, "ims": [{"ims": ["Camera_B1/000000.jpg"]}]})  # pyright: ignore[reportArgumentType]
        assert "camera 0 has no K, R, T, D" in self.error(tmp_path)
        np.save(tmp_path / "annots.npy", {"cams": {}})  # pyright: ignore[reportArgumentType]
        assert "annots.npy lacks ims; found cams" in self.error(tmp_path)

    def test_protocol_that_names_no_such_camera(self, tmp_path: Path) -> None:
        write_capture(tmp_path)
        (tmp_path / "protocol.json").write_text('{"name": "x", "train": {"cameras": ["B9"], "frames": [0]}}')
        assert "protocol.json" in self.error(tmp_path)

    def test_protocol_that_is_not_sure_of_its_poses(self, tmp_path: Path) -> None:
        write_capture(tmp_path)
        part = {"cameras": ["Camera_B1"], "frames": [0]}
        splits = dict.fromkeys(("train", "novel_view", "novel_pose"), part)
        (tmp_path / "protocol.json").write_text(json.dumps({"name": "x", "exact_poses": "yes", **splits}))
        assert "exact_poses is 'yes'; expected true or false" in self.error(tmp_path)


def test_unpickling_refuses_a_payload(tmp_path: Path) -> None:
    write_capture(tmp_path)

    class Payload:
        def __reduce__(self):
            return (eval, ("1/0",))

    np.save(tmp_path / "annots.npy", {"cams": Payload(), "ims": []})  # pyright: ignore[reportArgumentType]
    open_capture.cache_clear()
    with pytest.raises(CaptureError, match=r"annots\.npy.*eval"):
        open_capture(tmp_path, "auto", None, None)
