"""Frames of a video: written once, whole or not at all, and told."""

from __future__ import annotations

import errno
import os
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.files import images_in
from fmgs_dataparsers.video import source_frames
from support.known_person import Person, picture, which, write
from support.layout_capture import save_video


def test_frames_are_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_video(tmp_path / "clip.mp4", Person())
    (tmp_path / "1_incam.mp4").write_bytes(b"drawn by a tracker")
    frames = source_frames(tmp_path)
    assert "Writing the frames of clip.mp4" in capsys.readouterr().out
    assert [which(cv2.imread(str(frame))) for frame in frames] == [0, 1, 2, 3]
    assert [frame.name for frame in frames] == [f"{i:06d}.jpg" for i in range(4)]
    before = frames[0].stat().st_mtime_ns
    assert source_frames(tmp_path) == frames
    assert frames[0].stat().st_mtime_ns == before
    assert capsys.readouterr().out == ""
    save_video(tmp_path / "clip.mp4", Person(6))  # another video of that name
    assert len(source_frames(tmp_path)) == 6


def test_images_come_before_a_video(tmp_path: Path) -> None:
    save_video(tmp_path / "clip.mp4", Person())
    write(tmp_path / "images" / "0.png", picture(0))
    assert source_frames(tmp_path) == [tmp_path / "images" / "0.png"]


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="has no images/ and no video"):
        source_frames(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(CaptureError, match=r"clip\.mp4 cannot be read as a video"):
        source_frames(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4"]  # nothing half-written
    (tmp_path / "other.mp4").write_bytes(b"")
    with pytest.raises(CaptureError, match=r"several videos \(clip\.mp4, other\.mp4\)"):
        source_frames(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    save_video(tmp_path / "clip.mp4", Person())
    tmp_path.chmod(0o555)
    with pytest.raises(CaptureError, match="cannot write the frames"):
        source_frames(tmp_path)


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_video(tmp_path / "clip.mp4", Person())

    def write_bytes(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(
        CaptureError, match=r"cannot write the frames of .*clip\.mp4.*put the frames into .*images yourself"
    ):
        source_frames(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4"]


COLOURS = np.array([[200, 40, 30], [30, 180, 60], [40, 60, 210], [220, 200, 50], [128, 128, 128], [250, 250, 250]])
LUMA = {1: (0.2126, 0.0722), 6: (0.299, 0.114)}  # weights of red and blue: BT.709, BT.601, by H.273's numbers


def save_colours(path: Path, matrix: int, transfer: int) -> None:
    """Stripes of `COLOURS`, 16 pixels each, turned into Y Cb Cr by the formulas of H.273."""
    rgb = np.repeat(np.repeat(COLOURS[None] / 255, 64, 0), 16, 1)
    red, blue = LUMA[matrix]
    y = rgb @ [red, 1 - red - blue, blue]
    cb, cr = (rgb[..., 2] - y) / (2 - 2 * blue), (rgb[..., 0] - y) / (2 - 2 * red)
    planes = [16 + 219 * y, 128 + 224 * cb[::2, ::2], 128 + 224 * cr[::2, ::2]]
    pixels = np.concatenate([np.rint(plane).astype(np.uint8).ravel() for plane in planes]).reshape(-1, 96)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"crf": "1"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = matrix, 1, 1, transfer
        frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
        frame.colorspace, frame.color_range = matrix, 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("matrix", LUMA)
def test_colours_are_those_of_the_video(tmp_path: Path, matrix: int) -> None:
    """Phones write BT.709; read as BT.601, these are 22 of 255 off."""
    save_colours(tmp_path / "clip.mp4", matrix, matrix)
    image = cv2.imread(str(source_frames(tmp_path)[0]))[..., ::-1].astype(int)
    for i, colour in enumerate(COLOURS):
        stripe = image[8:56, 16 * i + 4 : 16 * i + 12].reshape(-1, 3)
        assert np.abs(np.median(stripe, 0) - colour).max() <= 3


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_told_with_what_converts_it(tmp_path: Path, transfer: int, name: str) -> None:
    save_colours(tmp_path / "clip.mp4", 1, transfer)
    with pytest.raises(CaptureError, match=rf"clip\.mp4 is HDR \({name}.*ffmpeg -i .*clip\.mp4 -vf .*clip_sdr\.mp4"):
        source_frames(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "images" / f"IMG_{i}.jpg", picture(0))
    for file in (tmp_path / "images").iterdir():
        file.rename(file.with_suffix(".HEIC"))
    with pytest.raises(CaptureError, match=r"images holds 3 \.HEIC files.*mogrify -format jpg .*\*\.HEIC"):
        source_frames(tmp_path)


def test_frames_that_are_numbered_come_in_order(tmp_path: Path) -> None:
    for i in (1, 2, 9, 10, 11, 100):
        write(tmp_path / "images" / f"{i}.png", picture(0))
        write(tmp_path / "words" / f"IMG{i}_b.png", picture(0))
    assert [path.stem for path in source_frames(tmp_path)] == ["1", "2", "9", "10", "11", "100"]
    assert [path.stem for path in images_in(tmp_path / "words")][3:] == ["IMG10_b", "IMG11_b", "IMG100_b"]
