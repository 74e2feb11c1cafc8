"""The check on a card: environment, kernels, agreement with the CPU, time, a training, gpu tests, commands."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import card_agreement
import card_timing
import gsplat
import numba
import numpy as np
import torch
import tyro
from card_setup import Bench, CardCheck, CardReport, Results

from fmgs_nerfstudio.cli import animate, export
from fmgs_nerfstudio.evaluation.runs import open_run
from fmgs_nerfstudio.rendering.cuda import check_backend
from fmgs_nerfstudio.surfels import SurfelsConfig

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = Path(__file__).with_name("card_check_expected.json")
"""What the CPU reaches on the demo's small capture, seed 0."""


def _run(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def machine(bench: Bench) -> Results:
    """What runs here."""

    def output(*command: str) -> str:
        try:
            return _run(command, timeout=30).stdout.strip()
        except OSError:
            return "not there"

    query = "--query-gpu=name,driver_version,memory.total,clocks.sm"
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda of torch": torch.version.cuda,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "gsplat": gsplat.__version__,
        "cores": os.cpu_count(),
        "nvcc": (output("nvcc", "--version").splitlines() or ["not there"])[-1],
        "card": output("nvidia-smi", query, "--format=csv,noheader"),
        "tinycudann": importlib.util.find_spec("tinycudann") is not None,
        "commit": output("git", "log", "-1", "--format=%h %s"),
        "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
        "TF32 in products": torch.backends.cuda.matmul.allow_tf32,
    }
    if torch.cuda.is_available():
        at = torch.cuda.get_device_properties(0)
        memory = at.total_memory / 2**30
        found["device"] = f"{at.name}, {at.multi_processor_count} SMs, {memory:.0f} GiB, sm_{at.major}{at.minor}"
    for name, value in found.items():
        bench.say(f"{name}: {value}")
    return found


def kernels(bench: Bench) -> Results:
    """gsplat's kernels: its own build, the first time, or a module compiled before."""
    if not bench.on_card:
        bench.say("gsplat's kernels are not built without a card")
        return {"left out": "cuda only"}
    begin = time.monotonic()
    check_backend()
    seconds = time.monotonic() - begin
    file = Path(importlib.import_module("gsplat.cuda._backend")._C.__file__)
    bench.say(f"gsplat's kernels: {seconds:.0f} s to load or compile, {file.stat().st_size / 1e6:.1f} MB, {file}")
    return {"file": str(file), "bytes": file.stat().st_size, "load or compile s": seconds}


