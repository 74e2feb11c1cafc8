"""fmgs-check on the command line: what it prints and writes, and how it ends."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import pytest
from fmgs_dataparsers.capture import CaptureError
from support.silhouette_capture import content, write_content
from support.trainer_runs import config_for, train
from support.zju_capture import write_capture

from fmgs_nerfstudio.cli import priors
from fmgs_nerfstudio.cli.check import main
from fmgs_nerfstudio.evaluation.check.gradient_table import blocked_parts, gradient_table, leaks
from fmgs_nerfstudio.routes import Strategy


def check(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_a_good_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_content(tmp_path / "CoreView_377", content(4))
    assert check(root) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.endswith("ready")
    for word in ("zju-mocap", "humannerf", "4 train", "224 x 192", "2, focal length 210 px", "mean 0."):
        assert word in text
    sheet = cv2.imread(str(root / "check" / "sheet.png"))
    assert sheet is not None
    assert sheet.shape[1] == 6 * 240
    page = (root / "check" / "index.html").read_text()
    assert "<span>ready</span>" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # needs no other file
    assert sorted(path.name for path in (root / "check").iterdir()) == ["index.html", "sheet.png"]


def test_a_bad_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = content(4)
    made.masks = [[~mask for mask in masks] for masks in made.masks]
    root = write_content(tmp_path / "CoreView_377", made)
    assert check(root, "--out", tmp_path / "there", "--frames", 6) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "Not ready: the masks are inverted" in text
    assert not text.endswith("ready")
    assert "not ready" in (tmp_path / "there" / "index.html").read_text()
    assert not (root / "check").exists()


def test_a_capture_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page goes where ns-train would write; where nothing may be written there is none, and the verdict stands."""
    monkeypatch.chdir(tmp_path)
    root = write_content(tmp_path / "CoreView_377", content(4, 1))
    (root / "check").write_text("a file stands in the way, for root too")
    assert check(root) == 0
    assert sorted(path.name for path in Path("outputs/check/CoreView_377").iterdir()) == ["index.html", "sheet.png"]
    text = " ".join(re.sub(r"\w+\.py:\d+", "", capsys.readouterr().out).split())
    assert "cannot be written to" in text
    assert "See outputs/check/CoreView_377/index.html" in text
    assert check(root, "--out", root / "check") == 1  # at once: nothing is measured
    told = capsys.readouterr()
    assert f"fmgs-check: {root / 'check'} cannot be written to: Not a directory" in told.err
    assert "IoU" not in told.out
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path("outputs").write_text("another")
    assert check(root) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.endswith("ready")
    assert "See " not in text


def test_pixel_centres_are_read_as_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_content(tmp_path / "CoreView_377", content(8))
    for read, advice in (("auto", ()), ("half", ("try pixel-centres whole",))):
        assert check(root, "--pixel-centres", read) == 0  # a remark, no refusal
        text = " ".join(capsys.readouterr().out.split())
        assert tuple(re.findall(r"try pixel-centres \w+", text)) == advice


def test_fmgs_priors_reads_them_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(root: Path, **options: object) -> None:
        raise CaptureError(str(options["pixel_centres"]))

    monkeypatch.setattr(priors, "open_capture", opened)
    with pytest.raises(CaptureError, match="half"):
        priors.run(priors.MakePriors(tmp_path, pixel_centres="half"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the folder of a capture, or --gradients"),
        (("nowhere",), "does not exist"),
        (("nowhere", "--frames", "0"), "expected 1 or more"),
        (("--gradients", "nowhere"), "is no run of fmgs-avatar"),
    ],
)
def test_mistakes_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert check(*arguments) == 1
    assert message in capsys.readouterr().err


def test_gradients_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_capture(tmp_path / "capture")
    made = config_for(tmp_path / "capture", tmp_path / "out", steps=2)
    made.save_config()
    train(made)
    assert check("--gradients", tmp_path / "out") == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    losses = next(line for line in lines if line[:1] == ["part"])[1:]
    rows = {line[0]: line[1:] for line in lines if len(line) == 1 + len(losses)}
    normal = losses.index("L_sn")
    assert rows["displacement"][normal] == rows["skinning"][normal] == "x"
    assert float(rows["rotation"][normal]) > 0
    assert float(rows["appearance"][losses.index("L_c")]) > 0


def test_the_table_marks_what_routes_block() -> None:
    assert blocked_parts("L_c", Strategy()) == frozenset()
    assert blocked_parts("L_iso", Strategy()) == frozenset()
    assert blocked_parts("L_d", Strategy()) == {"rotation"}
    assert blocked_parts("L_n", Strategy()) == blocked_parts("L_sn", Strategy()) == {"displacement", "skinning"}
    assert blocked_parts("L_d", Strategy(priors_move_opacity=False)) == {"rotation", "opacities"}
    assert blocked_parts("L_c", Strategy(priors_move_opacity=False)) == frozenset()
    assert {"pose", "trunk", "rotation", "opacities"} <= blocked_parts("L_s", Strategy())
    norms = {"L_d": {"rotation": 2.0, "displacement": 1.0}, "L_n": {"rotation": 1.0, "displacement": 0.0}}
    assert leaks(norms, Strategy()) == [("L_d", "rotation")]
    rows = [list(column.cells) for column in gradient_table(norms, Strategy()).columns]
    assert rows[1] == ["[bold white on red]! 2.0e+00[/]", "1.0e+00"]
    assert rows[2] == ["1.0e+00", "[red]x[/]"]
    assert list(gradient_table(norms, Strategy(coordinated=False)).columns[2].cells)[1] == "[dim]·[/]"
