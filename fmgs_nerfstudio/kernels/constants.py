"""Constants on a device, copied there once: each copy would make the host wait for a card."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor


@functools.lru_cache(maxsize=1024)
def constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`torch.tensor(values)`, the same one at every call: it must not be changed."""
    with torch.inference_mode(False):  # kept for a training step that comes after
        return torch.tensor(values, dtype=dtype, device=device)
