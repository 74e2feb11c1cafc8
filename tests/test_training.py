"""nerfstudio's trainer on a small capture: steps, checkpoints, resuming."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.engine.trainer import Trainer
from support.fake_cuda import counted, fake_cuda
from support.trainer_runs import config_for, train
from support.zju_capture import write_capture
from torch import Tensor

from fmgs_nerfstudio import trainer as trainer_module
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.surfels import SurfelsConfig
from fmgs_nerfstudio.trainer import LossWatch, resume_command


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("captures") / "CoreView_1"
    write_capture(root)
    return root


def test_resuming_gives_the_same_run(capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight steps at once; or eight, killed after the checkpoint of step 4, and three more: the same in everything."""
    whole = train(config_for(capture, tmp_path / "whole", 8))

    original = Trainer.train_iteration

    def interrupted(self: Trainer, step: int):
        if step == 6:
            raise KeyboardInterrupt
        return original(self, step)

    killed = config_for(capture, tmp_path / "killed", 8)
    killed.steps_per_save = 4
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_iteration", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(killed)
    resumed = train(config_for(capture, tmp_path / "resumed", 3, load=killed.get_checkpoint_dir()))

    assert resumed.step == whole.step == 7
    expected, got = whole.pipeline.model.state_dict(), resumed.pipeline.model.state_dict()
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.allclose(value, got[name], atol=1e-6), name
    assert got["run_length"] == 8
    rates = [[g["lr"] for o in t.optimizers.optimizers.values() for g in o.param_groups] for t in (whole, resumed)]
    assert rates[0] == pytest.approx(rates[1])


