"""World-space light against integrals over the sphere, and turning it against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.fields.light import Light, irradiance_of, rotate_about


def sphere(count: int = 20_000) -> torch.Tensor:
    """Evenly spread unit vectors (Fibonacci)."""
    i = np.arange(count) + 0.5
    z, phi = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    r = np.sqrt(1 - z**2)
    return torch.tensor(np.stack([r * np.cos(phi), r * np.sin(phi), z], 1)).float()


def direction(*xyz: float) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(xyz), dim=0)


def test_a_lamp_is_a_clamped_cosine() -> None:
    """A lamp's max(n . l, 0) in spherical harmonics up to degree 2 is nowhere off by more than 3/32, at n . l = 0; over
    an even light of 1 that is a lamp of 1/4 on 5/4 altogether."""
    normals, towards = sphere(), direction(1.0, 2.0, -0.5)
    wanted = 1 + (normals @ towards).clamp_min(0)
    coefficients = irradiance_of(towards[None]) / 4
    coefficients[0] += 1
    made = Light(coefficients.expand(9, 3).clone())(normals) ** 2.2
    assert float((made - wanted[:, None]).abs().max()) == pytest.approx(3 / 32, abs=1e-3)
    assert float(made.mean()) == pytest.approx(1.25, abs=1e-4)


def test_the_irradiance_is_that_of_the_light_on_all_sides() -> None:
    """E(n) = mean over d of 4 max(n . d, 0) L(d), for a light that is brighter above and to one side."""
    directions, normals = sphere(5000), sphere(40)
    radiance = 1 + 0.5 * directions[:, 2] + 0.4 * directions[:, 0] * directions[:, 1]
    expected = 4 * ((normals @ directions.T).clamp_min(0) * radiance).mean(1)
    light = Light((irradiance_of(directions) @ radiance / len(directions))[:, None].expand(9, 3).clone())
    torch.testing.assert_close(light(normals)[:, 0] ** 2.2, expected, atol=2e-3, rtol=0)


def test_even_light_leaves_the_field_s_colour() -> None:
    assert torch.equal(Light()(sphere(50)), torch.ones(50, 3))


def test_no_surfel_goes_black_for_good() -> None:
    light, normals = Light(), sphere(500)
    light.irradiance[1] = 10.0
    assert float(light(normals).min()) == pytest.approx(0.05 ** (1 / 2.2))


def test_turning_is_a_rotation_about_the_axis() -> None:
    normals, up = sphere(50), direction(0.2, 0.3, 1.0)
    expected = Rotation.from_rotvec(up.numpy() * 0.7).apply(normals.numpy())
    assert np.allclose(rotate_about(normals, up, 0.7).numpy(), expected, atol=1e-6)


def test_a_turned_light_shines_on_turned_normals_as_the_light_did() -> None:
    normals, up = sphere(50), direction(0.2, 0.3, 1.0)
    light = Light()
    light.irradiance[1:] = torch.linspace(-0.2, 0.2, 24).view(8, 3)
    turned = light.turned(up, 0.7)(rotate_about(normals, up, 0.7))
    torch.testing.assert_close(turned, light(normals))
    assert (light.turned(up, 0.7)(normals) - light(normals)).abs().max() > 0.01
