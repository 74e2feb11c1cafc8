"""nerfstudio's pipeline, with held-out views and held-out poses reported apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmgs_dataparsers.capture import Split
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig

from fmgs_nerfstudio.data import FMGSDataManager, FMGSDataManagerConfig
from fmgs_nerfstudio.model import FMGSModelConfig


@dataclass
class FMGSPipelineConfig(VanillaPipelineConfig):
    """Data manager and model of FMGS-Avatar."""

    _target: type = field(default_factory=lambda: FMGSPipeline)
    datamanager: FMGSDataManagerConfig = field(default_factory=FMGSDataManagerConfig)
    """Data manager."""
    model: FMGSModelConfig = field(default_factory=FMGSModelConfig)
    """Model."""


class FMGSPipeline(VanillaPipeline):
    """Evaluation goes over the held-out views, then over the held-out poses (prefix `novel_pose_`)."""

    datamanager: FMGSDataManager

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, Any]:
        """Means over images, and their standard deviations on request, of each split that has images."""
        metrics: dict[str, Any] = {}
        prefixes: dict[Split, str] = {"novel_view": "", "novel_pose": "novel_pose_"}
        for split, prefix in prefixes.items():
            loader = self.datamanager.eval_loader(split)
            if len(loader):
                means = self.get_average_image_metrics(loader, f"eval_{split}", step, output_path, get_std)
                metrics |= {f"{prefix}{name}": value for name, value in means.items()}
        # A capture that holds nothing out is evaluated on some of its own frames.
        return metrics or super().get_average_eval_image_metrics(step, output_path, get_std)
