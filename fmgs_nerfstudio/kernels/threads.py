"""Threads for torch operations on blocks of rows.

torch's own threads meet after each operation. A chain of operations on a block of rows is better dealt out as one
piece, to threads in which torch has no further ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba
import torch

T = TypeVar("T")
R = TypeVar("R")


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "fmgs-rows", torch.set_num_threads, (1,))


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`function` of each item, in as many threads as numba's kernels use. It runs without autograd."""
    threads = min(numba.get_num_threads(), len(items))
    if threads <= 1:
        return [function(item) for item in items]

    def without_grad(item: T) -> R:
        with torch.no_grad():  # a new thread's default is another
            return function(item)

    return list(_pool(threads).map(without_grad, items))
