"""Runs the jobs of `scripts/benchmark` in processes of this tree and of a former one, alone or in a crowd."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark_measure import Json

ROOT = Path(__file__).resolve().parents[1]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Bench:
    """Where measurements are made.

    Args:
        work: folder of the demo captures, kept.
        folder: for the former state and for the jobs' files; the caller removes it.
        former: a commit of this repository, or "none".
        seeds: of the videos that are tracked.
    """

    def __init__(
        self, work: Path, folder: Path, former: str, threads: int | None, tiny: bool, seeds: Sequence[int] = ()
    ) -> None:
        self.seeds = seeds
        self.work, self.folder, self.tiny, self.threads = work, folder, tiny, threads or CORES
        self.trees = {"ours": ROOT}
        self.former_commit = None
        if former != "none":
            self.former_commit = _git("rev-parse", "--short", f"{former}^{{commit}}").decode().strip()
            self.trees[self.former_commit] = _unpacked(self.former_commit, folder / "former")

    def capture(self, preset: str, *options: str) -> str:
        """A demo capture, made if it is not there yet."""
        preset = "ci" if self.tiny else preset
        folder = self.work / "-".join((preset, *(option.strip("-") for option in options)))
        program = "from fmgs_nerfstudio.cli.demo import main; main()"
        command = [sys.executable, "-c", program, str(folder), "--preset", preset, *options]
        subprocess.run(command, env=self._environment("ours"), check=True, stdout=subprocess.DEVNULL)
        return str(folder)

    def job(self, kind: str, who: str = "ours", threads: int | None = None, **arguments: Any) -> Json:
        """What a job of benchmark_worker.py found; `error` where it could not be done."""
        task, result = self.folder / "job.json", self.folder / "result.json"
        task.write_text(json.dumps({"kind": kind, **arguments}))
        result.unlink(missing_ok=True)
        command = [sys.executable, str(ROOT / "scripts" / "benchmark_worker.py"), str(task), str(result)]
        ended = subprocess.run(
            command, env=self._environment(who, threads), check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if ended.returncode:
            last = (ended.stdout.strip().splitlines() or ["it said nothing"])[-1]
            print(f"{kind} of {who} failed: {last}", file=sys.stderr, flush=True)
            return {"error": last}
        return json.loads(result.read_text())

    def program(self, line: str, *arguments: str, who: str = "ours", status: int = 0) -> Json:
        """Seconds on the clock and of processors that a program takes to its end; `error` where that is another."""
        name, _, module = line.partition("=")
        code = f"import sys; sys.argv[0] = {name!r}; from {module} import entrypoint; entrypoint()"
        if not module.startswith("nerfstudio"):
            code = code.replace("entrypoint", "main")
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
        # Not from here: `python -c` looks for packages in the current folder first.
        ended = subprocess.run(
            command, env=self._environment(who), cwd=self.folder, check=False, text=True, capture_output=True
        )
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        said = (ended.stderr.strip().splitlines() or [""])[-1]
        if ended.returncode != status:
            return {"error": f"status {ended.returncode}: {said[:200]}"}
        return {"seconds": seconds, "processor_seconds": used, "said": said[:200]}

    def _environment(self, who: str, threads: int | None = None) -> dict[str, str]:
        tree, count = self.trees[who], str(threads or self.threads)
        paths = (str(tree), str(tree / "dataparsers"), str(ROOT / "scripts"))
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": count,
            "NUMBA_NUM_THREADS": count,
            "FMGS_ANY_VERSION": "1",
        }


@contextmanager
def crowd(processes: int) -> Generator[None]:
    """Busy processes, one a core, as a neighbour's work is."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, stdout=subprocess.PIPE).stdout


def _unpacked(commit: str, folder: Path) -> Path:
    """The packages of a commit, with entry points of their own: those of the installed package are today's."""
    packed: Sequence[str] = ("fmgs_nerfstudio", "dataparsers", "pyproject.toml")
    with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, *packed))) as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and later
        archive.extractall(folder, **safely)  # pyright: ignore[reportArgumentType]
    metadata = folder / "fmgs_nerfstudio-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fmgs-nerfstudio\nVersion: 0\n")
    lines, inside = list[str](), False
    for line in (folder / "pyproject.toml").read_text().splitlines():
        if line.startswith("["):
            inside = line.startswith("[project.entry-points.")
            line = f"[{line.split(chr(34))[1]}]" if inside else line
        lines += [line.replace('"', "")] if inside else []
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
