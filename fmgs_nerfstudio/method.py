"""The nerfstudio method `fmgs-avatar`: the only place where the parts are composed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.plugins.types import MethodSpecification

from fmgs_nerfstudio.model import default_n_vertices
from fmgs_nerfstudio.pipeline import FMGSPipelineConfig
from fmgs_nerfstudio.schedule import DecayConfig


@dataclass
class AdamConfig(AdamOptimizerConfig):
    """Adam, by default in torch's fused form."""

    eps: float = 1e-15
    """Added to the denominator."""
    fused: bool = True
    """torch's fused implementation."""


@dataclass
class FMGSTrainerConfig(TrainerConfig):
    """nerfstudio's trainer. Paths are made absolute, so that ns-eval and ns-viewer work from any folder."""

    pipeline: FMGSPipelineConfig = field(default_factory=FMGSPipelineConfig)
    """Pipeline."""

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir.resolve()
        self.data = self.data.resolve() if self.data else None

    def save_config(self) -> None:
        """Read the capture before anything is written, and save the defaults that depend on it as numbers."""
        self.resolve_defaults()
        super().save_config()

    def setup(self, **kwargs: Any) -> Trainer:
        self.resolve_defaults()
        return super().setup(**kwargs)

    def resolve_defaults(self) -> None:
        """Fill what depends on the capture or on the length of the run: vertices, decays.

        Raises ValueError for mixed precision.
        """
        if self.mixed_precision:
            raise ValueError(
                "--mixed-precision True: the rasteriser and the ray transforms need float32, and half precision would "
                "move surfels by pixels; leave it out"
            )
        datamanager, model = self.pipeline.datamanager, self.pipeline.model
        datamanager.data = (datamanager.data or datamanager.dataparser.data).resolve()
        datamanager.dataparser.data = datamanager.data
        capture = datamanager.dataparser.setup().capture()
        if model.n_vertices is None:
            model.n_vertices = default_n_vertices(capture.person_pixels)
        for group in self.optimizers.values():
            if group["scheduler"] is not None and group["scheduler"].steps is None:
                group["scheduler"].steps = self.max_num_iterations


def _group(lr: float, eps: float = 1e-15) -> dict[str, Any]:
    return {"optimizer": AdamConfig(lr=lr, eps=eps), "scheduler": DecayConfig()}


fmgs_avatar = MethodSpecification(
    config=FMGSTrainerConfig(
        method_name="fmgs-avatar",
        max_num_iterations=3000,
        steps_per_save=500,
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=0,
        pipeline=FMGSPipelineConfig(),
        optimizers={
            "volumes": _group(2e-2),
            "pose_encoder": _group(1e-3),
            "geometry": _group(2e-3),
            "appearance": _group(5e-3),
            "distilled": _group(5e-3),
            "light": _group(1e-2),
            "skinning": _group(1e-4),
            "scales": _group(1e-2),
            "opacities": _group(3e-2),
            # One camera hardly sees some directions of a pose. A large eps keeps Adam from amplifying their noise: with
            # 1e-15 exact poses walked 7 mm away in 1,200 steps of the demo.
            "poses": _group(8e-3, eps=1e-2),
            # Of surfels without a mesh (`surfels.guided` off): between the best two of three rates that were tried.
            "centres": _group(1e-3),
            "rotations": _group(2e-3),
        },
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        logging=LoggingConfig(steps_per_log=1),
        viewer=ViewerConfig(quit_on_train_completion=True, default_composite_depth=False),
        vis="viewer+tensorboard",
    ),
    description="FMGS-Avatar: an animatable person of mesh-guided 2D Gaussian surfels from one video with SMPL fits.",
)
