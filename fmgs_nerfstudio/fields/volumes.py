"""Feature volumes V_g, V_c, V_s (section 4.1.2): hash grids sampled at surfel centres, which never move."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fmgs_nerfstudio.fields.hash_grid import (
    HashGridConfig,
    gather,
    interpolate,
    levels,
    locate,
    scatter,
    trilinear_weights,
)
from fmgs_nerfstudio.parameters import Parameters, TrainedPart


class FeatureVolume(TrainedPart):
    """A hash grid [40] known at fixed sites only: a constant sparse linear map of the table's touched rows.

    `table [R, F]` holds the rows that some site touches, in the order of the full table (`entries [R]` says which), so
    optimisers carry no state for the rest. The normalised sites are saved with the table: another machine may build
    the template differently in the last digit, and a site that crosses a cell's face would renumber the rows.
    """

    sites: Tensor
    entries: Tensor
    index: Tensor
    fraction: Tensor

    def __init__(
        self, sites: Float[Tensor, "N 3"], aabb: Float[Tensor, "2 3"], config: HashGridConfig, name: str = "volume"
    ) -> None:
        """`sites` in metres, inside the box `aabb` (its two corners); ValueError where one is not."""
        super().__init__()
        self.name = name
        self.config = config
        low, high = aabb
        normalised = ((sites - low) / (high - low)).float()
        if not ((normalised >= 0) & (normalised <= 1)).all():
            raise ValueError(f"feature volume: sites span {sites.amin(0)} to {sites.amax(0)}, outside its box {aabb}")
        self.register_buffer("sites", normalised)
        for name in ("entries", "index", "fraction"):
            self.register_buffer(name, None, persistent=False)
        self._corners: tuple[Tensor, Tensor, Tensor] | None = None  # what `_by_site` found, and of which fractions
        self._locate(normalised)
        self.table = nn.Parameter(torch.empty(len(self.entries), config.features_per_level).uniform_(-1e-4, 1e-4))

    def trained(self) -> list[Parameters]:
        return [Parameters.of(self.name, "volumes", self)]

    def _locate(self, normalised: Float[Tensor, "N 3"]) -> None:
        """Find the touched entries, and each site's rows among them and place in its cells."""
        # On the CPU whatever the device, so that rounding is the same everywhere.
        corner, fraction = locate(normalised.cpu(), self.config)
        touched = torch.zeros(levels(self.config).rows, dtype=torch.bool)
        touched[corner] = True
        row_of_entry = touched.cumsum(0, dtype=torch.int32) - 1
        self.sites = normalised
        self.entries = touched.nonzero()[:, 0].to(normalised.device)
        self.index = row_of_entry[corner].to(normalised.device)
        self.fraction = fraction.to(normalised.device)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any, **named: Any) -> None:
        sites, table = (state_dict.get(prefix + name) for name in ("sites", "table"))
        if sites is not None and table is not None and sites.shape == self.sites.shape:
            self._locate(sites.to(self.sites.device))
            self.table.data = self.table.new_empty(len(self.entries), self.config.features_per_level)
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)

    def forward(self) -> Float[Tensor, "N LF"]:
        """Features of every site, level-major."""
        if self.table.dtype == torch.float32 and self.table.device.type == "cpu":
            return _InterpolateOnCpu.apply(self.table, self.index, self.fraction)
        return interpolate(self.table, *self._by_site())

    def _by_site(self) -> tuple[Int[Tensor, "N L 8"], Float[Tensor, "N L 8"]]:
        """Rows and weights of the corners: they are the same in every step."""
        if self._corners is None or self._corners[2] is not self.fraction:
            with torch.inference_mode(False):  # kept for a training step that comes after
                index, weights = self.index.transpose(0, 1), trilinear_weights(self.fraction).transpose(0, 1)
                self._corners = index.contiguous(), weights.contiguous(), self.fraction
        return self._corners[:2]


class _InterpolateOnCpu(torch.autograd.Function):
    """`interpolate_reference` as numba kernels, with a gradient to the table."""

    @staticmethod
    def forward(
        ctx: Any, table: Float[Tensor, "R F"], index: Int[Tensor, "L N 8"], fraction: Float[Tensor, "L N 3"]
    ) -> Float[Tensor, "N LF"]:
        ctx.save_for_backward(table, index, fraction)
        return gather(table.detach(), index, fraction)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _table_gradient(ctx, *grad_outputs), None, None


@once_differentiable
def _table_gradient(ctx: Any, grad_out: Float[Tensor, "N LF"]) -> Float[Tensor, "R F"]:
    table, index, fraction = ctx.saved_tensors
    return scatter(grad_out, index, fraction, like=table)
