"""The contract of the layers is about all of the package: import-linter itself runs in scripts/test."""

from __future__ import annotations

import pkgutil
import re
import sys
from pathlib import Path

import fmgs_nerfstudio

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_every_module_has_its_layer() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    (layers,) = (c["layers"] for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    named = {name.strip() for layer in layers for name in re.split(r"[|:]", layer)}
    there = {f"fmgs_nerfstudio.{module.name}" for module in pkgutil.iter_modules(fmgs_nerfstudio.__path__)}
    assert named == there | {"fmgs_dataparsers"}
