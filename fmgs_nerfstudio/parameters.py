"""What training may move: every part of the avatar lists its own parameters, and by which optimiser they move."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from torch import nn


class Parameters(NamedTuple):
    """Some parameters of a part."""

    part: str
    """Name for people: a row of `fmgs-check --gradients`."""
    optimizer: str
    """One of the optimisers of `method.py`."""
    tensors: list[nn.Parameter]

    @classmethod
    def of(cls, part: str, optimizer: str, *sources: nn.Module | nn.Parameter) -> Parameters:
        """Those of modules, or parameters themselves."""
        tensors = [[source] if isinstance(source, nn.Parameter) else [*source.parameters()] for source in sources]
        return cls(part, optimizer, [tensor for group in tensors for tensor in group])


class TrainedPart(nn.Module):
    """A part of the avatar with parameters; those with one kind of them name part and optimiser, others override."""

    part: ClassVar[str] = ""
    optimizer: ClassVar[str] = ""

    def trained(self) -> list[Parameters]:
        """All parameters, each once."""
        return [Parameters.of(self.part, self.optimizer, self)]


def trained_parts(modules: Iterable[nn.Module]) -> list[Parameters]:
    """What the parts among `modules` list; what is empty is left out."""
    parts = [module for module in modules if isinstance(module, TrainedPart)]
    return [parameters for part in parts for parameters in part.trained() if parameters.tensors]
