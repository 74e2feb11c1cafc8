"""Times, and what the machine could do at best."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

Json = dict[str, Any]


def timed(function: Callable[[], object], warm: int = 2, least: int = 5, seconds: float = 3.0) -> Json:
    """Minimum and median in milliseconds of `function`, after `warm` calls: of at least so many, for so long."""
    for _ in range(warm):
        function()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < least or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return summary(times)


def summary(milliseconds: list[float]) -> Json:
    """Minimum, median and number of times."""
    return {"min_ms": min(milliseconds), "median_ms": statistics.median(milliseconds), "times": len(milliseconds)}


def rates(seconds: float = 1.0) -> Json:
    """What this process's threads reach: copies in GB/s (read and written) and float32 matrix products in GFLOP/s."""
    source = torch.rand(2**24)
    target = torch.empty_like(source)
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    copy = timed(lambda: target.copy_(source), seconds=seconds)["min_ms"]
    product = timed(lambda: a @ b, seconds=seconds)["min_ms"]
    return {"copy_gb_s": 2 * source.numel() * 4 / copy / 1e6, "matmul_gflop_s": 2 * 1024**3 / product / 1e6}


def least_ms(work: Json, reached: Json) -> float:
    """The roofline: milliseconds that `work` (`bytes` and `flops` that cannot be avoided) takes at these rates."""
    return max(work.get("bytes", 0) / reached["copy_gb_s"], work.get("flops", 0) / reached["matmul_gflop_s"]) / 1e6


def machine() -> Json:
    """What the figures were measured on."""
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "numba", "numpy", "nerfstudio", "gsplat")},
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
