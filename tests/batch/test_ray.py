"""A real Ray cluster on this machine: the same tables as the local pool's, whatever is killed."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.stub_programs import batch, captures, environment, install

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (the extra ray)")
TABLES = ("table.md", "table.csv", "index.html")


def test_a_worker_is_killed_and_the_tables_are_those_of_the_local_pool(tmp_path: Path) -> None:
    """To the last bit; the killed task begins again, no other does."""
    captures(tmp_path / "data", 4)
    (tmp_path / "data/p02/not_ready").touch()
    python, out = install(tmp_path / "bin"), tmp_path / "ray"
    variables = environment(tmp_path / "calls", 0.3)
    process = batch(python, variables, tmp_path / "data", "--out", out, "--engine", "ray", "--workers", 2)
    log = _log_of_a_training(out / "state", process)
    (worker,) = re.findall(r"process (\d+)", log.read_text())
    os.kill(int(worker), signal.SIGKILL)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 1, said
    assert "9 done (0 of them before), 1 failed, 2 not run" in said
    workers = re.findall(r"process (\d+)", log.read_text())
    assert len(workers) == 2, log.read_text()  # begun twice
    others = [path for path in (out / "state").rglob("*.log") if path != log]
    assert all(len(re.findall(r"process \d+", path.read_text())) == 1 for path in others)
    local = batch(python, environment(tmp_path / "calls2"), tmp_path / "data", "--out", tmp_path / "local")
    assert local.wait(120) == 1
    for name in TABLES:
        ours = (out / name).read_text().replace(str(out), "OUT")
        assert ours == (tmp_path / "local" / name).read_text().replace(str(tmp_path / "local"), "OUT")
    for line in _results(tmp_path / "calls", out):
        assert line in _results(tmp_path / "calls2", tmp_path / "local")


def _log_of_a_training(state: Path, process: subprocess.Popen[str]) -> Path:
    """Of one that has begun and not ended."""
    end = time.monotonic() + 400
    while time.monotonic() < end and process.poll() is None:
        for log in state.rglob("train.log"):
            if not log.with_suffix(".json").exists() and "process" in log.read_text():
                return log
        time.sleep(0.01)
    process.terminate()
    raise AssertionError(f"no training has begun: {process.communicate(timeout=60)[0]}")


def _results(calls: Path, out: Path) -> set[str]:
    return {re.sub(r"\S*\.fmgs-aside-[^ /]*", "ASIDE", line.replace(str(out), "OUT")) for line in calls.open()}


def test_what_ray_cannot_give_is_told_at_the_start(tmp_path: Path) -> None:
    captures(tmp_path / "data", 1)
    python, variables = install(tmp_path / "bin"), environment(tmp_path / "calls")
    arguments = (tmp_path / "data", "--out", tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1")
    process = batch(python, variables, *arguments)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "fmgs-batch: no Ray cluster at 127.0.0.1:1" in said
