"""Threads for torch operations on blocks of rows.

torch's own threads meet after each operation and wait by spinning: beside another busy process, or numba's threads, a
small operation then takes many times its time. So torch gets one thread (`use_one_torch_thread`), and what is worth
several is dealt out in large pieces here, or is a kernel of numba's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba
import torch

T, R = TypeVar("T"), TypeVar("R")


def use_one_torch_thread() -> None:
    """For this process, from now on."""
    torch.set_num_threads(1)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fmgs-rows")


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`function` of each item, in as many threads as numba's kernels use. It runs without autograd."""
    threads = min(numba.get_num_threads(), len(items))
    if threads <= 1:
        return [function(item) for item in items]

    def without_grad(item: T) -> R:
        with torch.no_grad():  # a new thread's default is another
            return function(item)

    return list(_pool(threads).map(without_grad, items))
