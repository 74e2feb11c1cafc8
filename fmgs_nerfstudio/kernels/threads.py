"""One set of threads at a time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

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
