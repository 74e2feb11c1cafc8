"""`fmgs-avatar-paper` is the paper: every choice of ours that it must not have, and what it prints."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from fmgs_dataparsers.capture import Capture
from nerfstudio.data.scene_box import SceneBox
from support.known_person import Person
from support.layout_capture import snapshot
from support.small_avatar import small_avatar
from support.trainer_runs import config_for, train
from support.zju_capture import write_capture

from fmgs_nerfstudio.method import FMGSTrainerConfig, fmgs_avatar, fmgs_avatar_paper
from fmgs_nerfstudio.model import FMGSModel, FMGSModelConfig, refines_poses

PAPER: Any = fmgs_avatar_paper.config


def test_what_the_paper_prints() -> None:
    model = PAPER.pipeline.model
    assert model.n_vertices == 30_000  # 4.1.1
    assert (model.rendering.backface_cutoff, model.rendering.supersampling) == (1.0, 1)  # 2DGS [18]
    assert model.light.kind == "none"
    assert (model.skinning.hidden_dim, model.skinning.hidden_layers) == (128, 4)  # 4.3
    assert not model.skinning.point_input  # Eq. 9
    assert model.pose_radius == 0
    assert model.geometry.displacement_unit == 0.01  # metres, and not what short runs take
    assert model.coordinated
    assert PAPER.pipeline.datamanager.crop_margin is None
    weights = model.weights.at(0.5)
    assert weights["L_sn"] == weights["L_n"] == weights["L_tv"]  # one lambda_n, Eq. 18 and 21
    assert (model.weights.lambda_ssim, weights["L_c"]) == (0.2, 1)  # Eq. 13


def test_what_it_takes_from_3dgs_avatar() -> None:
    """[30]'s configuration, as fractions of its 15,000 steps."""
    model, steps = PAPER.pipeline.model, PAPER.max_num_iterations
    assert steps == 15_000
    schedule = model.schedule
    starts = [round(start * steps) for start in (schedule.surfels_start, schedule.residual_start, schedule.pose_start)]
    assert starts == [1000, 3000, 5000]
    assert schedule.pose_common_start == schedule.pose_start  # all of a pose at once
    early, late = model.weights.at(0.0), model.weights.at(1000 / steps)
    assert (early["L_skin"], late["L_skin"]) == (10, 0.1)
    assert {name: late[name] for name in ("L_m", "L_iso", "L_iso_cov")} == {"L_m": 0.1, "L_iso": 1, "L_iso_cov": 100}
    rates = {name: group["optimizer"].lr for name, group in PAPER.optimizers.items()}
    expected = {
        "skinning": 1e-4,
        "geometry": 1e-3,
        "appearance": 1e-3,
        "opacities": 0.05,
        "scales": 5e-3,
        "poses": 1e-4,
        "pose_errors": 1e-4,
        "clip": 1e-4,
    }
    assert {name: rates[name] for name in expected} == expected
    assert {group["optimizer"].eps for name, group in PAPER.optimizers.items()} == {1e-15}
    assert {group["scheduler"].final for group in PAPER.optimizers.values()} == {0.1}


def test_both_methods_have_the_same_optimisers_and_differ_where_the_docs_say() -> None:
    ours: Any = fmgs_avatar.config
    assert PAPER.optimizers.keys() == ours.optimizers.keys()
    assert ours.pipeline.model.light.kind == "sh"

    def leaves(config: object, prefix: str = "") -> dict[str, object]:
        if not dataclasses.is_dataclass(config):
            return {prefix: config}
        fields = [field.name for field in dataclasses.fields(config) if hasattr(config, field.name)]
        return {k: v for name in fields for k, v in leaves(getattr(config, name), f"{prefix}.{name}").items()}

    a, b = leaves(PAPER.pipeline), leaves(ours.pipeline)
    different = {name.removeprefix(".") for name in a if a[name] != b[name]}
    page = (Path(__file__).parent.parent / "docs" / "paper.md").read_text()
    assert different
    for name in different:
        assert f"`{name.removeprefix('model.').removeprefix('datamanager.')}`" in page, name


