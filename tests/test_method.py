"""The method as nerfstudio and its users see it: registration, help, defaults, paths."""

from __future__ import annotations

import dataclasses
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import tyro
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion, all_descriptions, all_methods
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig

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
    assert config.output_dir == tmp_path / "outputs"


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


def test_every_option_is_documented_and_read() -> None:
    """One line under each field, which is its help; and a `.field` somewhere in the code, so no flag is dead."""
    code = sources()
    for config in configs(all_methods["fmgs-avatar"]):
        own = [name for name in type(config).__annotations__ if name != "_target"]
        for name in own:
            if "Suppress" in str(type(config).__annotations__[name]):
                continue
            declaration = code.split(f"class {type(config).__name__}")[1].split(f"\n    {name}:")[1]
            docstring = declaration.split("\n    ", 2)
            assert any(line.lstrip().startswith('"""') for line in docstring), f"{type(config).__name__}.{name}"
            host_reads = name in ("eps", "fused", "pipeline", "datamanager", "model")
            assert host_reads or code.count(f".{name}") > 0, f"{type(config).__name__}.{name} is read nowhere"
