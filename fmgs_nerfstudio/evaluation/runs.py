"""Runs on disk: which `config.yml` is meant, and the trained pipeline behind it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from nerfstudio.utils.eval_utils import eval_setup

from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.pipeline import FMGSPipeline


class RunError(ValueError):
    """There is no run to use; the message says where and what was expected."""


def find_config(run: Path) -> Path:
    """The `config.yml` of a run: the file itself, the folder that holds it, or the newest run of fmgs-avatar below.

    Raises:
        RunError: nothing there, or no run.
    """
    if run.is_file():
        return run
    if (run / "config.yml").is_file():
        return run / "config.yml"
    found = [path for path in run.glob("**/config.yml") if "fmgs" in path.parts[-3]]
    if not found:
        raise RunError(
            f"{run} is no run of fmgs-avatar: expected a config.yml, the folder that ns-train made with it, "
            "or a folder above, such as outputs/"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


class Run(NamedTuple):
    """A trained run, opened for evaluation."""

    pipeline: FMGSPipeline
    model: FMGSModel
    folder: Path


def open_run(run: Path) -> Run:
    """The run that `find_config` finds, with its last checkpoint.

    Raises:
        RunError: not a run of fmgs-avatar, or one without a checkpoint.
    """
    config = find_config(run)
    if not any((config.parent / "nerfstudio_models").glob("*.ckpt")):
        raise RunError(f"{config.parent} has no checkpoint in nerfstudio_models/; let ns-train save one first")
    _, pipeline, _, _ = eval_setup(config)
    if not (isinstance(pipeline, FMGSPipeline) and isinstance(pipeline.model, FMGSModel)):
        raise RunError(f"{config} is a run of another method; expected one of fmgs-avatar")
    return Run(pipeline, pipeline.model, config.parent)
