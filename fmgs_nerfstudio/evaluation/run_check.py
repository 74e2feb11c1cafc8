"""Is a stranger's run clean? nerfstudio's commands run what a `config.yml` and, with older torch, a checkpoint says."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from fmgs_dataparsers import kept
from fmgs_dataparsers.capture import CaptureError

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.checkpoints import why_torn
from fmgs_nerfstudio.evaluation.config_file import RunError, read_config, refused
from fmgs_nerfstudio.evaluation.runs import find_config, settled
from fmgs_nerfstudio.method import FMGSTrainerConfig
from fmgs_nerfstudio.unpickle import FAILURES


@dataclass
class RunVerdict:
    """What is in a run."""

    config: Path
    checked: list[str] = field(default_factory=list)
    """Files that were read, as data."""
    would_run: list[str] = field(default_factory=list)
    """What ns-eval, ns-viewer and ns-render would run: where, and what."""
    broken: list[str] = field(default_factory=list)
    """What no command can use."""
    remarks: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.would_run and not self.broken


def is_run(path: Path) -> bool:
    """Whether a path is a run's `config.yml`, its folder, or a folder with runs below, by names; a `config.yml` without
    checkpoints, which captures may have, too, by its beginning."""
    if path.is_file():
        return path.suffix in (".yml", ".yaml")
    if (config := path / "config.yml").is_file():
        with config.open("rb") as file:
            return (path / "nerfstudio_models").is_dir() or file.read(9) == b"!!python/"
    below = ("*/config.yml",) if "fmgs" in path.name else ("fmgs*/*/config.yml", "*/fmgs*/*/config.yml")
    return any(next(path.glob(pattern), None) for pattern in below)


def check_run(run: Path) -> RunVerdict:
    """Read all that the commands would open of a run, without running anything of it.

    Raises:
        RunError: there is no run.
    """
    path = find_config(run)
    verdict = RunVerdict(path)
    config = _check_config(path, verdict)
    folder = path.parent / "nerfstudio_models" if config is None else config.get_checkpoint_dir()
    checkpoints = sorted(folder.glob("*.ckpt"))
    for checkpoint in checkpoints:
        _check_checkpoint(checkpoint, verdict)
    if not checkpoints:
        verdict.broken.append(f"{folder} has no checkpoint")
    if (own := path.parent / kept.FILE_NAME).is_file():
        _check_kept(own, verdict)
    if config is not None:
        _remark(path, config, verdict)
    return verdict


def _check_config(path: Path, verdict: RunVerdict) -> FMGSTrainerConfig | None:
    try:
        verdict.would_run += [f"{path}, {line}" for line in refused(path)]
        if not verdict.would_run:
            config = settled(path)
            verdict.checked.append(path.name)
            return config
    except RunError as error:
        verdict.broken.append(str(error))
    return None


def _check_checkpoint(path: Path, verdict: RunVerdict) -> None:
    if not path.is_file():
        verdict.broken.append(f"{path} is no file")
        return
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        verdict.checked.append(path.name)
    except FAILURES as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            verdict.would_run.append(f"{path}: {found[1]} (where torch is older than 2.6)")
        else:
            verdict.broken.append(f"{path}: {why_torn(path) or error}")


def _check_kept(path: Path, verdict: RunVerdict) -> None:
    try:
        kept.read_kept(path, "")
        BodyModel.load(path)
        verdict.checked.append(path.name)
    except (CaptureError, ValueError) as error:
        verdict.broken.append(str(error))


def _remark(path: Path, config: FMGSTrainerConfig, verdict: RunVerdict) -> None:
    """What the host's commands and ours do without, or look for elsewhere."""
    said, here = read_config(path), config.get_checkpoint_dir()
    if said.get_checkpoint_dir().resolve() != here.resolve():
        verdict.remarks.append(
            f"ns-eval, ns-viewer and ns-render take checkpoints from {said.get_checkpoint_dir()}, as config.yml says, "
            "not from here; --rewrite writes a configuration for here"
        )
    data = config.pipeline.datamanager.dataparser
    if not data.data.is_dir():
        enough = "animating, exporting and the viewer do without it" if data.kept else "every command asks for it"
        verdict.remarks.append(f"the capture {data.data} is not there: {enough} (--data names another place)")
