"""Short runs of nerfstudio's own trainer."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from nerfstudio.engine.trainer import Trainer

from fmgs_nerfstudio.method import FMGSTrainerConfig, fmgs_avatar
from fmgs_nerfstudio.schedule import Schedule


def config_for(capture: Path, out: Path, steps: int, load: Path | None = None) -> FMGSTrainerConfig:
    made = copy.deepcopy(fmgs_avatar.config)
    assert isinstance(made, FMGSTrainerConfig)
    made.pipeline.datamanager.data = capture
    made.pipeline.datamanager.check_fit = False  # small captures have masks of convenience
    made.output_dir, made.timestamp, made.vis = out, "run", "tensorboard"
    made.max_num_iterations, made.load_dir = steps, load
    made.pipeline.model.schedule = Schedule(skinning_fit_steps=10)
    made.logging.local_writer.enable, made.logging.profiler = False, "none"
    return made


def train(made: FMGSTrainerConfig) -> Trainer:
    torch.manual_seed(made.machine.seed)  # as ns-train does
    trainer = made.setup()
    trainer.setup()
    trainer.train()
    return trainer
