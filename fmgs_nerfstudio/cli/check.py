"""`fmgs-check`: is a capture what its reader takes it for? And which loss moves what in a trained avatar?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from fmgs_dataparsers.assemble import Gender
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.parser import LayoutName, PixelCentresChoice, open_capture
from fmgs_dataparsers.protocols import Name
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fmgs_nerfstudio.cli.errors import in_one_line
from fmgs_nerfstudio.evaluation.check.fit_check import FitReport, check_capture, priors_at_hand
from fmgs_nerfstudio.evaluation.check.gradient_table import gradient_table, leaks
from fmgs_nerfstudio.evaluation.check.page import html_page, overlay_sheet
from fmgs_nerfstudio.evaluation.gradients import gradient_norms
from fmgs_nerfstudio.evaluation.runs import RunError, open_run
from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.maps.maps import PriorsError

_WORST = 5


@dataclass(frozen=True)
class Check:
    """Draw the SMPL fit over frames of a capture and say whether it can be trained on, or else what is wrong.

    Writes check/sheet.png and check/index.html. Or, with --gradients, print which loss moves which parameters.
    """

    path: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of the capture."""
    layout: LayoutName = "auto"
    """Layout of the folder. auto: recognised by its files."""
    protocol: Name = "auto"
    """Training and test split. auto: the one that training would choose."""
    body_model: Path | None = None
    """SMPL model file, or a folder with one. Default: searched in the capture's folder, then in $SMPL_MODEL_DIR."""
    gender: Gender = "auto"
    """Gender of the SMPL model. auto: from the folder's name for PeopleSnapshot, else neutral."""
    pixel_centres: PixelCentresChoice = "auto"
    """Pixel centres of the capture's calibration: whole (OpenCV), or half (+0.5). auto: as its layout has them."""
    frames: int = 64
    """Approximate number of frames to check, over training and held-out images; at least two of every camera."""
    out: Path | None = None
    """Folder for the sheet and the page. Default: check/ in the capture."""
    gradients: Path | None = None
    """A trained run (config.yml, its folder, or a folder above): print its gradient norms by loss and parameter."""


