"""`fmgs-priors`: masks, human parsing, depth and normals for every frame of a capture, and whether they are right."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import tyro
from fmgs_dataparsers.capture import Capture, CaptureError, Frame
from fmgs_dataparsers.parser import PixelCentresChoice, open_capture

from fmgs_nerfstudio.cli.bars import frames_bar
from fmgs_nerfstudio.cli.errors import in_one_line
from fmgs_nerfstudio.files import atomic_path, write_image
from fmgs_nerfstudio.maps.info import DepthKind, Kind, write_info
from fmgs_nerfstudio.maps.maps import PriorsError, open_priors
from fmgs_nerfstudio.priors.checkpoints import CheckpointError, Consent, find_weights
from fmgs_nerfstudio.priors.checks import WARNINGS, PriorsReport, check
from fmgs_nerfstudio.priors.estimate import Job, estimate
from fmgs_nerfstudio.priors.estimators import ESTIMATORS
from fmgs_nerfstudio.priors.estimators.base import EstimatorError, EstimatorOptions
from fmgs_nerfstudio.priors.sheet import contact_sheet

if TYPE_CHECKING:
    EstimatorName = str
else:
    EstimatorName = tyro.extras.literal_type_from_choices(ESTIMATORS)

_SHEET_ROWS = 8


@dataclass(frozen=True)
class MakePriors:
    """Write prior maps of a capture to its folder priors/, check them, and draw a contact sheet of them.

    Only what is missing is made; an interrupted run goes on where it stopped. Weights are downloaded only if you agree.
    """

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of the capture."""
    estimator: EstimatorName = "sapiens"
    """Networks to run. sapiens: Sapiens v1 in TorchScript; sapiens2 and transformers need the extra "priors"."""
    size: str | None = None
    """Released size of the networks, e.g. 0.3b. Default: 1b, because smaller parsing networks are not good."""
    checkpoint: str | None = None
    """Folder or file with weights, or another repository of the Hugging Face hub. Default: the released weights."""
    kinds: tuple[Kind, ...] = ()
    """Maps to make. Default: all that the estimator gives."""
    device: str = "auto"
    """Device of the networks. auto: CUDA where there is a card, else the CPU."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the networks."""
    batch_size: int = 4
    """Images per call of the network."""
    crop: bool = False
    """Give the network the person's box (from the capture's mask) instead of the whole image."""
    frames: Literal["train", "all"] = "train"
    """Frames to process: training frames, the only ones whose priors are used, or held-out ones too."""
    overwrite: bool = False
    """Replace existing maps, e.g. those of another estimator."""
    download: bool = False
    """Agree to download missing weights under the licence that is shown."""
    label_map: Path | None = None
    """For transformers: JSON from the model's class names to the 28 of Sapiens v1, with "*" for all others."""
    depth_kind: DepthKind | None = None
    """For transformers: kind of depth that the model gives. Default: as its configuration says."""
    body_model: Path | None = None
    """SMPL model file, or a folder with one. Default: searched in the capture's folder, then in $SMPL_MODEL_DIR."""
    pixel_centres: PixelCentresChoice = "auto"
    """Pixel centres of the capture's calibration: whole (OpenCV), or half (+0.5). auto: as its layout has them."""
    check_only: bool = False
    """Only check the existing maps (priors/, or sapiens/ as the demos of Sapiens write it)."""
    accept_corrections: bool = False
    """Record in priors.json what the check found: flipped or swapped axes of normals, inverted depth."""
    sheet_every: int | None = None
    """Draw every n-th frame on the contact sheet. Default: chosen so that it has about 8 rows."""


def run(command: MakePriors) -> bool:
    """Make, check and show. Returns whether the conventions are as recorded.

    Raises:
        CaptureError, PriorsError, CheckpointError, EstimatorError: a mistake of the user's or a corrupt file.
    """
    for name, value in (("--batch-size", command.batch_size), ("--sheet-every", command.sheet_every)):
        if value is not None and value < 1:
            raise EstimatorError(f"{name} is {value}; expected 1 or more.")
    capture = open_capture(
        command.path.resolve(),
        body_model=command.body_model,
        need_masks=False,
        pixel_centres=command.pixel_centres,
    )
    splits = capture.splits.values() if command.frames == "all" else [capture.splits["train"]]
    frames = list(dict.fromkeys(frame for split in splits for frame in split))
    if not command.check_only:
        _make(command, capture, frames)
    capture = dataclasses.replace(capture, priors=open_priors(capture.root))
    if capture.priors is None:
        raise PriorsError(f"{capture.root} has no prior maps (priors/ or sapiens/); run without --check-only.")
    with frames_bar() as bar:
        task = bar.add_task("Checking", total=len(frames))
        report = check(capture, frames, lambda done, total: bar.update(task, completed=done))
    _show(report)
    _save(capture, frames, report, command.sheet_every)
    return _apply_corrections(capture, report, command.accept_corrections)


