"""Frames that cannot be used: each kind is left out and told by name; a capture with nothing left is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import joblib
import numpy as np
import pytest
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.parser import FMGSDataParserConfig, open_capture
from support.known_person import HEIGHT, WIDTH, Person, mask, picture, write
from support.layout_capture import humannerf_video, instant_avatar, save_object, wham, zju

from fmgs_nerfstudio.data import AvatarDataset, FrameCache
from fmgs_nerfstudio.maps.maps import PriorsInfo, PriorsWriter

IMAGE, MASK, PARAMS = "Camera_B1/000001.jpg", "mask_cihp/Camera_B1/000001.png", "new_params/1.npy"
GRAY = np.zeros((HEIGHT, WIDTH), np.uint8)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def put(content: object) -> Callable[[Path], object]:
    """Writes an image or a pickled object."""
    return lambda path: write(path, content) if isinstance(content, np.ndarray) else save_object(path, content)


def without_places(capsys: pytest.CaptureFixture[str]) -> str:
    """What was told, without rich's column of source lines and its breaks."""
    return " ".join(re.sub(r"\w+\.py:\d+", "", capsys.readouterr().out).split())


ZEROS = {"poses": np.zeros((1, 72)), "Rh": np.zeros((1, 3)), "Th": np.zeros((1, 3)), "shapes": np.zeros((1, 10))}
FAULTS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("missing", IMAGE, Path.unlink),
    ("unreadable", IMAGE, cut),
    ("unreadable", IMAGE, lambda path: path.write_bytes(b"")),
    ("unreadable", IMAGE, lambda path: path.write_text("no image")),
    ("of another size", IMAGE, put(picture(0)[:40])),
    ("without a mask", MASK, Path.unlink),
    ("without a mask", MASK, cut),
    ("with a mask of another size", MASK, put(GRAY[:40] + 1)),
    ("without a person", MASK, put(GRAY)),
    ("without parameters", PARAMS, Path.unlink),
    ("without parameters", PARAMS, cut),
    ("without parameters", PARAMS, put({"poses": np.zeros(72)})),
    ("without parameters", PARAMS, put({**ZEROS, "poses": np.zeros((1, 69))})),
    ("without parameters", PARAMS, put({**ZEROS, "Th": np.full((1, 3), np.nan)})),
]


@pytest.mark.parametrize(("reason", "name", "corrupt"), FAULTS)
def test_a_bad_frame_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reason: str, name: str, corrupt: Callable[[Path], object]
) -> None:
    zju(tmp_path, Person(), cameras=1)
    root = tmp_path / "CoreView_377"
    corrupt(root / name)
    capture = open_capture(root)
    assert [frame.stem for frame in capture.splits["train"]] == ["000000", "000002", "000003"]
    (left_out,) = capture.left_out
    assert (left_out.split, left_out.name, left_out.reason) == ("train", "Camera_B1/000001", reason)
    assert str(root / (name if name != MASK or reason != "without a mask" else "")) in left_out.detail
    told = without_places(capsys)
    assert f"1 {reason}: Camera_B1/000001" in told
    assert "3 train" in told
    # The rest is whole: rows of poses follow the frames.
    assert len(capture.poses) == 3
    assert [frame.pose_id for frame in capture.splits["train"]] == [0, 1, 2]
    assert np.allclose(capture.poses[1, 3:], Person().pose[2, 3:])


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    zju(tmp_path, Person(), cameras=1)
    root = tmp_path / "CoreView_377"
    (root / "mask_cihp").rename(root / "masks_elsewhere")
    with pytest.raises(CaptureError, match=r"no training image can be used.\n  4 without a mask: Camera_B1/000000"):
        open_capture(root)


