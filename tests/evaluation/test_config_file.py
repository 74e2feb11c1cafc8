"""config.yml as data: the same as nerfstudio reads, and nothing in it is run."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.utils.writer import EventName
from tyro.conf import FlagConversionOff, SuppressFixed

from fmgs_nerfstudio.cli import animate
from fmgs_nerfstudio.evaluation.config_file import RunError, line_of, read_config, refused
from fmgs_nerfstudio.method import FMGSTrainerConfig, fmgs_avatar, fmgs_avatar_paper

CHANGED = (
    "--data /captures/my_[/video] --output-dir /runs --timestamp 2024-01-01_000000 --max-num-iterations 7 --vis viewer "
    "--machine.seed 3 --load-dir /x/nerfstudio_models --load-step 5 --viewer.jpeg-quality 50 "
    "--optimizers.volumes.optimizer.lr 0.3 --optimizers.poses.scheduler.final 0.5 --pipeline.model.n-vertices 7000 "
    "--pipeline.model.refine-poses False --pipeline.model.lpips-backbones ~/hub --pipeline.model.light.kind sh "
    "--pipeline.model.surfels.kind 3d --pipeline.model.weights.lambda-sn None --pipeline.model.schedule.steps 10 "
    "--pipeline.datamanager.crop-margin None --pipeline.datamanager.dataparser.body-model smpl "
    "--pipeline.datamanager.dataparser.background 0.5 1 0 --pipeline.datamanager.dataparser.downscale-factor 2 "
    "--pipeline.datamanager.dataparser.protocol instantavatar --pipeline.refine-test-poses 9"
)


def written(folder: Path, config: TrainerConfig | None = None) -> Path:
    """A config.yml as ns-train writes it."""
    made, path = copy.deepcopy(config or fmgs_avatar.config), folder / "config.yml"
    made.set_experiment_name()
    path.write_text(yaml.dump(made), "utf8")
    return path


def assert_same(got: Any, expected: Any, where: str = "config") -> None:
    """Types and values of all that hangs on it, attributes included."""
    assert type(got) is type(expected), where
    if dataclasses.is_dataclass(expected) and not isinstance(expected, type):
        assert_same(vars(got), vars(expected), where)
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(got[key], value, f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected), where
        for i, value in enumerate(expected):
            assert_same(got[i], value, f"{where}[{i}]")
    else:
        assert got == expected, where


@pytest.mark.parametrize("method", [fmgs_avatar, fmgs_avatar_paper], ids=lambda method: method.config.method_name)
@pytest.mark.parametrize("arguments", ["", CHANGED], ids=["default", "changed"])
def test_it_is_what_nerfstudio_reads(method: MethodSpecification, arguments: str, tmp_path: Path) -> None:
    kind = SuppressFixed[FlagConversionOff[FMGSTrainerConfig]]
    config = tyro.cli(kind, args=arguments.split(), default=copy.deepcopy(method.config))
    path = written(tmp_path, config)
    assert_same(read_config(path), yaml.load(path.read_text(), Loader=yaml.Loader))
    assert refused(path) == []


def test_members_of_enums_by_their_names(tmp_path: Path) -> None:
    """As Python 3.11.0 to 3.11.3 write them."""
    path = written(tmp_path)
    expected, text = read_config(path), path.read_text()
    by_value = re.compile(r"( +)- !!python/object/apply:nerfstudio.utils.writer.EventName\n +- (.+)\n")

    def by_name(match: re.Match[str]) -> str:
        member = EventName(yaml.safe_load(match[2])).name
        kind = "!!python/name:nerfstudio.utils.writer.EventName ''"
        return f"{match[1]}- !!python/object/apply:builtins.getattr\n{match[1]}  - {kind}\n{match[1]}  - {member}\n"

    changed, count = by_value.subn(by_name, text)
    assert count or "builtins.getattr" in text
    path.write_text(changed)
    assert_same(read_config(path), expected)
    assert refused(path) == []


OTHER_ATTRIBUTES = [
    "!!python/object/apply:builtins.getattr [!!python/name:nerfstudio.utils.writer.EventName '', mro]",
    "!!python/object/apply:builtins.getattr [!!python/name:fmgs_nerfstudio.model.FMGSModelConfig '', setup]",
    "!!python/object/apply:builtins.getattr [!!python/name:os.system '', __call__]",
    "!!python/object/apply:builtins.getattr []",
]


@pytest.mark.parametrize("value", OTHER_ATTRIBUTES)
def test_other_attributes_are_refused(value: str, tmp_path: Path) -> None:
    path = edited(written(tmp_path), "prompt: null", f"prompt: {value}")
    assert refused(path)
    with pytest.raises(RunError, match="is refused"):
        read_config(path)


PAYLOADS = [
    "!!python/object/apply:os.system ['{touch}']",
    "!!python/object/apply:subprocess.Popen [['touch', '{canary}']]",
    "!!python/object/new:os.system ['{touch}']",
    "!!python/object/new:subprocess.check_output [['touch', '{canary}']]",
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.PosixPath ['{canary}']]",
    "!!python/object/apply:fmgs_nerfstudio.evaluation.runs.open_run ['{canary}']",
    "!!python/object/apply:fmgs_nerfstudio.model.FMGSModelConfig []",
    "!!python/object/apply:nerfstudio.utils.writer.EventName ['{canary}']",
    "!!python/object/apply:fmgs_nerfstudio.files.os.system ['{touch}']",
    "!!python/object:fmgs_nerfstudio.model.FMGSModel {{}}",
    "!!python/object:fmgs_nerfstudio.evaluation.runs.Path {{}}",
    "!!python/object:nerfstudio.scripts.train.Path {{}}",
    "!!python/object:subprocess.Popen {{args: [touch, '{canary}']}}",
    "!!python/object/apply:nerfstudio.scripts.downloads.evil.Evil []",
    "!!python/name:os.system",
    "!!python/name:nerfstudio.engine.trainer.Trainer",
    "!!python/module:antigravity",
    "!!python/tuple [1, !!python/tuple [!!python/object/apply:os.system ['{touch}']]]",
    "{{a: [{{b: !!python/object/apply:os.system ['{touch}']}}]}}",
    "{{? !!python/object/apply:os.system ['{touch}'] : 1}}",
    "!!python/object/apply:pathlib.PosixPath [!!python/object/apply:os.system ['{touch}']]",
    "!!set {{a, b}}",
    "!evil 1",
]
PLACES = ["prompt: null", "load_config: null", "    cache_megabytes: 1024", "gradient_accumulation_steps: {}"]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_are_refused_wherever_they_stand(payload: str, tmp_path: Path) -> None:
    """By file, line and what it is; also under a name that no version has, which is left out otherwise."""
    canary = tmp_path / "canary"
    evil = payload.format(touch=f"touch {canary}", canary=canary)
    path = written(tmp_path)
    text = path.read_text()
    for place in PLACES:
        assert f"\n{place}\n" in text
        name = place.split(":")[0]
        for line in (f"{name}: {evil}", f"{place}\n{' ' * (len(name) - len(name.lstrip()))}unknown: {evil}"):
            path.write_text(text.replace(f"\n{place}\n", f"\n{line}\n"))
            with pytest.raises(RunError) as told:
                read_config(path)
            number = 1 + next(i for i, one in enumerate(path.read_text().splitlines()) if one.endswith(evil))
            assert str(told.value).startswith(f"{path}, line {number}: "), told.value
    assert not canary.exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("payload", PAYLOADS[:4])
def test_the_payloads_are_no_toys(payload: str, tmp_path: Path) -> None:
    """nerfstudio's reader runs them; what is found in a file without running it says so, with the line."""
    canary = tmp_path / "canary"
    evil = payload.format(touch=f"touch {canary}", canary=canary)
    path = written(tmp_path)
    path.write_text(path.read_text().replace("\nprompt: null\n", f"\nprompt: {evil}\n"))
    (found,) = refused(path)
    assert found.startswith(f"line {line_of(path, 'prompt')}: {evil.split()[0]}")
    assert str(canary) in found
    assert not canary.exists()
    process = yaml.load(path.read_text(), Loader=yaml.Loader).prompt
    getattr(process, "wait", lambda: None)()
    assert canary.exists()


