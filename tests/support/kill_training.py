"""Kills and signals `ns-train`, and looks at its checkpoints: scenarios of `support.kill_points`."""

from __future__ import annotations

import random
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nerfstudio.scripts.eval as ns_eval
import nerfstudio.scripts.train as ns_train
import torch
from support.killing import (
    Child,
    Ended,
    Found,
    Work,
    at_byte,
    at_event,
    at_most,
    both,
    command,
    enlarge,
    events,
    killed,
    read_only,
    small_disk,
    spread,
)
from support.zju_capture import write_capture

from fmgs_nerfstudio.checkpoints import checkpoints, step_of
from fmgs_nerfstudio.cli import animate
from fmgs_nerfstudio.trainer import FMGSTrainer

INTERVAL, STEPS = 2, 5


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
            "--logging.local-writer.enable", "False", "--pipeline.datamanager.check-fit", "False",
            "--pipeline.model.schedule.skinning-fit-steps", "5",
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
            try:
                self.found.expect(torch.load(path)["step"] == step_of(path), path)
            except Exception as error:
                self.found.problems.append(f"{path}: {error!r}")
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
        folder = self.run(name) / "nerfstudio_models"
        going_on = ["--load-dir", str(folder)] if checkpoints(folder) else []
        return [*self.arguments(name), *going_on, "--max-num-iterations", str(self.left(name))]

    def left(self, name: str) -> int:
        """Steps after the last checkpoint."""
        done = [step_of(path) + 1 for path in checkpoints(self.run(name) / "nerfstudio_models")]
        return STEPS - max(done, default=0)


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


def kill_training(training: Training) -> None:
    """`kill -9` at events, at bytes of a checkpoint, and at any time; some go on by the line of the docs."""
    size = training.newest("whole").stat().st_size
    total = events(training.ns_train("counted"), training.run("counted"), training.log)
    draw = random.Random(0)
    points: dict[str, Work] = {f"event{n}": at_event(n, training.run(f"event{n}")) for n in spread(total - 8, 13)}
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
        ended = child.wait()  # how many events there are is not quite the same each time: one may end first
        training.found.expect(killed(ended) or (ended.status == 0 and name.startswith("event")), f"{name}: {ended}")
        training.found.killed += killed(ended)
        trained = int(steps.read_text() or 0) if steps.exists() else 0
        training.look(name, trained)
        if i % 5 == 2 and training.left(name):
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
