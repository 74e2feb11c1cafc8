"""A training whose steps can be called one by one, with a clock in each stage."""

from __future__ import annotations

import copy
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fmgs_dataparsers.parser import FMGSDataParser
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from torch import Tensor
from torch.nn.functional import interpolate

_STARTS = ("residual_start", "pose_start", "pose_common_start")
_STAGES = {
    "pose": ("_posed_with", "pose_avatar_at"),
    "colours": ("shade",),
    "compositing": ("_composited", "render"),
    "losses": ("get_loss_dict",),
}
"""Stages of the forward pass, and the model's methods that are them, in former states others; the rest of a step is
mostly the backward pass."""


class Training:
    """nerfstudio's trainer of a method on a capture, at the start of a run in which every part is on.

    Args:
        pixels: width of the training images: a few frames are enlarged or reduced to it, and stay decoded.
        frames: of the capture, which is repeated to have so many.
        phases: keep the method's own schedule, and its fit of the skinning field.
    """

    def __init__(
        self,
        capture: str,
        method: str = "fmgs-avatar",
        n_vertices: int | None = None,
        pixels: int | None = None,
        frames: int | None = None,
        steps: int = 1000,
        phases: bool = False,
    ) -> None:
        config: Any = copy.deepcopy(all_methods[method])
        config.timestamp, config.vis = "run", "none"  # neither a viewer nor nerfstudio's writers of events
        config.logging.local_writer.enable, config.logging.profiler = False, "none"
        config.max_num_iterations = self.steps = steps
        manager, model = config.pipeline.datamanager, config.pipeline.model
        manager.data, manager.check_fit, model.n_vertices = Path(capture), False, n_vertices
        if not phases:
            starts = {name: 0.0 for name in _STARTS if hasattr(model.schedule, name)}  # former states have not all
            model.schedule = replace(model.schedule, skinning_fit_steps=5, **starts)
        if frames is not None:
            manager.dataparser._target = _repeated(frames)
        torch.manual_seed(config.machine.seed)
        with tempfile.TemporaryDirectory(prefix="fmgs-benchmark-") as folder:  # steps write nothing
            config.output_dir = Path(folder)
            self.trainer: Any = config.setup()
            self.trainer.setup()
        self.pipeline: Any = self.trainer.pipeline
        self.model: Any = self.pipeline.model
        self.manager: Any = self.pipeline.datamanager
        self.stages: defaultdict[str, list[float]] = defaultdict(list)
        self._decode, self._enlarged = self.manager.next_train, dict[int, Any]()
        self._pixels = pixels
        self.manager.next_train = self._clocked("data", self.frame)
        for stage, names in _STAGES.items():
            name = next(name for name in names if hasattr(self.model, name))
            setattr(self.model, name, self._clocked(stage, getattr(self.model, name)))
        optimizers = self.trainer.optimizers
        step = optimizers.optimizer_scaler_step_some
        optimizers.optimizer_scaler_step_some = self._clocked("optimisers", step)

    @property
    def surfels(self) -> int:
        return len(self.model.template.faces)

    def _clocked(self, stage: str, function: Any) -> Any:
        def and_count(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **options)
            self.stages[stage].append(1000 * (time.perf_counter() - start))
            return result

        return and_count

    def frame(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """As the data manager's, or one of its first four, of another size."""
        if self._pixels is None:
            return self._decode(step)
        step %= 4
        if step not in self._enlarged:
            camera, batch = self._decode(step)
            factor = self._pixels / int(self.manager.train_dataset.cameras.width[0])
            self._enlarged[step] = resized(camera, batch, factor)
        camera, batch = self._enlarged[step]
        return camera, dict(batch)

    def step(self, step: int) -> float:
        """A whole step, as the trainer's loop does it. Returns milliseconds."""
        start = time.perf_counter()
        before = sum(map(sum, self.stages.values()))
        self.trainer.step = step
        self.pipeline.train()
        before_it, after_it = (
            TrainingCallbackLocation.BEFORE_TRAIN_ITERATION,
            TrainingCallbackLocation.AFTER_TRAIN_ITERATION,
        )
        for callback in self.trainer.callbacks:
            callback.run_callback_at_location(step, location=before_it)
        self.trainer.train_iteration(step)
        for callback in self.trainer.callbacks:
            callback.run_callback_at_location(step, location=after_it)
        total = 1000 * (time.perf_counter() - start)
        self.stages["backward and the rest"].append(total - (sum(map(sum, self.stages.values())) - before))
        return total

    def psnr(self, views: int) -> float:
        """Mean over held-out views, spread evenly."""
        self.pipeline.eval()
        loader: Any = self.manager.eval_loader("novel_view")
        chosen = set(range(0, len(loader), max(1, len(loader) // views)))
        found: list[float] = []
        for index, (camera, batch) in enumerate(loader):
            if index in chosen:
                rgb, truth = self.model.get_outputs_for_camera(camera)["rgb"], batch["image"]
                found.append(float(-10 * (rgb.clamp(0, 1) - truth).square().mean().log10()))
        return sum(found) / len(found)

    def work(self) -> dict[str, dict[str, float]]:
        """Bytes and operations that the stages of a step cannot do without: networks on all surfels, each parameter of
        the optimisers read and written, values of surfels and pixels. A stage's backward pass is not in it."""
        camera, batch = self.frame(0)
        pixels = int(camera.width[0]) * int(camera.height[0])
        surfels, channels = self.surfels, 37

        def flops(*modules: torch.nn.Module) -> float:
            weights = [p for module in modules for n, p in module.named_parameters() if p.dim() == 2 and "mlp" in n]
            return 2.0 * surfels * sum(weight.numel() for weight in weights)

        trained = sum(p.numel() for p in self.model.parameters() if p.grad is not None)
        maps = sum(v.numel() for v in batch.values() if isinstance(v, Tensor))
        return {
            "pose": {"flops": flops(self.model.geometry, self.model.skinning, self.model.distilled)},
            "colours": {"flops": flops(self.model.appearance), "bytes": 4.0 * surfels * 70},
            "compositing": {"bytes": 4.0 * (surfels * (10 + channels) + pixels * channels)},
            "losses": {"bytes": 4.0 * (pixels * channels + maps)},
            "optimisers": {"bytes": 4.0 * 7 * trained},
        }


def _repeated(count: int) -> type[FMGSDataParser]:
    """A reader whose captures have that many training frames: their own again and again, each with its own pose."""

    class Repeated(FMGSDataParser):
        kept: Any = None

        def capture(self) -> Any:
            if self.kept is None:
                one: Any = super().capture()
                train = one.splits["train"]
                times = -(-count // len(train))
                again = [replace(f, pose_id=f.pose_id + k * len(one.poses)) for k in range(times) for f in train]
                poses, transl = (torch.from_numpy(v).repeat(times, 1).numpy() for v in (one.poses, one.transl))
                splits = {**one.splits, "train": tuple(again[:count])}
                type(self).kept = replace(one, poses=poses, transl=transl, splits=splits)
            return self.kept

    return Repeated


def resized(camera: Cameras, batch: dict[str, Any], factor: float) -> tuple[Cameras, dict[str, Any]]:
    """A training frame, camera and maps [H, W, C], `factor` times as large."""
    height, width = (max(1, round(int(value[0]) * factor)) for value in (camera.height, camera.width))
    fx, fy, cx, cy = (value * factor for value in (camera.fx, camera.fy, camera.cx, camera.cy))
    sizes = {"width": torch.full_like(camera.width, width), "height": torch.full_like(camera.height, height)}
    larger = Cameras(camera.camera_to_worlds, fx, fy, cx, cy, **sizes, times=camera.times, metadata=camera.metadata)

    def scaled(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < 2:
            return value
        planes = value.reshape(*value.shape[:2], -1).movedim(-1, 0)[None].float()
        made = interpolate(planes, size=(height, width))[0].movedim(0, -1)
        return made.reshape(height, width, *value.shape[2:]).to(value.dtype)

    return larger, {name: scaled(value) for name, value in batch.items()}
