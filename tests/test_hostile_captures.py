"""Captures of strangers: a bad file in a good capture costs its frame, names are text, and lead nowhere else."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import test_bombs as bombs
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.files import inside
from fmgs_dataparsers.parser import open_capture
from nerfstudio.utils.rich_utils import CONSOLE
from rich.console import Console
from support.guarded import BYTES, SECONDS, in_child, measured
from support.known_person import Person
from support.layout_capture import arah, easymocap
from support.silhouette_capture import content, write_content
from test_hostile_files import KINDS

from fmgs_nerfstudio.cli.check import main
from fmgs_nerfstudio.console import log, printable
from fmgs_nerfstudio.evaluation.html import render
from fmgs_nerfstudio.maps.maps import PriorsError, PriorsInfo, PriorsWriter

Files = dict[str, Path]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training frames, with masks and depth."""
    made = content(4)
    root = write_content(tmp_path_factory.mktemp("captures") / "CoreView_377", made)
    opened = open_capture(root)
    writer = PriorsWriter(root, PriorsInfo(estimator="test", licence="none"))
    for frame in opened.splits["train"]:
        writer.write("depth", frame.camera, frame.stem, opened.mask(frame))
    return root


def _files(root: Path) -> Files:
    """Of the second training frame."""
    open_capture.cache_clear()
    opened = open_capture(root)
    frame = opened.splits["train"][1]
    assert opened.priors is not None
    return {
        "image": frame.image,
        "mask": frame.mask.file,
        "depth": opened.priors.path("depth", frame.camera, frame.stem),
    }


def _read(root: Path) -> tuple[int, list[str]]:
    """How many training frames there are, and what is told of the rest."""
    open_capture.cache_clear()
    opened = open_capture(root)
    told = [item.detail for item in opened.left_out if item.split == "train"]
    for frame in opened.splits["train"]:
        opened.image(frame)
        opened.mask(frame)
        try:
            opened.prior("depth", frame)
        except (CaptureError, PriorsError) as error:
            told.append(str(error))
    return len(opened.splits["train"]), told


BAD: dict[str, Callable[[Path], Any]] = {
    "100,000 x 100,000": bombs.IMAGES["100,000 x 100,000"],
    "49 million pixels": bombs._png(7000, 7000, 0),
    "a JPEG's head and 2 GB": bombs.IMAGES["a JPEG's head and 2 GB"],
    "a pipe": KINDS["a pipe"],
    "endless": KINDS["endless"],
    "zeros": KINDS["zeros"],
}


def _measure(root: Path) -> tuple[tuple[int, list[str]] | None, str, float, int]:
    outcome = measured(lambda: _read(root), root.parent)
    return outcome.value, f"{outcome.error}", outcome.seconds, outcome.bytes


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", ["image", "mask", "depth"])
def test_a_bad_file_costs_its_frame(capture: Path, tmp_path: Path, place: str, bad: str) -> None:
    root = tmp_path / "CoreView_377"
    shutil.copytree(capture, root)
    path = _files(root)[place]
    path.unlink()
    BAD[bad](path)
    value, error, seconds, size = in_child(partial(_measure, root))
    assert value is not None, error
    n, told = value
    assert n == (4 if place == "depth" else 3)
    absent = place == "depth" and bad in ("a pipe", "endless")  # no file, and so no map of this frame
    assert absent or any(path.stem in line for line in told), told
    assert seconds < SECONDS
    assert size < BYTES


@pytest.mark.parametrize("place", ["image", "mask"])
def test_the_check_tells_of_it(capture: Path, tmp_path: Path, place: str, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "CoreView_377"
    shutil.copytree(capture, root)
    path = _files(root)[place]
    bombs.IMAGES["100,000 x 100,000"](path)
    open_capture.cache_clear()
    with pytest.raises(SystemExit):
        main([str(root)])
    out, err = capfd.readouterr()
    assert "10000000000pixels" in re.sub(r"\s", "", out + err)
    assert "Traceback" not in out + err


# Names ----------------------------------------------------------------------------------

NAME = "a[/x] [bold]b[/bold] :smile: <script>alert(1)<"


def test_names_are_text(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the words of programs, and on their pages: a folder named as markup, and another inside a closing tag."""
    root = tmp_path / "[" / "x]" / NAME.replace("/", "|")
    shutil.copytree(capture, root)
    open_capture.cache_clear()
    with pytest.raises(SystemExit):
        main([str(root)])
    said = re.sub(r"\s", "", capsys.readouterr().out)
    for name in ("[/x]", "[bold]b[|bold]", ":smile:", "<script>"):
        assert said.count(name) >= 2, name  # in the facts, and in where the page is
    page = (root / "check" / "index.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_what_is_logged_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("fmgs_nerfstudio.console.CONSOLE", Console(file=out, width=200))
    log("left out [/x] [red]a[/red] :smile: \x1b]0;title\x07 \udcff\nnext")
    assert "left out [/x] [red]a[/red] :smile: \\x1b]0;title\\x07 \\udcff" in out.getvalue()
    assert "next" in out.getvalue()


def test_printable() -> None:
    assert printable("é ü 猫 \r\x9b2J\t\n") == "é ü 猫 \\r\\x9b2J\t\n"


def test_pages_escape() -> None:
    with pytest.raises(Exception, match="undefined"):  # StrictUndefined: nothing is left empty in silence
        render("check.html", name=NAME)


@pytest.mark.parametrize("name", ["../other", "/etc", "a/../../b", "..", "C:\\..\\..\\x", "a\0b"])
def test_names_lead_nowhere_else(name: str) -> None:
    with pytest.raises(CaptureError, match=r"list\.json names"):
        inside(Path("/data/capture"), name, Path("/data/capture/list.json"))


def test_names_inside() -> None:
    root = Path("/data/capture")
    for name in ("Camera_B1/000000.jpg", "Camera (1)\\0.jpg", "a..b/c", "..."):
        assert inside(root, name, root / "list.json").is_relative_to(root)


def _arah(root: Path, name: str) -> Path:
    arah(root, Person(3))
    path = root / "CoreView_377" / "cam_params.json"
    cameras = json.loads(path.read_text())
    path.write_text(json.dumps(cameras | {"all_cam_names": [name], name: cameras["1"]}))
    return path


def _easymocap(root: Path, name: str) -> Path:
    (root / "CoreView_377").mkdir()
    easymocap(root / "CoreView_377", Person(3))
    for path in (root / "CoreView_377").glob("*.yml"):
        path.write_text(path.read_text().replace('"01"', json.dumps(name)).replace("_01", f"_{name}"))
    return root / "CoreView_377" / "intri.yml"


@pytest.mark.parametrize("write", [_arah, _easymocap])
def test_cameras_of_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]) -> None:
    monkeypatch.setattr(CONSOLE, "quiet", True)
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path, "../elsewhere" if write is _arah else "../../elsewhere")
    for image in (tmp_path / "CoreView_377").rglob("*.jpg"):
        shutil.copy(image, tmp_path / "elsewhere")
    with pytest.raises(CaptureError, match=rf"{path.name} names '.*elsewhere'; expected a name inside"):
        open_capture(tmp_path / "CoreView_377")
