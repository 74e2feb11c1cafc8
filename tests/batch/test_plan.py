"""What plans say, and the tasks that they become."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path
from typing import Any

import pytest
import tyro
from nerfstudio.scripts.eval import ComputePSNR
from tyro.conf import FlagConversionOff, SuppressFixed

from fmgs_nerfstudio.batch.find import BUILT_IN, find_plan, read_plan
from fmgs_nerfstudio.batch.plan import Plan, Source, Variant
from fmgs_nerfstudio.batch.steps import STEPS, tasks_of
from fmgs_nerfstudio.batch.tasks import BatchError
from fmgs_nerfstudio.cli import animate, batch, check, demo, export, priors, report
from fmgs_nerfstudio.gate import FileError
from fmgs_nerfstudio.method import FMGSTrainerConfig, fmgs_avatar, fmgs_avatar_paper

PARSERS: dict[str, Any] = {
    "fmgs-demo": demo.Demo,
    "fmgs-priors": priors.MakePriors,
    "fmgs-check": check.Check,
    "ns-eval": FlagConversionOff[ComputePSNR],
    "fmgs-animate": animate.Animate,
    "fmgs-export": export.Export,
    "fmgs-report": report.MakeReport,
}


def parsed(command: tuple[str, ...]) -> Any:
    """By the program's own parser."""
    program, *rest = command
    kind, more = PARSERS.get(program), {}
    if program == "ns-train":
        method = {"fmgs-avatar": fmgs_avatar, "fmgs-avatar-paper": fmgs_avatar_paper}[rest.pop(0)]
        kind, more = SuppressFixed[FlagConversionOff[FMGSTrainerConfig]], {"default": method.config}
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            return tyro.cli(kind, args=rest, **more)  # pyright: ignore[reportArgumentType, reportCallIssue]
        except SystemExit as error:
            raise AssertionError(f"{shlex.join(command)}: {said.getvalue()}") from error


EVERYTHING = ("priors", "check", "train", "eval", "animate", "export", "report")


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_command_of_a_built_in_plan_is_one_that_its_program_takes(name: str, tmp_path: Path) -> None:
    plan = find_plan(name, tmp_path / "data")
    plan = Plan(plan.name, plan.captures, plan.variants, (0, 3), EVERYTHING, 7, plan.protocol, {}, plan.paper)
    tasks = tasks_of(plan, tmp_path / "out")
    assert {"fmgs-check", "ns-train", "ns-eval", "fmgs-report"} <= {task.command[0] for task in tasks}
    for task in tasks:
        made = parsed(task.command)
        if task.kind == "train":
            seed = int(task.id.split("/")[0].rpartition("-")[2])
            assert (made.machine.seed, made.pipeline.model.seed, made.max_num_iterations) == (seed, seed, 7)
            assert made.pipeline.datamanager.dataparser.protocol == plan.protocol
            made.set_timestamp()
            (run,) = task.outputs
            assert made.get_base_dir() == run


def test_the_papers_tables_are_ten_and_five_trainings(tmp_path: Path) -> None:
    (tmp_path / "377").mkdir()
    plans = {name: find_plan(name, tmp_path) for name in ("zju", "people-snapshot", "ablation")}
    tasks = {name: tasks_of(plan, tmp_path) for name, plan in plans.items()}
    trained = {name: [task for task in made if task.kind == "train"] for name, made in tasks.items()}
    assert {name: len(tasks) for name, tasks in trained.items()} == {"zju": 6, "people-snapshot": 4, "ablation": 5}
    inputs = [task.inputs for task in tasks["zju"] if task.kind == "check"]
    assert inputs[:2] == [(tmp_path / "377",), (tmp_path / "CoreView_386",)]  # the first as the folder is called there
    weights = [parsed(task.command).pipeline.model.weights.at(0.5) for task in trained["ablation"]]
    zero = [sorted(name for name in ("L_d", "L_sn", "L_n", "L_tv", "L_s", "L_reg") if not w[name]) for w in weights]
    assert [len(names) for names in zero] == [6, 5, 4, 2, 0]


def test_dependencies(tmp_path: Path) -> None:
    plan = Plan("p", (Source("a", tmp_path),), (Variant("x"), Variant("y")), (0, 1), EVERYTHING)
    needs = {task.id: set(task.needs) for task in tasks_of(plan, tmp_path / "out")}
    assert len(needs) == 2 + 4 * 5
    assert needs["a/check"] == {"a/priors"}
    assert needs["a-y-1/train"] == {"a/priors", "a/check"}
    assert all(needs[f"a-y-1/{kind}"] == {"a-y-1/train"} for kind in EVERYTHING[3:])


