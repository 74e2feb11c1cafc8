"""What an estimator is to the rest of the house.

To add one: write a file beside this one with a function from `EstimatorOptions` to its `Network`s, and a line in
`fmgs_nerfstudio/priors/estimators/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import UInt8

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.maps.info import DepthKind, Kind, PriorsInfo
from fmgs_nerfstudio.priors.checkpoints import CheckpointError, Weights

Image = UInt8[Array, "H W 3"]
"""RGB."""
Maps = Mapping[Kind, Array]
"""semantics uint8 [H, W], depth float32 [H, W], normal float32 [H, W, 3] of unit length,
mask float32 [H, W] in 0..1."""


class EstimatorError(ValueError):
    """An estimator cannot be used as asked; the message says what to do."""


class Estimator(Protocol):
    """A network, opened: images in, maps of the same sizes out."""

    @property
    def info(self) -> PriorsInfo:
        """What the maps are: name, licence, kind and direction of depth, axes of normals."""
        ...

    def __call__(self, images: Sequence[Image]) -> Sequence[Maps]: ...


@dataclass(frozen=True)
class EstimatorOptions:
    """What a user may choose."""

    size: str | None = None
    """Of the released sizes, e.g. "1b"; none: the estimator's own choice."""
    checkpoint: str | None = None
    kinds: frozenset[Kind] | None = None
    """Wanted kinds; none: all that there are."""
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    label_map: Path | None = None
    """JSON of a model's class names to the 28."""
    depth_kind: DepthKind | None = None
    """What a generic model's depth is, where its configuration does not say."""

    def size_among(self, sizes: Sequence[str], default: str) -> str:
        """The chosen size.

        Raises:
            EstimatorError: it was never released.
        """
        size = self.size or default
        if size not in sizes:
            raise EstimatorError(f"--size {size}: released are {', '.join(sizes)}.")
        return size


@dataclass(frozen=True)
class Network:
    """A network before it is opened: one checkpoint, one pass over the frames."""

    name: str
    """For the record in `priors.json`."""
    kinds: tuple[Kind, ...]
    """What one call gives."""
    weights: Weights | None
    """Files that it needs; none: it needs nothing."""
    open: Callable[[Path], Estimator]
    """Load it from the file or folder that `find_weights` found (`Path()` without weights)."""


def wrong_checkpoint(path: Path, why: str) -> CheckpointError:
    """The error for a file that opens and is something else, or does not open."""
    size = path.stat().st_size / 2**20 if path.is_file() else 0
    measure = f" ({size:.1f} MiB)" if path.is_file() else ""
    return CheckpointError(f"{path}{measure}: {why}")
