"""Teach the avatar one more property of its surface, without touching the package.

A modality is one entry in `MODALITIES`: what is rendered, what its gradient may move, and its losses. This one learns
the chromaticity of the images, a stand-in for the albedo that a network might give, and writes its map:

    python examples/03_add_a_modality.py demo_out/small-0/capture --steps 200

To have it in ns-train and ns-viewer, put the entry into fmgs_nerfstudio/modalities.py instead.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import torch
import tyro
from torch import Tensor, nn

from fmgs_nerfstudio.evaluation.pictures import picture
from fmgs_nerfstudio.method import fmgs_avatar
from fmgs_nerfstudio.modalities import MODALITIES, Modality
from fmgs_nerfstudio.objective import LossInputs, Term
from fmgs_nerfstudio.routes import Route


@dataclass
class Options:
    """Train an avatar with a modality more, and write a picture of it."""

    data: Annotated[Path, tyro.conf.Positional]
    """Folder of a capture, such as fmgs-demo writes."""
    steps: int = 200
    """Training steps."""
    out: Path = Path("albedo_out")
    """Folder for the run and the picture albedo.png."""


def albedo_loss(inputs: LossInputs) -> Tensor:
    """Mean squared error against the colours without their brightness, black outside the mask."""
    image = inputs.batch["image"]
    target = image / image.amax(dim=-1, keepdim=True).clamp_min(1e-3) * inputs.batch["mask"]
    return nn.functional.mse_loss(inputs.outputs["albedo"], target)


ALBEDO = Modality(
    # It describes the surface and moves nothing.
    route=Route(position=False, orientation=False, shape=False, opacity=False),
    decoder=lambda channels: nn.Sequential(nn.Linear(channels, 3), nn.Sigmoid()),  # from features of its own volume
    maps=lambda composited, alpha, camera: {"albedo": composited},
    terms={"L_albedo": Term(albedo_loss, modalities=("albedo",), weight=0.5)},
)


def main(options: Options) -> None:
    MODALITIES["albedo"] = ALBEDO  # before the model is made

    config = copy.deepcopy(fmgs_avatar.config)
    config.pipeline.datamanager.data = options.data.resolve()
    config.output_dir, config.max_num_iterations, config.vis = options.out.resolve(), options.steps, "tensorboard"
    config.set_timestamp()
    trainer = config.setup()
    trainer.setup()
    trainer.train()

    model = trainer.pipeline.model.eval()
    camera = trainer.pipeline.datamanager.train_dataset.cameras[0:1]
    with torch.no_grad():
        maps = model.get_outputs_for_camera(camera)
    cv2.imwrite(str(options.out / "albedo.png"), picture("albedo", maps)[..., ::-1])
    print(f"Wrote {options.out / 'albedo.png'}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
