"""Lights from maps against integrals over the sphere, and what may not be relit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.small_avatar import small_avatar

from fmgs_nerfstudio.fields.light import Light
from fmgs_nerfstudio.relighting import LightError, Relighting, irradiance_from, read_map, relit

FRONT, UP = np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, 1.0])
LEFT = np.cross(UP, FRONT)
NORMALS = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


def capture() -> Any:
    return small_avatar().kwargs["metadata"]["capture"]


def own() -> Light:
    light = Light()
    light.irradiance[1:] = torch.linspace(-0.2, 0.3, 8)[:, None]
    return light


def spot(row: int, column: int, size: tuple[int, int] = (32, 64)) -> np.ndarray:
    radiance = np.zeros((*size, 3))
    radiance[row, column] = 1
    return radiance


@pytest.mark.parametrize(
    ("row", "column", "toward"),
    [(16, 32, FRONT), (16, 16, LEFT), (16, 48, -LEFT), (16, 0, -FRONT), (0, 5, UP), (31, 40, -UP), (8, 32, FRONT + UP)],
)
def test_a_bright_spot_lights_what_faces_it(row: int, column: int, toward: np.ndarray) -> None:
    """The middle of a map is in front, its left half to the left as seen from inside, its first row above."""
    toward = toward / np.linalg.norm(toward)
    light = Light(irradiance_from(spot(row, column), FRONT, UP))
    got = light(NORMALS)[:, 0].double() ** 2.2
    lamp = 4 * (NORMALS.double() @ torch.from_numpy(toward)).clamp_min(0)  # mean 1
    assert (got - lamp).abs().max() < 4 * 3 / 32 + 0.25  # harmonics, and half a pixel
    brightest = NORMALS[got.argmax()].double().numpy()
    assert brightest @ toward > 0.9


def test_an_even_map_is_even_light_and_colours_stay() -> None:
    grey = irradiance_from(np.full((32, 64, 3), 0.3), FRONT, UP)
    torch.testing.assert_close(Light(grey)(NORMALS), torch.ones(200, 3), atol=1e-3, rtol=0)
    warm = irradiance_from(np.ones((32, 64, 3)) * [2.0, 1.0, 0.0], FRONT, UP)
    torch.testing.assert_close(warm[0], torch.tensor([2.0, 1.0, 0.0]))


def test_the_axes_are_the_capture_s() -> None:
    """The middle of the map is where the first training camera stands."""
    seen = capture()
    view = seen.cameras[seen.splits["train"][0].camera].world_to_camera
    toward = -view[2, :3]  # from what it looks at to the camera
    path = Path("front.png")
    light = Light()
    got = _relit_by(path, spot(16, 32), light)
    up = np.asarray(seen.up)
    level = toward - (toward @ up) * up
    brightest = NORMALS[got(NORMALS)[:, 0].argmax()].double().numpy()
    assert brightest @ level / np.linalg.norm(level) > 0.9


def _relit_by(path: Path, radiance: np.ndarray, light: Light) -> Light:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fmgs_nerfstudio.relighting.read_map", lambda _: radiance)
        found = relit(light, Relighting(environment=path), capture())
    assert found is not None
    return found


def test_it_is_as_bright_as_its_own_light_on_the_whole() -> None:
    light = own()
    light.irradiance[0] = 1.7
    found = _relit_by(Path("bright.png"), 40 * spot(3, 4) + 1, light)
    assert float(found.irradiance[0].mean()) == pytest.approx(1.7)


def test_own_none_turned_and_coloured() -> None:
    light = own()
    assert relit(light, Relighting(), capture()) is light
    assert relit(None, Relighting(), capture()) is None
    albedo = relit(light, Relighting("none", environment=Path("not looked at.hdr")), capture())
    assert albedo is not None
    assert torch.equal(albedo(NORMALS), torch.ones(200, 3))
    turned = relit(light, Relighting(turn=90.0), capture())
    assert turned is not None
    up = np.asarray(capture().up)
    quarter = np.stack([np.cross(up, e) + up * (up @ e) for e in np.eye(3)], axis=1)  # counterclockwise from above
    torch.testing.assert_close(turned(NORMALS @ torch.from_numpy(quarter.T).float()), light(NORMALS))
    red = relit(light, Relighting(colour=(2.0, 1.0, 0.0)), capture())
    assert red is not None
    linear = red(NORMALS) ** 2.2
    torch.testing.assert_close(linear[:, 0], 2 * light(NORMALS)[:, 1] ** 2.2)
    assert linear[:, 2].max() < 0.051


@pytest.mark.parametrize("wanted", [Relighting("none"), Relighting(turn=5.0), Relighting(environment=Path("a.hdr"))])
def test_what_was_trained_without_a_light_cannot_be_relit(wanted: Relighting) -> None:
    with pytest.raises(LightError, match=r"trained without a light.*--pipeline.model.light.kind sh"):
        relit(None, wanted, capture())


def test_maps_are_read_as_linear_light(tmp_path: Path) -> None:
    radiance = np.random.default_rng(0).uniform(0, 8, (32, 64, 3)).astype(np.float32)
    cv2.imwrite(str(tmp_path / "a.hdr"), radiance[..., ::-1])
    np.testing.assert_allclose(read_map(tmp_path / "a.hdr"), radiance, rtol=0.02, atol=0.05)
    cv2.imwrite(str(tmp_path / "a.png"), np.full((16, 32, 3), (0, 128, 255), np.uint8))
    np.testing.assert_allclose(read_map(tmp_path / "a.png")[0, 0], [1, (128 / 255) ** 2.2, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", np.zeros((8, 16, 3), np.uint8), "is black"),
        ("a.png", np.ones((8, 8, 3), np.uint8), "twice as wide as high"),
        ("a.hdr", b"#?RADIANCE\n\nno size\n", "rows from above"),
        ("a.hdr", b"#?RADIANCE\n\n-Y 90000 +X 180000\n", "180000 x 90000 pixels"),
        ("a.hdr", None, "missing"),
    ],
)
def test_what_is_no_map_is_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        cv2.imwrite(str(path), content)
    with pytest.raises(LightError) as error:
        read_map(path)
    assert name in str(error.value)
    assert message in str(error.value) or content is None


def test_colours_out_of_range_are_refused() -> None:
    with pytest.raises(LightError, match="colour is"):
        relit(own(), Relighting(colour=(-1.0, 1.0, 1.0)), capture())
