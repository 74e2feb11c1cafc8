"""The tests with the lowest and the newest versions that pyproject.toml allows, each in an environment of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from xml.etree import ElementTree

import tyro
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
Bound = Literal["lowest", "newest"]


@dataclass(frozen=True)
class Compatibility:
    """Install this package with the lowest allowed version of all that pyproject.toml names, and run the tests; then
    the same with the newest.

    One environment stands at a time: 6 to 8 GB, most of it torch. What the named packages need is as new as they allow.
    """

    tests: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Files, folders or node ids for pytest. Default: all tests."""
    bounds: tuple[Bound, ...] = ("lowest", "newest")
    """Which versions to try."""
    lowest_python: str = "python3.10"
    """Interpreter for the lowest versions."""
    newest_python: str = "python3.12"
    """Interpreter for the newest versions."""
    keep: Path | None = None
    """Folder to keep the environments in, and to use them again. Default: none; they are removed."""


@dataclass(frozen=True)
class Outcome:
    """What the tests said in one environment."""

    bound: Bound
    versions: Mapping[str, str]
    """Of Python and of every package that pyproject.toml names."""
    counts: Mapping[str, int]
    """Tests by `passed`, `failed`, `skipped`."""
    failed: Sequence[str]
    seconds: float


class CompatibilityError(RuntimeError):
    """An environment cannot be made; the message says why."""


def named(project: Mapping[str, Any]) -> list[Requirement]:
    """What users install: the dependencies, and those of the extra `priors`."""
    return [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["priors"])]


def floors(requirements: Sequence[Requirement]) -> list[str]:
    """pip's constraints for the lowest version of each.

    Raises:
        CompatibilityError: a requirement has no lowest version.
    """
    pins: list[str] = []
    for requirement in requirements:
        lowest = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
        if len(lowest) != 1:
            raise CompatibilityError(f"pyproject.toml: {requirement} has no lowest version; write it with >=")
        pins.append(f"{requirement.name}=={lowest[0]}")
    return pins


def check(options: Compatibility) -> list[Outcome]:
    """Make the environments and run the tests in them.

    Raises:
        CompatibilityError: an environment cannot be made.
    """
    requirements = named(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])
    pythons: dict[Bound, str] = {"lowest": options.lowest_python, "newest": options.newest_python}
    for bound in options.bounds:  # all of them, before the first install
        _run(pythons[bound], "-c", "import sys; assert (3, 10) <= sys.version_info < (3, 13)")
    outcomes: list[Outcome] = []
    for bound in options.bounds:
        with contextlib.ExitStack() as stack:
            folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fmgs-")))
            pins = floors(requirements) if bound == "lowest" else []
            python = _install(folder / bound, pythons[bound], pins)
            outcomes.append(_test(bound, python, options.tests, requirements))
    return outcomes


def _run(*command: object) -> None:
    try:
        subprocess.run([str(word) for word in command], check=True, env=_environment())
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompatibilityError(f"{' '.join(map(str, command))}: {error}") from error


def _environment() -> dict[str, str]:
    """Without paths to another environment's packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def _install(folder: Path, interpreter: str, pins: Sequence[str]) -> Path:
    """An environment with this package and what its tests need. Returns its interpreter."""
    _run(interpreter, "-m", "venv", folder)
    python, constraints = folder / "bin" / "python", folder / "constraints.txt"
    constraints.write_text("".join(f"{pin}\n" for pin in pins))
    _run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
    _run(python, "-m", "pip", "install", "--progress-bar=off", f"{ROOT}[dev]", "--constraint", constraints)
    return python


def _test(bound: Bound, python: Path, tests: Sequence[str], requirements: Sequence[Requirement]) -> Outcome:
    results, started = python.parents[1] / "tests.xml", time.monotonic()
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    pytest = [str(python), "-m", "pytest", f"--junitxml={results}", *tests]
    code = subprocess.run(pytest, cwd=ROOT, env=_environment() | {"PATH": path}, check=False).returncode
    if code not in (0, 1):
        raise CompatibilityError(f"{' '.join(pytest)}: ended with {code}, no test result")
    counts, failed = read_results(results)
    versions = _versions(python)
    wanted = {r.name: versions.get(canonicalize_name(r.name), "-") for r in requirements}
    return Outcome(bound, {"Python": versions["python"]} | wanted, counts, failed, time.monotonic() - started)


def _versions(python: Path) -> dict[str, str]:
    """Of all packages in an environment, and of its Python."""
    listed, told = (
        subprocess.run([python, *arguments], capture_output=True, check=True, text=True).stdout
        for arguments in (("-m", "pip", "list", "--format=json"), ("--version",))
    )
    versions = {canonicalize_name(each["name"]): each["version"] for each in json.loads(listed)}
    return {**versions, "python": told.split()[1]}


def read_results(path: Path) -> tuple[dict[str, int], list[str]]:
    """Tests passed, failed and skipped in pytest's XML, and the names of those that failed."""
    counts, failed = {"passed": 0, "failed": 0, "skipped": 0}, list[str]()
    for case in ElementTree.parse(path).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
            counts["failed"] += 1
        else:
            counts["passed" if case.find("skipped") is None else "skipped"] += 1
    return counts, failed


def table(outcomes: Sequence[Outcome]) -> Table:
    """One column for each environment."""
    made = Table("", *(outcome.bound for outcome in outcomes), title="Versions and tests")
    for name in outcomes[0].versions:
        made.add_row(escape(name), *(outcome.versions[name] for outcome in outcomes))
    made.add_section()
    for name in outcomes[0].counts:
        made.add_row(f"tests {name}", *(str(outcome.counts[name]) for outcome in outcomes))
    made.add_row("seconds", *(f"{outcome.seconds:.0f}" for outcome in outcomes))
    return made


def main(options: Compatibility) -> None:
    console = Console()
    try:
        outcomes = check(options)
    except CompatibilityError as error:
        sys.exit(f"scripts/compatibility: {error}")
    console.print(table(outcomes))
    for outcome in outcomes:
        for test in outcome.failed:
            console.print(f"[red]failed[/] with the {outcome.bound} versions: {escape(test)}", soft_wrap=True)
    sys.exit(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    main(tyro.cli(Compatibility))