def run(check: Check) -> bool:
    """Check what was asked for and print it. Returns whether all is well.

    Raises:
        CaptureError, PriorsError, FileNotFoundError, RunError: a mistake of the user's.
    """
    if (check.path is None) == (check.gradients is None):
        raise CaptureError("give the folder of a capture, or --gradients and a run")
    if check.frames < 1:
        raise CaptureError(f"--frames is {check.frames}; expected 1 or more")
    console = Console()
    if check.gradients is not None:
        return _show_gradients(check.gradients, console)
    assert check.path is not None
    root = check.path.resolve()
    capture = open_capture(
        root,
        check.layout,
        check.body_model,
        protocol=check.protocol,
        gender=check.gender,
        pixel_centres=check.pixel_centres,
    )
    with Progress(TextColumn("Checking"), BarColumn(), TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("check")
        report = check_capture(capture, check.frames, lambda done, total: bar.update(task, completed=done, total=total))
    facts = facts_of(report)
    _show(report, facts, console)
    if report.frames:
        _save(report, facts, check.out or capture.root / "check", console)
    for problem in report.problems:
        console.print(f"[bold red]Not ready[/]: {escape(problem)}")
    for remark in report.remarks:
        console.print(f"Note: {escape(remark)}")
    if report.ready:
        console.print("[bold green]ready[/]")
    return report.ready


def facts_of(report: FitReport) -> dict[str, str]:
    """What the capture is, line by line."""
    capture = report.capture
    splits = ", ".join(f"{len(frames)} {name.replace('_', ' ')}" for name, frames in capture.splits.items())
    facts = {
        "folder": str(capture.root),
        "layout": capture.layout,
        "protocol": f"{capture.protocol}: {splits} images",
        "images": _sizes(capture),
        "cameras": _cameras(capture),
        "poses": f"{len(capture.poses)}, {len(capture.betas)} betas, body model {capture.body_model.name}",
        "priors": ", ".join(
            f"{kind} {count} of {len(capture.splits['train'])}" for kind, count in priors_at_hand(capture).items()
        )
        + " training frames",
    }
    if report.frames:
        coverage = np.array([frame.coverage for frame in report.frames])
        worst = ", ".join(f"{frame.name} {frame.iou:.2f}" for frame in report.worst(_WORST))
        facts |= {
            "masks": f"cover {coverage.mean():.1%} of the image ({coverage.min():.1%} to {coverage.max():.1%})",
            "IoU": f"mean {report.mean:.2f} of projected body and mask over {len(report.frames)} frames",
            "worst": worst,
        }
    return facts


def _sizes(capture: Capture) -> str:
    sizes = dict.fromkeys(
        (camera.width, camera.height, *capture.intrinsics(name)[1:]) for name, camera in capture.cameras.items()
    )
    return ", ".join(
        f"{width} x {height}" + (f", trained at {w} x {h}" if (w, h) != (width, height) else "")
        for width, height, w, h in sizes
    )


def _cameras(capture: Capture) -> str:
    cameras = list(capture.cameras.values())
    focal = [camera.K[0, 0] for camera in cameras]
    positions = [-camera.world_to_camera[:3, :3].T @ camera.world_to_camera[:3, 3] for camera in cameras]
    away = [np.linalg.norm(capture.transl.mean(0) - position) for position in positions]
    distorted = sum(camera.distortion is not None and bool(np.any(camera.distortion)) for camera in cameras)

    def span(values: Sequence[float], digits: int) -> str:
        low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
        return low if low == high else f"{low} to {high}"

    return (
        f"{len(cameras)}, focal length {span(focal, 0)} px, {span([float(a) for a in away], 1)} m from the person, "
        f"{distorted or 'none'} with distortion"
    )


def _show(report: FitReport, facts: dict[str, str], console: Console) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        table.add_row(name, escape(value))
    console.print(table)
    cameras = report.by_camera()
    if len(cameras) > 1:
        means = (f"{camera} {np.mean([frame.iou for frame in frames]):.2f}" for camera, frames in cameras.items())
        console.print(f"Mean IoU by camera: {escape(', '.join(means))}", highlight=False)


def _save(report: FitReport, facts: dict[str, str], out: Path, console: Console) -> None:
    _, encoded = cv2.imencode(".png", overlay_sheet(report)[..., ::-1])
    with atomic_path(out / "sheet.png") as path:
        path.write_bytes(encoded.tobytes())
    with atomic_path(out / "index.html") as path:
        path.write_text(html_page(report, facts, encoded.tobytes()), encoding="utf-8")
    console.print(escape(f"See {out / 'index.html'} (the sheet alone: {out / 'sheet.png'})"), highlight=False)


def _show_gradients(path: Path, console: Console) -> bool:
    opened = open_run(path)
    camera, batch = opened.pipeline.datamanager.next_train(opened.model.step)
    norms = gradient_norms(opened.model, camera, batch)
    strategy = opened.model.strategy
    console.width = max(console.width, 16 + 11 * len(norms))  # a matrix with cells cut off says nothing
    console.print(gradient_table(norms, strategy))
    if not strategy.coordinated:
        console.print("Trained without coordination: every loss may move everything.")
        return True
    console.print(
        "·  zero    [red]x[/]  zero, as the table of routes asks for    [bold white on red]![/]  should be zero"
    )
    if found := leaks(norms, strategy):
        console.print(f"[bold red]Leaks[/]: {', '.join(f'{loss} moves {part}' for loss, part in found)}")
    return not found


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `fmgs-check`. Exit status: 0 all is well, 1 something is wrong."""
    check = tyro.cli(Check, prog="fmgs-check", args=arguments)
    with in_one_line("fmgs-check", CaptureError, PriorsError, RunError, interrupted="nothing was changed"):
        good = run(check)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
