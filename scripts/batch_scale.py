"""fmgs-batch measured on a real Ray cluster of this machine: scheduling, driver memory, overhead, workers; the demo
plan on both engines, with a worker killed, whose tables must be the same to the last bit; and a folder of captures,
some of them broken, trained by one worker and by two."""

from __future__ import annotations

import csv
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from fmgs_nerfstudio.batch.cluster import RayEngine
from fmgs_nerfstudio.batch.local import LocalEngine
from fmgs_nerfstudio.batch.scheduler import run
from fmgs_nerfstudio.batch.state import State
from fmgs_nerfstudio.batch.tasks import Task

Part = Literal["scheduling", "workers", "overhead", "demo", "captures"]
TABLES = ("table.md", "table.csv")
BATCH = (sys.executable, "-m", "fmgs_nerfstudio.cli.batch")


@dataclass
class BatchScale:
    """Measure, and print a line for each figure."""

    parts: Annotated[tuple[Part, ...], tyro.conf.Positional] = ("scheduling", "workers", "overhead", "demo")
    """scheduling: empty tasks. workers: 20 subjects of sleeping tasks. overhead: of a task. demo: real trainings, a
    worker killed. captures (half an hour): real trainings of good and broken captures, by one worker and by two."""
    tasks: int = 10_000
    """Empty tasks."""
    seconds: float = 4.0
    """Sleep of one task of the 20 subjects."""
    people: int = 2
    """People of the demo plan."""
    steps: int = 3
    """Training steps of each."""
    captures: int = 20
    """Good captures among three broken ones."""
    capture_steps: int = 100
    """Training steps of each."""
    address: str = "local"
    """Of a Ray cluster of two CPUs, for all parts but demo and captures. Default: new ones."""
    out: Path | None = None
    """Folder to work in, kept. Default: a temporary one."""


def main(measure: BatchScale) -> None:
    parts = {
        "scheduling": lambda out: scheduling(out, measure.address, measure.tasks),
        "workers": lambda out: workers(out, measure.address, measure.seconds),
        "overhead": lambda out: overhead(out, measure.address),
        "demo": lambda out: demo(out, measure.people, measure.steps),
        "captures": lambda out: captures(out, measure.captures, measure.capture_steps),
    }
    with tempfile.TemporaryDirectory() as temporary:
        for part in measure.parts:
            parts[part]((measure.out or Path(temporary)) / part)


def _timed(out: Path, tasks: list[Task], engine: Callable[[State], RayEngine | LocalEngine]) -> tuple[float, float]:
    """Seconds of wall-clock, and of this process's own processor time."""
    state = State(out, code="measured")
    state.open()
    made = engine(state)
    try:
        run([Task(f"warm/{i}", ("sleep", "3")) for i in range(4)], made)  # Ray starts its workers with the first tasks
        wall, own = time.monotonic(), time.process_time()
        records = run(tasks, made, state.finished)
        assert all(record.done for record in records.values()), next(r for r in records.values() if not r.done)
        return time.monotonic() - wall, time.process_time() - own
    finally:
        made.close()


