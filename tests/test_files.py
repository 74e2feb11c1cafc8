"""Files that are whole or not there, and what killed writers leave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.killing import small_disk

from fmgs_nerfstudio.files import atomic_path, folder_beside, remove_abandoned, write_array, write_image

# A writer that says where it writes and then waits: to be killed.
WRITER = """
import sys
from pathlib import Path
from fmgs_nerfstudio.files import {writer}
with {writer}(Path(sys.argv[1])) as path:
    (path / "half" if path.is_dir() else path).write_text("half of it")
    print(path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _as_a_new_process() -> Iterator[None]:
    remove_abandoned.cache_clear()
    yield
    remove_abandoned.cache_clear()


def writing(writer: str, target: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(writer=writer), str(target)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("writer", ["atomic_path", "folder_beside"])
def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path, writer: str) -> None:
    dead, left = writing(writer, tmp_path / "a.json")
    living, kept = writing(writer, tmp_path / "b.json")
    dead.kill()
    dead.wait()
    (tmp_path / ".fmgs-notes").write_text("a user's")
    (tmp_path / ".fmgs-aside-abcdefgh-link").symlink_to(tmp_path / ".fmgs-notes")  # nobody follows it
    assert left.exists()
    with atomic_path(tmp_path / "a.json") as path:
        path.write_text("{}")
    assert not left.exists()
    assert kept.exists()
    living.communicate("")
    expected = {".fmgs-notes", ".fmgs-aside-abcdefgh-link", "a.json"} | (
        {"b.json"} if writer == "atomic_path" else set()
    )
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert living.returncode == 0


def test_a_writer_whose_file_was_taken_before_it_was_locked_takes_another(tmp_path: Path) -> None:
    """Between making a file and locking it, another process may hold it for abandoned."""
    import tempfile

    original, first = tempfile.mkstemp, list[str]()

    def mkstemp(*arguments: str | None, **named: str | Path) -> tuple[int, str]:
        handle, name = original(*arguments, **named)  # pyright: ignore[reportCallIssue, reportArgumentType]
        if not first:
            first.append(name)
            Path(name).unlink()
        return handle, name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", mkstemp)
        with atomic_path(tmp_path / "a.txt") as path:
            path.write_text("whole")
    assert first
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_an_image_that_does_not_fit_to_the_last_block_is_an_error(tmp_path: Path) -> None:
    """OpenCV's own writing takes it for written."""
    with small_disk(tmp_path / "disk", 64 << 10) as mounted:
        if not mounted:
            pytest.skip("this user may not mount a small disk")
        noise = np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)
        path = tmp_path / "disk" / "noise.png"
        with pytest.raises(OSError, match=r"No space left.*disk/noise\.png"), atomic_path(path) as temporary:
            write_image(temporary, noise)
        assert not list(path.parent.iterdir())
        with atomic_path(path) as temporary:
            write_image(temporary, noise[:100])
        np.testing.assert_array_equal(np.asarray(Image.open(path)), noise[:100, :, ::-1])


def test_a_full_disk_is_told_of_an_array(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_array(Path("/dev/full"), np.zeros(100_000))
    values = np.arange(6.0).reshape(2, 3)
    write_array(tmp_path / "values.npy", values)
    np.testing.assert_array_equal(np.load(tmp_path / "values.npy"), values)


def test_a_folder_aside_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), folder_beside(tmp_path / "capture") as aside:
        [(aside / name).mkdir() for name in ("one", "one")]
    assert not list(tmp_path.iterdir())
