"""What pictures show of surfels, and the light that training keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from support.small_avatar import small_avatar
from support.trainer_runs import config_for, train
from support.zju_capture import SIZE, write_capture

from fmgs_nerfstudio.data import Batch, FMGSDataManager, crop_to_person
from fmgs_nerfstudio.fields.exposure import Exposure
from fmgs_nerfstudio.fields.light import Light, LightConfig
from fmgs_nerfstudio.light_first import find_light, look, training_views
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.rendering import Camera, outward
from fmgs_nerfstudio.routes import OPEN

GREY = 0.4


def lamp() -> Light:
    light = Light()
    light.irradiance[1:4] = torch.tensor([-0.5, 0.2, 0.6])[:, None]
    return light


def camera() -> Cameras:
    """Close enough that the person fills the image."""
    return Cameras(
        torch.tensor([[[1.0, 0, 0, 0], [0, 0, -1, -2.0], [0, 1, 0, 0]]]), fx=90.0, fy=90.0, cx=SIZE / 2, cy=SIZE / 2,
        width=SIZE, height=SIZE, metadata={"pose_id": torch.tensor([[1]])},
    )  # fmt: skip


@torch.no_grad()
def picture(model: FMGSModel, seen_from: Cameras, exposure: float = 1.0) -> tuple[Batch, torch.Tensor]:
    """A grey person under a lamp on a red background, and the world's normals of the surfels."""
    view, avatar = Camera.from_nerfstudio(seen_from), model.pose_avatar(model.pose_id(seen_from))
    normals = outward(avatar.posed.by(OPEN).tangents)
    maps = model.render(avatar, exposure * GREY * lamp()(normals), view, ["colour"])
    red = torch.tensor([1.0, 0, 0])
    return {"image": maps["rgb"] + (1 - maps["accumulation"]) * red, "mask": maps["accumulation"]}, normals


def test_colours_are_those_of_the_surfels() -> None:
    model, view = small_avatar(), camera()
    batch, normals = picture(model, view)
    seen = look(model, [(view, batch)])
    assert len(seen.surfel) > 80
    np.testing.assert_allclose(seen.normal, normals.numpy()[seen.surfel], atol=1e-6)
    assert (seen.picture == 1).all()  # the pose
    expected = GREY * lamp()(normals)[seen.surfel].numpy()
    off = np.abs(seen.colour - expected).mean(1)
    assert np.average(off, weights=seen.weight) < 0.02  # neighbours share pixels
    assert seen.colour[:, 0].max() < 0.7  # and nothing of the background
    centre = view.camera_to_worlds[0, :, 3].numpy()
    with torch.no_grad():
        means = model.pose_avatar(1).posed.by(OPEN).means.numpy()[seen.surfel]
    sight = (means - centre) / np.linalg.norm(means - centre, axis=1, keepdims=True)
    assert (-(sight * seen.normal).sum(1)).min() > 0.19  # none is seen from behind, or edge on


def test_background_at_a_mask_s_border_is_not_taken() -> None:
    """A mask that is a pixel too large in all directions would mix red into the outline."""
    model, view = small_avatar(), camera()
    batch, _ = picture(model, view)
    tight = look(model, [(view, batch)])
    whole = look(model, [(view, batch | {"mask": torch.ones_like(batch["mask"])})])
    assert tight.colour[:, 0].max() < whole.colour[:, 0].max() - 0.1


def test_no_pictures_no_sightings() -> None:
    assert len(look(small_avatar(), []).surfel) == 0


def test_training_pictures_come_with_the_cameras_that_see_them(tmp_path: Path) -> None:
    """A picture cropped to the person is seen by a camera cropped alike."""
    write_capture(tmp_path / "capture")
    config = config_for(tmp_path / "capture", tmp_path / "out", 1)
    config.pipeline.datamanager.crop_margin = 0.0
    data = train(config).pipeline.datamanager
    assert isinstance(data, FMGSDataManager)
    views = list(training_views(data))
    assert len(views) == len(data.train_dataset)
    for i, (view, batch) in enumerate(views):
        whole = data.train_cameras[i : i + 1], data.train_dataset.get_data(i)
        expected, cropped = crop_to_person(*whole, data.config.crop_margin)
        assert cropped["image"].shape != whole[1]["image"].shape
        assert batch["image"].dtype == torch.float32
        torch.testing.assert_close(batch["image"], cropped["image"], rtol=0, atol=2**-12)  # kept at half precision
        for name in ("fx", "fy", "cx", "cy", "width", "height", "camera_to_worlds"):
            torch.testing.assert_close(getattr(view, name), getattr(expected, name))


