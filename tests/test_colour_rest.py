"""The size of what direction and pose do to colours, against a plain loop over frames."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_avatar import lit, small_avatar
from support.trainer_runs import config_for, train
from support.zju_capture import write_capture

from fmgs_nerfstudio.colour_rest import colour_rest, rms_about_means
from fmgs_nerfstudio.fields.appearance import canonical_direction
from fmgs_nerfstudio.fields.light import Light
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.routes import OPEN


def test_about_the_mean_of_each_row() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.uniform(size=(count, 3)) for count in (1, 2, 5)]
    deviations = np.concatenate([row - row.mean(0) for row in rows])
    seen = torch.tensor([[len(row)] for row in rows]).double()
    total, squares = (torch.from_numpy(np.array([(row**k).sum(0) for row in rows])) for k in (1, 2))
    assert float(rms_about_means(seen, total, squares)) == pytest.approx(np.sqrt((deviations**2).mean()))
    assert float(rms_about_means(seen * 0, total * 0, squares * 0)) == 0  # no frame shows it


@pytest.fixture
def model() -> Generator[FMGSModel]:
    avatar = small_avatar()
    with torch.no_grad():
        yield avatar


def test_of_colours_that_face_the_camera_and_without_the_light(model: FMGSModel) -> None:
    capture = model.kwargs["metadata"]["capture"]
    found: dict[int, list[torch.Tensor]] = {}
    for frame in capture.splits["train"]:
        to_camera = torch.from_numpy(capture.cameras[frame.camera].world_to_camera).float()
        centre = -to_camera[:3, :3].T @ to_camera[:3, 3]
        avatar = model.pose_avatar(frame.pose_id)
        posed = avatar.posed.by(OPEN)
        sight = posed.means - centre
        normals = torch.linalg.cross(posed.tangents[..., 0], posed.tangents[..., 1])
        colours = model.appearance(avatar.f_c, avatar.z_g, avatar.Z_p, canonical_direction(avatar.T, sight))
        for row in ((normals * sight).sum(-1) < 0).nonzero()[:, 0].tolist():
            found.setdefault(row, []).append(colours[row])
    about = torch.cat([torch.stack(c) - torch.stack(c).mean(0) for c in found.values()])
    expected = float(about.square().mean().sqrt())
    assert expected > 1e-3
    strong = Light(torch.rand(9, 3))
    with lit(model, strong):
        assert colour_rest(model) == pytest.approx(expected, rel=1e-3)


def test_static_colours_have_none(model: FMGSModel) -> None:
    mlp = model.appearance.mlp
    assert mlp.condition is not None
    weights = mlp.condition.weight, mlp.first.weight[:, -31:-15], mlp.first.weight[:, -15:]  # of Z_p, z_g, gamma(d)
    kept = [weight.clone() for weight in weights]
    try:
        for weight in weights:
            weight.zero_()
        assert colour_rest(model) < 1e-6
        weights[-1].copy_(kept[-1])
        assert colour_rest(model) > 1e-4
    finally:
        for weight, before in zip(weights, kept, strict=True):
            weight.copy_(before)


def test_told_at_the_end_of_training_and_in_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_capture(tmp_path / "capture")
    pipeline = train(config_for(tmp_path / "capture", tmp_path / "out", 2)).pipeline
    model = pipeline.eval().model
    assert isinstance(model, FMGSModel)
    rest = colour_rest(model)
    told = " ".join(capsys.readouterr().out.split())
    assert f"change with direction and pose by {rest:.3f}" in told
    assert pipeline.get_average_eval_image_metrics()["colour_rest"] == pytest.approx(rest)
