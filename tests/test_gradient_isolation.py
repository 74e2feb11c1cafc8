"""The coordinated training strategy (4.5) on the whole model: which loss moves which parameters, and which not."""

from __future__ import annotations

import pytest
import torch
from fmgs_dataparsers.parser import FMGSDataParserConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from torch import nn
from zju_capture import SIZE, write_capture

from fmgs_nerfstudio.model import FMGSModel, FMGSModelConfig
from fmgs_nerfstudio.objective import TERMS
from fmgs_nerfstudio.priors.classes import NUM_CLASSES

# Which groups each loss reaches; a shared part is reached through the allowed heads only. Columns as in the table of
# `routes.py`: position = displacement head, skinning field and pose; orientation = rotation head.
SHARED = {"pose encoder", "trunk", "V_g"}
POSITION = SHARED | {"pose", "displacement", "skinning"}
SHAPE = SHARED | {"scale head", "scales", "opacities"}
COLOUR = POSITION | SHAPE | {"rotation", "z_g", "appearance", "V_c"}
EXPECTED = {
    "L_c": COLOUR,
    "L_m": POSITION | SHAPE | {"rotation"},
    "L_d": POSITION | SHAPE,
    "L_sn": SHAPE | {"rotation", "pose"},
    "L_n": SHAPE | {"rotation", "pose"},
    "L_tv": SHAPE | {"rotation", "pose"},
    "L_s": {"semantics", "V_s"},
    "L_reg": {"V_s"},
    "L_skin": {"skinning"},
    "L_iso": POSITION,
    "L_iso_cov": POSITION | {"rotation", "scale head", "scales"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FMGSModel:
    root = tmp_path_factory.mktemp("capture")
    write_capture(root)
    outputs = FMGSDataParserConfig(data=root).setup().get_dataparser_outputs("train")
    config = FMGSModelConfig(n_vertices=6890)
    torch.manual_seed(0)
    made = config.setup(scene_box=SceneBox(torch.eye(3)[:2]), num_train_data=3, metadata=outputs.metadata)
    made.terms, made.modalities = tuple(TERMS), {"colour", "depth", "normal", "semantics"}
    made.run_length.fill_(1)
    made.step = 1  # every phase of the schedule has begun
    for head in (made.geometry.displacement, made.geometry.scale, made.geometry.rotation):
        nn.init.normal_(head.weight, std=1e-2)  # heads start at zero, and would let nothing through to the trunk
    return made


def groups(model: FMGSModel) -> dict[str, list[nn.Parameter]]:
    geometry = model.geometry
    modules: dict[str, nn.Module] = {
        "pose": model.poses,
        "pose encoder": model.pose_encoder,
        "skinning": model.skinning,
        "trunk": geometry.trunk,
        "displacement": geometry.displacement,
        "scale head": geometry.scale,
        "rotation": geometry.rotation,
        "z_g": geometry.z,
        "appearance": model.appearance,
        "semantics": model.semantics,
        "V_g": model.V_g,
        "V_c": model.V_c,
        "V_s": model.V_s,
    }
    return {name: list(module.parameters()) for name, module in modules.items()} | {
        "scales": [model.surfels.log_scale],
        "opacities": [model.surfels.opacity_logit],
    }


def camera_of(model: FMGSModel) -> Cameras:
    capture = model.kwargs["metadata"]["capture"]
    return FMGSDataParserConfig(data=capture.root).setup().get_dataparser_outputs("train").cameras[0:1]


def reached(model: FMGSModel, term: str) -> set[str]:
    """Groups with a gradient from one term alone."""
    camera = camera_of(model)
    generator = torch.Generator().manual_seed(0)
    normal = nn.functional.normalize(torch.randn(SIZE, SIZE, 3, generator=generator), dim=-1)
    batch = {
        "image": torch.rand(SIZE, SIZE, 3, generator=generator),
        "mask": torch.ones(SIZE, SIZE, 1),
        "prior_depth": torch.rand(SIZE, SIZE, generator=generator),
        "prior_normal": normal,
        "prior_semantics": torch.randint(0, NUM_CLASSES, (SIZE, SIZE), generator=generator),
    }
    model.train()
    model.zero_grad()
    model.get_loss_dict(model.get_outputs(camera), batch)[term].backward()
    parameters = groups(model).items()
    return {name for name, group in parameters if any(p.grad is not None and p.grad.any() for p in group)}


@pytest.mark.parametrize("term", TERMS)
def test_every_cell_of_the_table(model: FMGSModel, term: str) -> None:
    assert reached(model, term) == EXPECTED[term]


def test_every_gradient_is_finite(model: FMGSModel) -> None:
    for term in TERMS:
        reached(model, term)
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()), term


def test_uncoordinated_training_leaks(model: FMGSModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.config, "coordinated", False)
    assert "rotation" in reached(model, "L_d")
    assert "displacement" in reached(model, "L_n")
    assert {"displacement", "rotation"} <= reached(model, "L_s")
