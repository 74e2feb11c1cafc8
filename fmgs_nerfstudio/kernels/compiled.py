"""How this package compiles its CPU kernels: one decorator, one lock."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba
import numpy as np
import torch

from fmgs_nerfstudio.arrays import Array

P = ParamSpec("P")
R = TypeVar("R")

# numba's default threading layer must not be entered from two threads at once, and nerfstudio's viewer renders in a
# thread of its own while training runs: every parallel kernel passes through this lock.
_one_kernel_at_a_time = threading.RLock()

# Reassociation and fused multiply-add, but NaN and infinity keep their meaning.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def uninterrupted(function: Callable[P, R]) -> Callable[P, R]:
    """Let nothing be raised into `function` from outside.

    nerfstudio's viewer interrupts a rendering by an exception from a trace function, at any line: also at the one where
    a `with` would give its lock back, and then it never does.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*args, **kwargs)
        finally:
            sys.settrace(tracer)

    return call


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` with numba for all cores (`numba.prange`); compiled code is cached on disk."""
    compiled = numba.njit(parallel=True, fastmath=_FASTMATH, cache=True, nogil=True)(function)

    @uninterrupted
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with _one_kernel_at_a_time:
            return compiled(*args, **kwargs)

    return call


def device_function(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a helper that kernels call per item; inlined by LLVM."""
    return numba.njit(fastmath=_FASTMATH, cache=True, nogil=True)(function)


def takes(*tensors: torch.Tensor) -> bool:
    """Whether kernels can run on these: all are float32 on the CPU."""
    return all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)


def gradient(given: torch.Tensor | None, dimensions: int) -> Array:
    """What autograd gives to a backward, for a kernel; where it gives none, an array of length 0."""
    return np.empty((0,) * dimensions, np.float32) if given is None else given.contiguous().numpy()
