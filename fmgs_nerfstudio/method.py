"""The nerfstudio methods `fmgs-avatar` and `fmgs-avatar-paper`: the only place where the parts are composed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from fmgs_dataparsers import kept
from fmgs_dataparsers.capture import Capture
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.utils.rich_utils import CONSOLE

from fmgs_nerfstudio.checkpoints import CheckpointError, checkpoints, newest_whole_checkpoint, step_of, why_torn
from fmgs_nerfstudio.data import FMGSDataManagerConfig, refuse_unready
from fmgs_nerfstudio.fields.geometry import GeometryFieldConfig
from fmgs_nerfstudio.fields.light import LightConfig
from fmgs_nerfstudio.fields.skinning import SkinningFieldConfig
from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.fit_errors import settled_sigma
from fmgs_nerfstudio.modalities import RenderingConfig
from fmgs_nerfstudio.model import FMGSModelConfig, default_n_vertices, refines_poses
from fmgs_nerfstudio.objective import LossWeights
from fmgs_nerfstudio.pipeline import FMGSPipelineConfig
from fmgs_nerfstudio.progress import ProgressConfig
from fmgs_nerfstudio.rendering.cuda import check_backend
from fmgs_nerfstudio.requirements import insist
from fmgs_nerfstudio.schedule import DecayConfig, Schedule
from fmgs_nerfstudio.surfels import check_kind
from fmgs_nerfstudio.trainer import FMGSTrainer, start_from
from fmgs_nerfstudio.viewer.address import with_our_defaults


@dataclass
class AdamConfig(AdamOptimizerConfig):
    """Adam, by default in torch's fused form."""

    eps: float = 1e-15
    """Term added to Adam's denominator, against division by zero."""
    fused: bool = True
    """Use torch's fused implementation."""


