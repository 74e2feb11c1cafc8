"""The suites of `scripts/benchmark`: which jobs, at which sizes. A row names what was measured and whose it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark_measure import Json
from benchmark_run import CORES, Bench, crowd
from benchmark_tracking import known_focal, known_height, means

PAPER = {"n_vertices": 30_000, "pixels": 512}
Peers = tuple[Path, ...]


def rows(bench: Bench, what: str, kind: str, **arguments: Any) -> list[Json]:
    """A job on every tree."""
    return [{"what": what, "who": who, **bench.job(kind, who, **arguments)} for who in bench.trees]


def render(bench: Bench, peers: Peers) -> list[Json]:
    """The rasteriser alone (colours and alpha), and all channels with their routes."""
    capture, seconds = bench.capture("small"), 0.05 if bench.tiny else 3.0
    sizes = [(6_890, 64)] if bench.tiny else [(v, p) for v in (6_890, 27_554, 110_210) for p in (256, 512, 1024)]
    found: list[Json] = []
    for n_vertices, pixels in sizes:
        size: Json = {"capture": capture, "n_vertices": n_vertices, "pixels": pixels, "seconds": seconds}
        what = f"{2 * (n_vertices - 2):,} surfels, {pixels} px"
        alone: Json = {**size, "channels": 4, "executor": "cpu"}
        found += rows(bench, f"{what}: RGB and alpha", "render", **alone)
        for peer in peers:
            job = bench.job("render", **alone, peer=str(peer.resolve()))
            found.append({"what": f"{what}: RGB and alpha", "who": peer.stem, **job})
        found += rows(bench, f"{what}: all channels", "channels", **size)
    few = 8 if bench.tiny else 24  # it computes every surfel in every pixel
    dense: Json = {"capture": capture, "n_vertices": 6_890, "pixels": few, "seconds": 0.0, "channels": 4}
    for who, executor in (("ours", "cpu"), ("plain torch", "reference")):
        what = f"13,776 surfels, {few} px: RGB and alpha"
        found.append({"what": what, "who": who, **bench.job("render", **dense, executor=executor)})
    return found


def encode(bench: Bench, peers: Peers) -> list[Json]:
    """The hash encoding of moving points."""
    seconds = 0.05 if bench.tiny else 3.0
    found: list[Json] = []
    for points in (500,) if bench.tiny else (13_776, 60_000):
        what = f"hash encoding of {points:,} points"
        found += rows(bench, what, "encode", points=points, seconds=seconds)
        found.append(
            {
                "what": what,
                "who": "nerfstudio (torch)",
                **bench.job("encode", points=points, seconds=seconds, peer=True),
            }
        )
    return found


def step(bench: Bench, peers: Peers) -> list[Json]:
    """Whole steps at the size of the small demo and of the paper."""
    capture, steps = bench.capture("small"), 1 if bench.tiny else 20
    found = rows(bench, "a step, 256 px, default template", "step", capture=capture, steps=steps)
    if not bench.tiny:
        found += rows(bench, "a step, 512 px, 30,000 vertices", "step", capture=capture, steps=10, **PAPER)
    return found


def train(bench: Bench, peers: Peers) -> list[Json]:
    """Seconds of training to so many dB on held-out views, with noisy and with exact fits."""
    noisy, exact = bench.capture("small"), bench.capture("small", "--pose-noise", "0")
    found: list[Json] = []
    for what, capture, targets in (("the demo", noisy, [26, 27, 28]), ("exact fits", exact, [29, 30])):
        length = {"steps": 4, "every": 2, "views": 2} if bench.tiny else {"steps": 1200, "every": 50, "views": 8}
        found += rows(bench, what, "train", capture=capture, targets=targets, phases=True, **length)
    if not bench.tiny:  # ours alone: the former state takes a quarter of an hour
        capture = bench.capture("full", "--pose-noise", "0")
        job: Json = {"capture": capture, "n_vertices": 30_000, "steps": 1400, "every": 100, "views": 8}
        job = bench.job("train", targets=[28, 29], phases=True, **job)
        found.append({"what": "exact fits, 512 px, 30,000 vertices", "who": "ours", **job})
    return found


def scale(bench: Bench, peers: Peers) -> list[Json]:
    """A step against surfels, pixels, frames and threads."""
    small: Json = {"capture": bench.capture("small"), "steps": 1 if bench.tiny else 5}
    axes: list[tuple[str, Json]] = [("256 px, default template", {})]
    if bench.tiny:
        axes = [("64 px", {"pixels": 64}), ("50 frames", {"frames": 50})]
    else:
        axes += [(f"{2 * (v - 2):,} surfels", {"n_vertices": v}) for v in (13_780, 27_554, 55_110, 110_210, 220_420)]
        axes += [(f"{pixels} px", {"pixels": pixels}) for pixels in (128, 512, 1024)]
        axes += [(f"{frames:,} frames", {"frames": frames}) for frames in (1000, 5000)]
    found: list[Json] = []
    for what, arguments in axes:
        found.append({"what": what, "who": "ours", **bench.job("step", **small, **arguments)})
    for threads in sorted({1, min(2, CORES)}):
        job = bench.job("step", threads=threads, **small)
        found.append({"what": f"{threads} thread{'s' if threads > 1 else ''}", "who": "ours", **job})
    return found


def start(bench: Bench, peers: Peers) -> list[Json]:
    """Seconds from the command to the end of a training of one step, and to a usage error."""
    train, missing = "ns-train=nerfstudio.scripts.train", str(bench.folder / "missing")
    capture = bench.capture("small")
    short = ("--max-num-iterations", "1", "--vis", "tensorboard", "--output-dir", str(bench.folder / "runs"))
    lines = {
        "ns-train of one step": (train, "fmgs-avatar", "--data", capture, *short),
        "ns-train, wrong --data": (train, "fmgs-avatar", "--data", missing),
        "ns-train -h": (train, "fmgs-avatar", "-h"),
        "fmgs-check, wrong folder": ("fmgs-check=fmgs_nerfstudio.cli.check", missing),
        "fmgs-check -h": ("fmgs-check=fmgs_nerfstudio.cli.check", "-h"),
    }
    found: list[Json] = []
    for what, line in lines.items():
        for who in bench.trees:
            status = int("wrong" in what)
            again = [bench.program(*line, who=who, status=status) for _ in range(1 if bench.tiny else 3)]
            best = min(again, key=lambda each: float(each.get("processor_seconds", 0)))
            found.append({"what": what, "who": who, **best})
    return found + rows(bench, "the fit of the skinning field", "fit", capture=capture, steps=200)


def crowded(bench: Bench, peers: Peers) -> list[Json]:
    """Beside one busy process a core, against alone."""
    capture, found = bench.capture("small"), list[Json]()
    jobs: dict[str, tuple[str, Json]] = {
        "the fit of the skinning field": ("fit", {"steps": 5 if bench.tiny else 200}),
        "a step": ("step", {"steps": 1 if bench.tiny else 10}),
        "a posed frame": ("frame", {"pixels": 256, "seconds": 0.05 if bench.tiny else 3.0}),
    }
    for what, (kind, arguments) in jobs.items():
        for who in bench.trees:
            alone = bench.job(kind, who, capture=capture, **arguments)
            with crowd(CORES):
                beside = bench.job(kind, who, capture=capture, **arguments)
            found.append({"what": what, "who": who, "alone": alone, "crowd": beside})
    return found


def track(bench: Bench, peers: Peers) -> list[Json]:
    """Errors of fmgs-track on videos of the demo person, against exact truth; and their mean."""
    found: dict[str, list[Json]] = {}
    rows: list[Json] = []
    for seed in bench.seeds:
        video = bench.capture("small", "--video", "--seed", str(seed))
        job = bench.job("track", video=video, out=str(bench.folder / f"tracked-{seed}"))
        if "error" in job:
            rows.append({"what": f"seed {seed}", "who": "ours", "error": job["error"]})
            continue
        for focal, errors in job.items():
            found.setdefault(focal, []).append(errors)
            rows.append({"what": f"seed {seed}, focal length {focal}", "who": "ours", "errors": errors})
    what = "mean, focal length"
    return rows + [{"what": f"{what} {name}", "who": "ours", "errors": means(each)} for name, each in found.items()]


def chain(bench: Bench, peers: Peers) -> list[Json]:
    """From a video to an avatar without priors, judged by the truth: other cameras of trained frames, other poses."""
    return _chain(bench, known_focal)


def chain_height(bench: Bench, peers: Peers) -> list[Json]:
    """`chain`, where fmgs-track is told the person's height, too."""
    return _chain(bench, lambda video: (*known_focal(video), *known_height(video)))


