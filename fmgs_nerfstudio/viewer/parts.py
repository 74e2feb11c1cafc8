"""Parts of the avatar by the semantic field: hidden, or in another colour. Pure functions of surfels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.maps.classes import NUM_CLASSES

_LUMINANCE = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709


class Tint(NamedTuple):
    """Another colour for a part."""

    colour: tuple[int, int, int]
    """0..255."""
    strength: float
    """0: as it is; 1: the colour, with the shading that was there."""


@dataclass(frozen=True)
class Parts:
    """What is done to which class of `maps.classes`; nothing by default."""

    hidden: frozenset[int] = frozenset()
    tints: Mapping[int, Tint] = field(default_factory=dict)

    def with_hidden(self, part: int, hidden: bool) -> Parts:
        return dataclasses.replace(self, hidden=self.hidden | {part} if hidden else self.hidden - {part})

    def only(self, part: int) -> Parts:
        """All others hidden."""
        return dataclasses.replace(self, hidden=frozenset(range(NUM_CLASSES)) - {part})

    def with_tint(self, part: int, tint: Tint) -> Parts:
        others = {other: value for other, value in self.tints.items() if other != part}
        return dataclasses.replace(self, tints=others | {part: tint} if tint.strength > 0 else others)

    def show(self, opacities: Float[Tensor, "N"], classes: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        """Opacities, 0 where a surfel's class is hidden."""
        if not self.hidden:
            return opacities
        hidden = torch.tensor(sorted(self.hidden), device=classes.device)
        return opacities.masked_fill(torch.isin(classes, hidden), 0.0)

    def paint(self, rgb: Float[Tensor, "N 3"], classes: Int[Tensor, "N"]) -> Float[Tensor, "N 3"]:
        """Colours of the surfels. A part in another colour keeps its shading: its luminance, relative to its mean."""
        for part, (colour, strength) in self.tints.items():
            surfels = classes == part
            if not surfels.any():
                continue
            luminance = (rgb * rgb.new_tensor(_LUMINANCE)).sum(-1)
            shading = luminance / luminance[surfels].mean().clamp_min(1e-3)
            painted = (shading[:, None] * rgb.new_tensor(colour) / 255).clamp(0, 1)
            rgb = torch.where(surfels[:, None], torch.lerp(rgb, painted, strength), rgb)
        return rgb


def classes_of(avatar: Avatar) -> Int[Tensor, "N"]:
    """The class of every surfel: the argmax of its own logits, as in Eq. 20."""
    return avatar.distilled["semantics"].values.argmax(-1)
