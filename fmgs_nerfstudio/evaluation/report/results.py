"""What a report shows of one run: metrics of every held-out image, pictures of some, curves, configuration."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from fmgs_dataparsers.capture import Capture, Frame, Split
from fmgs_dataparsers.protocols import subject_of
from rich.markup import escape
from rich.progress import track

from fmgs_nerfstudio.data import Batch
from fmgs_nerfstudio.evaluation.pictures import Image, picture
from fmgs_nerfstudio.evaluation.report.curves import Curve, read_curves
from fmgs_nerfstudio.evaluation.runs import Run
from fmgs_nerfstudio.frozen import FrozenAvatar
from fmgs_nerfstudio.held_out_poses import refined_views
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.rendering import Camera

MAPS = ("depth", "normal", "surface_normal", "semantics")
"""Beside the colours, as in the paper's Fig. 3 and 4; those that were not trained are left out."""

SPLITS: tuple[Split | None, ...] = ("novel_view", "novel_pose", None)
"""None: images of training, where the capture holds nothing out."""


@dataclass(frozen=True)
class ViewResult:
    """Metrics of one held-out image."""

    index: int
    """In the evaluation data set."""
    name: str
    """`camera/stem`."""
    split: Split | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class Panel:
    """Pictures of one held-out image, as PNG files."""

    view: ViewResult
    truth: bytes
    rgb: bytes
    maps: dict[str, bytes]


@dataclass(frozen=True)
class RunResult:
    """All that is reported of a run."""

    name: str
    capture: Capture
    views: list[ViewResult]
    refined: list[ViewResult]
    """Held-out poses once more, fitted to their own test images; empty where the run's configuration asks for none."""
    refine_steps: int
    """Steps of these fits."""
    panels: list[Panel]
    worst: list[Panel]
    at_rest: dict[str, bytes]
    """The avatar in canonical space: rgb and `MAPS`."""
    speeds: dict[str, float]
    facts: dict[str, str]
    curves: dict[str, Curve]
    config: str

    @property
    def subject(self) -> str:
        return subject_of(self.capture.root)

    def means(self, split: Split | None) -> dict[str, float]:
        """Means over the images of a split, as ns-eval's; empty where there are none."""
        return _means([view for view in self.views if view.split == split])

    @property
    def refined_means(self) -> dict[str, float]:
        """As `means`, of the refined poses."""
        return _means(self.refined)

    @property
    def splits(self) -> list[Split | None]:
        """Those that have images."""
        return [split for split in SPLITS if any(view.split == split for view in self.views)]


def _means(views: Sequence[ViewResult]) -> dict[str, float]:
    metrics = [view.metrics for view in views]
    return {name: statistics.fmean(each[name] for each in metrics) for name in (metrics[0] if metrics else ())}


def evaluate(run: Run, n_panels: int, n_worst: int) -> RunResult:
    """Measure every held-out image of `run`, and draw `n_panels` of each split and the `n_worst` ones by PSNR."""
    model, folder = run.model.eval(), run.folder
    name = f"{folder.parent.parent.name}/{folder.name}"
    views = [_measured(run, index) for index in track(_readable(run), f"Evaluating {escape(name)}")]
    chosen: list[ViewResult] = []
    for split in SPLITS:
        members = [view for view in views if view.split == split]
        places = np.linspace(0, len(members) - 1, min(n_panels, len(members)))
        chosen += [members[i] for i in places.round().astype(int)]
    worst = sorted(views, key=lambda view: view.metrics["psnr"])[:n_worst]
    return RunResult(
        name,
        model.kwargs["metadata"]["capture"],
        views,
        _refined(run),
        run.pipeline.config.refine_test_poses,
        [_panel(run, view) for view in chosen],
        [_panel(run, view) for view in worst],
        _at_rest(model),
        run.pipeline.speeds(),
        _facts(run),
        read_curves(folder),
        (folder / "config.yml").read_text(),
    )


def _readable(run: Run) -> Sequence[int]:
    frames = run.pipeline.datamanager.cached_eval
    return [index for index in range(len(frames)) if frames.readable(index) is not None]


def _measured(run: Run, index: int) -> ViewResult:
    batch = run.pipeline.datamanager.cached_eval.get(index)
    return _result(run, index, _render(run, index), batch)


def _refined(run: Run) -> list[ViewResult]:
    """Of new poses as ns-eval's `refined_pose_`."""
    if (steps := run.pipeline.config.refine_test_poses) == 0:
        return []
    loader = refined_views(run.model, run.pipeline.datamanager.eval_loader("novel_pose"), steps)
    return [
        _result(run, batch["image_idx"], run.model.get_outputs_for_camera(camera), batch) for camera, batch in loader
    ]


def _result(run: Run, index: int, outputs: dict[str, torch.Tensor], batch: Batch) -> ViewResult:
    metrics, _ = run.model.get_image_metrics_and_images(outputs, batch)
    dataset = run.pipeline.datamanager.eval_dataset
    frame = dataset.frames[index]
    return ViewResult(index, f"{frame.camera}/{frame.stem}", _split_of(frame, dataset.capture), metrics)


def _split_of(frame: Frame, capture: Capture) -> Split | None:
    return next((split for split in SPLITS if split is not None and frame in capture.splits[split]), None)


def _render(run: Run, index: int) -> dict[str, torch.Tensor]:
    return run.model.get_outputs_for_camera(run.pipeline.datamanager.eval_dataset.cameras[index : index + 1])


def _panel(run: Run, view: ViewResult) -> Panel:
    maps, batch = _render(run, view.index), run.pipeline.datamanager.cached_eval.get(view.index)
    truth = picture("image", {"image": batch["image"]})
    drawn = {name: png(picture(name, maps)) for name in MAPS if name in maps}
    return Panel(view, png(truth), png(picture("rgb", maps)), drawn)


def _at_rest(model: FMGSModel, size: int = 400) -> dict[str, bytes]:
    """The avatar in canonical space, from the front."""
    avatar, vertices = FrozenAvatar(model), model.canonical.vertices
    low, high = vertices.amin(0), vertices.amax(0)
    focal = 2.0 * size
    distance = focal * float((high - low).max()) / (0.9 * size)
    R = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # canonical space: y up, facing z
    viewmat = torch.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = R, -R @ ((low + high) / 2 + torch.tensor([0.0, 0.0, distance]))
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    camera = Camera(viewmat.to(model.device), K.to(model.device), size, size)
    maps = avatar.render(avatar.at_rest(), camera, model.taught.shown)
    return {name: png(picture(name, maps)) for name in ("rgb", *MAPS) if name in maps}


def png(image: Image) -> bytes:
    """An RGB image as a PNG file."""
    written, data = cv2.imencode(".png", image[..., ::-1])
    assert written
    return data.tobytes()


def _facts(run: Run) -> dict[str, str]:
    model, capture = run.model, run.model.kwargs["metadata"]["capture"]
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "CPU"
    _, width, height = capture.intrinsics(capture.splits["train"][0].camera)
    counts = {split: len(frames) for split, frames in capture.splits.items() if frames}
    return {
        "capture": capture.root.name,
        "layout": capture.layout,
        "split": capture.protocol,
        "images": ", ".join(f"{count} {split.replace('_', ' ')}" for split, count in counts.items()),
        "image size": f"{width} x {height}",
        "training steps": f"{model.step + 1:,}",
        "surfels": f"{len(model.template.faces):,}",
        **({"not trained, not shown": ", ".join(model.taught.hidden)} if model.taught.hidden else {}),
        "evaluated on": f"{device}, {torch.get_num_threads()} threads" if device == "CPU" else device,
    }
