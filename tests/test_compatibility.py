"""scripts/compatibility without its downloads: which versions it asks for, and how it reads and tells the results."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from compatibility import (
    ROOT,
    Compatibility,
    CompatibilityError,
    Outcome,
    check,
    floors,
    named,
    read_results,
    table,
    tomllib,
)
from packaging.requirements import Requirement
from rich.console import Console

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_dependency_has_a_floor() -> None:
    pins = floors(named(PROJECT))
    assert len(pins) == len(PROJECT["dependencies"]) + 1
    assert {"nerfstudio==1.1.5", "numpy==1.24", "torchmetrics==1.0.1"} <= set(pins)
    assert any(pin.startswith("transformers==") for pin in pins)
    with pytest.raises(CompatibilityError, match=r"pyproject\.toml: trimesh<5 has no lowest version; write it with >="):
        floors([Requirement("trimesh<5")])


def test_results_are_read_as_pytest_writes_them(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "import pytest\n"
        "@pytest.fixture\ndef broken(): raise OSError\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_error(broken): pass\n"
        "def test_skipped(): pytest.skip('why')\n"
        "@pytest.mark.parametrize('i', range(3))\ndef test_more(i): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=r.xml", "test_a.py"]
    subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)
    counts, failed = read_results(tmp_path / "r.xml")
    assert counts == {"passed": 4, "failed": 2, "skipped": 1}
    assert failed == ["test_a::test_bad", "test_a::test_error"]


def test_the_table_has_a_column_for_each_environment() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(
        table(
            [
                Outcome("lowest", {"Python": "3.10.1", "av": "14.1.0"}, {"passed": 9, "failed": 1}, ["t"], 61.2),
                Outcome("newest", {"Python": "3.12.1", "av": "18.1.0"}, {"passed": 10, "failed": 0}, [], 30.0),
            ]
        )
    )
    rows = [" ".join(line.replace("│", " ").split()) for line in console.export_text().splitlines()]
    assert {"av 14.1.0 18.1.0", "tests passed 9 10", "tests failed 1 0", "seconds 61 30"} <= set(rows)


def test_a_missing_interpreter_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(CompatibilityError, match=r"python2\.9"):
        check(Compatibility(newest_python="python2.9", lowest_python=sys.executable, keep=tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()
