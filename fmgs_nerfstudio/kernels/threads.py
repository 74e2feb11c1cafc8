"""One set of threads at a time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import numba
import torch


@contextmanager
def one_torch_thread() -> Generator[None]:
    """torch works on the calling thread alone.

    torch and numba bring an OpenMP each. Its threads go on spinning after their work, so that two sets of them on the
    same cores are in each other's way: on two cores a training step took 172 ms with both, 107 ms with numba's alone.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def one_thread() -> Generator[None]:
    """torch and numba work on the calling thread alone: for small work.

    Threads meet at the end of each parallel region. Where regions last microseconds, they mostly wait; and where
    another program has one of the cores, each meeting waits for the scheduler to give it back: milliseconds.
    """
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with one_torch_thread():
            yield
    finally:
        numba.set_num_threads(threads)
