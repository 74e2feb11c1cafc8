"""A path that is not there is told before anything heavy is imported: real programs, and what they had loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fmgs_nerfstudio.early import refuse_missing

ROOT = Path(__file__).parents[1]
REPORT = """
import atexit, sys
atexit.register(lambda: print("LOADED", *sys.modules))
sys.argv = sys.argv[1:]
"""


def ends(program: str, *arguments: str, load: str) -> tuple[str, set[str]]:
    """What a program says that ends with status 1, and the modules that it had loaded."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "dataparsers")))}
    command = [sys.executable, "-c", f"{REPORT}{load}", f"/anywhere/bin/{program}", *arguments]
    ended = subprocess.run(command, env=environment, check=False, text=True, capture_output=True)
    assert ended.returncode == 1, ended
    (loaded,) = (line for line in ended.stdout.splitlines() if line.startswith("LOADED"))
    return ended.stderr, set(loaded.split())


@pytest.mark.parametrize("name", ["check", "priors", "animate", "export", "report"])
def test_our_programs_tell_before_torch_is_imported(name: str) -> None:
    said, loaded = ends(f"fmgs-{name}", "no/such", "--data", ".", load=f"import fmgs_nerfstudio.cli.{name}")
    assert said.startswith(f"fmgs-{name}: no/such does not exist; expected ")
    assert said.count("\n") == 1
    assert not loaded & {"torch", "numpy", "nerfstudio", "tyro"}


_SPIN = """
import os, sys
import fmgs_nerfstudio.cli
assert not {"torch", "numba"} & {*sys.modules}
import time, torch, numba, numpy as np
@numba.njit(parallel=True)
def kernel(a):
    for i in numba.prange(a.size):
        a[i] += 1.0
a = np.zeros(512)
kernel(a)
own, all_of_them = time.thread_time(), time.process_time()
for _ in range(200):
    kernel(a)
    pause = time.thread_time() + 2e-4
    while time.thread_time() < pause:
        pass
print(os.environ["OMP_WAIT_POLICY"], (time.process_time() - all_of_them) / (time.thread_time() - own))
"""


@pytest.mark.parametrize("users", [None, "active"])
def test_threads_wait_asleep_unless_the_user_wants_otherwise(users: str | None) -> None:
    """Between kernels, numba's second thread takes no processor time; spinning, it takes all of a core."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "dataparsers")))}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment.pop(name, None)
    environment |= {"NUMBA_NUM_THREADS": "2"} | ({"OMP_WAIT_POLICY": users} if users else {})
    ended = subprocess.run([sys.executable, "-c", _SPIN], env=environment, check=True, text=True, capture_output=True)
    policy, ratio = ended.stdout.split()
    assert policy == (users or "passive")
    if users is None:
        assert float(ratio) < 1.5


def test_ns_train_tells_when_it_first_asks_us() -> None:
    """nerfstudio has imported torch by then, but none of its methods, nor ours."""
    said, loaded = ends("ns-train", "fmgs-avatar", "--data", "no/such", load="import nerfstudio.scripts.train")
    assert said.splitlines()[-1].startswith("ns-train: no/such does not exist; expected the folder of a capture")
    assert not loaded & {"nerfstudio.models.nerfacto", "fmgs_nerfstudio.method", "numba"}


GONE = [
    "ns-train fmgs-avatar --data gone",
    "ns-train fmgs-avatar-paper --pipeline.model.seed 3 --data=gone",
    "ns-train fmgs-avatar --pipeline.datamanager.data gone",
    "ns-train fmgs-avatar --data here --load_dir gone",
    "ns-train fmgs-avatar --data here --load-checkpoint=gone",
    "fmgs-check here --data gone",
    "fmgs-check --gradients gone",
    "fmgs-report here gone --out new",
    "fmgs-animate here --motion gone",
]
FINE = [
    "ns-train nerfacto --data gone",
    "ns-train fmgs-avatar --data here --output-dir new --experiment-name gone",
    "ns-train fmgs-avatar --data 377",
    "ns-train fmgs-avatar --load-config None --data",
    "ns-train -h",
    "ns-train",
    "fmgs-check -h",
    "fmgs-check --frames 4 here",
    "fmgs-animate here --video new.mp4 --stop 2",
    "fmgs-demo new --seed 3",
    "pytest gone",
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "CoreView_377"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", GONE)
def test_what_is_not_there(line: str) -> None:
    with pytest.raises(SystemExit, match=r"^[a-z-]+: gone does not exist; expected "):
        refuse_missing(line.split())


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", FINE)
def test_what_may_be_all_right_is_let_through(line: str) -> None:
    refuse_missing(line.split())
    refuse_missing([])
