"""The coordinated training strategy (4.5) on the whole model: which loss moves which parameters, and which not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fmgs_dataparsers.parser import FMGSDataParserConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from support.trainer_runs import config_for, train
from support.zju_capture import SIZE, write_capture
from torch import nn

from fmgs_nerfstudio.evaluation.gradients import gradient_norms
from fmgs_nerfstudio.maps.classes import NUM_CLASSES
from fmgs_nerfstudio.modalities import MODALITIES, Modality, all_terms
from fmgs_nerfstudio.model import FMGSModel, FMGSModelConfig
from fmgs_nerfstudio.objective import LossInputs, Objective, Term
from fmgs_nerfstudio.rendering import Camera, Layer, rasterize_finer
from fmgs_nerfstudio.routes import Route

# Which groups each loss reaches; a shared part is reached through the allowed heads only. Columns as in the table of
# `routes.py`: position = displacement head, skinning field and pose; orientation = rotation head.
SHARED = {"pose encoder", "trunk", "V_g"}
POSES = {"pose", "clip"}
POSITION = SHARED | POSES | {"displacement", "skinning"}
SHAPE = SHARED | {"scale head", "scales", "opacities"}
COLOUR = POSITION | SHAPE | {"rotation", "z_g", "appearance", "V_c"}
EXPECTED = {
    "L_c": COLOUR,
    "L_m": POSITION | SHAPE | {"rotation"},
    "L_d": POSITION | SHAPE,
    "L_sn": SHAPE | POSES | {"rotation"},
    "L_n": SHAPE | POSES | {"rotation"},
    "L_tv": SHAPE | POSES | {"rotation"},
    "L_s": {"semantics", "V_semantics"},
    "L_reg": {"V_semantics"},
    "L_skin": {"skinning"},
    "L_iso": POSITION,
    "L_iso_cov": POSITION | {"rotation", "scale head", "scales"},
    "L_pose": POSES,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FMGSModel:
    root = tmp_path_factory.mktemp("capture")
    write_capture(root)
    outputs = FMGSDataParserConfig(data=root).setup().get_dataparser_outputs("train")
    config = FMGSModelConfig(n_vertices=6890, pose_sigma=(0.1, 0.01, 0.01, 0.03, 0.04, 0.05))
    torch.manual_seed(0)
    made = config.setup(scene_box=SceneBox(torch.eye(3)[:2]), num_train_data=3, metadata=outputs.metadata)
    made.objective = Objective.of(all_terms(), config.weights, ["depth", "normal", "semantics"])
    made.set_run_length(1)
    made.step = 1  # every phase of the schedule has begun
    for head in (made.geometry.displacement, made.geometry.scale, made.geometry.rotation):
        nn.init.normal_(head.weight, std=1e-2)  # heads start at zero, and would let nothing through to the trunk
    assert made.poses.clip is not None
    for correction in (*made.poses.corrections, made.poses.clip):
        nn.init.normal_(correction, std=1e-2)  # and L_pose is 0 where nothing is corrected
    return made


def camera_of(model: FMGSModel) -> Cameras:
    capture = model.kwargs["metadata"]["capture"]
    return FMGSDataParserConfig(data=capture.root).setup().get_dataparser_outputs("train").cameras[0:1]


def batch_for(model: FMGSModel) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(SIZE, SIZE, 3, generator=generator),
        "mask": torch.ones(SIZE, SIZE, 1),
        "prior_depth": torch.rand(SIZE, SIZE, generator=generator),
        "prior_normal": nn.functional.normalize(torch.randn(SIZE, SIZE, 3, generator=generator), dim=-1),
        "prior_semantics": torch.randint(0, NUM_CLASSES, (SIZE, SIZE), generator=generator),
    }


def reached(model: FMGSModel) -> dict[str, set[str]]:
    """Parts with a gradient, by loss."""
    norms = gradient_norms(model, camera_of(model), batch_for(model))
    return {loss: {part for part, norm in parts.items() if norm > 0} for loss, parts in norms.items()}


def test_every_cell_of_the_table(model: FMGSModel) -> None:
    assert reached(model) == EXPECTED


def test_uncoordinated_training_leaks(model: FMGSModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.config, "coordinated", False)
    open_to_all = reached(model)
    assert "rotation" in open_to_all["L_d"]
    assert "displacement" in open_to_all["L_n"]
    assert {"displacement", "rotation"} <= open_to_all["L_s"]


def test_opacity_can_be_closed_to_the_priors(model: FMGSModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.config, "priors_move_opacity", False)
    closed = {"L_d", "L_sn", "L_n", "L_tv"}
    assert reached(model) == {
        loss: parts - ({"opacities"} if loss in closed else set()) for loss, parts in EXPECTED.items()
    }


def gradients(model: FMGSModel) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    sum(model.get_loss_dict(model.get_outputs(camera_of(model)), batch_for(model)).values(), torch.zeros(())).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_fused_pass_has_the_gradients_of_one_plain_render_per_modality(
    model: FMGSModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = gradients(model)
    assert all(gradient.isfinite().all() for gradient in fused.values())

    def one_by_one(layers: list[Layer], camera: Camera, factor: int) -> list[torch.Tensor]:
        return [rasterize_finer([layer], camera, factor)[0] for layer in layers]

    monkeypatch.setattr("fmgs_nerfstudio.modalities.rasterize_finer", one_by_one)
    plain = gradients(model)
    assert fused.keys() == plain.keys()
    for name, expected in plain.items():
        assert (fused[name] - expected).norm() <= 1e-4 * expected.norm() + 1e-10, name


def test_a_new_modality_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy albedo: its own volume, field, loss, route and output map, learned by nerfstudio's trainer."""

    def albedo_loss(step: LossInputs) -> torch.Tensor:
        return nn.functional.mse_loss(step.outputs["albedo"], step.batch["image"])

    entry = Modality(
        route=Route(position=False, orientation=False, shape=False, opacity=False),
        maps=lambda composited, alpha, camera: {"albedo": composited},
        decoder=lambda width: nn.Sequential(nn.Linear(width, 3), nn.Sigmoid()),
        terms={"L_albedo": Term(albedo_loss, ("albedo",), weight=0.5)},
    )
    monkeypatch.setitem(MODALITIES, "albedo", entry)
    write_capture(tmp_path / "capture")
    trainer = train(config_for(tmp_path / "capture", tmp_path / "out", steps=2))
    toy = trainer.pipeline.model
    assert isinstance(toy, FMGSModel)
    assert reached(toy)["L_albedo"] == {"albedo", "V_albedo"}
    toy.eval()
    assert toy.get_outputs_for_camera(camera_of(toy))["albedo"].shape == (SIZE, SIZE, 3)
