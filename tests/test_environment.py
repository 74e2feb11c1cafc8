"""scripts/environment: which torch it asks for. Python is a stand-in that notes what it is called with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/bash
echo "$*" >> "$CALLS"
case "$*" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *urlopen*) exit "$UNREACHABLE" ;;
    *whl/cpu*) exit "$NO_WHEEL" ;;
esac
"""


def installs(folder: Path, unreachable: int = 0, no_wheel: int = 0, card: bool = False, **more: str) -> list[str]:
    """The lines of `pip install` of a first use of a clone."""
    (folder / "clone" / "scripts").mkdir(parents=True)
    (folder / "bin").mkdir()
    shutil.copy(ROOT / "scripts" / "environment", folder / "clone" / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder / "clone")
    for name in ("python3.11", *(["nvidia-smi"] if card else [])):
        (folder / "bin" / name).write_text(PYTHON)
        (folder / "bin" / name).chmod(0o755)
    environment = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin", "CALLS": str(folder / "calls"),
        "UNREACHABLE": str(unreachable), "NO_WHEEL": str(no_wheel), **more,
    }  # fmt: skip
    command = ["bash", "-c", f"source {folder}/clone/scripts/environment && source {folder}/clone/scripts/environment"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    calls = (folder / "calls").read_text().splitlines()
    return [line for line in calls if "pip install" in line and "--upgrade" not in line]


@pytest.mark.skipif(os.uname().sysname != "Linux" or Path("/usr/bin/nvidia-smi").exists(), reason="no card, Linux")
class TestTorch:
    def test_without_a_card_it_is_the_cpu_build(self, tmp_path: Path) -> None:
        cpu, package = installs(tmp_path)  # a second use installs nothing
        assert cpu == "-m pip install --index-url https://download.pytorch.org/whl/cpu/ torch>=2.7 torchvision>=0.22"
        assert package.endswith("clone[dev]")

    def test_with_a_card_it_is_the_registrys(self, tmp_path: Path) -> None:
        (package,) = installs(tmp_path, card=True)
        assert "index-url" not in package

    def test_where_the_index_cannot_be_reached(self, tmp_path: Path) -> None:
        (package,) = installs(tmp_path, unreachable=1)
        assert "index-url" not in package

    def test_where_the_index_has_no_fitting_wheel(self, tmp_path: Path) -> None:
        _, package = installs(tmp_path, no_wheel=1)
        assert "index-url" not in package

    def test_on_request_it_is_the_registrys(self, tmp_path: Path) -> None:
        (_,) = installs(tmp_path, FMGS_TORCH="registry")


def test_its_versions_are_those_of_the_package() -> None:
    for requirement in ("torch>=2.7", "torchvision>=0.22"):
        assert f'"{requirement}",' in (ROOT / "pyproject.toml").read_text()
        assert f"'{requirement}'" in (ROOT / "scripts" / "environment").read_text()
