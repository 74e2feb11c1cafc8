"""`fmgs-batch` as a user runs it, with programs that take no time: broken captures, resuming, Ctrl-C, `kill -9`."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from support.stub_programs import batch, captures, environment, install

TABLES = ("table.md", "table.csv", "index.html")


class Desk(NamedTuple):
    """A Python with the stand-ins beside it, and data."""

    root: Path
    python: Path

    @property
    def calls(self) -> list[str]:
        """Every command that was run, without its arguments' folders."""
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def start(self, out: str, *arguments: object, seconds: float = 0) -> subprocess.Popen[str]:
        return batch(
            self.python,
            environment(self.root / "calls", seconds),
            self.root / "data",
            "--out",
            self.root / out,
            *arguments,
        )

    def do(self, out: str, *arguments: object) -> tuple[int, str]:
        process = self.start(out, *arguments)
        said, _ = process.communicate(timeout=300)
        return process.returncode, said

    def tables(self, out: str) -> list[bytes]:
        return [(self.root / out / name).read_bytes() for name in TABLES]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    captures(tmp_path / "data", 3)
    return Desk(tmp_path, install(tmp_path / "bin"))


def until(there: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def test_three_broken_captures_among_twenty_good_ones(tmp_path: Path) -> None:
    """Each is told with its reason; the rest is done; the status says so; all of it is done once what was broken is
    mended, and nothing twice."""
    captures(tmp_path / "data", 23)
    desk = Desk(tmp_path, install(tmp_path / "bin"))
    (tmp_path / "data/p03/not_ready").touch()
    (tmp_path / "data/p07/explodes").touch()
    (tmp_path / "data/p11/mute.txt").write_text("mute")
    status, said = desk.do("out", "--workers", 4)
    assert status == 1, said
    assert "63 done (0 of them before), 3 failed, 3 not run" in said  # train, eval of p03; eval of p07
    for why in (
        "failed p03/check: fmgs-check ended with status 1\nNot ready: the masks lie beside the person",
        "failed p07-fmgs-avatar-0/train: ns-train was ended by SIGKILL",
        "the loss is not finite",
        "failed p11-fmgs-avatar-0/eval: ns-eval ended well and did not write",
        "mean of 20 of 23",
    ):
        assert why in said
    rows = list(csv.DictReader((tmp_path / "out/table.csv").open()))
    assert len(rows) == 23
    missing = {row["capture"]: row["missing"] for row in rows if not row["psnr"]}
    assert missing == {
        "p03": "p03/check failed",
        "p07": "p07-fmgs-avatar-0/train failed",
        "p11": "p11-fmgs-avatar-0/eval failed",
    }
    assert all(row["missing"] == "" for row in rows if row["psnr"])
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<img") == 2 * 20
    before = len(desk.calls)
    for name in ("p03/not_ready", "p07/explodes", "p11/mute.txt"):
        (tmp_path / "data" / name).unlink()
    status, said = desk.do("out", "--workers", 4)
    assert (status, len(desk.calls) - before) == (0, 9), said  # what a capture held is input of all of its tasks
    assert "69 done (60 of them before), 0 failed, 0 not run" in said


def test_what_is_finished_is_kept_and_what_changes_it_is_not(desk: Desk) -> None:
    assert desk.do("out")[0] == 0
    first, count = desk.tables("out"), len(desk.calls)
    assert count == 9
    assert desk.do("out")[0] == 0
    assert (len(desk.calls), desk.tables("out")) == (count, first)
    assert desk.do("out", "--steps", 7)[0] == 0  # of training: checks stay
    assert len(desk.calls) == count + 6
    assert desk.tables("out") != first
    assert desk.do("out", "--steps", 7, "--seeds", 0, 1)[0] == 0  # another seed: the first stays
    assert len(desk.calls) == count + 12
    assert "--dry-run" not in desk.do("out", "--steps", 7, "--seeds", 0, 1, "--dry-run")[1]
    assert len(desk.calls) == count + 12


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_driver_that_is_stopped_loses_what_is_in_flight(desk: Desk, number: int, status: int) -> None:
    """No command lives on; the same command ends with the same tables; what was finished is not done again."""
    process = desk.start("out", "--workers", 2, seconds=0.5)
    until(lambda: len(list((desk.root / "out/state").rglob("*.json"))) >= 2)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    if number != signal.SIGKILL:
        assert "interrupted; the same command goes on where it stopped" in said
    begun, ours = len(desk.calls), str(desk.root / "bin").encode()
    until(lambda: not [path for path in Path("/proc").glob("[0-9]*/cmdline") if ours in _read(path)], 30)
    assert len(desk.calls) == begun  # the stand-ins sleep first
    finished = len(list((desk.root / "out/state").rglob("*.json")))
    assert desk.do("out")[0] == 0
    assert len(desk.calls) == begun + 9 - finished
    assert desk.do("whole")[0] == 0
    assert desk.tables("out") == [text.replace(b"/whole", b"/out") for text in desk.tables("whole")]
    assert not list((desk.root / "out").rglob(".fmgs-aside-*"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def test_a_killed_command_is_a_failure_of_its_own(desk: Desk) -> None:
    (desk.root / "data/p01/explodes").touch()
    status, said = desk.do("out")
    assert status == 1
    assert "7 done (0 of them before), 1 failed, 1 not run" in said
    shutil.rmtree(desk.root / "data/p01")  # gone from the data: no longer asked for
    assert desk.do("out")[0] == 0
