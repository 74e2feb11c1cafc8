"""Runs on disk: which `config.yml` is meant, and the trained pipeline behind it. Nothing of a run is code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from fmgs_dataparsers import kept
from fmgs_dataparsers.capture import CaptureError

from fmgs_nerfstudio.checkpoints import CheckpointError, newest_whole_checkpoint, read_checkpoint
from fmgs_nerfstudio.evaluation.config_file import RunError as RunError
from fmgs_nerfstudio.evaluation.config_file import line_of, read_config
from fmgs_nerfstudio.maps.maps import PriorsError
from fmgs_nerfstudio.method import FMGSTrainerConfig
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.pipeline import FMGSPipeline
from fmgs_nerfstudio.unpickle import FAILURES


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


def open_run(run: Path, data: Path | None = None, with_images: bool = False) -> Run:
    """The run that `find_config` finds, with the newest whole checkpoint of its own folder, wherever that lies now.

    nerfstudio's `eval_setup` would run what `config.yml` says, and take checkpoints from where the run was trained.

    Args:
        data: folder of the capture, in place of the one that `config.yml` names.
        with_images: the capture itself is needed; otherwise what the run keeps of it is enough.

    Raises:
        RunError: not a run of fmgs-avatar, or one without a checkpoint; or its capture is needed and not there.
    """
    path = find_config(run)
    config = settled(path, data)
    try:
        checkpoint = newest_whole_checkpoint(config.get_checkpoint_dir())
    except CheckpointError as error:
        raise RunError(str(error)) from error
    if with_images or data is not None or config.pipeline.datamanager.dataparser.kept is None:
        _find_capture(path, config, data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        pipeline = config.pipeline.setup(device=device, test_mode="test").eval()
    except ValueError as error:
        raise RunError(f"{path}: {error}") from error
    assert isinstance(pipeline, FMGSPipeline)
    assert isinstance(pipeline.model, FMGSModel)
    _load(pipeline, checkpoint)
    return Run(pipeline, pipeline.model, path.parent)


def settled(path: Path, data: Path | None = None) -> FMGSTrainerConfig:
    """The configuration in a run's `config.yml`, with the run's folder where it lies now, and `data`, if given, as its
    capture. nerfstudio's commands then find its checkpoints, too.

    Raises:
        RunError: the file is no such configuration, or says that the checkpoints are in another folder.
    """
    config, folder = read_config(path), path.parent.resolve()
    models = folder / config.relative_model_dir
    if not Path(os.path.normpath(models)).is_relative_to(folder):
        line = line_of(path, "relative_model_dir")
        raise RunError(f"{path}, line {line}: relative_model_dir is {models}, which is not in the run's folder")
    config.relative_model_dir = models  # absolute, it stands whatever the folders above are called
    if folder.parent.name == config.method_name and len(folder.parents) > 2:
        config.output_dir, config.experiment_name = folder.parents[2], folder.parents[1].name
        config.timestamp = folder.name
    else:
        config.output_dir, config.experiment_name, config.timestamp = folder, ".", "."
    datamanager, own = config.pipeline.datamanager, folder / kept.FILE_NAME
    named = datamanager.data or datamanager.dataparser.data
    datamanager.data = named if data is None else data.expanduser().resolve()
    datamanager.dataparser.data = Path(datamanager.data)
    datamanager.dataparser.kept = own if own.is_file() else None
    return config


def _find_capture(path: Path, config: FMGSTrainerConfig, data: Path | None) -> None:
    """A RunError where the capture is not there."""
    dataparser = config.pipeline.datamanager.dataparser
    try:
        dataparser.open()
    except (CaptureError, PriorsError, FileNotFoundError) as error:
        line = line_of(path, "pipeline", "datamanager", "data")
        where = f"{path}, line {line} (pipeline: datamanager: data)" if data is None else f"--data {data}"
        why = dataparser.why_not(error)
        raise RunError(f"{where}: {why}. Give the folder of the run's capture with --data") from error


def _load(pipeline: FMGSPipeline, checkpoint: Path) -> None:
    try:
        state = read_checkpoint(checkpoint)
        if not isinstance(step := state["step"], int):
            raise ValueError(f"its step is a {type(step).__name__}")
        pipeline.load_pipeline(state["pipeline"], step)
    except FAILURES as error:
        raise RunError(f"{checkpoint} cannot be used as a checkpoint of this run: {error}") from error