def _make(command: MakePriors, capture: Capture, frames: Sequence[Frame]) -> None:
    kinds = frozenset(command.kinds) or None
    options = EstimatorOptions(
        size=command.size,
        checkpoint=command.checkpoint,
        kinds=kinds,
        device=_device(command.device),
        dtype=getattr(torch, command.dtype),
        label_map=command.label_map,
        depth_kind=command.depth_kind,
    )
    networks = ESTIMATORS[command.estimator](options)
    job = Job(frames, kinds, command.batch_size, command.crop, command.overwrite)
    consent = _consent(command.download)
    tasks = {}
    with frames_bar() as bar:

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        written = estimate(capture, networks, job, lambda w: find_weights(w, command.checkpoint, consent), progress)
    print(f"Wrote {written} maps to {capture.root / 'priors'}" + ("" if written else " (nothing was missing)"))


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise EstimatorError(f"--device {name} is not there: {str(error).splitlines()[0]}") from error
    return name


def _consent(agreed: bool) -> Consent:
    def consent(what: str) -> bool:
        print(f"Weights to download: {what}")
        if agreed or not sys.stdin.isatty():
            return agreed
        return input("Download them and accept the licence? [y/N] ").strip().lower() in ("y", "yes")

    return consent


def _show(report: PriorsReport) -> None:
    def line(title: str, text: str) -> None:
        print(f"  {title:<9}{text}")

    info = report.info
    print(f"{info.estimator}, licence {info.licence}; {len(report.frames)} frames, medians:")
    if (toward := report.median("toward")) is not None:
        across, upward = report.median("across"), report.median("upward")
        axes = report.axes()
        verdict = "no clear agreement with the fitted body" if axes is None else f"x y z of the body are at {axes}"
        line(
            "normals",
            f"n_z > 0 on {toward:.0%}, n_x with column {across:+.2f}, n_y against row {upward:+.2f}; {verdict}",
        )
    if (rank := report.median("depth_rank")) is not None:
        line("depth", f"{info.depth_kind}; rank correlation with the fitted body {rank:+.2f}")
    if (iou := report.median("iou")) is not None:
        line("masks", f"IoU with the fitted body {iou:.2f}")
    line("warnings", ", ".join(f"{warning} {report.share(warning):.0%}" for warning in WARNINGS))


def _save(capture: Capture, frames: Sequence[Frame], report: PriorsReport, every: int | None) -> None:
    assert capture.priors is not None
    root = capture.priors.root
    chosen = frames[:: every or -(-len(frames) // _SHEET_ROWS)]
    sheet = contact_sheet(capture, chosen, {item.frame: item.warnings for item in report.frames})
    with atomic_path(root / "sheet.png") as path:
        write_image(path, sheet[..., ::-1])
    with atomic_path(root / "check.json") as path:
        path.write_text(json.dumps(report.summary(), indent=2) + "\n")
    print(f"See {root / 'sheet.png'}; numbers are in {root / 'check.json'}")


def _apply_corrections(capture: Capture, report: PriorsReport, accept: bool) -> bool:
    assert capture.priors is not None
    corrected = report.corrected()
    if corrected == report.info:
        return True
    path = capture.priors.root / "priors.json"
    new = corrected.corrections[len(report.info.corrections) :]
    if accept:
        write_info(path, corrected)
    for note in new:
        print(f"{'Corrected in' if accept else 'WRONG in'} {path}: {note}")
    if not accept:
        print("Look at the sheet; if you agree, run again with --check-only --accept-corrections.")
    return accept


def main() -> None:
    """Entry point of `fmgs-priors`. Exit status: 0 all well, 1 an error, 2 a convention is wrong."""
    command = tyro.cli(MakePriors, prog="fmgs-priors")
    errors = (CaptureError, PriorsError, CheckpointError, EstimatorError)
    with in_one_line("fmgs-priors", *errors, interrupted="the same command goes on where it stopped"):
        good = run(command)
    sys.exit(0 if good else 2)


if __name__ == "__main__":
    main()
