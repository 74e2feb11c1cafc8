"""A real Ray cluster on this machine: the same tables as the local pool's, whatever is killed."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.stub_programs import batch, captures, environment, install

from fmgs_nerfstudio.batch import cluster

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


def test_a_cluster_of_ones_own_is_as_large_as_was_asked_for(tmp_path: Path) -> None:
    captures(tmp_path / "data", 1)
    python, variables = install(tmp_path / "bin"), environment(tmp_path / "calls")
    ray = ("--engine", "ray", "--address", "local", "--workers", 1)
    said, _ = batch(python, variables, tmp_path / "data", "--out", tmp_path / "out", *ray).communicate(timeout=240)
    assert "Ray cluster: 1 node, 1 CPUs" in said
    assert "3 done" in said


@pytest.mark.parametrize(("address", "workers", "at_a_time", "room"), [
    ("head:6379", None, 8, 508), ("head:6379", 3, 3, 3), ("head:6379", 30, 8, 8), ("local", 8, 8, 508),
])  # fmt: skip
def test_workers_bound_what_a_shared_cluster_is_given(
    address: str, workers: int | None, at_a_time: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster of eight CPUs that others use, too; one of our own has no more than `workers`, and may be kept busy."""
    resources = {"CPU": 8.0, "memory": 64 * 2.0**30}
    ray = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": resources}], remote=lambda **options: lambda function: function
    )
    asked: list[int | None] = []
    monkeypatch.setattr(cluster, "_connected", lambda address, cpus: asked.append(cpus) or ray)
    engine = cluster.RayEngine(lambda task: pytest.fail("nothing is ordered"), address, workers, 1, 3.0)
    assert (engine.workers, engine.room) == (at_a_time, room)
    assert asked == [8 if address == "local" else None]
