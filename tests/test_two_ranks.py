"""nerfstudio's training on two cards, in two processes on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fmgs_dataparsers.parser import open_capture
from support.trainer_runs import config_for, train
from support.two_ranks import everything_moves, train_two
from support.zju_capture import SIZE, write_capture

from fmgs_nerfstudio.data import FMGSDataManager
from fmgs_nerfstudio.maps.info import PriorsInfo
from fmgs_nerfstudio.maps.maps import PriorsWriter
from fmgs_nerfstudio.model import FMGSModel

STEPS = 3


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frame 1 alone has maps: a rank that draws another trains without their losses, and without V_s."""
    root = tmp_path_factory.mktemp("captures") / "CoreView_1"
    write_capture(root)
    writer = PriorsWriter(root, PriorsInfo(estimator="test", licence="none"))
    ramp = np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    normal = np.broadcast_to(np.array([0.6, 0.0, 0.8], np.float32), (SIZE, SIZE, 3))
    writer.write("depth", "Camera_B1", "000001", ramp)
    writer.write("normal", "Camera_B1", "000001", normal)
    writer.write("semantics", "Camera_B1", "000001", (ramp // 512).astype(np.uint8))
    open_capture.cache_clear()
    return root


def gradients(capture: Path, out: Path, frames: list[str]) -> list[dict[str, torch.Tensor]]:
    """Of the first step of one process on each frame."""
    config = everything_moves(capture, out, STEPS)
    torch.manual_seed(config.machine.seed)
    trainer = config.setup()
    trainer.setup()
    pipeline, found = trainer.pipeline.train(), []
    model, manager = pipeline.model, pipeline.datamanager
    assert isinstance(model, FMGSModel)
    assert isinstance(manager, FMGSDataManager)
    for callback in trainer.callbacks:
        if callback.iters == (0,) or callback.func.__name__ == "keep":
            callback.run_callback(0)
    names = [f"{frame.camera}/{frame.stem}" for frame in manager.train_dataset.frames]
    for name in frames:
        model.zero_grad()
        vars(manager)["_train_index"] = lambda step, name=name: names.index(name)
        _, losses, _ = pipeline.get_train_loss_dict(0)
        torch.stack(list(losses.values())).sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    return found


def test_two_ranks(capture: Path, tmp_path: Path) -> None:
    """They draw different frames, step together by the mean of both gradients, and write each checkpoint once; one
    process goes on from it."""
    ranks = train_two(capture, tmp_path, STEPS)
    drawn = [[frame for frame, _ in rank[:-1]] for rank in ranks]
    assert all(one != other for one, other in zip(*drawn, strict=True))
    assert len(set(drawn[0][:2] + drawn[1][:2])) == 3  # two steps of two see all three frames
    assert "Camera_B1/000001" in drawn[0] + drawn[1]

    ends = [rank[-1][1] for rank in ranks]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())

    both = gradients(capture, tmp_path / "one", [drawn[0][0], drawn[1][0]])
    for rank in ranks:
        got = rank[0][1]
        assert got.keys() == both[0].keys() | both[1].keys()
        for name, value in got.items():
            expected = sum((each.get(name, torch.zeros_like(value)) for each in both), torch.zeros_like(value)) / 2
            assert (value - expected).norm() <= 1e-4 * expected.norm() + 1e-9, name

    (path,) = tmp_path.rglob("*.ckpt")
    assert path.name == f"step-{STEPS - 1:09d}.ckpt"
    resumed = train(config_for(capture, tmp_path / "resumed", 1, load=path.parent))
    assert resumed.step == STEPS
