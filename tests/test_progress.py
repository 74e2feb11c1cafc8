"""What a training says on a terminal, into a pipe and into its log: real processes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import NamedTuple

import pytest
from support.zju_capture import write_capture

from fmgs_nerfstudio import progress
from fmgs_nerfstudio.progress import Progress, ProgressConfig, fitting, in_words

ROOT = Path(__file__).parents[1]
COLUMNS, STEPS = 60, 6


class Said(NamedTuple):
    terminal: str
    pipe: str
    logs: dict[str, str]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """One training on a terminal of 60 columns and one into a pipe, at the same time."""
    folder = tmp_path_factory.mktemp("progress")
    write_capture(folder / "CoreView_1")
    paths = os.pathsep.join((str(ROOT), str(ROOT / "dataparsers")))
    environment = os.environ | {"PYTHONPATH": paths, "TERM": "xterm"}
    for name in ("PYTHONWARNINGS", "COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        environment.pop(name, None)

    def start(name: str, output: int) -> subprocess.Popen[bytes]:
        words = [
            "fmgs-avatar", "--data", folder / "CoreView_1", "--output-dir", folder, "--timestamp", name,
            "--vis", "tensorboard", "--max-num-iterations", STEPS, "--steps-per-eval-image", 3,
            "--pipeline.datamanager.check-fit", "False", "--pipeline.model.schedule.skinning-fit-steps", 5,
        ]  # fmt: skip
        program = [sys.executable, "-c", "from nerfstudio.scripts.train import entrypoint; entrypoint()"]
        return subprocess.Popen([*program, *map(str, words)], env=environment, stdout=output, stderr=output)

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    with (folder / "piped").open("wb") as file:
        children = [start("terminal", theirs), start("pipe", file.fileno())]
        os.close(theirs)
        seen = b""
        while chunk := _read(ours):
            seen += chunk
        assert [child.wait() for child in children] == [0, 0], seen.decode()[-2000:]
    os.close(ours)
    logs = {path.parent.name: path.read_text() for path in folder.glob("*/fmgs-avatar/*/training.log")}
    return Said(seen.decode(), (folder / "piped").read_text(), logs)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # nobody writes there any more
        return b""


def test_a_terminal_shows_one_line_that_fits(said: Said) -> None:
    """Each drawing begins where the former one did, and is cleared before anything else is printed."""
    drawn = re.findall(r"\r\x1b\[2K(step [^\r\x1b]*)", said.terminal)
    assert drawn[0].startswith(f"step 1/{STEPS}, loss ")
    assert all(len(line) < COLUMNS for line in drawn)
    assert re.match(rf"step {STEPS}/{STEPS}, took \d+ s, loss \d+\.\d{{4}}, PSNR \d+\.\d dB", drawn[-1])
    assert any(re.match(r"step \d/6, \d+ s left, loss [\d.]+, PSNR [\d.]+ dB", line) for line in drawn[1:-1])
    for line in said.terminal.split("\n"):  # what is left on the screen: one progress line, the last
        shown = re.split(r"\r\x1b\[2K", line.rstrip("\r"))[-1]
        assert "step " not in shown or shown.startswith(f"step {STEPS}/{STEPS}"), line
    assert said.terminal.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_the_cursor_is_there_all_the_time(said: Said) -> None:
    """A killed training leaves a terminal that can be typed into."""
    hidden = re.split(r"\x1b\[\?25l", said.terminal)[1:]
    assert hidden
    assert all(part.startswith("\x1b[?25h") for part in hidden)


def test_a_pipe_gets_a_line_now_and_then(said: Said) -> None:
    lines = [line for line in said.pipe.splitlines() if line.startswith("step ")]
    assert lines[0].startswith(f"step 1/{STEPS}, loss ")
    assert lines[-1].startswith(f"step {STEPS}/{STEPS}, took ")
    assert len(lines) <= 3  # one in ten seconds
    assert not re.search(r"[\r\x1b]", said.pipe)


def test_the_log_of_the_run_has_the_lines(said: Said) -> None:
    for name, text in said.logs.items():
        first, *_, last = text.splitlines()
        assert re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  step 1/{STEPS}, loss ", first), name
        assert f"step {STEPS}/{STEPS}, took " in last
    assert sorted(said.logs) == ["pipe", "terminal"]


def test_nothing_of_other_packages_is_between_our_lines(said: Said) -> None:
    """torch.jit's comes before nerfstudio imports any plugin; the tables of the host come on request."""
    for text in (said.terminal, said.pipe):
        _, ours = text.split("fmgs-avatar: ", 1)
        assert "Warning" not in ours
        assert "torch.cuda.amp" not in text
        for word in ("Step (% Done)", "Printing profiling stats", "_target"):
            assert word not in text


def test_the_hosts_table_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert type(ProgressConfig(table=True).setup()) is progress.writer.LocalWriter
    assert type(ProgressConfig().setup(["a banner"])) is not progress.writer.LocalWriter
    assert capsys.readouterr().out == "a banner\n"


def test_time_left_is_of_the_last_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run of 1,000 steps from 500 on; its first step takes a minute, the others 2 s."""
    now = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    shown = Progress(1000, tmp_path / "log", shown=False)
    with shown:
        for step in range(500, 600):
            now += 60 if step == 500 else 2
            shown.saw(loss=step, psnr=20)
            shown.done(step)
    last = (tmp_path / "log").read_text().splitlines()[-1].split("  ")[1]
    assert last == f"step 600/1,500, 30 min 0 s left, loss {574.5:.4f}, PSNR 20.0 dB, 2.00 s a step"
    assert len((tmp_path / "log").read_text().splitlines()) == 11  # 1 % of 1,000 steps is 20 s


def test_an_end_before_the_end_is_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError), Progress(5, tmp_path / "log", shown=False):
        raise ArithmeticError("the loss is not finite")
    assert (tmp_path / "log").read_text().endswith("  ended by ArithmeticError: the loss is not finite\n")


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1, tmp_path / "missing" / "log", shown=False) as shown:
        shown.done(0)
    assert "misses a line" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("width", "expected"),
    [(80, "step 1/2, 3 s left, loss 1"), (20, "step 1/2, 3 s left"), (12, "step 1/2"), (5, "step "), (-1, "")],
)
def test_a_narrow_terminal_shows_what_matters_most(width: int, expected: str) -> None:
    assert fitting("step 1/2, 3 s left, loss 1", width) == expected


def test_times_in_words() -> None:
    assert [in_words(s) for s in (0.4, 59.4, 59.6, 250, 7500, 266_400)] == [
        "0 s", "59 s", "1 min 0 s", "4 min 10 s", "2 h 5 min", "3 d 2 h",
    ]  # fmt: skip
