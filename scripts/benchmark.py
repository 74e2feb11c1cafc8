"""How fast this package is on CPUs, against named peers in the same run: docs/performance.md says how to read it.

Every measurement is a process of its own (benchmark_worker.py), on an equal footing: this tree; a former state of it;
plain torch; nerfstudio's; and what an adapter file names.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from benchmark_measure import Json, machine
from benchmark_report import show
from benchmark_run import Bench
from benchmark_suites import SUITES

from fmgs_nerfstudio.files import atomic_path

SuiteName = Literal["render", "encode", "step", "train", "scale", "start", "crowd", "track", "chain", "chain-height"]


@dataclass(frozen=True)
class Benchmark:
    """Measure and print what the package's parts cost, beside their peers and beside what the machine could do."""

    suite: tuple[SuiteName, ...] = ("render", "encode", "step")
    """What to measure: render encode step train scale start crowd track chain chain-height. train and track take
    most of an hour, the last two an hour or two each."""
    json: Path | None = None
    """File to write all figures to."""
    former: str = "3c9cc41"
    """Former state of this package to compare with, as git names it; none: leave it out."""
    peer: tuple[Path, ...] = ()
    """Adapter files of other rasterisers (docs/performance.md)."""
    work: Path = Path("outputs/benchmark")
    """Folder for the demo captures that are measured on; they are kept."""
    threads: int | None = None
    """Threads of torch and numba. Default: as many as cores."""
    seed: tuple[int, ...] = (31, 32, 33, 34, 35)
    """Of the videos that track is measured on (`fmgs-demo --video`); nothing is calibrated on seeds from 30 to 99."""
    tiny: bool = False
    """The smallest sizes: whether everything runs, not how fast."""


def main() -> None:
    options = tyro.cli(Benchmark, prog="scripts/benchmark", description=__doc__)
    facts = machine()
    print(f"{facts['processor']}, {facts['cores']} cores, load {facts['load']:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fmgs-benchmark-") as folder:
        bench = Bench(options.work.resolve(), Path(folder), options.former, options.threads, options.tiny, options.seed)
        reached = bench.job("rates", who="ours", seconds=0.1 if options.tiny else 1)
        results: Json = {"machine": facts, "threads": bench.threads, "former": bench.former_commit, "rates": reached}
        print(f"copies {reached['copy_gb_s']:.1f} GB/s, products {reached['matmul_gflop_s']:.0f} GFLOP/s", flush=True)
        for name in options.suite:
            suite: Callable[[Bench, tuple[Path, ...]], list[Json]] = SUITES[name]
            results[name] = suite(bench, options.peer)
            show(name, results[name], reached)
            if options.json is not None:
                with atomic_path(options.json) as path:
                    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
