"""Two curves that shape everything here."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array


def smoothstep(low: float, high: float, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """0 below `low`, 1 above `high`, smooth between; `low` may be the larger."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: Float[Array, "*n"], centre: float, width: float) -> Float[Array, "*n"]:
    """A bell of height 1 around `centre`."""
    return np.exp(-(((x - centre) / width) ** 2))
