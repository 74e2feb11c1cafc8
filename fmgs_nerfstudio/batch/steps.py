"""The programs that a plan can run, and the tasks that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from fmgs_nerfstudio.batch.plan import METHODS, Plan, Source, Variant, plain
from fmgs_nerfstudio.batch.tasks import BatchError, Task, check_graph

_OWN = ("check", "video_frames")
"""What our programs write into a capture while they read it."""


@dataclass(frozen=True)
class Place:
    """One capture, or one run on it, and where its files are."""

    plan: Plan
    out: Path
    source: Source
    variant: Variant | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """Of the capture or the run, in the names of tasks and folders."""
        if self.variant is None:
            return self.source.name
        return plain(f"{self.source.name}-{self.variant.name}-{self.seed}")

    @property
    def capture(self) -> Path:
        if self.source.make:
            return self.out / "captures" / self.source.name
        assert self.source.path is not None
        return self.source.path

    @property
    def folder(self) -> Path:
        """Of what is made of the capture, or of the run."""
        return self.out / ("runs" if self.variant else "captures") / self.name

    @property
    def run(self) -> Path:
        """As `ns-train` names it."""
        assert self.variant is not None
        return self.folder / self.variant.method / "run"

    @property
    def config(self) -> Path:
        return self.run / "config.yml"


class Call(NamedTuple):
    """A command line, and what it writes."""

    words: tuple[object, ...]
    outputs: tuple[Path, ...]
    writes: Literal["aside", "afresh", "on"] = "aside"


def _demo(at: Place) -> Call:
    return Call(("fmgs-demo", at.capture, *at.source.options, "--overwrite"), (at.capture,), "on")


def _track(at: Place) -> Call:
    return Call(("fmgs-track", at.source.path, "--out", at.capture), (at.capture,), "on")


def _priors(at: Place) -> Call:
    return Call(("fmgs-priors", at.capture), (at.capture / "priors" / "priors.json",), "on")


def _check(at: Place) -> Call:
    out = at.out / "checks" / at.name
    return Call(("fmgs-check", at.capture, "--out", out, "--protocol", at.plan.protocol), (out,))


def _train(at: Place) -> Call:
    assert at.variant is not None
    where = ("--output-dir", at.out / "runs", "--experiment-name", at.name, "--timestamp", "run")
    how = ("--vis", "tensorboard", "--logging.local-writer.enable", "False")
    split = ("--pipeline.datamanager.dataparser.protocol", at.plan.protocol)
    seeds = ("--machine.seed", at.seed, "--pipeline.model.seed", at.seed)
    order = ("--pipeline.datamanager.train-cameras-sampling-seed", 42 + at.seed)
    length = () if at.plan.steps is None else ("--max-num-iterations", at.plan.steps)
    words = ("ns-train", at.variant.method, "--data", at.capture, *where, *how, *split, *seeds, *order, *length)
    # In place: config.yml names the folder. Checkpoints are whole or not there; without its record no run counts.
    return Call((*words, *at.variant.flags), (at.run,), "afresh")


def _eval(at: Place) -> Call:
    metrics, images = at.folder / "metrics.json", at.folder / "images"
    words = ("ns-eval", "--load-config", at.config, "--output-path", metrics, "--render-output-path", images)
    return Call(words, (metrics, images))


def _animate(at: Place) -> Call:
    video = at.folder / "animation.mp4"
    return Call(("fmgs-animate", at.config, "--video", video), (video,))


def _export(at: Place) -> Call:
    return Call(("fmgs-export", at.config, "--out", at.folder / "export"), (at.folder / "export",))


def _report(at: Place) -> Call:
    return Call(("fmgs-report", at.config, "--out", at.folder / "report"), (at.folder / "report",))


class Step(NamedTuple):
    """A program in a plan."""

    call: Callable[[Place], Call]
    of: Literal["capture", "run"]
    after: tuple[str, ...] = ()
    """Steps that it waits for, where the plan has them."""
    card: bool = True


_MADE = ("demo", "track")
STEPS: dict[str, Step] = {
    "demo": Step(_demo, "capture", card=False),
    "track": Step(_track, "capture", card=False),
    "priors": Step(_priors, "capture", _MADE),
    "check": Step(_check, "capture", (*_MADE, "priors"), card=False),
    "train": Step(_train, "run", (*_MADE, "priors", "check")),
    "eval": Step(_eval, "run", ("train",)),
    "animate": Step(_animate, "run", ("train",)),
    "export": Step(_export, "run", ("train",)),
    "report": Step(_report, "run", ("train",)),
}


def tasks_of(plan: Plan, out: Path) -> list[Task]:
    """The tasks of a plan, each after those that it needs; capture by capture, so that results come early.

    Raises:
        BatchError: the plan cannot be run.
    """
    _check_plan(plan)
    tasks: list[Task] = []
    for source in plan.captures:
        for at in _places(plan, out, source):
            tasks += _tasks_at(at)
    check_graph(tasks)
    return tasks


def _places(plan: Plan, out: Path, source: Source) -> Iterator[Place]:
    yield Place(plan, out, source)
    yield from (Place(plan, out, source, variant, seed) for variant in plan.variants for seed in plan.seeds)


def runs_of(plan: Plan, out: Path) -> list[Place]:
    """Every capture x variant x seed."""
    return [at for source in plan.captures for at in _places(plan, out, source) if at.variant is not None]


def _chosen(plan: Plan, source: Source) -> list[str]:
    return [name for name in STEPS if name in plan.run or name == source.make]


def _tasks_at(at: Place) -> Iterator[Task]:
    chosen = _chosen(at.plan, at.source)
    capture = at.source.path
    for name in chosen:
        step = STEPS[name]
        if (step.of == "run") != (at.variant is not None):
            continue
        needs = [f"{at.name if STEPS[a].of == step.of else at.source.name}/{a}" for a in step.after if a in chosen]
        call = step.call(at)
        words = (*call.words, *at.plan.flags.get(name, ()))
        yield Task(
            f"{at.name}/{name}",
            tuple(str(word) for word in words),
            call.outputs,
            () if capture is None or needs else (capture,),  # else through those it needs
            (*_OWN, *(("priors",) if "priors" in chosen else ())),
            tuple(needs),
            call.writes,
            step.card,
            at.source.name,
        )


def _check_plan(plan: Plan) -> None:
    for name in (*plan.run, *plan.flags):
        if name not in STEPS:
            raise BatchError(f"there is no program {name} to run; expected some of {', '.join(STEPS)}")
    after = [name for name in plan.run if STEPS[name].after == ("train",)]
    if after and "train" not in plan.run:
        raise BatchError(f"{after[0]} needs a run to work on; add train, which a finished run does not repeat")
    for variant in plan.variants:
        if not any(variant.method == known or variant.method.startswith(f"{known}-") for known in METHODS):
            raise BatchError(f"variant {variant.name}: {variant.method} is no method; expected {' or '.join(METHODS)}")
    if not (plan.variants and plan.seeds and plan.captures):
        raise BatchError(f"the plan {plan.name} has no captures, variants or seeds: there is nothing to do")
    if plan.steps is not None and plan.steps < 1:
        raise BatchError(f"the plan trains for {plan.steps} steps; expected 1 or more")