def _ray(address: str, at_a_time: int) -> Callable[[State], RayEngine]:
    """A cluster of two CPUs, of which a task takes one or both."""
    return lambda state: RayEngine(state.order, address, at_a_time, 2 // at_a_time, 0.2)


def scheduling(out: Path, address: str, count: int) -> None:
    tasks = [Task(f"{i // 8:05d}/{i % 8}") for i in range(count)]
    wall, own = _timed(out, tasks, _ray(address, 2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:,} empty tasks on Ray: {count / wall:.0f} a second; the driver: {own / count * 1e3:.2f} ms of")
    print(f"processor time a task, {peak:.0f} MB at most")
    state = State(out, code="measured")
    start = time.monotonic()
    assert all(state.finished(task) is not None for task in tasks)
    print(f"The same, all finished before: {(time.monotonic() - start) / count * 1e3:.2f} ms a task")


def workers(out: Path, address: str, seconds: float) -> None:
    def tasks() -> list[Task]:
        kinds = ("check", "train", "eval")
        return [
            Task(f"{i}/{kind}", ("sleep", str(seconds)), needs=(f"{i}/{kinds[k - 1]}",) if k else ())
            for k, kind in enumerate(kinds)
            for i in range(20)
        ]

    one, two = (_timed(out / str(count), tasks(), _ray(address, count))[0] for count in (1, 2))
    print(f"20 subjects x 3 tasks of {seconds:g} s on Ray: 1 worker {one:.1f} s, 2 workers {two:.1f} s,")
    print(f"{one / two / 2:.3f} of linear")


def overhead(out: Path, address: str) -> None:
    start = time.monotonic()
    for _ in range(20):
        subprocess.run(["true"], check=True)
    single = (time.monotonic() - start) / 20
    for name, engine in (("local", lambda state: LocalEngine(1, state.order)), ("ray", _ray(address, 1))):
        wall, _ = _timed(out / name, [Task(f"{i}/x", ("true",)) for i in range(50)], engine)
        print(f"A command that does nothing, {name}: {wall / 50 - single:.3f} s more than by itself")


def demo(out: Path, people: int, steps: int) -> None:
    words = [*BATCH, "demo", "--preset", "ci", "--steps", str(steps)]
    words += ["--subjects", *map(str, range(people))]
    local = [*words, "--out", str(out / "local")]
    subprocess.run(local, check=True)
    shutil.copytree(out / "local" / "captures", out / "ray" / "captures", dirs_exist_ok=True)
    ray = subprocess.Popen([*words, "--out", str(out / "ray"), "--engine", "ray", "--workers", "2"])
    log = _begun(out / "ray" / "state", ray)
    (worker,) = re.findall(r"process (\d+)", log.read_text())
    print(f"Killing worker {worker} in {log.parent.name}/train")
    os.kill(int(worker), signal.SIGKILL)
    assert ray.wait() == 0
    begun = len(re.findall(r"process \d+:", log.read_text()))
    same = [(out / "ray" / name).read_bytes() == (out / "local" / name).read_bytes() for name in TABLES]
    print(f"The killed training was begun {begun} times; {' and '.join(TABLES)} equal the local pool's: {all(same)}")
    assert all(same)
    assert begun == 2


def captures(out: Path, count: int, steps: int) -> None:
    """The same folder on clusters of one CPU and of two: time, tables, and what is said of the broken ones."""
    data = out / "data"
    for seed in range(count):
        make = [sys.executable, "-m", "fmgs_nerfstudio.cli.demo", str(data / f"person-{seed:02d}"), "--preset", "ci"]
        subprocess.run([*make, "--seed", str(seed)], check=True, stdout=subprocess.DEVNULL)
    for name, spoil in BROKEN.items():
        if not (data / name).exists():
            shutil.copytree(data / "person-00", data / name)
            spoil(data / name)
    seconds = dict[int, float]()
    for workers in (1, 2):
        folder = out / f"workers-{workers}"
        words = [*BATCH, str(data), "--out", str(folder), "--engine", "ray", "--address", "local"]
        start = time.monotonic()
        ended = subprocess.run([*words, "--workers", str(workers), "--steps", str(steps)], check=False)
        seconds[workers] = time.monotonic() - start
        assert ended.returncode == 1, "the broken captures were taken for good ones"
        with (folder / "table.csv").open() as file:
            rows = list(csv.DictReader(file))
        bad = {row["capture"]: row["missing"] for row in rows if row["missing"]}
        assert set(bad) == set(BROKEN), bad
        with (folder / "times.csv").open() as file:
            work = sum(float(row["seconds"]) for row in csv.DictReader(file))
        print(f"{count} captures and {len(BROKEN)} broken ones, {workers} workers: {seconds[workers]:.0f} s")
        print(f"({work:.0f} s in the tasks); missing: {bad}", flush=True)
    same = [(out / "workers-1" / name).read_bytes() == (out / "workers-2" / name).read_bytes() for name in TABLES]
    print(f"{seconds[1] / seconds[2] / 2:.3f} of linear; {' and '.join(TABLES)} are the same: {all(same)}")
    assert all(same)


def _cut_images(capture: Path) -> None:
    for image in (capture / "Camera_B1").iterdir():
        image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])


def _millimetres(capture: Path) -> None:
    for path in (capture / "new_params").glob("*.npy"):
        fit: Any = np.load(path, allow_pickle=True).item()
        fit["Th"] = fit["Th"] * 1000
        np.save(path, fit, allow_pickle=True)


def _without_fits(capture: Path) -> None:
    shutil.rmtree(capture / "new_params")


BROKEN: dict[str, Callable[[Path], None]] = {
    "cut-images": _cut_images,
    "millimetres": _millimetres,
    "no-fits": _without_fits,
}
"""What happens to people's captures: a copy that was broken off, other units, half of the download."""


def _begun(state: Path, process: subprocess.Popen[bytes]) -> Path:
    """The log of a training that writes to it."""
    while process.poll() is None:
        for log in state.rglob("train.log"):
            if not log.with_suffix(".json").exists() and len(log.read_text().splitlines()) > 3:
                return log
        time.sleep(0.05)
    raise AssertionError("no training was found at work")


if __name__ == "__main__":
    main(tyro.cli(BatchScale))
