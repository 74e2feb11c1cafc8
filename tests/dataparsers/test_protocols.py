"""Splits by name: frames and counts are those of the papers' code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.parser import FMGSDataParserConfig, open_capture
from fmgs_dataparsers.protocols import (
    BLACK,
    WHITE,
    choose,
    gauhuman,
    humannerf,
    instantavatar,
    last_fifth,
    monohuman,
    subject_of,
)
from support.known_person import body_model, write

# subject: frames in the archive, training images, test images (22 other cameras)
ZJU = {"377": (617, 570, 418), "386": (646, 540, 396), "387": (654, 540, 396), "392": (556, 556, 418),
       "393": (658, 658, 484), "394": (859, 475, 352)}  # fmt: skip
SNAPSHOT = {"female-3-casual": (112, 51), "female-4-casual": (84, 48), "male-3-casual": (114, 55),
            "male-4-casual": (110, 36)}  # fmt: skip


@pytest.mark.parametrize("subject", ZJU)
def test_humannerf_counts(subject: str) -> None:
    frames, train, test = ZJU[subject]
    split = humannerf(subject, frames, 23)
    assert (len(split["train"]), len(split["novel_view"]), len(split["novel_pose"])) == (train, test, 0)
    assert {camera for camera, _ in split["train"]} == {0}
    assert {camera for camera, _ in split["novel_view"]} == set(range(1, 23))
    assert sorted({i for _, i in split["novel_view"]})[:3] == [0, 30, 60]


def test_gauhuman_counts() -> None:
    split = gauhuman("377", 617, 23)
    assert split["train"] == [(4, i) for i in range(0, 500, 5)]
    assert len(split["train"]) == 100
    assert len(split["novel_view"]) == 374
    assert max(i for _, i in split["novel_view"]) == 480
    with pytest.raises(CaptureError, match="fifth camera; this capture has 1"):
        gauhuman("377", 617, 1)


def test_monohuman_holds_out_the_last_fifth() -> None:
    split = monohuman("377", 617, 23)
    assert split["train"] == [(0, i) for i in range(456)]  # 570 less a fifth
    assert {i for _, i in split["novel_view"]} == set(range(0, 456, 30))
    assert {i for _, i in split["novel_pose"]} == set(range(456, 570, 30))


@pytest.mark.parametrize("subject", SNAPSHOT)
def test_instantavatar_counts(subject: str) -> None:
    split = instantavatar(subject, 10_000, 1)
    assert (len(split["train"]), len(split["novel_pose"])) == SNAPSHOT[subject]
    assert not set(split["train"]) & set(split["novel_pose"])


def test_last_fifth() -> None:
    split = last_fifth("me", 1000, 2)
    assert split["train"] == [(0, i) for i in range(800)]
    assert {i for _, i in split["novel_pose"]} == set(range(800, 1000, 4))
    assert 45 <= len(split["novel_view"]) <= 55
    assert last_fifth("me", 3, 1)["train"] == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize(
    ("folder", "subject"),
    [("CoreView_377", "377"), ("my_394", "394"), ("386", "386"), ("male-3-casual", "male-3-casual"), ("me2", "me2")],
)
def test_subjects(folder: str, subject: str) -> None:
    assert subject_of(Path("data") / folder) == subject


def test_defaults_and_names(tmp_path: Path) -> None:
    def chosen(wanted: str, default: str, folder: str):
        return choose(wanted, default, tmp_path / folder, ["camera"], 700)

    assert chosen("auto", "instantavatar", "male-3-casual").background == WHITE
    assert chosen("auto", "instantavatar", "male-9-plaza").name == "last-fifth"
    assert chosen("last-fifth", "instantavatar", "male-3-casual").background == BLACK
    with pytest.raises(CaptureError, match=r"no frame ranges for 'me'; it has them for female-3-casual"):
        chosen("instantavatar", "last-fifth", "me")


def test_anim_nerf_rows_and_white_background(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PeopleSnapshot in InstantAvatar's form: row i is the i-th frame of its part, and test betas are others."""
    root, n = tmp_path / "female-4-casual", 524
    for i in range(n):
        write(root / "images" / f"image_{i:04d}.png", np.full((8, 8, 3), (i // 256, i % 256, 0), np.uint8))
        (root / "masks").mkdir(exist_ok=True)
        np.save(root / "masks" / f"mask_{i:04d}.npy", np.ones((8, 8), bool))
    np.savez(root / "cameras.npz", intrinsic=np.eye(3), extrinsic=np.eye(4), height=8, width=8)
    (root / "poses").mkdir()
    for part, frames in (("train", range(0, 336, 4)), ("val", [335]), ("test", range(335, 524, 4))):
        np.savez(
            root / "poses" / f"anim_nerf_{part}.npz",
            betas=np.full((1, 10), 1.0 if part == "test" else 0.5), global_orient=np.zeros((len(frames), 3)),
            body_pose=np.zeros((len(frames), 69)),
            transl=np.array([[i, part == "val", 5] for i in frames], np.float32),
        )  # fmt: skip
    body_model(root, "SMPL_FEMALE.npz")
    parser = FMGSDataParserConfig(data=root).setup()
    capture = parser.capture()
    assert capture.body_model.name == "SMPL_FEMALE.npz"
    told = re.sub(r"\w+\.py:\d+", "", capsys.readouterr().out)
    assert "84 train, 0 novel view, 48 novel pose images" in " ".join(told.split())
    assert parser.get_dataparser_outputs("test").metadata["background"] == WHITE
    for split, away in (("train", 0.0), ("novel_pose", 0.1)):
        for frame in capture.splits[split]:
            high, low, _ = (int(value) for value in capture.image(frame)[0, 0, ::-1])
            # The pelvis stays where the frame's own shape had put it.
            assert np.abs(capture.transl[frame.pose_id] - [high * 256 + low, 0, 5]).max() <= away
    assert np.allclose(capture.betas, 0.5)
    open_capture.cache_clear()
    named = FMGSDataParserConfig(data=root, protocol="last-fifth").setup().capture()
    assert named.background == BLACK
    assert len(named.left_out) > 200  # frames without a row
