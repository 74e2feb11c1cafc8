"""nerfstudio's pipeline, with held-out views and held-out poses reported apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from fmgs_dataparsers.kept import KeptCapture
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.misc import step_check
from torch import Tensor
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fmgs_nerfstudio.colour_rest import colour_rest
from fmgs_nerfstudio.console import log
from fmgs_nerfstudio.data import EvalLoader, FMGSDataManager, FMGSDataManagerConfig
from fmgs_nerfstudio.frozen import frames_per_second
from fmgs_nerfstudio.held_out_poses import refined_views
from fmgs_nerfstudio.light_first import find_light
from fmgs_nerfstudio.model import FMGSModel, FMGSModelConfig
from fmgs_nerfstudio.viewer.control import AvatarViewer


@dataclass
class FMGSPipelineConfig(VanillaPipelineConfig):
    """Data manager and model of FMGS-Avatar."""

    _target: type = field(default_factory=lambda: FMGSPipeline)
    datamanager: FMGSDataManagerConfig = field(default_factory=FMGSDataManagerConfig)
    """Data manager."""
    model: FMGSModelConfig = field(default_factory=FMGSModelConfig)
    """Model."""
    refine_test_poses: int = 0
    """Steps that fit each held-out pose to its own test images, for metrics `refined_pose_*`. 0: none."""


# The host's own speeds are those of its loop, metrics and saved images included.
_OF_THE_LOOP = ("fps", "fps_std", "num_rays_per_sec", "num_rays_per_sec_std")


def _pauses(config: TrainerConfig, step: int) -> bool:
    """Whether the trainer does something else after this step."""
    intervals = config.steps_per_save, config.steps_per_eval_batch, config.steps_per_eval_image
    last = step + 1 == config.max_num_iterations
    return last or any(step_check(step, every) for every in (*intervals, config.steps_per_eval_all_images))


class FMGSPipeline(VanillaPipeline):
    """Evaluation goes over the held-out views, then over the held-out poses (prefix `novel_pose_`), and on request over
    these with their poses fitted to the test images (prefix `refined_pose_`)."""

    config: FMGSPipelineConfig
    datamanager: FMGSDataManager
    train_seconds: Tensor
    """Wall-clock time in training steps: decoding included, evaluation and checkpoints not; kept in the checkpoint."""

    def __init__(self, *args: Any, world_size: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # of one process: the host's way to several needs a card, and sends buffers
        assert isinstance(self.model, FMGSModel)
        self.viewer_control = AvatarViewer(self.model)  # nerfstudio looks for it here
        self.register_buffer("train_seconds", torch.zeros((), dtype=torch.float64))
        self.world_size = world_size
        if world_size > 1:
            self._model = cast(
                Any, DistributedDataParallel(self.model, find_unused_parameters=True, broadcast_buffers=False)
            )

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
        """As the host's, by one call of the model: among several ranks it is inside what averages their gradients."""
        camera, batch = self.datamanager.next_train(step)
        losses, metrics = self._model(camera, batch)
        return {}, losses, metrics

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """The model's and the data manager's, between the start and the stop of a clock.

        What a card has not finished at the stop of a step falls into the next one; so it is waited for only where
        evaluation or a checkpoint follows, whose time does not count.
        """
        started = 0.0
        trainer = training_callback_attributes.trainer

        def start(step: int) -> None:
            nonlocal started
            started = time.perf_counter()

        def stop(step: int) -> None:
            if self.model.device.type == "cuda" and (trainer is None or _pauses(trainer.config, step)):
                torch.cuda.synchronize(self.model.device)
            self.train_seconds += time.perf_counter() - started

        def agree(step: int) -> None:
            """On what each rank has fitted for itself before the first step: cards round as they please."""
            for parameter in self.model.parameters() if self.world_size > 1 else ():
                dist.broadcast(parameter.data, 0)

        def light(step: int) -> None:
            assert isinstance(self.model, FMGSModel)
            if self.model.light is not None:
                find_light(self.model, self.datamanager)

        def rest(step: int) -> None:
            assert isinstance(self.model, FMGSModel)
            log(f"Colours, light aside, change with direction and pose by {colour_rest(self.model):.3f} (rms, of 0..1)")

        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        return [
            TrainingCallback([before], start, update_every_num_iters=1),
            *super().get_training_callbacks(training_callback_attributes),
            TrainingCallback([before], agree, iters=(0,)),
            TrainingCallback([before], light, iters=(0,)),  # once the skinning field is fitted
            TrainingCallback([after], stop, update_every_num_iters=1),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], rest),
        ]

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, Any]:
        """Means over images, and their standard deviations on request, of each split that has images; and
        `colour_rest`, `fps` and `train_seconds` (the last two as in the paper's Table 1). A capture that holds nothing
        out is evaluated on some of the frames that it was trained on, and `held_out` is 0.

        Raises:
            SystemExit: the run's capture is not there; as in its reader.
        """
        if isinstance(capture := self.datamanager.eval_dataset.capture, KeptCapture):
            raise SystemExit(f"\nerror: {capture.why}")
        metrics: dict[str, Any] = {}
        for prefix, name, loader in self._held_out():
            means = self.get_average_image_metrics(loader, f"eval_{name}", step, output_path, get_std)
            metrics |= {f"{prefix}{key}": value for key, value in means.items() if key not in _OF_THE_LOOP}
        if not metrics:
            log("Nothing is held out: evaluated are frames that were trained on")
            means = super().get_average_eval_image_metrics(step, output_path, get_std)
            metrics = {name: value for name, value in means.items() if name not in _OF_THE_LOOP} | {"held_out": 0.0}
        assert isinstance(self.model, FMGSModel)
        return metrics | {"colour_rest": colour_rest(self.model)} | self.speeds()

    def _held_out(self) -> Iterator[tuple[str, str, EvalLoader]]:
        """Prefix of metrics, name of pictures, and images, of all that is evaluated and has images."""
        views, poses = map(self.datamanager.eval_loader, ("novel_view", "novel_pose"))
        if len(views):
            yield "", "novel_view", views
        if len(poses):
            yield "novel_pose_", "novel_pose", poses
        if len(poses) and self.config.refine_test_poses > 0:
            assert isinstance(self.model, FMGSModel)
            yield "refined_pose_", "refined_pose", refined_views(self.model, poses, self.config.refine_test_poses)

    def speeds(self) -> dict[str, float]:
        """`fps` (see `frames_per_second`), and `train_seconds` where the checkpoint knows it."""
        assert isinstance(self.model, FMGSModel)
        speeds = {"fps": frames_per_second(self.model, self.datamanager.eval_dataset.frames)}
        return speeds | ({"train_seconds": float(self.train_seconds)} if self.train_seconds else {})
