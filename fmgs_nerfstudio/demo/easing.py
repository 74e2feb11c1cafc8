"""Two curves that shape everything here."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def smoothstep(low: float, high: float, x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """0 below `low`, 1 above `high`, smooth between; `low` may be the larger."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: Float[np.ndarray, "*n"], centre: float, width: float) -> Float[np.ndarray, "*n"]:
    """A bell of height 1 around `centre`."""
    return np.exp(-(((x - centre) / width) ** 2))
