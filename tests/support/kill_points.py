"""Kills training and every writer of files at many points, with real signals, and looks at what is left on the disk.

A program, so that it can fork: `python -m support.kill_points FOLDER` prints what it found as JSON (`Found`), by name.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import nerfstudio.scripts.eval as ns_eval
import nerfstudio.scripts.train as ns_train
import numpy as np
import torch
from PIL import Image
from plyfile import PlyData
from support.killing import (
    Child,
    Ended,
    Found,
    Work,
    at_byte,
    at_event,
    at_most,
    enlarge,
    events,
    killed,
    read_only,
    small_disk,
)
from support.priors_capture import Perfect, network, opened
from support.small_avatar import small_avatar
from support.zju_capture import write_capture

from fmgs_nerfstudio.checkpoints import checkpoints, step_of
from fmgs_nerfstudio.cli import animate, demo, export, priors, report
from fmgs_nerfstudio.demo.capture import PRESETS, DemoOptions, Preset, make_capture
from fmgs_nerfstudio.trainer import FMGSTrainer

INTERVAL, STEPS = 2, 5


def spread(total: int, most: int) -> list[int]:
    """Up to `most` of the events 1 to `total`."""
    return sorted({round(x) for x in np.linspace(1, total, min(total, most))})


def command(main: Callable[[], object], *arguments: object) -> Work:
    """A program as the shell would start it."""

    def run() -> None:
        sys.argv = [str(argument) for argument in arguments]
        main()

    return run


# --- training ---------------------------------------------------------------------------------------------------------


class Training:
    """`ns-train` on a small capture, and its uninterrupted run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        write_capture(folder / "CoreView_1")
        self.found = Found()
        self.expect_end(Child(self.ns_train("whole"), self.log).wait())
        self.whole = torch.load(self.newest("whole"))

    def arguments(self, name: str, out: Path | None = None) -> list[str]:
        """A command line; its run's folder is `self.run(name)`."""
        return [
            "ns-train", "fmgs-avatar", "--data", str(self.folder / "CoreView_1"),
            "--output-dir", str(out or self.folder / "out"), "--timestamp", name, "--vis", "tensorboard",
            "--max-num-iterations", str(STEPS), "--steps-per-save", str(INTERVAL), "--steps-per-eval-image=0",
            "--logging.local-writer.enable", "False", "--pipeline.model.schedule.skinning-fit-steps", "5",
        ]  # fmt: skip

    def ns_train(self, name: str, out: Path | None = None) -> Work:
        return command(ns_train.entrypoint, *self.arguments(name, out))

    def run(self, name: str, out: Path | None = None) -> Path:
        return (out or self.folder / "out") / "CoreView_1" / "fmgs-avatar" / name

    def newest(self, name: str, out: Path | None = None) -> Path:
        return checkpoints(self.run(name, out) / "nerfstudio_models")[0]

    def expect_end(self, ended: Ended, status: int = 0) -> None:
        self.found.expect(ended.status == status and "Traceback" not in ended.said, ended)

    def look(self, name: str, trained: int) -> None:
        """All that lies among the checkpoints is whole, and at most an interval before the last step."""
        kept = list((self.run(name) / "nerfstudio_models").glob("*"))
        for path in kept:
            state = torch.load(path)
            self.found.expect(state["step"] == step_of(path), path)
        newest = max((step_of(path) for path in kept), default=0)
        self.found.lost = max(self.found.lost, trained - newest)
        self.found.expect(trained - newest <= INTERVAL, f"{name}: step {trained} was trained, {kept} are there")

    def goes_on(self, line: list[str], name: str, out: Path | None = None) -> None:
        """The command line ends the run as if nothing had happened, and leaves nothing over."""
        self.expect_end(Child(command(ns_train.entrypoint, *line), self.log).wait())
        state = torch.load(self.newest(name, out))
        different = [key for key, value in _flat(self.whole).items() if not _equal(value, _flat(state).get(key))]
        self.found.expect(different == ["pipeline.train_seconds"], f"{name} {line} differs in {different}")
        left = [path.name for path in self.run(name, out).iterdir() if path.name.startswith(".fmgs")]
        self.found.expect(not left, f"{name}: {left} are left over")

    def as_the_docs_have_it(self, name: str) -> list[str]:
        """The line of docs/training.md after a kill."""
        done = [step_of(path) + 1 for path in checkpoints(self.run(name) / "nerfstudio_models")]
        going_on = ["--load-dir", str(self.run(name) / "nerfstudio_models")] if done else []
        return [*self.arguments(name), *going_on, "--max-num-iterations", str(STEPS - max(done, default=0))]


