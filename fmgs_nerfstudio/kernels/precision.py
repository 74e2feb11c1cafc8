"""Products of float32 that are float32."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Generator[None]:
    """On a card, products of float32 are no TF32 meanwhile, whatever torch's flags say: ten bits of a joint's place are
    a millimetre. It holds for all threads, that of a backward pass among them."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # a program has set torch's newer flag, beside which the older one is not to be read
        matmul = torch.backends.cuda.matmul
        before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
        try:
            yield
        finally:
            matmul.fp32_precision = before
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
