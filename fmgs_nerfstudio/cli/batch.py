"""`fmgs-batch`: a whole data set, on one machine or on many."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fmgs_nerfstudio.batch.cluster import RayEngine
from fmgs_nerfstudio.batch.find import demo, find_plan
from fmgs_nerfstudio.batch.local import LocalEngine, Machine
from fmgs_nerfstudio.batch.plan import Plan, Variant
from fmgs_nerfstudio.batch.progress import Progress, graph, outcomes_table
from fmgs_nerfstudio.batch.scheduler import ordered
from fmgs_nerfstudio.batch.scheduler import run as run_tasks
from fmgs_nerfstudio.batch.simulate import EXPECTED, Simulation, expected_seconds, recorded_in, simulate
from fmgs_nerfstudio.batch.state import State
from fmgs_nerfstudio.batch.steps import tasks_of
from fmgs_nerfstudio.batch.table import failures, write_tables
from fmgs_nerfstudio.batch.tasks import BatchError, Task
from fmgs_nerfstudio.cli.errors import in_one_line
from fmgs_nerfstudio.console import printable
from fmgs_nerfstudio.files import ensure_writable
from fmgs_nerfstudio.gate import FileError


@dataclass(frozen=True)
class Batch:
    """Train, evaluate and more on every capture of a data set, and compare: a table as Markdown, CSV and a page.

    The same command goes on where it stopped: what is finished, with the same inputs, configuration and code, is kept.
    Exit status: 0 all is done, 1 something failed; what failed does not stop the rest.
    """

    plan: Annotated[str, tyro.conf.Positional] = ""
    """zju, people-snapshot, ablation, demo; a folder of captures and videos; or a YAML file (docs/scale.md)."""
    data: Path | None = None
    """Folder that holds the captures of zju, people-snapshot and ablation."""
    out: Path = Path("batch_out")
    """Folder for runs, records, logs and tables. On several machines: a path that all of them share."""
    subjects: tuple[str, ...] = ()
    """Captures of the plan to take, by name; of demo, the seeds of the people. Default: all."""
    methods: tuple[str, ...] = ()
    """Methods to train, in place of the plan's variants: fmgs-avatar, fmgs-avatar-paper."""
    seeds: tuple[int, ...] = ()
    """Seeds of training, in place of the plan's."""
    run: tuple[str, ...] = ()
    """Programs, in place of the plan's: priors, check, train, eval, animate, export, report."""
    steps: int | None = None
    """Training steps of a run. Default: the plan's, else the method's."""
    preset: Literal["ci", "small", "full"] = "small"
    """Size of the people of demo: 128, 256 or 512 pixels."""
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: a Ray cluster (the extra "ray")."""
    address: str | None = None
    """Of the Ray cluster, such as auto or head:6379; local: a new one. Default: $RAY_ADDRESS, or the one that runs
    here, or a new one."""
    workers: int | None = None
    """Tasks at a time. Default: as many as cores, memory and cards of this machine, or of the cluster, bear."""
    threads: int = 1
    """Threads of a task."""
    memory: float = 3.0
    """Memory of a task in GB, by which machines are filled."""
    any_version: bool = False
    """Keep what other versions of the code have finished, too."""
    dry_run: bool = False
    """Only print the tasks, what they wait for, which are finished, and how long the rest takes."""
    simulate: bool = False
    """Only run the scheduler on a simulated cluster and print how long it takes against the ideal."""
    simulation: Simulation = field(default_factory=Simulation)


def run(batch: Batch) -> bool:
    """Do what is asked for. Returns whether all tasks are done.

    Raises:
        BatchError, FileError: the plan, an option or the cluster cannot be used.
    """
    if batch.simulate:
        recorded = dict(EXPECTED) | recorded_in(batch.out / "state")
        print(outcomes_table(batch.simulation, simulate(batch.simulation, recorded)))
        return True
    for name, value in (("--threads", batch.threads), ("--memory", batch.memory), ("--workers", batch.workers)):
        if value is not None and value <= 0:
            raise BatchError(f"{name} is {value}; expected more than 0")
    plan, out = _plan(batch), batch.out.resolve()
    tasks = tasks_of(plan, out)
    threads = str(batch.threads)
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    state = State(out, "any" if batch.any_version else None, dict.fromkeys(names, threads))
    machine = Machine.here()
    workers = batch.workers or machine.workers(batch.threads, batch.memory)
    if batch.dry_run:
        print(printable(graph(tasks, state, workers)))
        return True
    ensure_writable(out)
    state.open()
    print(printable(f"{plan.name}: {len(tasks)} tasks on {len(plan.captures)} captures, into {out}"))
    return _run(plan, tasks, state, batch, workers, machine)


def _run(plan: Plan, tasks: list[Task], state: State, batch: Batch, workers: int, machine: Machine) -> bool:
    if batch.engine == "ray":
        engine = RayEngine(state.order, batch.address, batch.workers, batch.threads, batch.memory)
        workers = engine.workers
        print(f"Ray cluster: {engine.cluster}; {batch.threads} CPUs and {batch.memory:g} GB a task")
    else:
        engine = LocalEngine(workers, state.order, machine.cards)
        print(f"This machine: {machine}; {workers} at a time; threads of each: {batch.threads}")
    try:
        expected = expected_seconds(tasks, dict(EXPECTED) | recorded_in(state.folder))
        with Progress(len(tasks), state.folder) as progress:
            records = run_tasks(ordered(tasks, expected, workers), engine, state.finished, progress.tell)
    finally:
        engine.close()
    records = {task.id: records[task.id] for task in tasks}  # in the plan's order
    print(printable(write_tables(plan, state.out, records)))
    failed = failures(records)
    undone = sum(not record.done for record in records.values())
    kept = sum(record.kept for record in records.values())
    print(f"{len(tasks) - undone} done ({kept} of them before), {len(failed)} failed, {undone - len(failed)} not run")
    print(f"See {state.out / 'index.html'}, table.md, table.csv and times.csv there; logs are in {state.folder}")
    return undone == 0


def _plan(batch: Batch) -> Plan:
    """The plan with what the command line says in its place."""
    if not batch.plan:
        raise BatchError("name a plan: zju, people-snapshot, ablation, demo, a folder of captures, or a YAML file")
    if batch.plan == "demo":
        if not all(subject.isdecimal() for subject in batch.subjects):
            raise BatchError("--subjects of demo are the seeds of its people: whole numbers from 0")
        people = tuple(int(subject) for subject in batch.subjects) or (0, 1, 2)
        plan = demo(None, batch.preset, people)
    else:
        plan = find_plan(batch.plan, batch.data)
        if unknown := set(batch.subjects) - {source.name for source in plan.captures}:
            raise BatchError(f"the plan {plan.name} has no capture {', '.join(sorted(unknown))}")
        chosen = tuple(s for s in plan.captures if not batch.subjects or s.name in batch.subjects)
        plan = replace(plan, captures=chosen)
    if batch.methods:
        plan = replace(plan, variants=tuple(Variant(method, method) for method in batch.methods))
    return replace(
        plan,
        seeds=batch.seeds or plan.seeds,
        run=batch.run or plan.run,
        steps=plan.steps if batch.steps is None else batch.steps,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `fmgs-batch`. Exit status: 0 all is done, 1 an error, or something failed."""
    batch = tyro.cli(Batch, prog="fmgs-batch", args=arguments)
    with in_one_line("fmgs-batch", BatchError, FileError, interrupted="the same command goes on where it stopped"):
        good = run(batch)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