@pytest.mark.parametrize("kind", ["sh", "none"])
def test_training_finds_the_light_once_and_keeps_it(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_capture(tmp_path / "capture")
    config = config_for(tmp_path / "capture", tmp_path / "out", 3)
    config.pipeline.model.light = LightConfig(kind)  # pyright: ignore[reportArgumentType]
    model = train(config).pipeline.model
    assert isinstance(model, FMGSModel)
    told = "".join(capsys.readouterr().out.split())
    assert ("Light:" in told) == (kind == "sh")
    if kind == "none":
        assert model.light is None
        assert model.exposure is None
        return
    assert model.light is not None
    kept = model.light.irradiance.clone()
    assert kept.isfinite().all()
    assert torch.equal(kept, kept[:, :1].expand(9, 3))  # one light for R, G and B
    assert not list(model.light.parameters())
    assert model.exposure is not None
    exposures = model.exposure.factors.clone()
    assert (exposures[2] > 1.5 * exposures[0]).all()  # the pictures are 5, 45 and 85 bright
    assert "exposureschange" in told
    again = config_for(tmp_path / "capture", tmp_path / "resumed", 2, load=config.get_checkpoint_dir())
    again.pipeline.model.light = LightConfig("sh")
    resumed = train(again).pipeline.model
    assert isinstance(resumed, FMGSModel)
    assert resumed.light is not None
    assert torch.equal(resumed.light.irradiance, kept)
    assert resumed.exposure is not None
    assert torch.equal(resumed.exposure.factors, exposures)
    assert "Light:" not in "".join(capsys.readouterr().out.split())


def test_exposures_brighten_training_pictures_and_no_others() -> None:
    model, view, factors = small_avatar(), camera(), torch.tensor([0.5, 1.0, 2.0])
    model.step, model.run_steps = 1, 1  # everything has started
    exposure = Exposure(len(model.poses.pose))
    exposure.set({0: np.ones(3), 1: factors.numpy()})
    try:
        steady = [model.train().get_outputs(view)["rgb"], model.eval().get_outputs(view)["rgb"]]
        model.exposure = exposure
        torch.testing.assert_close(model.train().get_outputs(view)["rgb"], factors * steady[0])
        torch.testing.assert_close(model.eval().get_outputs(view)["rgb"], steady[1])
    finally:
        model.exposure, model.step, model.run_steps = None, 0, 0
        model.eval()


def test_exposures_are_found_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture's factor arrives at its own pose, whatever the order of the pictures."""
    write_capture(tmp_path / "capture", n_frames=6)
    pipeline = train(config_for(tmp_path / "capture", tmp_path / "out", 1)).pipeline
    model, data = pipeline.model, pipeline.datamanager
    assert isinstance(model, FMGSModel)
    assert isinstance(data, FMGSDataManager)
    model.light = Light()
    model.exposure = Exposure(len(model.poses.pose))
    factors = {model.pose_id(camera): 0.7 + 0.2 * i for i, (camera, _) in enumerate(training_views(data))}
    views = [(c, picture(model, c, factors[model.pose_id(c)])[0]) for c, _ in training_views(data)]
    monkeypatch.setattr("fmgs_nerfstudio.light_first.training_views", lambda _: reversed(views))
    find_light(model, data)
    found = np.array([model.exposure(pose_id).numpy() for pose_id in factors])
    expected = np.array(list(factors.values()))[:, None]
    np.testing.assert_allclose(
        found, np.broadcast_to(expected / np.exp(np.log(expected).mean()), found.shape), rtol=0.15
    )