def training(bench: Bench) -> Results:
    """A short run with its evaluation, against the CPU's."""
    steps = bench.options.steps
    made = bench.trainer_config(steps, "training")
    torch.manual_seed(made.machine.seed)
    begin = time.monotonic()
    trainer = made.setup()
    trainer.setup()
    made.save_config()
    ready = time.monotonic()
    trainer.train()
    bench.synchronize()
    trained = time.monotonic()
    bench.trained = made.get_base_dir()
    metrics = {k: float(v) for k, v in trainer.pipeline.eval().get_average_eval_image_metrics().items()}
    seconds = {"set-up": ready - begin, "training": trained - ready, "evaluation": time.monotonic() - trained}
    bench.say(f"run of {steps} steps, s: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    found: Results = {"steps": steps, "seconds of": seconds, "metrics": metrics}
    known = json.loads(EXPECTED.read_text())
    expected = known["metrics"] if steps == known["steps"] and _made_with(bench.capture) == known["capture"] else {}
    for name, value in metrics.items():
        against = f"  ({value - expected[name]:+.3g} against the CPU's)" if name in expected else ""
        bench.say(f"  {name:<26} {value:.4g}{against}")
    found["minus the CPU's"] = {k: metrics[k] - value for k, value in expected.items() if k in metrics}
    for name, limit in (("psnr", 0.3), ("novel_pose_psnr", 0.3), ("normal_degrees", 0.5)):
        if name in expected and not abs(metrics[name] - expected[name]) < limit:
            bench.failures.append(f"training: {name} {metrics[name]:.2f}, the CPU's {expected[name]:.2f} +- {limit}")
    return found


def _made_with(capture: Path) -> object:
    """The options of a capture of the demo."""
    protocol = capture / "protocol.json"
    return json.loads(protocol.read_text()).get("generator") if protocol.is_file() else None


def tests(bench: Bench) -> Results:
    """The tests that need a card."""
    files = [str(p) for p in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in p.read_text()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short", *files]
    done = _run(command, timeout=300)
    (bench.out / "pytest.log").write_text(done.stdout + done.stderr)
    lines = done.stdout.splitlines()
    last = next((line for line in reversed(lines) if re.search(r"passed|failed|skipped|error", line)), "nothing ran")
    for line in lines:
        if line.startswith(("FAILED", "ERROR", "E  ")):
            bench.say("pytest: " + line[:200])
    bench.say(f"pytest -m gpu: {last.strip('= ')}")
    if done.returncode:
        bench.failures.append(f"pytest -m gpu: {last.strip('= ')}; see pytest.log")
    return {"files": files, "exit": done.returncode, "last": last}


def commands(bench: Bench) -> Results:
    """What people run on a trained avatar: does it run?"""
    run, found = str(bench.trained or bench.runs), {}

    def attempt(name: str, function: Callable[[], object]) -> None:
        begin = time.monotonic()
        try:
            function()
            found[name] = f"{time.monotonic() - begin:.1f} s"
        except (Exception, SystemExit) as error:
            found[name] = f"FAILED, {type(error).__name__}: {str(error)[:300]}"
            bench.failures.append(f"{name}: {found[name]}")
            traceback.print_exc()
        bench.say(f"{name}: {found[name]}")

    of_animation = ["--frames", str(bench.runs / "frames"), "--camera", "orbit", "--stop", "0.1"]
    formats = ["--formats", "splats", "glb", "ply", "--splat-steps", "20" if bench.on_card else "1", "--no-geometry"]
    attempt("fmgs-animate", lambda: animate.main([run, *of_animation]))
    attempt("fmgs-export", lambda: export.main([run, "--out", str(bench.runs / "exported"), *formats]))
    attempt("the viewer's picture", lambda: _viewer(bench, Path(run)))
    return found


def _viewer(bench: Bench, run: Path) -> None:
    opened = open_run(run)
    assert opened.model.device.type == bench.options.device, opened.model.device
    camera = deepcopy(bench.cropped_frame[0])
    camera.metadata = {"cam_idx": 0}
    maps = opened.model.get_outputs_for_camera(camera)
    assert all(value.isfinite().all() for value in maps.values())


def gaussians(bench: Bench) -> Results:
    """The ablation with 3D Gaussians, which only a card renders."""
    if not bench.on_card:
        return {"left out": "cuda only"}
    made = bench.trainer_config(30, "gaussians")
    made.pipeline.model.surfels = SurfelsConfig(guided=False, kind="3d")
    torch.manual_seed(made.machine.seed)
    trainer = made.setup()
    trainer.setup()
    begin = time.monotonic()
    trainer.train()
    bench.synchronize()
    seconds = time.monotonic() - begin
    bench.say(f"3D Gaussians: 30 steps in {seconds:.1f} s")
    return {"seconds of 30 steps": seconds}


# In order, with the seconds that each needs on a card once gsplat's kernels are there.
SECTIONS: dict[str, tuple[Callable[[Bench], Results], float]] = {
    "machine": (machine, 0),
    "kernels": (kernels, 30),
    "timing": (card_timing.timing, 40),
    "fps": (card_timing.fps, 15),
    "training": (training, 50),
    "step": (card_agreement.step, 60),  # numba compiles the CPU's kernels
    "layers": (card_agreement.layers, 40),
    "pieces": (card_agreement.pieces, 15),
    "tests": (tests, 60),
    "commands": (commands, 40),
    "gaussians": (gaussians, 20),
}


def check(options: CardCheck) -> Bench:
    """Run the sections asked for; results are in `card_check.json` and in the report."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: there is no CUDA device here; --device cpu runs what needs none")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    capture = options.capture.resolve() if options.capture else out / "capture"
    bench = Bench(options, capture, out, CardReport(out / "card_check.json", options.budget))
    if options.capture is None:
        from fmgs_nerfstudio.cli import demo

        demo.run(demo.Demo(capture))
    for name, (function, needs) in SECTIONS.items():
        if not options.only or name in options.only:
            bench.report.section(name, lambda function=function: function(bench), needs if bench.on_card else 0)
    print("\n" + "=" * 100 + "\n" + "\n".join(bench.report.lines))
    failed = [f"{name}: {r['error'].splitlines()[-1]}" for name, r in bench.report.results.items() if "error" in r]
    print("\n".join(["", "over a limit or failed: " + ("" if failed + bench.failures else "nothing")]))
    print("\n".join(f"  {failure}" for failure in failed + bench.failures))
    return bench


if __name__ == "__main__":
    check(tyro.cli(CardCheck))
