"""What a training step makes of its surfels before a pixel is drawn: its shapes stay, so that a card can replay it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.console import log
from fmgs_nerfstudio.recorded import ReplayWithGradient
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


class RecordedStep:
    """A function from `StepInputs` to what it makes, as CUDA graphs of it and its gradient.

    It is recorded anew where a phase of the training begins; where that cannot be, the function itself goes on in its
    place, and it is said. A parameter that a step does not touch gets a gradient of zeros.
    """

    def __init__(self, function: Callable[[StepInputs], Made]) -> None:
        self._function = function
        self._replay: ReplayWithGradient | None = None
        self._phase: Hashable = None
        self._example: Made | None = None
        self._refused = False

    def __call__(self, inputs: StepInputs, parameters: Sequence[Tensor], phase: Hashable) -> Made:
        """`parameters`: all that the function reads and training moves; `phase`: what else changes what it does."""
        if self._refused:
            return self._function(inputs)
        phase = phase, *(x.requires_grad for x in (*inputs, *parameters))
        if self._replay is None or phase != self._phase:
            self._replay = self._example = None  # their memory is free for what comes
            try:
                self._replay, self._phase = ReplayWithGradient(self._flat, inputs, parameters), phase
            except RuntimeError as error:
                log(f"Steps are not replayed as CUDA graphs: {error}")
                self._refused = True
                return self._function(inputs)
        return self._whole(self._replay(*inputs), inputs)

    def _flat(self, *inputs: Tensor) -> list[Tensor]:
        avatar, layers, terms = self._example = self._function(StepInputs(*inputs))
        return [*avatar.tensors(), *(tensor for layer in layers for tensor in layer), *terms.values()]

    def _whole(self, tensors: Sequence[Tensor], inputs: StepInputs) -> Made:
        assert self._example is not None
        avatar, layers, terms = self._example
        rest, own, size = list(tensors), len(tensors) - len(terms), len(Layer._fields)
        first = own - size * len(layers)
        return Made(
            Avatar.of_tensors(rest[:first], list(avatar.distilled), inputs.weights),
            [Layer(*rest[i : i + size]) for i in range(first, own, size)],
            dict(zip(terms, rest[own:], strict=True)),
        )
