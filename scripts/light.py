"""The light that training would find, and how well it explains pictures that it has not seen: without training.

Albedos come from the training pictures alone; what surfels of the template would look like under the light is then
compared with what held-out pictures show of them. The template stands beside its clothes, so that only differences
between rows mean something.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from nerfstudio.configs.method_configs import all_methods
from rich.console import Console
from rich.table import Table

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.data import FMGSDataManager
from fmgs_nerfstudio.fields.light import Light, LightConfig
from fmgs_nerfstudio.fields.light_fit import Sightings
from fmgs_nerfstudio.fields.skinning import fit_to_surface
from fmgs_nerfstudio.light_first import find_light, look, training_views
from fmgs_nerfstudio.model import FMGSModel


@dataclass
class Options:
    """Find the light of captures, and print how well it explains held-out pictures."""

    captures: Annotated[list[Path], tyro.conf.Positional]
    """Folders of captures."""


def main(options: Options) -> None:
    console, table = Console(), Table("capture", "light", "training [dB]", "other cameras [dB]", "other poses [dB]")
    for path in options.captures:
        config = copy.deepcopy(all_methods["fmgs-avatar"])
        config.pipeline.datamanager.data = path
        config.pipeline.model.light = LightConfig("sh")
        config.resolve_defaults()
        pipeline = config.pipeline.setup(device="cpu", test_mode="val")
        model, data = pipeline.model, pipeline.datamanager
        assert isinstance(model, FMGSModel)
        assert isinstance(data, FMGSDataManager)
        assert model.light is not None
        model.train()
        fit_to_surface(model.skinning, model.surface, 200, torch.Generator().manual_seed(0))
        find_light(model, data)
        seen = look(model, training_views(data))
        held_out = [look(model, data.eval_loader(split)) for split in ("novel_view", "novel_pose")]
        for name, light in (("even", Light()), ("found", model.light)):
            albedo, counts = albedos(seen, light, len(model.surfels.means))
            cells = [f"{psnr(s, albedo, counts, light):.2f}" if len(s.surfel) else "" for s in (seen, *held_out)]
            table.add_row(path.name, name, *cells)
    console.print(table)


def shade(seen: Sightings, light: Light) -> Array:
    return light(torch.from_numpy(seen.normal)).numpy(force=True)


def albedos(seen: Sightings, light: Light, count: int) -> tuple[Array, Array]:
    """[N, 3] of all surfels under this light, and [N] in how many pictures each was seen."""
    shades, total = shade(seen, light), np.zeros((count, 3))
    power = np.zeros((count, 3))
    np.add.at(total, seen.surfel, seen.weight[:, None] * shades * seen.colour)
    np.add.at(power, seen.surfel, seen.weight[:, None] * shades**2)
    return total / np.maximum(power, 1e-9), np.bincount(seen.surfel, minlength=count)


def psnr(seen: Sightings, albedo: Array, counts: Array, light: Light) -> float:
    """Of the colours that surfels were seen in; of those that training saw three times or more."""
    error = np.square(np.clip(albedo[seen.surfel] * shade(seen, light), 0, 1) - seen.colour).mean(1)
    weight = seen.weight * (counts[seen.surfel] > 2)
    return float(-10 * np.log10((weight @ error) / weight.sum()))


if __name__ == "__main__":
    main(tyro.cli(Options))