def test_a_plan_file(tmp_path: Path) -> None:
    for name in ("data/a", "data/b", "more/b"):
        (tmp_path / name).mkdir(parents=True)
    path = tmp_path / "mine.yml"
    path.write_text(
        "captures: [data/*, more/b]\ndemo: {preset: ci, seeds: [4]}\nseeds: [0, 2]\nsteps: 50\nrun: [train, eval]\n"
        "variants:\n  full:\n  plain: {method: fmgs-avatar-paper, flags: --pipeline.model.weights.lambda-d 0}\n"
        "flags: {train: [--pipeline.refine-test-poses, '5']}\n"
    )
    plan = find_plan(str(path), None)
    assert [source.name for source in plan.captures] == ["a", "data-b", "more-b", "ci-4"]
    tasks = tasks_of(plan, tmp_path / "out")
    trained = {task.id: parsed(task.command) for task in tasks if task.kind == "train"}
    assert len(trained) == 4 * 2 * 2
    made = trained["more-b-plain-2/train"]
    assert (made.method_name, made.max_num_iterations, made.machine.seed) == ("fmgs-avatar-paper", 50, 2)
    assert made.pipeline.model.weights.lambda_d == 0
    assert made.pipeline.refine_test_poses == 5
    assert made.data == tmp_path / "more/b"
    assert [task.id for task in tasks if task.kind == "demo"] == ["ci-4/demo"]


@pytest.mark.parametrize(("content", "why"), [
    ("captures: []", "names no captures"),
    ("captures: [nothing/*]", "nothing matches nothing/\\*"),
    ("capture: [a]", "there is no key capture; known are captures"),
    ("captures: [a]\nseeds: [one]", "seeds: expected whole numbers"),
    ("captures: [a]\nseeds: [-1]", "seeds: expected whole numbers"),
    ("captures: [a]\nvariants: {x: {methods: y}}", "variants: x: there is no key methods"),
    ("captures: {a: b}", "captures: expected a list"),
    ("[1, 2]", "expected keys"),
    ("captures: &a [*a]", "alias"),
    ("captures: [", "cannot be read as YAML"),
    ("!!python/object/apply:os.system [touch /tmp/pwned]", "expected keys"),
])  # fmt: skip
def test_plan_files_that_say_something_else_are_refused_by_name(content: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yml"
    path.write_text(content)
    with pytest.raises((BatchError, FileError), match=why) as error:
        read_plan(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("change", "why"), [
    ({"run": ("train", "bake")}, "no program bake"),
    ({"run": ("eval",)}, "eval needs a run"),
    ({"variants": (Variant("x", "splatfacto"),)}, "splatfacto is no method"),
    ({"variants": (Variant("x"), Variant("x"))}, "two tasks are called a-x-0/train"),
    ({"seeds": ()}, "nothing to do"),
    ({"steps": 0}, "0 steps"),
])  # fmt: skip
def test_plans_that_cannot_be_run_are_refused(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    values = {"name": "p", "captures": (Source("a", tmp_path),), **change}
    with pytest.raises(BatchError, match=why):
        tasks_of(Plan(**values), tmp_path)


def test_folders_and_videos(tmp_path: Path) -> None:
    """A video that nobody has tracked is tracked first, into the plan's own folder."""
    (tmp_path / "person").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "raw").mkdir()
    for name in ("clip.MP4", "raw/film.mov", "notes.txt"):
        (tmp_path / name).touch()
    tasks = {task.id: task for task in tasks_of(find_plan(str(tmp_path), None), tmp_path / "out")}
    assert {id.partition("/")[0] for id in tasks if id.endswith("check")} == {"clip", "person", "raw"}
    for name in ("clip", "raw"):
        capture = tmp_path / "out" / "captures" / name
        video = tmp_path / {"clip": "clip.MP4", "raw": "raw"}[name]
        assert tasks[f"{name}/track"].command == ("fmgs-track", str(video), "--out", str(capture))
        assert tasks[f"{name}/track"].outputs == (capture,)
        assert str(capture) in tasks[f"{name}-fmgs-avatar-0/train"].command
        assert tasks[f"{name}/check"].needs == (f"{name}/track",)
    assert "person/track" not in tasks
    assert tasks["person/check"].needs == ()
    assert "track" in STEPS


@pytest.mark.parametrize(("arguments", "why"), [
    ([], "name a plan"),
    (["nothing-here"], "there is no plan nothing-here: expected zju"),
    (["zju"], "needs --data"),
    (["demo", "--subjects", "x"], "seeds of its people"),
    (["demo", "--threads", "0"], "--threads is 0"),
    (["demo", "--methods", "x"], "x is no method"),
    (["zju", "--data", ".", "--subjects", "999"], "no capture 999"),
    (["demo", "--workers", "0"], "--workers is 0"),
])  # fmt: skip
def test_mistakes_on_the_command_line_are_one_line(
    arguments: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        batch.main([*arguments, "--out", str(tmp_path / "out")])
    assert stop.value.code == 1
    assert why in capsys.readouterr().err