def test_training_gives_freed_memory_back_now_and_then(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step, too: a start takes memory of other sizes than steps do."""
    given = list[int]()
    monkeypatch.setattr(trainer_module, "give_back_freed_memory", lambda: given.append(trained.step))
    monkeypatch.setattr(trainer_module, "_TIDY_EVERY", 3)
    trained = config_for(capture, tmp_path, 7).setup()
    trained.setup()
    trained.train()
    assert given == [0, 3, 6]


def test_every_parameter_is_trained_and_named_in_a_group(capture: Path, tmp_path: Path) -> None:
    made = config_for(capture, tmp_path, 1)
    trainer = made.setup()
    trainer.setup()
    model = trainer.pipeline.model
    grouped = {id(p) for group in model.get_param_groups().values() for p in group}
    named = {name: id(p) for name, p in model.named_parameters() if name != "device_indicator_param"}
    assert set(named.values()) == grouped
    optional = {"centres", "rotations", "pose_errors", "clip"}
    assert set(model.get_param_groups()) == set(made.optimizers) - optional


def test_free_surfels_are_trained(capture: Path, tmp_path: Path) -> None:
    """What the paper does not have: surfels that no mesh guides."""
    made = config_for(capture, tmp_path, 4)
    made.pipeline.model.surfels = SurfelsConfig(guided=False)
    model = train(made).pipeline.model
    assert isinstance(model, FMGSModel)
    assert all(parameter.any() for parameter in model.surfels.free.values())
    # The geometry field moves them as it does guided ones, but anywhere, and by the pose.
    assert model.geometry.displacement.weight.shape[0] == 3
    with torch.no_grad():
        one, other = (model.pose_avatar(pose_id).canonical.means for pose_id in (0, 1))
    assert (one - model.surfels().means).norm(dim=-1).mean() > 0
    assert (one - other).norm(dim=-1).mean() > 0


def test_checkpoint_opens_with_weights_only_and_strictly(capture: Path, tmp_path: Path) -> None:
    trainer = train(config_for(capture, tmp_path, 2))
    (path,) = trainer.checkpoint_dir.glob("*.ckpt")
    state = torch.load(path, weights_only=True)
    model_state = {name.removeprefix("_model."): value for name, value in state["pipeline"].items()}
    model_state.pop("opacity_logit", None)
    model_state.pop("surfels.opacity_logit")
    with pytest.raises(ValueError, match=r"surfels\.opacity_logit"):
        trainer.pipeline.model.load_state_dict(model_state)


def test_too_little_memory_says_what_to_lower(capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch tells it, in the third step; the checkpoint of the second is what it goes on from."""
    original = FMGSModel.get_loss_dict

    def full(self: FMGSModel, *args: Any) -> dict[str, Tensor]:
        if self.step == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nmore")
        return original(self, *args)

    monkeypatch.setattr(FMGSModel, "get_loss_dict", full)
    made = config_for(capture, tmp_path, 3)
    made.steps_per_save = 1
    with pytest.raises(SystemExit) as ended:
        train(made)
    told = str(ended.value)
    assert "Tried to allocate 2.00 GiB" in told
    assert "supersampling 1 (now 2)" in told
    assert "downscale-factor: a larger one (now chosen" in told
    assert "n-vertices: fewer (now 6890)" in told
    assert "--machine.device-type cpu" in told
    assert "step-000000001.ckpt; to go on:" in told


def _not_a_number(self: FMGSModel, losses: dict[str, Tensor]) -> None:
    losses["L_c"] = losses["L_c"] * math.nan


def _no_slope(self: FMGSModel, losses: dict[str, Tensor]) -> None:
    """The loss stays as it is, its gradient does not."""
    losses["L_c"] = losses["L_c"] + (0 * self.surfels.opacity_logit.sum()).sqrt()


@pytest.mark.parametrize(
    ("steps_per_log", "spoil", "step", "said"),
    [
        (1, _not_a_number, 3, "the loss is not finite: their sum is nan, L_c is nan; step 3 drew frame {drawn}"),
        (50, _not_a_number, 3, "the loss is not finite: their sum is nan, L_c is nan; step 3 drew frame {drawn}"),
        (
            1,
            _no_slope,
            4,
            "parameters are not finite, although the losses were: _model.surfels.opacity_logit; step 4 drew",
        ),
    ],
)
def test_what_is_not_finite_ends_the_run(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_per_log: int, spoil: Callable[..., None],
    step: int, said: str,
) -> None:  # fmt: skip
    """However rarely losses are logged; by frame, term and step; with the state aside and the last good one kept."""
    original = FMGSModel.get_loss_dict

    def get_loss_dict(self: FMGSModel, *arguments: Any) -> dict[str, Tensor]:
        losses = original(self, *arguments)
        if self.step == step:
            spoil(self, losses)
        return losses

    monkeypatch.setattr(FMGSModel, "get_loss_dict", get_loss_dict)
    made = config_for(capture, tmp_path, 8)
    made.steps_per_save, made.logging.steps_per_log = 2, steps_per_log
    with pytest.raises(SystemExit) as end:
        train(made)
    order = np.random.default_rng((42, step // 3)).permutation(3)  # of the three frames, in this pass over them
    message, run = str(end.value.code), made.get_base_dir()
    assert said.format(drawn=f"Camera_B1/00000{order[step % 3]}") in message
    (last,) = made.get_checkpoint_dir().iterdir()
    assert last.name == "step-000000002.ckpt"
    assert f"The last checkpoint is {last}; to go on:\n  ns-train fmgs-avatar --data {capture}" in message
    state = torch.load(last)["pipeline"]
    assert all(value.isfinite().all() for value in state.values())
    aside = run / "not_finite" / f"step-{step:09d}.ckpt"
    assert str(aside) in message
    assert not all(value.isfinite().all() for value in torch.load(aside)["pipeline"].values())
    assert json.loads(aside.with_suffix(".json").read_text())["error"] in message


def test_losses_are_fetched_together() -> None:
    """However many terms and steps: the host waits for the card once."""
    watch = LossWatch()
    with fake_cuda(), counted() as counts:
        for step in range(3):
            watch.add(step, "a frame", {name: torch.ones((), device="cuda") * step for name in ("L_c", "L_m", "L_d")})
        assert not counts.waits
        assert {name: float(value) for name, value in watch.fetch().items()} == {"L_c": 2, "L_m": 2, "L_d": 2}
    assert sum(counts.waits.values()) == 1
    assert watch.fetch() == {}


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ("fmgs-avatar --data a --vis viewer", "fmgs-avatar --load-dir RUN --data a --vis viewer"),
        ("fmgs-avatar --max-num-iterations=9 --load_dir x --data a", "fmgs-avatar --load-dir RUN --data a"),
        ("fmgs-avatar --data 'a b' --load-step 3", "fmgs-avatar --load-dir RUN --data 'a b'"),
        ("fmgs-avatar --load-config x.yml", "fmgs-avatar --data CAPTURE --load-dir RUN  (and the options"),
    ],
)
def test_the_command_that_goes_on(tmp_path: Path, given: str, then: str) -> None:
    """As the run was begun, but for what says where it begins and how long it is."""
    made = config_for(Path("CAPTURE"), tmp_path, 8)
    got = resume_command(made, ["--load-dir", "RUN"], ["/usr/bin/ns-train", *shlex.split(given)])
    assert got.startswith(f"ns-train {then}")


def test_a_checkpoint_of_something_else_is_one_line(capture: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    torch.save({"step": 9, "pipeline": {"weight": torch.zeros(2)}}, tmp_path / "models" / "step-000000009.ckpt")
    with pytest.raises(SystemExit, match=r"step-000000009\.ckpt does not fit this run: "):
        train(config_for(capture, tmp_path / "out", 2, load=tmp_path / "models"))
    with pytest.raises(SystemExit, match=r"empty has no checkpoint"):
        config_for(capture, tmp_path / "out", 2, load=tmp_path / "empty").save_config()
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_for_a_capture_that_cannot_be_read(tmp_path: Path) -> None:
    made = config_for(tmp_path / "nowhere", tmp_path / "out", 2)
    with pytest.raises(SystemExit):
        made.save_config()
    assert not (tmp_path / "out").exists()