@pytest.mark.parametrize(
    ("protocol", "exact", "refined"),
    [("instantavatar", False, False), ("humannerf", False, True), ("last-fifth", False, True), ("demo", True, False)],
)
def test_poses_are_refined_where_the_paper_does(protocol: str, exact: bool, refined: bool) -> None:
    capture: Capture = small_avatar().kwargs["metadata"]["capture"]
    assert refines_poses(dataclasses.replace(capture, protocol=protocol, exact_poses=exact)) == refined


def test_a_capture_of_people_snapshot_trains_on_its_poses_as_they_are(tmp_path: Path) -> None:
    """Its name chooses the protocol, the protocol says that poses stay; model and saved configuration agree."""
    snapshot(tmp_path, Person(9))
    capture = tmp_path / "female-3-casual"
    (tmp_path / "female-9-sport").rename(capture)
    (capture / "female-9-sport.mp4").rename(capture / "female-3-casual.mp4")
    made = config_for(capture, tmp_path, 1)
    metadata = made.pipeline.datamanager.dataparser
    metadata.data = capture
    outputs = metadata.setup().get_dataparser_outputs("train")
    assert outputs.metadata["capture"].protocol == "instantavatar"
    model = FMGSModelConfig(n_vertices=6890).setup(
        scene_box=SceneBox(torch.eye(3)[:2]), num_train_data=1, metadata=outputs.metadata
    )
    assert not model.poses.corrections
    made.resolve_defaults()
    assert made.pipeline.model.refine_poses is False


@pytest.mark.parametrize("asked", [None, False, True])
def test_an_explicit_option_wins_and_is_told(
    asked: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_capture(tmp_path / "CoreView_1")
    made = config_for(tmp_path / "CoreView_1", tmp_path, 1)
    made.pipeline.model.refine_poses = asked
    trainer = made.setup()
    trainer.setup()
    model = trainer.pipeline.model
    assert isinstance(model, FMGSModel)
    assert bool(model.poses.corrections) == (asked is not False)
    said = " ".join(capsys.readouterr().out.split())
    assert ("Poses are refined after 10%" in said) == (asked is not False)
    assert ("Poses stay as they are given" in said) == (asked is False)
    assert made.pipeline.model.refine_poses is (asked is not False)  # the saved configuration says which


def test_it_trains_and_surfels_wait(tmp_path: Path) -> None:
    write_capture(tmp_path / "CoreView_1")
    made = copy.deepcopy(PAPER)
    assert isinstance(made, FMGSTrainerConfig)
    like = config_for(tmp_path / "CoreView_1", tmp_path, 4)
    made.pipeline.datamanager.data, made.output_dir, made.timestamp = like.pipeline.datamanager.data, tmp_path, "run"
    made.max_num_iterations, made.vis, made.logging = 4, "tensorboard", like.logging
    made.pipeline.model.n_vertices = 6890
    made.pipeline.datamanager.check_fit = False  # nobody is in these masks
    made.pipeline.model.schedule = dataclasses.replace(
        made.pipeline.model.schedule, skinning_fit_steps=10, surfels_start=0.5, residual_start=0.5
    )
    logits: list[torch.Tensor] = []
    original = FMGSModel.get_loss_dict

    def spy(self: FMGSModel, *args: Any, **kwargs: Any) -> Any:
        logits.append(self.surfels.opacity_logit.detach().clone())
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FMGSModel, "get_loss_dict", spy)
        model = train(made).pipeline.model
    assert isinstance(model, FMGSModel)
    assert torch.equal(logits[0], logits[2])  # steps 0 and 1 left them alone
    assert not torch.equal(logits[2], logits[3])
    assert model.skinning.mlp.first.in_features == made.pipeline.model.skinning.encoding.channels
