"""Small work on one thread.

Threads meet at the end of each parallel region. Where regions last microseconds, they mostly wait; and where another
program has one of the cores, each meeting waits for the scheduler to give it back: milliseconds.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import numba
import torch


@contextmanager
def on_one_thread() -> Generator[None]:
    """Inside, or in a function that this decorates, torch and numba use the calling thread alone."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