def _flat(state: Any, name: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in _flat(value, f"{name}.{key}".strip(".")).items()}
    return {name: state}


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def at_steps(work: Callable[[int], object]) -> Work:
    """Let the trainer of this process do something after each step."""

    def prepare() -> None:
        whole = FMGSTrainer._step_is_whole

        def and_then(self: FMGSTrainer, step: int) -> None:
            work(step)
            whole(self, step)

        FMGSTrainer._step_is_whole = and_then

    return prepare


def note_steps(file: Path) -> Work:
    return at_steps(lambda step: file.write_text(str(step)))


def both(*works: Work) -> Work:
    return lambda: [work() for work in works]


def kill_training(training: Training) -> None:
    """`kill -9` at events, at bytes of a checkpoint, and at any time; some go on by the line of the docs."""
    size = training.newest("whole").stat().st_size
    total = events(training.ns_train("counted"), training.run("counted"), training.log)
    draw = random.Random(0)
    points: dict[str, Work] = {f"event{n}": at_event(n, training.run(f"event{n}")) for n in spread(total, 13)}
    for n in (size // 2, size - 10):  # of the second checkpoint
        points[f"byte{n}"] = at_steps(lambda step, n=n: step > INTERVAL and at_byte(n)())
    points |= {f"time{n}": at_steps(lambda step: time.sleep(0.1)) for n in range(2)}
    for i, (name, point) in enumerate(points.items()):
        steps = training.folder / f"{name}.step"
        child = Child(training.ns_train(name), training.log, both(note_steps(steps), point))
        if name.startswith("time"):
            child.wait_until(steps.exists)
            time.sleep(draw.uniform(0, 0.6))
            child.send(signal.SIGKILL)
        training.found.expect(killed(ended := child.wait()), f"{name}: {ended}")
        training.found.killed += killed(ended)
        trained = int(steps.read_text() or 0) if steps.exists() else 0
        training.look(name, trained)
        if i % 5 == 2:
            training.goes_on(training.as_the_docs_have_it(name), name)


def signal_training(training: Training) -> None:
    """Ctrl-C, SIGTERM and a closed terminal at any time: a checkpoint, a status, and a line that goes on."""
    draw = random.Random(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        name = number.name
        steps = training.folder / f"{name}.step"
        slowly = at_steps(lambda step: time.sleep(0.2))
        child = Child(training.ns_train(name), training.log, both(note_steps(steps), slowly))
        child.wait_until(lambda steps=steps: steps.exists() and steps.read_text() not in ("", "0"))
        time.sleep(draw.uniform(0, 0.2))
        child.send(number)
        ended = child.wait()
        training.found.killed += 1
        training.expect_end(ended, 128 + number)
        trained = int(steps.read_text())
        training.found.expect(step_of(training.newest(name)) == trained, f"{name}: nothing is lost; {ended}")
        training.found.expect(str(training.newest(name)) in ended.said, ended)
        if trained < STEPS - 1:
            line = re.findall(r"to go on:\n  (.*)", ended.said)
            training.goes_on(shlex.split(line[0]), name)


def signal_twice(training: Training) -> None:
    """A second Ctrl-C ends a step that takes long at once; one before the first step says that nothing is there."""
    begun = training.folder / "begun"

    def slow() -> None:
        def train_iteration(self: FMGSTrainer, step: int) -> None:
            begun.touch()
            for _ in range(600):
                time.sleep(0.1)

        FMGSTrainer.train_iteration = train_iteration  # pyright: ignore[reportAttributeAccessIssue]

    child = Child(training.ns_train("twice"), training.log, slow)
    child.wait_until(begun.exists)
    child.send(signal.SIGINT)
    child.wait_until(lambda: "again to stop at once" in child.said())
    child.send(signal.SIGINT)
    training.found.expect((ended := child.wait(5)).status == -signal.SIGINT, ended)

    def early() -> None:
        def load_checkpoint(self: FMGSTrainer) -> None:
            begun.touch()
            time.sleep(60)

        FMGSTrainer._load_checkpoint = load_checkpoint

    begun.unlink()
    child = Child(training.ns_train("early"), training.log, early)
    child.wait_until(begun.exists)
    child.send(signal.SIGINT)
    training.expect_end(ended := child.wait(5), 130)
    training.found.expect("before the first step" in ended.said, ended)
    training.found.killed += 2


def fill_training(training: Training) -> None:
    """A disk that takes one checkpoint and not the next; folders that cannot be written."""
    size, out, found = training.newest("whole").stat().st_size, training.folder / "disk", training.found
    with small_disk(out, int(1.6 * size)) as mounted:
        first = (lambda: None) if mounted else at_most(size // 2)
        training.expect_end(ended := Child(training.ns_train("full", out), training.log, first).wait(), 1)
        found.expect("cannot be written to" in ended.said and "MB are free" in ended.said, ended)
        found.expect(not list(training.run("full", out).glob(".fmgs*")), "something is left over")
        if mounted:
            found.expect(step_of(training.newest("full", out)) == INTERVAL, "the former checkpoint is gone")
            enlarge(out, 4 * size)
            (line,) = re.findall(r"to go on:\n  (.*)", ended.said)
            training.goes_on(shlex.split(line), "full", out)
    with read_only(training.folder / "locked") as locked:
        (training.folder / "file").touch()
        for place in ("file", "locked") if locked else ("file",):
            child = Child(training.ns_train("x", training.folder / place), training.log)
            training.expect_end(ended := child.wait(), 1)
            found.expect("config.yml cannot be written" in ended.said, ended)


def tear_training(training: Training) -> None:
    """Checkpoints from elsewhere, one cut, one with a flipped bit: all commands use the newest whole one and say so."""
    keep = ["--save-only-latest-checkpoint", "False", "--max-num-iterations", STEPS + 1]
    training.expect_end(Child(command(ns_train.entrypoint, *training.arguments("torn"), *keep), training.log).wait())
    folder, config = training.run("torn") / "nerfstudio_models", training.run("torn") / "config.yml"
    last, flipped, whole = checkpoints(folder)
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    commands = {
        "ns-train": (ns_train.entrypoint, *training.arguments("resumed"), "--load-dir", folder),
        "ns-eval": (ns_eval.entrypoint, "--load-config", config, "--output-path", training.folder / "metrics.json"),
        "fmgs-animate": (animate.main, config, "--size", "32", "--fps", "1"),
    }
    for name, (main, *arguments) in commands.items():
        arguments = arguments if name == "ns-train" else [name, *arguments]
        training.expect_end(ended := Child(command(main, *arguments), training.log).wait())
        said = "".join(ended.said.split())  # as the console breaks lines anywhere
        training.found.expect(all(path.name in said for path in (last, flipped, whole)), f"{name}: {ended}")
        if name == "ns-train":
            training.found.expect(f"from{whole}" in said, ended)
    whole.write_bytes(b"")
    (main, *arguments) = commands["ns-train"]
    training.expect_end(ended := Child(command(main, *arguments), training.log).wait(), 1)
    training.found.expect("no checkpoint is whole" in ended.said, ended)


# --- files ------------------------------------------------------------------------------------------------------------


def not_whole(folder: Path) -> list[str]:
    """Files that a reader would open and that are not whole, as libraries of others read them."""
    problems = list[str]()
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".fmgs-aside-") for part in path.relative_to(folder).parts):
            try:
                _READERS[path.suffix](path)
            except Exception as error:
                problems.append(f"{path}: {error!r}")
    return problems


def _open_glb(path: Path) -> None:
    data = path.read_bytes()
    assert int.from_bytes(data[8:12], "little") == len(data)


def _open_obj(path: Path) -> None:
    lines = path.read_text().splitlines()
    last = max(int(corner.split("/")[0]) for line in lines if line.startswith("f ") for corner in line.split()[1:])
    assert last == sum(line.startswith("v ") for line in lines)


def _open_mp4(path: Path) -> None:
    with av.open(str(path)) as video:
        assert sum(1 for _ in video.decode(video=0)) == video.streams.video[0].frames > 0


def _open_text(path: Path) -> None:
    assert path.read_text().endswith("\n") or path.read_text().endswith("</html>")


def _open_numpy(path: Path) -> None:
    content = np.load(path, allow_pickle=True)
    for name in content if path.suffix == ".npz" else ():
        content[name]


def _open_image(path: Path) -> None:
    Image.open(path).load()


_READERS: dict[str, Callable[[Path], object]] = {
    ".ply": PlyData.read, ".glb": _open_glb, ".obj": _open_obj, ".mp4": _open_mp4, ".png": _open_image,
    ".jpg": _open_image, ".json": lambda path: json.loads(path.read_text()), ".npz": _open_numpy, ".npy": _open_numpy,
    ".html": _open_text, ".md": _open_text, ".txt": _open_text,
}  # fmt: skip


def kill_writer(work: Work, out: Path, most: int, sizes: Iterable[int], fresh: int, whole: bool = False) -> Found:
    """`kill -9` of a command that writes to `out`, at up to `most` events and at some sizes of a file.

    Every `fresh`-th time nothing is there before; else what is there stays until it is replaced. `whole`: all of `out`
    is there or nothing.
    """
    found, log = Found(), out.parent / f"{out.name}.log"
    total = events(work, out.parent, log)
    complete = names(out)
    points = {f"event {n}": at_event(n, out.parent) for n in spread(total, most)}
    points |= {f"byte {n}": at_byte(n) for n in sizes}
    for i, (name, point) in enumerate(points.items()):
        if i % fresh == 0:
            shutil.rmtree(out, ignore_errors=True)
        before = names(out)
        found.killed += killed(Child(work, log, point).wait())
        for problem in not_whole(out):
            found.problems.append(f"{name}: {problem}")
        found.expect(whole or before <= names(out), f"{name}: {before - names(out)} are gone")
        found.expect(not whole or names(out) in (set(), complete), f"{name}: {names(out)}")
    found.expect((ended := Child(work, log).wait()).status == 0, ended)
    left = [str(path) for path in out.parent.rglob(".fmgs-aside-*")]
    found.expect(names(out) == complete and not not_whole(out) and not left, f"{names(out)}, {left}")
    return found


def names(folder: Path) -> set[str]:
    """All files of a folder but temporaries."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if ".fmgs-aside-" not in name}


def fill_writer(work_on: Callable[[Path], Work], folder: Path, size: int) -> Found:
    """The disk fills up: one line says so, what is there is whole, and nothing is left over."""
    found, out = Found(), folder / "disk" / "out"
    with small_disk(folder / "disk", size) as mounted:
        first = (lambda: None) if mounted else at_most(size // 8)
        ended = Child(work_on(out), folder / "disk.log", first).wait()
        found.expect(ended.status == 1 and "Traceback" not in ended.said, ended)
        found.expect("No space left" in ended.said or "too large" in ended.said, ended)
        left = [path.name for path in (folder / "disk").rglob(".fmgs-aside-*")]
        found.expect(not left and not not_whole(folder / "disk"), f"{left} {not_whole(folder / 'disk')}")
    return found


def writers(folder: Path, run: Path) -> dict[str, Found]:
    """Every command that writes files; `run` is a trained one."""
    result = report.evaluate(report.open_run(run), 1, 1)
    report.evaluate = lambda *arguments: result  # pyright: ignore[reportAttributeAccessIssue]
    avatar = SimpleNamespace(pipeline=None, model=small_avatar(), folder=folder)
    export.open_run = animate.open_run = lambda run: avatar  # pyright: ignore[reportAttributeAccessIssue]
    PRESETS["ci"] = Preset(96, 0, 4, 1, 1, ("Camera_B2",))

    def export_to(out: Path) -> Work:
        small = ("--sh-degree", "0", "--splat-steps", "0", "--formats", "splats", "glb", "obj", "ply")
        return command(export.main, "fmgs-export", folder, "--out", out, *small)

    def animate_to(out: Path) -> Work:
        frames = ("--size", "32", "--fps", "2", "--frames", out / "frames", "--video", out / "video.mp4")
        return command(animate.main, "fmgs-animate", folder, *frames)

    def demo_to(out: Path) -> Work:
        def run() -> None:  # another capture than the one that is there
            old = json.loads((out / "protocol.json").read_text())["generator"] if out.exists() else {"seed": 1}
            options = ("--preset", "ci", "--overwrite", "--seed", 1 - old["seed"])
            command(demo.main, "fmgs-demo", out, *options)()

        return run

    def report_to(out: Path) -> Work:
        return command(report.main, "fmgs-report", run, "--out", out)

    def priors_to(out: Path) -> Work:
        if not out.parent.exists():
            make_capture(out.parent, DemoOptions("ci", priors="none", pose_noise=0, mask_noise=0))
        capture = opened(out.parent)
        perfect = network(Perfect(capture, capture.splits["train"]))
        priors.ESTIMATORS = {"sapiens": lambda options: [perfect]}  # pyright: ignore[reportAttributeAccessIssue]
        return command(priors.main, "fmgs-priors", out.parent, "--batch-size", "1")

    found = dict[str, Found]()
    for name, to, most, sizes, fresh, full in (
        ("export", export_to, 8, (200_000, 400_000), 3, 900_000),
        ("animate", animate_to, 8, (300, 2000), 3, 16_000),
        ("report", report_to, 6, (3_000,), 3, 16_000),
        ("demo", demo_to, 8, (20_000,), 3, 150_000),
        ("priors", priors_to, 10, (2_000,), 1, 0),
    ):
        out = folder / name / ("priors" if name == "priors" else "out")
        found[name] = kill_writer(to(out), out, most, sizes, fresh, whole=name == "demo")
        if full:
            found[f"{name} on a full disk"] = fill_writer(to, folder / name, full)
    return found


def main(folder: Path) -> None:
    training = Training(folder / "training")
    found = {"an uninterrupted run": training.found}
    for scenario in (kill_training, signal_training, signal_twice, fill_training, tear_training):
        training.found = Found()
        scenario(training)
        found[scenario.__name__] = training.found
    found |= writers(folder, training.run("whole"))
    print(json.dumps({name: dataclasses.asdict(one) for name, one in found.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
