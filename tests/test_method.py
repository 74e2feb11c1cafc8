"""The method as nerfstudio and its users see it: registration, help, defaults, paths."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import tyro
import yaml
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion, all_descriptions, all_methods
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from support.gsplat_backend import install_backend
from support.zju_capture import write_capture

from fmgs_nerfstudio.method import FMGSTrainerConfig

OURS = ("fmgs_nerfstudio", "fmgs_dataparsers")


def test_nerfstudio_finds_the_method_and_the_data_parser() -> None:
    assert "person" in all_descriptions["fmgs-avatar"]
    (point,) = entry_points(group="nerfstudio.dataparser_configs", name="fmgs-capture")
    assert isinstance(point.load().config, DataParserConfig)


def parse(*arguments: str) -> FMGSTrainerConfig:
    union = tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[AnnotatedBaseConfigUnion]]
    config = tyro.cli(union, args=["fmgs-avatar", *arguments])  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert isinstance(config, FMGSTrainerConfig)
    return config


def test_data_is_the_only_flag_that_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse("--data", "zju/377")
    assert config.machine.device_type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert config.pipeline.datamanager.dataparser.layout == "auto"
    assert config.data == tmp_path / "zju" / "377"  # absolute: ns-eval works from any folder
    assert config.output_dir.is_absolute()


def test_a_flag_overrides_each() -> None:
    layout = ("--pipeline.datamanager.dataparser.layout", "zju-mocap")
    config = parse("--data", "x", "--machine.device-type", "cpu", *layout, "--pipeline.model.n-vertices", "7000")
    assert config.machine.device_type == "cpu"
    assert config.pipeline.datamanager.dataparser.layout == "zju-mocap"
    assert config.pipeline.model.n_vertices == 7000


def configs(value: object) -> list[object]:
    """`value` and all configurations of ours inside it."""
    found = []
    if isinstance(value, dict):
        return [inner for item in value.values() for inner in configs(item)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value).__module__.split(".")[0] in OURS:
            found.append(value)
        found += [inner for field in dataclasses.fields(value) for inner in configs(getattr(value, field.name))]
    return found


def sources() -> str:
    import fmgs_dataparsers

    import fmgs_nerfstudio

    folders = [Path(str(package.__file__)).parent for package in (fmgs_nerfstudio, fmgs_dataparsers)]
    return "\n".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))


def documented(config: type) -> dict[str, bool]:
    """Own fields that people see, and whether a docstring of one line follows each: tyro makes it the help."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for node, after in itertools.pairwise([*definition.body, ast.Pass()]):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            hidden = node.target.id == "_target" or "Suppress" in ast.unparse(node.annotation)
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            if not hidden:
                found[node.target.id] = bool(text) and "\n" not in str(text)
    return found


def test_every_option_is_documented_and_read() -> None:
    """One line under each field, which is its help; and a `.field` somewhere in the code, so no flag is dead."""
    code = sources()
    host_reads = {"eps", "fused"}  # handed to torch's Adam as they are
    for config in {type(config) for config in configs(all_methods["fmgs-avatar"])}:
        for name, has_line in documented(config).items():
            assert has_line, f"{config.__name__}.{name} has no line of help"
            assert f".{name}" in code or name in host_reads, f"{config.__name__}.{name} is read nowhere"


def test_paths_in_the_saved_config_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_capture(tmp_path / "capture")
    monkeypatch.chdir(tmp_path)
    all_the_same = ("--pipeline.datamanager.check-fit", "False")  # its masks are of nobody
    config = parse("--pipeline.datamanager.data", "capture", "--output-dir", "out", "--timestamp", "run", *all_the_same)
    config.save_config()
    saved = yaml.load((tmp_path / "out/capture/fmgs-avatar/run/config.yml").read_text(), Loader=yaml.Loader)
    assert saved.pipeline.datamanager.data == tmp_path / "capture"
    assert saved.get_checkpoint_dir().is_absolute()
    assert saved.pipeline.model.n_vertices == 6890
    steps = {group["scheduler"].steps for group in saved.optimizers.values()}
    assert steps == {config.max_num_iterations}


GAUSSIANS = ("--pipeline.model.surfels.kind", "3d", "--pipeline.model.surfels.guided", "False")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--mixed-precision", "True"), "--mixed-precision True.*leave it out"),
        ((*GAUSSIANS, "--machine.device-type", "cpu"), r"kind 3d.*--machine\.device-type cuda.*surfels\.kind 2d"),
        ((*GAUSSIANS[:2], "--machine.device-type", "cuda"), r"kind 3d.*surfels\.guided False"),
        (("--machine.device-type", "cuda"), r"no nvcc on the PATH.*CUDA toolkit.*--machine\.device-type cpu"),
    ],
)
def test_refused_by_name_before_anything_is_read(
    arguments: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_backend(monkeypatch, None)
    config = parse("--data", "nowhere", "--output-dir", str(tmp_path / "out"), *arguments)
    for begin in (config.save_config, config.setup):
        with pytest.raises(SystemExit, match=told):
            begin()
    assert not (tmp_path / "out").exists()


def test_an_nvcc_of_another_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", None)  # its import fails
    with pytest.raises(SystemExit, match=r"could not: import of gsplat.*--machine\.device-type cpu"):
        parse("--data", "nowhere", "--machine.device-type", "cuda").setup()
