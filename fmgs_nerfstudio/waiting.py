"""How threads wait for each other: asleep, not spinning.

Where another program has a core, a thread that spins at the end of a parallel region keeps from working the one that it
waits for: hundreds of small regions then take twenty times their processor time (docs/performance.md).
"""

from __future__ import annotations

import os


def wait_asleep() -> None:
    """Tell OpenMP so, unless the user has said something else. torch's copy of it reads that when torch is loaded, and
    numba's threads are made by the same copy. nerfstudio's programs load torch before any plugin: too early for us."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
