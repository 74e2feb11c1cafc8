"""README and docs say what is so: links and paths resolve, commands parse, options exist."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tyro
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.scripts.render import Commands
from nerfstudio.scripts.viewer.run_viewer import RunViewer
from tyro.conf import FlagConversionOff, SuppressFixed

from fmgs_nerfstudio.cli import animate, batch, check, demo, export, priors, report, track
from fmgs_nerfstudio.method import FMGSTrainerConfig, fmgs_avatar, fmgs_avatar_paper

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for pattern in ("*.md", "docs/*.md", "examples/*.md") for path in ROOT.glob(pattern))
PRESENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""Pages on what is; the changelog also names what was."""
_FOLDERS = ("fmgs_nerfstudio", "dataparsers", "docs", "scripts", "tests", "examples")
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _script(name: str, attribute: str) -> Any:
    """Of `scripts/<name>.py`, which may share its name with a folder of tests."""
    spec = importlib.util.spec_from_file_location(f"documented_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses resolve annotations
    spec.loader.exec_module(module)
    return getattr(module, attribute)


@functools.cache
def _programs() -> Mapping[str, tuple[Any, Any]]:
    """What tyro parses for each program, and the default."""
    return {
        "ns-train fmgs-avatar": (SuppressFixed[FlagConversionOff[FMGSTrainerConfig]], fmgs_avatar.config),
        "ns-train fmgs-avatar-paper": (SuppressFixed[FlagConversionOff[FMGSTrainerConfig]], fmgs_avatar_paper.config),
        "ns-eval": (FlagConversionOff[ComputePSNR], None),
        "ns-viewer": (FlagConversionOff[RunViewer], None),
        "ns-render": (Commands, None),
        "fmgs-animate": (animate.Animate, None),
        "fmgs-batch": (batch.Batch, None),
        "fmgs-check": (check.Check, None),
        "fmgs-demo": (demo.Demo, None),
        "fmgs-export": (export.Export, None),
        "fmgs-priors": (priors.MakePriors, None),
        "fmgs-report": (report.MakeReport, None),
        "fmgs-track": (track.Track, None),
        "scripts/demo": (_script("demo", "Demo"), None),
        "scripts/ablation": (_script("ablation", "Ablation"), None),
        "scripts/benchmark": (_script("benchmark", "Benchmark"), None),
        "scripts/card_check": (_script("card_setup", "CardCheck"), None),
    }


def _parse(program: str, arguments: list[str]) -> str:
    """What the parser prints where it ends the program, as help and errors do."""
    kind, default = _programs()[program]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=arguments, **({} if default is None else {"default": default}))
    return printed.getvalue()


def _commands(page: str) -> list[str]:
    """Lines of the page's shell blocks that call one of the programs, or something named like them."""
    lines = [line for kind, block in _BLOCK.findall(page) if kind == "bash" for line in block.splitlines()]
    ours = r" *(ns-|fmgs-|scripts/(demo|ablation|benchmark|card_check)\b)"
    return [line.strip() for line in lines if re.match(ours, line)]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_resolve(page: Path) -> None:
    """Files and pictures exist, and so do the headings that links name."""
    broken = []
    for target in _LINK.findall(_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(target)
    assert broken == []


def _anchors(page: Path) -> set[str]:
    """GitHub's names of the headings."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PRESENT, ids=_name)
def test_paths_of_the_repository_exist(page: Path) -> None:
    named = {code.split()[0].rstrip(":,") for code in _CODE.findall(_BLOCK.sub("", page.read_text(encoding="utf-8")))}
    ours = {path for path in named if path.split("/")[0] in _FOLDERS and "/" in path and "<" not in path}
    assert [path for path in sorted(ours) if not any(ROOT.glob(path))] == []


@pytest.mark.parametrize("page", PRESENT, ids=_name)
def test_commands_parse(page: Path) -> None:
    """With their options and values, by the parsers of the programs themselves."""
    for line in _commands(page.read_text(encoding="utf-8")):
        words = shlex.split(line, comments=True)
        length = 2 if words[0] == "ns-train" else 1
        assert _parse(" ".join(words[:length]), words[length:]) == "", line


@pytest.mark.parametrize("page", PRESENT, ids=_name)
def test_options_in_the_text_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In some program's help, or there as the beginning of options; commands of others (pip, git) stand in blocks."""
    monkeypatch.setenv("COLUMNS", "400")
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    options = {option for code in _CODE.findall(text) for option in re.findall(r"(?<!\S)--[a-z][\w.-]+", code)}
    if not options:
        return
    known = {option for name in _programs() for option in re.findall(r"--[a-z][\w.-]+", _parse(name, ["-h"]))}
    beginnings = {option[: place + 1] for option in known for place, sign in enumerate(option) if sign == "."}
    assert sorted(options - known - beginnings) == []


def test_the_parser_is_the_programs_own() -> None:
    """The tests above would pass if anything parsed."""
    assert "lambda-x" in _parse("ns-train fmgs-avatar", ["--pipeline.model.weights.lambda-x", "1"])
    assert "invalid" in _parse("fmgs-export", ["outputs", "--formats", "stl"]).lower()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110
