"""Frames of a video: written once, whole or not at all, and told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import pytest
from fmgs_dataparsers.capture import CaptureError
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
