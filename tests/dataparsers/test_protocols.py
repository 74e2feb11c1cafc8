"""Splits by name; their frames, one by one, are in `test_constants.py`."""

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
    instantavatar,
    last_fifth,
    subject_of,
)
from support.known_person import body_model, write


def test_protocols_that_do_not_fit() -> None:
    with pytest.raises(CaptureError, match="fifth camera; this capture has 1"):
        gauhuman("377", 617, 1)
    assert last_fifth("me", 3, 1)["train"] == [(0, 0), (0, 1), (0, 2)]
    assert len(instantavatar("male-3-casual", 100, 1)["train"]) == 25  # of a part of the archive


@pytest.mark.parametrize(
    ("folder", "subject"),
    [
        ("CoreView_377", "377"),
        ("my_394", "394"),
        ("386", "386"),
        ("male-3-casual", "male-3-casual"),
        ("me2", "me2"),
        ("walk_20240377", "walk_20240377"),
    ],
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
        np.save(root / "masks" / f"mask_{i:04d}.npy", np.eye(8, dtype=bool))
    np.savez(
        root / "cameras.npz", intrinsic=[[9.0, 0, 4], [0, 9, 4], [0, 0, 1]], extrinsic=np.eye(4), height=8, width=8
    )
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
