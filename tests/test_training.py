"""nerfstudio's trainer on a small capture: steps, checkpoints, resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nerfstudio.engine.trainer import Trainer
from support.trainer_runs import config_for, train
from support.zju_capture import write_capture

from fmgs_nerfstudio.fields.light import LightConfig
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.surfels import SurfelsConfig


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


def test_every_parameter_is_trained_and_named_in_a_group(capture: Path, tmp_path: Path) -> None:
    made = config_for(capture, tmp_path, 1)
    trainer = made.setup()
    trainer.setup()
    model = trainer.pipeline.model
    grouped = {id(p) for group in model.get_param_groups().values() for p in group}
    named = {name: id(p) for name, p in model.named_parameters() if name != "device_indicator_param"}
    assert set(named.values()) == grouped
    optional = {"light", "centres", "rotations"}
    assert set(model.get_param_groups()) == set(made.optimizers) - optional


def test_light_and_free_surfels_are_trained(capture: Path, tmp_path: Path) -> None:
    """What the paper does not have: a light, and surfels that no mesh guides."""
    made = config_for(capture, tmp_path, 4)
    made.pipeline.model.light = LightConfig("sh")
    made.pipeline.model.surfels = SurfelsConfig(guided=False)
    model = train(made).pipeline.model
    assert isinstance(model, FMGSModel)
    assert model.light is not None
    assert model.light.coefficients.any()
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


def test_nothing_is_written_for_a_capture_that_cannot_be_read(tmp_path: Path) -> None:
    made = config_for(tmp_path / "nowhere", tmp_path / "out", 2)
    with pytest.raises(SystemExit):
        made.save_config()
    assert not (tmp_path / "out").exists()
