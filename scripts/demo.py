"""From nothing, or from a video, to an avatar that can be turned around: capture, ns-train, ns-eval, pictures.

What is done is reused.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

RUN_NAME = "run"
STEPS = {"ci": 150, "small": 1000, "full": 600}
VIDEO_STEPS = 1200
_TITLES = {
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "mask_iou": "mask IoU",
    "normal_degrees": "normal error [degrees]",
    "surface_normal_degrees": "normal error of the depth [degrees]",
    "depth_mm": "depth error [mm]",
    "miou": "semantic mIoU",
}


@dataclass
class Demo:
    """Train, evaluate and look at an avatar of the embedded demo person, or of the person in a video."""

    out: Path = Path("demo_out")
    """Folder for the capture, the run, metrics and pictures."""
    preset: Literal["ci", "small", "full"] = "small"
    """Size of the capture: 128, 256 or 512 pixels."""
    seed: int = 0
    """Seed of person, clothes and motion."""
    video: Path | None = None
    """Video of a person before a camera at rest, or a folder with its frames, to be tracked instead of the demo."""
    steps: int | None = None
    """Training steps. Default: 150 (ci), 1,000 (small), 600 (full), 1,200 of a video."""


def main(demo: Demo) -> None:
    console = Console(markup=False, emoji=False)
    name = demo.video.resolve().stem if demo.video else f"{demo.preset}-{demo.seed}"
    out = demo.out.resolve() / name
    capture, run = out / "capture", out / "outputs" / "capture" / "fmgs-avatar" / RUN_NAME

    if demo.video:
        console.rule("1 of 4: fmgs-track")
        _call("fmgs-track", demo.video, "--out", capture)
    else:
        console.rule("1 of 4: a monocular capture of the demo person")
        _call("fmgs-demo", capture, "--preset", demo.preset, "--seed", demo.seed)

    console.rule("2 of 4: ns-train fmgs-avatar")
    steps = demo.steps or (VIDEO_STEPS if demo.video else STEPS[demo.preset])
    if _finished(run, steps):
        console.print(f"Reusing the run in {run}")
    else:
        where = ["--output-dir", out / "outputs", "--experiment-name", "capture", "--timestamp", RUN_NAME]
        how = ["--max-num-iterations", steps, "--vis", "tensorboard", "--logging.steps-per-log", 10]
        _call("ns-train", "fmgs-avatar", "--data", capture, *where, *how)
        (run / "finished.json").write_text(json.dumps({"steps": steps}))

    console.rule("3 of 4: ns-eval on views and poses that training has not seen")
    metrics, newest = out / "metrics.json", max(path.stat().st_mtime for path in run.glob("nerfstudio_models/*.ckpt"))
    if metrics.exists() and metrics.stat().st_mtime > newest:
        console.print(f"Reusing {metrics}")
    else:
        _call("ns-eval", "--load-config", run / "config.yml", "--output-path", metrics)

    console.rule("4 of 4: pictures")
    sheet, video = out / "sheet.png", out / "turnaround.mp4"
    if video.exists() and video.stat().st_mtime > newest:
        console.print("Reusing the pictures")
    else:
        from fmgs_nerfstudio.evaluation.pictures import show_run

        show_run(run / "config.yml", sheet, video)

    console.print(_table(json.loads(metrics.read_text())["results"]))
    console.print(f"Truth and renderings of held-out images: {sheet}", soft_wrap=True)
    console.print(f"Turn-around: {video}", soft_wrap=True)
    viewer = Path(sys.executable).with_name("ns-viewer")
    console.print(f"Turn them around yourself: {viewer} --load-config {run / 'config.yml'}", soft_wrap=True)


def _call(program: str, *arguments: object) -> None:
    """Run one of our or nerfstudio's programs; its output is the progress. Ends with its exit code if it fails."""
    command = [str(Path(sys.executable).with_name(program)), *(str(argument) for argument in arguments)]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def _finished(run: Path, steps: int) -> bool:
    path = run / "finished.json"
    return path.exists() and json.loads(path.read_text())["steps"] == steps


def _table(results: dict[str, float]) -> Table:
    table = Table("held out", "new views, seen poses", "new poses", title="Metrics")
    for key, title in _TITLES.items():
        if key in results or f"novel_pose_{key}" in results:
            table.add_row(
                title, *(f"{results[p + key]:.3f}" if p + key in results else "-" for p in ("", "novel_pose_"))
            )
    return table


if __name__ == "__main__":
    main(tyro.cli(Demo))
