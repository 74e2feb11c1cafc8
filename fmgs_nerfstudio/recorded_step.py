"""A training step's two parts whose shapes stay, so that a card can replay them: what is made of the surfels before a
pixel is drawn, and what is made of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.rendering import Layer


class StepInputs(NamedTuple):
    """What changes from step to step."""

    pose: Float[Tensor, "72"]
    """Axis-angles, radians."""
    transl: Float[Tensor, "3"]
    """Metres."""
    viewmat: Float[Tensor, "4 4"]
    centre: Float[Tensor, "3"]
    """Of the camera in the world, metres."""
    gain: Float[Tensor, "*channels"]
    """Exposure of the picture."""
    points: Float[Tensor, "P 3"]
    """Of the template's surface, metres."""
    weights: Float[Tensor, "P 24"]
    """SMPL's skinning weights there."""
    rows: Int[Tensor, "M"]
    """Of the patch, as its `neighbours` and `scale`."""
    neighbours: Int[Tensor, "C K"]
    scale: Float[Tensor, ""]


class Made(NamedTuple):
    """What comes of them."""

    avatar: Avatar
    layers: list[Layer]
    """That are composited, a modality each."""
    terms: dict[str, Float[Tensor, ""]]
    """Losses of surfels alone, by name, not weighted."""

    def tensors(self) -> list[Tensor]:
        """All that it consists of."""
        layers = (tensor for layer in self.layers for tensor in layer)
        return [*self.avatar.tensors(), *layers, *self.terms.values()]

    @staticmethod
    def of_tensors(
        tensors: Sequence[Tensor],
        weights: Float[Tensor, "P 24"],
        distilled: Sequence[str],
        layers: int,
        terms: Sequence[str],
    ) -> Made:
        """The inverse of `tensors`, for so many layers, these names, and the inputs' skinning weights."""
        own, size = len(tensors) - len(terms), len(Layer._fields)
        first = own - size * layers
        return Made(
            Avatar.of_tensors(tensors[:first], distilled, weights),
            [Layer(*tensors[i : i + size]) for i in range(first, own, size)],
            dict(zip(terms, tensors[own:], strict=True)),
        )