@pytest.mark.parametrize(
    ("target", "other"),
    [
        ("fmgs_nerfstudio.model.FMGSModel", "os.system"),
        ("fmgs_nerfstudio.model.FMGSModel", "fmgs_nerfstudio.pipeline.FMGSPipeline"),
        ("nerfstudio.utils.writer.LocalWriter", "nerfstudio.engine.trainer.Trainer"),
        ("torch.optim.adam.Adam", "torch.load"),
    ],
)
def test_a_target_is_the_classs_own(target: str, other: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    assert target in path.read_text()
    path.write_text(path.read_text().replace(f"!!python/name:{target} ", f"!!python/name:{other} "))
    with pytest.raises(RunError, match=r"config\.yml, line \d+: (!!python/name:|_target is not)"):
        read_config(path)


def test_a_planted_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Newer than the run that was meant: fmgs-animate outputs takes it, and says what is in it."""
    canary, good = tmp_path / "canary", tmp_path / "outputs" / "x" / "fmgs-avatar" / "run"
    planted = tmp_path / "outputs" / "x" / "fmgs-zzz" / "evil" / "config.yml"
    for folder in (good, planted.parent):
        folder.mkdir(parents=True)
    written(good)
    planted.write_text(f"!!python/object/apply:os.system ['touch {canary}']\n")
    os.utime(planted, (time.time(), time.time() + 60))
    with pytest.raises(SystemExit, match="1"):
        animate.main([str(tmp_path / "outputs")])
    error = capsys.readouterr().err
    assert f"{planted}, line 1: !!python/object/apply:os.system is refused" in error
    assert not canary.exists()


def bomb(levels: int, link: str, start: str) -> str:
    lines = [f"a0: &a0 {start}"]
    lines += [f"a{i}: &a{i} {link.format(f'*a{i - 1}')}" for i in range(1, levels)]
    return "\n".join(lines)


HOSTILE = {
    "empty": "",
    "nested": "[" * 100_000,
    "nested mappings": "{a: " * 20_000,
    "aliases": bomb(64, "[{0}, {0}]", "[x, x]"),
    "tuples as keys": bomb(40, "!!python/tuple [{0}, {0}]", "!!python/tuple [1, 1]") + "\n? *a39\n: 1",
    "merges": bomb(40, "{{<<: [{0}, {0}]}}", "{k: 1}"),
    "itself": "!!python/object:fmgs_nerfstudio.method.FMGSTrainerConfig &a {data: *a}",
    "large": "a: " + "x" * 2**20,
    "two documents": "a: 1\n---\nb: 2",
    "number": "a: " + "9" * 10_000,
    "no number": "a: !!int x",
    "no boolean": "a: !!bool x",
    "no scalar": "a: !!float [1]",
    "control": "a: \x07",
    "other method": "!!python/object:nerfstudio.configs.base_config.MachineConfig {}",
    "torn": "!!python/object:fmgs_nerfstudio.method.FMGSTrainerConfig\ndata: !!python/obj",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_told_at_once(text: str, tmp_path: Path) -> None:
    path = tmp_path / "[" / "red]" / "config.yml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(RunError) as told:
        read_config(path)
    assert time.process_time() - start < 5
    assert str(path) in str(told.value)
    assert len(str(told.value)) < 1000


def test_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    for make in (lambda: path.write_bytes(b"\xff\xfe\x00"), lambda: os.mkfifo(path), path.mkdir):
        make()
        with pytest.raises(RunError, match=r"config\.yml is no"):
            read_config(path)
        path.unlink() if not path.is_dir() else path.rmdir()


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_path_by_hand_and_a_wrong_value(tmp_path: Path) -> None:
    path = edited(written(tmp_path), "    cache_megabytes: 1024\n", "    cache_megabytes: 2e3\n")
    line = line_of(path, "pipeline", "datamanager", "cache_megabytes")
    with pytest.raises(RunError, match=rf"config\.yml, line {line}: cache_megabytes is '2e3'; expected int"):
        read_config(path)
    path = edited(written(tmp_path), "    data: null\n", "    data: /new/place\n")
    assert read_config(path).pipeline.datamanager.data == Path("/new/place")
    with pytest.raises(RunError, match=r"kind is 'lamp'; expected"):
        read_config(edited(written(tmp_path), "      kind: sh\n", "      kind: lamp\n"))


def test_of_another_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that this version does not have is told and left out; one that the file does not have is default."""
    path = edited(written(tmp_path), "      background: null\n", "      setup: null\n      of_old: [1, 2]\n")
    text = path.read_text()
    start, end = text.index("    light: "), text.index("    loss_coefficients")
    path.write_text(text[:start] + text[end:])
    config = read_config(path)
    dataparser = config.pipeline.datamanager.dataparser
    assert "of_old" not in vars(dataparser)
    assert dataparser.background is None
    assert callable(dataparser.setup)
    assert config.pipeline.model.light.kind == "none"
    said = " ".join(capsys.readouterr().out.split())
    assert f"line {line_of(path, 'pipeline', 'datamanager', 'dataparser', 'of_old')}" in said
    assert "FMGSDataParserConfig.of_old" in said


def test_written_on_windows(tmp_path: Path) -> None:
    config = copy.deepcopy(fmgs_avatar.config)
    config.pipeline.datamanager.data = Path("C/captures/my 377")
    path = written(tmp_path, config)
    text = path.read_text().replace("pathlib.PosixPath", "pathlib.WindowsPath").replace("- C\n", "- 'C:\\'\n")
    path.write_text(text)
    got = read_config(path)
    assert got.pipeline.datamanager.data == Path("C:/captures/my 377")
    assert got.relative_model_dir == Path("nerfstudio_models")
    assert type(got.output_dir) is type(Path())
