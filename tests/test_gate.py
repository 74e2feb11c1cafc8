"""The one door: what is no file, and what is too large, is told before it is opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fmgs_nerfstudio.gate import FileError, check_file, check_pixels


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a named pipe"), (tmp_path, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(FileError, match=f"{path} is {kind}"):
            check_file(path)
    (tmp_path / "file").write_bytes(bytes(11))
    assert check_file(tmp_path / "file", 11).st_size == 11
    with pytest.raises(FileError, match="file has 0 MiB"):
        check_file(tmp_path / "file", 10)


def test_pictures_that_cameras_make() -> None:
    check_pixels(Path("8k.png"), 8192, 4320)
    for width, height in ((16_385, 1), (1, 16_385), (7_100, 7_100)):
        with pytest.raises(FileError, match=f"big.png has {width} x {height} pixels"):
            check_pixels(Path("big.png"), width, height)
