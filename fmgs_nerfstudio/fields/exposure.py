"""Exposure, beyond the paper: what a camera's automatic settings do to the brightness and colours of its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.arrays import Array


class Exposure(nn.Module):
    """Factors of R, G and B in the training picture of each pose, as images have them; 1 in the mean.

    They are no parameters: `fit_light` finds them, and evaluation, which shows other cameras, does not use them.
    """

    factors: Tensor

    def __init__(self, poses: int) -> None:
        super().__init__()
        self.register_buffer("factors", torch.ones(poses, 3))

    def forward(self, pose_id: int) -> Float[Tensor, "3"]:
        return self.factors[pose_id]

    @torch.no_grad()
    def set(self, factors: Mapping[int, Float[Array, "3"]]) -> None:
        """Of some poses; of those between, which are between in time too, by interpolation of the logarithms."""
        places = sorted(factors)
        logarithms = np.log([factors[pose_id] for pose_id in places])
        wanted = np.arange(len(self.factors))
        between = np.stack([np.interp(wanted, places, column) for column in logarithms.T], axis=1)
        self.factors.copy_(torch.from_numpy(np.exp(between)))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any, **named: Any) -> None:
        state_dict.setdefault(prefix + "factors", self.factors)  # of a run before there were any: steady
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)