def _chain(bench: Bench, known: Callable[[str], tuple[str, ...]]) -> list[Json]:
    steps, rows, found = "2" if bench.tiny else "1200", list[Json](), list[Json]()
    for seed in bench.seeds:
        video = bench.capture("small", "--video", "--seed", str(seed))
        tracked, runs = str(bench.folder / f"tracked-{seed}"), str(bench.folder / "runs")
        where = ("--output-dir", runs, "--experiment-name", str(seed), "--timestamp", "run")
        how = ("--max-num-iterations", steps, "--vis", "tensorboard")
        programs = {
            "fmgs-track=fmgs_nerfstudio.cli.track": (f"{video}/video.mp4", "--out", tracked, *known(video)),
            "ns-train=nerfstudio.scripts.train": ("fmgs-avatar", "--data", tracked, *where, *how),
        }
        job: Json = {}
        for line, arguments in programs.items():
            if "error" not in job:
                job = bench.program(line, *arguments)
        if "error" not in job:
            run = f"{runs}/{seed}/fmgs-avatar/run/config.yml"
            job = bench.job("avatar", run=run, truth=f"{video}/truth")
        rows.append({"what": f"seed {seed}", "who": "ours", **(job if "error" in job else {"errors": job})})
        found += [] if "error" in job else [job]
    return rows + ([{"what": "mean", "who": "ours", "errors": means(found)}] if found else [])


SUITES: dict[str, Callable[[Bench, Peers], list[Json]]] = {
    "render": render, "encode": encode, "step": step, "train": train, "scale": scale, "start": start, "crowd": crowded,
    "track": track, "chain": chain, "chain-height": chain_height,
}  # fmt: skip