def test_empty_masks_among_many(tmp_path: Path) -> None:
    """Not all masks are decoded, but all empty ones are found."""
    zju(tmp_path, Person(40), cameras=1)
    folder = tmp_path / "CoreView_377" / "mask_cihp" / "Camera_B1"
    rng = np.random.default_rng(0)
    for i in range(40):
        outline = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.ellipse(outline, (48, 40), (10 + i % 3, 25), float(rng.uniform(0, 90)), 0, 360, (1,), -1)
        write(folder / f"{i:06d}.png", outline * (i not in (0, 7, 15, 39)))
    capture = open_capture(tmp_path / "CoreView_377")
    assert [item.name[-2:] for item in capture.left_out] == ["00", "07", "15", "39"]


def test_the_prior_maps_mask_stands_in(tmp_path: Path) -> None:
    """Own videos without `masks/`: the estimator's mask among the priors serves."""
    person = Person()
    instant_avatar(tmp_path, person)
    for file in (tmp_path / "masks").iterdir():
        file.unlink()
    (tmp_path / "masks").rmdir()
    with pytest.raises(CaptureError, match="4 without a mask"):
        open_capture(tmp_path)
    to_make_masks = open_capture(tmp_path, need_masks=False)
    assert sum(len(frames) for frames in to_make_masks.splits.values()) == person.n
    assert not to_make_masks.mask(to_make_masks.splits["train"][0]).any()
    writer = PriorsWriter(tmp_path, PriorsInfo(estimator="test", licence="none"))
    for i in range(person.n):
        writer.write("mask", "camera", f"image_{i:04d}", mask(i).astype(np.float32))
    capture = open_capture(tmp_path)
    assert np.array_equal(capture.mask(capture.splits["train"][2]), mask(2))


def test_corruption_inside_a_file_does_not_stop_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Opening looks at the ends of images; what is broken between is told, once, and skipped when its turn comes."""
    instant_avatar(tmp_path, Person())
    path = tmp_path / "images" / "image_0001.png"
    content = bytearray(path.read_bytes())
    content[50:-20] = bytes(len(content) - 70)
    path.write_bytes(content)
    dataset = AvatarDataset(FMGSDataParserConfig(data=tmp_path).setup().get_dataparser_outputs("train"))
    assert len(dataset) == 4
    frames = FrameCache(dataset.get_data, len(dataset), megabytes=1)
    capsys.readouterr()
    assert [frames.first([1, 2], ahead=[3])[0], frames.first([1, 3])[0], frames.first([0, 1])[0]] == [2, 3, 0]
    assert without_places(capsys).count("image_0001.png cannot be read as an image") == 1
    with pytest.raises(CaptureError, match=r"none of 1 images .* can be decoded: .*image_0001\.png cannot"):
        frames.first([1])


def test_frames_that_a_video_s_fits_do_not_name(tmp_path: Path) -> None:
    humannerf_video(tmp_path, Person())
    content = json.loads((tmp_path / "metadata.json").read_text())
    del content["000000"]
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    capture = open_capture(tmp_path)
    assert [(item.name, item.reason) for item in capture.left_out] == [("camera/000000", "without parameters")]
    (tmp_path / "metadata.json").write_text("{}")
    open_capture.cache_clear()
    with pytest.raises(CaptureError, match=r"none of the 4 images is named in metadata\.json"):
        open_capture(tmp_path)


def test_results_that_are_not_the_tracker_s(tmp_path: Path) -> None:
    wham(tmp_path, Person())
    path = tmp_path / "wham_output.pkl"
    track = {"pose": np.zeros((2, 72)), "trans": np.zeros((2, 3)), "betas": np.zeros((2, 10))}
    for content, told in (
        ({}, "tracks nobody"),
        ([1, 2], "tracks nobody"),
        ({0: track}, "lacks frame_ids; found pose, trans, betas"),
        ({0: {**track, "frame_ids": np.arange(3)}}, "is not what wham writes: IndexError"),
        ({0: {**track, "pose": np.zeros((2, 69)), "frame_ids": np.arange(2)}}, r"expected pose \[72\]"),
    ):
        joblib.dump(content, path)
        open_capture.cache_clear()
        with pytest.raises(CaptureError, match=rf"wham_output\.pkl.*{told}"):
            open_capture(tmp_path)
