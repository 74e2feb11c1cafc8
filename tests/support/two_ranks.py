"""Two processes that train one avatar, as nerfstudio does on two cards, by gloo on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils import comms
from support.trainer_runs import config_for
from torch import distributed
from torch.multiprocessing.spawn import spawn

from fmgs_nerfstudio.data import FMGSDataManager
from fmgs_nerfstudio.method import FMGSTrainerConfig
from fmgs_nerfstudio.schedule import Schedule

Step = tuple[str, dict[str, torch.Tensor]]
"""Frame drawn, and gradients."""


def everything_moves(capture: Path, out: Path, steps: int) -> FMGSTrainerConfig:
    """From the first step on, but the surfels: they begin with the second."""
    made = config_for(capture, out, steps)
    made.pipeline.model.schedule = Schedule(
        surfels_start=1 / steps, residual_start=0.0, pose_start=0.0, pose_common_start=0.0, skinning_fit_steps=5
    )
    return made


def train_two(capture: Path, out: Path, steps: int) -> list[list[Step]]:
    """Of each rank, what it drew and what gradients it stepped with."""
    spawn(_rank, (capture, out, steps), nprocs=2)
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def _rank(rank: int, capture: Path, out: Path, steps: int) -> None:
    """What nerfstudio's `_distributed_worker` and `train_loop` do once they have seen a card."""
    distributed.init_process_group("gloo", f"file://{out / 'meeting'}", world_size=2, rank=rank)
    comms.LOCAL_PROCESS_GROUP = distributed.new_group([0, 1])
    config = everything_moves(capture, out, steps)
    torch.manual_seed(config.machine.seed + rank)
    trainer = config.setup(local_rank=rank, world_size=2)
    trainer.setup()
    seen: list[Step] = []

    def look(step: int) -> None:
        model, manager = trainer.pipeline.model, trainer.pipeline.datamanager
        assert isinstance(manager, FMGSDataManager)
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        seen.append((f"{manager.drawn.camera}/{manager.drawn.stem}", gradients))

    trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], look, 1))
    trainer.train()
    model = trainer.pipeline.model
    seen.append(("end", {name: value.detach() for name, value in model.named_parameters()}))
    torch.save(seen, out / f"rank{rank}.pt")
    comms.synchronize()
    distributed.destroy_process_group()