@dataclass
class FMGSTrainerConfig(TrainerConfig):
    """Training. Paths are made absolute, so that ns-eval and ns-viewer work from any folder."""

    _target: type = field(default_factory=lambda: FMGSTrainer)
    pipeline: FMGSPipelineConfig = field(default_factory=FMGSPipelineConfig)
    """Pipeline."""

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir.resolve()
        self.data = self.data.resolve() if self.data else None

    def __setattr__(self, name: str, value: Any) -> None:
        """ns-viewer puts a ViewerConfig with the host's defaults in the place of the run's, and has no other way in."""
        if name == "viewer" and name in vars(self):
            value = with_our_defaults(value, sys.argv)
        super().__setattr__(name, value)

    def print_to_terminal(self) -> None:
        """One line in place of the host's 300: config.yml has them."""
        data = self.pipeline.datamanager.data or self.pipeline.datamanager.dataparser.data
        options = self.get_base_dir() / "config.yml"
        told = f"{self.method_name}: {self.max_num_iterations:,} steps on {data}; options: {options}"
        CONSOLE.print(told, markup=False, highlight=False, soft_wrap=True)

    def save_config(self) -> None:
        """Read the capture before anything is written, and save the defaults that depend on it as numbers; and beside
        the configuration what an avatar needs of the capture, so that the run opens without it."""
        capture = self.resolve_defaults()
        config = self.get_base_dir() / "config.yml"
        self.pipeline.datamanager.dataparser.kept = config.with_name(kept.FILE_NAME)
        try:
            kept.keep(capture, config.with_name(kept.FILE_NAME))
            with atomic_path(config) as path:
                path.write_text(yaml.dump(self), encoding="utf-8")
        except OSError as error:
            sys.exit(f"\nerror: {config} cannot be written: {error}. --output-dir names another folder")

    def setup(self, **kwargs: Any) -> Trainer:
        self.resolve_defaults()
        return super().setup(**kwargs)

    def resolve_defaults(self) -> Capture:
        """Read the capture, and fill what depends on it, on the length of the run, or on a folder of checkpoints.

        Raises:
            SystemExit: packages of other versions, what the device cannot do, a capture that is not ready, no whole
                checkpoint to go on from.
        """
        insist()
        if (refusal := self._refusal()) is not None:
            sys.exit(f"\nerror: {refusal}")
        datamanager, model = self.pipeline.datamanager, self.pipeline.model
        datamanager.data = (datamanager.data or datamanager.dataparser.data).resolve()
        # A path of its own: YAML would write an alias, which nobody can edit.
        datamanager.dataparser.data = Path(datamanager.data)
        datamanager.dataparser.kept = None  # training needs the capture itself
        capture = datamanager.dataparser.setup().capture()
        refuse_unready(capture, datamanager.check_fit)
        if model.n_vertices is None:
            model.n_vertices = default_n_vertices(capture.person_pixels)
        if model.refine_poses is None:
            model.refine_poses = refines_poses(capture)
        model.pose_sigma = settled_sigma(model.pose_sigma, capture)
        for group in self.optimizers.values():
            if group["scheduler"] is not None and group["scheduler"].steps is None:
                group["scheduler"].steps = self.max_num_iterations
        try:
            self.load_checkpoint = start_from(self)
        except CheckpointError as error:
            sys.exit(f"\nerror: {error}")
        self.load_dir = self.load_step = None
        return capture

    def _refusal(self) -> str | None:
        """Why this device or precision cannot do it, and the ways out."""
        on_card = self.machine.device_type == "cuda"
        if self.mixed_precision:
            return (
                "--mixed-precision True: the rasteriser and the ray transforms need float32, and half precision would "
                "move surfels by pixels; leave it out"
            )
        try:
            check_kind(self.pipeline.model.surfels, on_card)
            if on_card:
                check_backend()
        except (ValueError, RuntimeError) as error:
            return str(error)
        return None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As a config.yml is read: ns-eval, ns-viewer and ns-render take what they find last in the run's folder, be it
        torn or no checkpoint at all; then they are told the step of the newest whole one."""
        self.__dict__.update(state)
        folder = self.get_checkpoint_dir()
        if not folder.is_dir() or self.load_dir is not None or self.load_step is not None:
            return
        found = checkpoints(folder)
        if len(found) < len(list(folder.iterdir())) or (found and why_torn(found[0]) is not None):
            try:
                self.load_step = step_of(newest_whole_checkpoint(folder))
            except CheckpointError as error:
                CONSOLE.log(str(error), markup=False)


def _group(lr: float, eps: float = 1e-15) -> dict[str, Any]:
    return {"optimizer": AdamConfig(lr=lr, eps=eps), "scheduler": DecayConfig()}


def _trainer(
    name: str, steps: int, pipeline: FMGSPipelineConfig, optimizers: dict[str, dict[str, Any]]
) -> FMGSTrainerConfig:
    on_card = torch.cuda.is_available()
    return FMGSTrainerConfig(
        method_name=name,
        max_num_iterations=steps,
        steps_per_save=500,
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=0,
        pipeline=pipeline,
        optimizers=optimizers,
        machine=MachineConfig(device_type="cuda" if on_card else "cpu"),
        # To log is to wait for the card.
        logging=LoggingConfig(steps_per_log=10 if on_card else 1, local_writer=ProgressConfig(), profiler="none"),
        viewer=with_our_defaults(ViewerConfig(quit_on_train_completion=True)),
        vis="viewer+tensorboard",
    )


fmgs_avatar = MethodSpecification(
    config=_trainer(
        "fmgs-avatar",
        3000,
        FMGSPipelineConfig(model=FMGSModelConfig(light=LightConfig("sh"))),
        {
            "volumes": _group(2e-2),
            "pose_encoder": _group(1e-3),
            "geometry": _group(2e-3),
            "appearance": _group(5e-3),
            "distilled": _group(5e-3),
            "skinning": _group(1e-4),
            "scales": _group(1e-2),
            "opacities": _group(3e-2),
            # One camera hardly sees some directions of a pose. A large eps keeps Adam from amplifying their noise: with
            # 1e-15 exact poses walked 7 mm away in 1,200 steps of the demo.
            "poses": _group(8e-3, eps=1e-2),
            # In standard deviations of the fits' errors, where they are stated.
            "pose_errors": _group(1e-1, eps=3e-4),
            "clip": _group(2e-2, eps=1e-4),
            # Of surfels without a mesh (`surfels.guided` off): between the best two of three rates that were tried.
            "centres": _group(1e-3),
            "rotations": _group(2e-3),
        },
    ),
    description="FMGS-Avatar: an animatable person of mesh-guided 2D Gaussian surfels from one video with SMPL fits.",
)


# The paper and nothing else; where it is silent, 3DGS-Avatar [30]: docs/paper.md lists every choice.
fmgs_avatar_paper = MethodSpecification(
    config=_trainer(
        "fmgs-avatar-paper",
        15_000,
        FMGSPipelineConfig(
            datamanager=FMGSDataManagerConfig(crop_margin=None),
            model=FMGSModelConfig(
                n_vertices=30_000,
                geometry=GeometryFieldConfig(displacement_unit=0.01),
                rendering=RenderingConfig(backface_cutoff=1.0, supersampling=1),
                skinning=SkinningFieldConfig(hidden_dim=128, hidden_layers=4, point_input=False),
                schedule=Schedule(surfels_start=1 / 15, residual_start=0.2, pose_start=1 / 3, pose_common_start=1 / 3),
                weights=LossWeights(lambda_sn=None, lambda_n=0.02, lambda_tv=None),
                pose_radius=0,
                pose_sigma="none",
            ),
        ),
        {
            **{name: _group(1e-3) for name in ("volumes", "pose_encoder", "geometry", "appearance", "distilled")},
            "skinning": _group(1e-4),
            "scales": _group(5e-3),
            "opacities": _group(5e-2),
            "poses": _group(1e-4),
            "pose_errors": _group(1e-4),  # not used, like the next: poses have no stated errors here
            "clip": _group(1e-4),
            "centres": _group(1.6e-4),
            "rotations": _group(1e-3),
        },
    ),
    description="FMGS-Avatar exactly as the paper has it, for comparison; fmgs-avatar is what measured better.",
)
