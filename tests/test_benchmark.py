"""Every suite of scripts/benchmark with tiny sizes: that it measures what it says, not how fast that is."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import benchmark_worker
import pytest
import torch
from benchmark_measure import least_ms, machine, rates, timed
from benchmark_report import show
from benchmark_run import ROOT, Bench, crowd
from benchmark_suites import SUITES
from benchmark_training import Training, resized
from nerfstudio.cameras.cameras import Cameras
from support.zju_capture import write_capture

RATES = {"copy_gb_s": 10.0, "matmul_gflop_s": 100.0}
PEER = """
import torch
def prepare(leaves, camera):
    means, tangents, opacities, values = leaves
    def draw():
        return (means.sum() + tangents.sum() + opacities.sum() + values.sum()).expand(camera.height, camera.width, 4)
    return draw
"""


class Here(Bench):
    """Jobs in this process, on a small capture."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder, "none", 1, tiny=True)
        write_capture(folder / "CoreView_1")

    def capture(self, preset: str, *options: str) -> str:
        return str(self.work / "CoreView_1")

    def job(self, kind: str, who: str = "ours", threads: int | None = None, **arguments: Any) -> dict[str, Any]:
        return benchmark_worker.KINDS[kind](**arguments)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Here:
    return Here(tmp_path_factory.mktemp("benchmark"))


@pytest.mark.parametrize("name", [name for name in SUITES if name not in ("start", "track", "chain", "chain-height")])
def test_a_suite(name: str, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "otherrasteriser.py").write_text(PEER)
    rows = SUITES[name](here, (tmp_path / "otherrasteriser.py",))
    assert all("error" not in row for row in rows)
    assert {row["who"] for row in rows} == {"ours"} | {
        "render": {"plain torch", "otherrasteriser"},
        "encode": {"nerfstudio (torch)"},
    }.get(name, set())
    capsys.readouterr()
    show(name, rows, RATES)
    shown = capsys.readouterr().out
    for row in rows:
        assert row["what"].split(",")[0] in " ".join(shown.split())


def test_the_stages_of_a_step_are_all_of_it(here: Here) -> None:
    found = here.job("step", capture=here.capture("small"), steps=2)
    stages = {"data", "pose", "colours", "compositing", "losses", "optimisers", "backward and the rest"}
    assert set(found["stages"]) == stages
    assert all(times["min_ms"] > 0 for times in found["stages"].values())
    shares = sum(times["median_ms"] for times in found["stages"].values())
    assert shares == pytest.approx(found["step"]["median_ms"], rel=0.05)
    weights = 13_776 * 2 * 64 * (64 * 2 + 19 + 24)  # of the skinning field alone: 3 x 64
    assert found["work"]["pose"]["flops"] > weights


def test_a_capture_of_more_frames(here: Here) -> None:
    training = Training(here.capture("small"), frames=7)
    frames = training.manager.train_dataset.frames
    assert len(frames) == 7
    assert len({frame.pose_id for frame in frames}) == 7
    training.step(0)


def test_a_frame_of_another_size() -> None:
    camera = Cameras(torch.eye(4)[None, :3], 50.0, 50.0, 8.0, 4.0, 16, 8, metadata={"pose_id": torch.ones(1, 1)})
    larger, batch = resized(camera, {"image": torch.rand(8, 16, 3), "ids": torch.ones(8, 16).int(), "n": 1}, 2.5)
    assert (int(larger.width[0]), int(larger.height[0]), float(larger.fx[0]), float(larger.cy[0])) == (40, 20, 125, 10)
    assert batch["image"].shape == (20, 40, 3)
    assert batch["ids"].dtype == torch.int32
    assert batch["n"] == 1


def test_measures() -> None:
    calls = list[int]()
    found = timed(lambda: calls.append(1), warm=2, least=5, seconds=0)
    assert (len(calls), found["times"]) == (7, 5)
    assert 0 < found["min_ms"] <= found["median_ms"]
    assert all(value > 0 for value in rates(seconds=0).values())
    assert least_ms({"bytes": 2e7, "flops": 1e8}, RATES) == pytest.approx(2)  # ms of 20 MB at 10 GB/s
    assert least_ms({"bytes": 2e7, "flops": 1e9}, RATES) == pytest.approx(10)
    assert machine()["versions"]["torch"] == metadata.version("torch")


def test_programs_and_a_crowd(here: Here) -> None:
    with crowd(1):
        found = here.program("fmgs-check=fmgs_nerfstudio.cli.check", str(here.folder / "missing"), status=1)
    assert "missing does not exist" in found["said"]
    assert 0 < found["processor_seconds"] < 60
    assert here.program("fmgs-check=fmgs_nerfstudio.cli.check", "missing")["error"].startswith("status 1: fmgs-check: ")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the repository")
def test_a_former_state_is_measured_as_it_was(tmp_path: Path) -> None:
    """Its own code under its own entry points, in a process."""
    bench = Bench(tmp_path, tmp_path, "HEAD", 1, tiny=True)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert bench.former_commit is not None
    assert commit.startswith(bench.former_commit)
    (its,) = metadata.distributions(path=[str(tmp_path / "former")])
    methods = its.entry_points.select(group="nerfstudio.method_configs")
    assert {each.value for each in methods} == {
        "fmgs_nerfstudio.method:fmgs_avatar",
        "fmgs_nerfstudio.method:fmgs_avatar_paper",
    }
    assert bench.program("x=benchmark_former_state", who=bench.former_commit)["error"].startswith("status 1: ModuleNot")
    assert bench.job("encode", bench.former_commit, points=10, seconds=0.0)["forward"]["min_ms"] > 0
