"""World-space light against an integral over the sphere, and turning it against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.fields.light import Light, rotate_about


def sphere(count: int = 20_000) -> torch.Tensor:
    """Evenly spread unit vectors (Fibonacci)."""
    i = np.arange(count) + 0.5
    z, phi = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    r = np.sqrt(1 - z**2)
    return torch.tensor(np.stack([r * np.cos(phi), r * np.sin(phi), z], 1)).float()


def test_it_can_be_the_irradiance_of_a_lamp_and_the_sky() -> None:
    """A lamp's max(n . l, 0) in spherical harmonics up to degree 2 is nowhere off by more than 3/32, at n . l = 0."""
    light, normals = Light(), sphere()
    towards = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -0.5]), dim=0)
    wanted = 1 + (normals @ towards).clamp_min(0)
    basis = torch.stack([_coefficient(light, normals, i) for i in range(8)], dim=1)
    design = torch.cat([torch.ones(len(normals), 1), basis], dim=1)
    solution = torch.linalg.lstsq(design, wanted[:, None]).solution[:, 0]
    with torch.no_grad():
        light.coefficients.copy_(solution[1:] / solution[0])
    assert float((light(normals)[:, 0] * solution[0] - wanted).abs().max()) == pytest.approx(3 / 32, abs=1e-3)


def _coefficient(light: Light, normals: torch.Tensor, i: int) -> torch.Tensor:
    other = Light()
    with torch.no_grad():
        other.coefficients[i] = 0.05
        return (other(normals)[:, 0] - 1) / 0.05


def test_no_light_is_the_field_s_colour() -> None:
    assert torch.equal(Light()(sphere(50)), torch.ones(50, 1))


def test_no_surfel_goes_black_for_good() -> None:
    light, normals = Light(), sphere(500)
    with torch.no_grad():
        light.coefficients[1] = 10.0
        assert float(light(normals).min()) == pytest.approx(0.05)


def test_turning_is_a_rotation_about_the_axis() -> None:
    normals, up = sphere(50), torch.nn.functional.normalize(torch.tensor([0.2, 0.3, 1.0]), dim=0)
    expected = Rotation.from_rotvec(up.numpy() * 0.7).apply(normals.numpy())
    assert np.allclose(rotate_about(normals, up, 0.7).numpy(), expected, atol=1e-6)


def test_a_turned_light_shines_on_turned_normals_as_the_light_did() -> None:
    light, normals, up = Light(), sphere(50), torch.nn.functional.normalize(torch.tensor([0.2, 0.3, 1.0]), dim=0)
    with torch.no_grad():
        light.coefficients.uniform_(-0.2, 0.2)
        turned = light.turned(up, 0.7)(rotate_about(normals, up, 0.7))
        torch.testing.assert_close(turned, light(normals))
        assert (light.turned(up, 0.7)(normals) - light(normals)).abs().max() > 0.01
