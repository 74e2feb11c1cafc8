"""Nothing is lost: training and every writer, killed and interrupted for real; see `support.kill_points`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.killing import Found

Kills = dict[str, Found]
TRAINING = (
    "an uninterrupted run",
    "kill_training",
    "signal_training",
    "signal_twice",
    "fill_training",
    "tear_training",
)
WRITERS = ("export", "animate", "report", "demo", "priors")
FULL = ("export on a full disk", "animate on a full disk", "report on a full disk", "demo on a full disk")


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Kills:
    """All kill points, in one process that forks."""
    folder = tmp_path_factory.mktemp("kills")
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-m", "support.kill_points", str(folder)],
        env={**os.environ, **one, "NUMBA_THREADING_LAYER": "workqueue", "PYTHONPATH": paths},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return {name: Found(**found) for name, found in json.loads(ended.stdout.splitlines()[-1]).items()}


@pytest.mark.parametrize("name", [*TRAINING, *WRITERS, *FULL])
def test_nothing_is_lost(kills: Kills, name: str) -> None:
    assert not kills[name].problems


def test_kill_points_are_many(kills: Kills) -> None:
    assert sum(found.killed for found in kills.values()) >= 50
    assert all(kills[name].killed >= 5 for name in WRITERS)
    assert kills["kill_training"].killed >= 15
    assert kills["kill_training"].lost <= 2  # steps; a checkpoint is written every two
