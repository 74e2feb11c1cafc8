"""A small untrained avatar whose fields do something: made once for the tests that only look at it."""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from fmgs_dataparsers.parser import FMGSDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from support.zju_capture import write_capture
from torch import nn

from fmgs_nerfstudio.fields.light import Light
from fmgs_nerfstudio.fields.skinning import fit_to_surface
from fmgs_nerfstudio.modalities import all_terms
from fmgs_nerfstudio.model import FMGSModel, FMGSModelConfig


@functools.cache
def small_avatar() -> FMGSModel:
    """Displacements of millimetres, colours that vary with place, pose and view, and skinning close to the body's."""
    with TemporaryDirectory() as folder:
        root = Path(folder) / "CoreView_1"
        write_capture(root)
        outputs = FMGSDataParserConfig(data=root).setup().get_dataparser_outputs("train")
        torch.manual_seed(0)
        config = FMGSModelConfig(n_vertices=6890)
        model = config.setup(scene_box=SceneBox(torch.eye(3)[:2]), num_train_data=3, metadata=outputs.metadata)
    torch.manual_seed(0)  # whatever the networks have drawn
    for head, std in ((model.geometry.displacement, 0.3), (model.geometry.scale, 0.1), (model.geometry.rotation, 0.1)):
        nn.init.normal_(head.weight, std=std)
    for volume in (model.V_g, model.V_c):
        nn.init.uniform_(volume.table, -1, 1)
    for correction in model.poses.corrections:
        nn.init.normal_(correction, std=0.02)
    model.taught.learn(all_terms())  # as if there had been prior maps
    fit_to_surface(model.skinning, model.surface, 100, torch.Generator().manual_seed(0))
    return model.eval()


@contextmanager
def lit(model: FMGSModel, light: Light | None) -> Generator[None]:
    """Under another light. pytest's `setattr` cannot give a module back what was one before."""
    before, model.light = model.light, light
    try:
        yield
    finally:
        model.light = before
