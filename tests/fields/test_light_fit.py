"""Light and albedo of sightings that are made of a known light and known albedos."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.fields.light_fit import Sightings, fit_light, spread

UP = np.array([0.0, 0.0, 1.0])
AWAY = np.array([0.0, 1.0, 0.0])
"""The camera's line of sight."""
N, FRAMES = 500, 30


def lamp(toward: np.ndarray, amount: float = 1.0, ambient: float = 0.5):
    """Linear light by the normal."""
    toward = toward / np.linalg.norm(toward)
    return lambda n: ambient + amount * np.clip(n @ toward, 0, None)


def sight(light, albedo: np.ndarray | None = None, seed: int = 0, noise: float = 0.0) -> Sightings:
    """Surfels all over a body that turns about the vertical before one camera, seen where they face it."""
    rng = np.random.default_rng(seed)
    own = spread(N)
    albedo = rng.uniform(0.1, 0.7, (N, 3)) if albedo is None else albedo
    parts = []
    for picture, turn in enumerate(np.linspace(0, 2 * np.pi, FRAMES, endpoint=False)):  # a full turn
        tilt = Rotation.from_rotvec(0.2 * rng.standard_normal((N, 3)))  # limbs move
        n = Rotation.from_rotvec(turn * UP).apply(tilt.apply(own))
        seen = np.flatnonzero(n @ -AWAY > 0.2)
        colour = albedo[seen] * light(n[seen])[:, None] ** (1 / 2.2)
        colour += noise * rng.standard_normal(colour.shape)
        parts.append((np.full(len(seen), picture), seen, n[seen], colour, np.ones(len(seen))))
    return Sightings(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def irradiance(fit, n: np.ndarray) -> np.ndarray:
    """Of a fit, by harmonics written anew."""
    x, y, z = n.T
    c = fit.irradiance
    linear = 0.48860251 * (c[1] * y + c[2] * z + c[3] * x)
    square = 1.09254843 * (c[4] * x * y + c[5] * y * z + c[7] * x * z) + 0.31539157 * c[6] * (3 * z * z - 1)
    return c[0] + linear + square + 0.54627422 * c[8] * (x * x - y * y)


def off(fit, light) -> np.ndarray:
    """Relative error of the shade, all around, once both have the same scale where surfels were seen."""
    n = spread(2000)
    ratio = (irradiance(fit, n) / light(n)) ** (1 / 2.2)
    return ratio / np.median(ratio[n @ -AWAY > 0.2]) - 1


@pytest.mark.parametrize("toward", [(0.5, -0.62, 0.6), (0.9, -0.3, 0.2), (-0.6, -0.2, 0.7)])
def test_a_lamp_is_found_and_lights_the_side_that_no_camera_saw(toward: tuple[float, float, float]) -> None:
    light = lamp(np.array(toward))
    fit = fit_light(sight(light, noise=0.02), UP)
    assert fit.toward is not None
    assert fit.toward @ toward / np.linalg.norm(toward) > np.cos(np.radians(8))
    error = off(fit, light)
    assert np.sqrt(np.mean(error**2)) < 0.08
    behind = spread(2000) @ AWAY > 0.5
    assert abs(error[behind].mean()) < 0.12  # harmonics of a lamp alone are off by 0.05 there
    assert fit.explained > 0.8
    assert fit.rest == pytest.approx(0.02, rel=0.25)


def test_what_is_symmetric_about_the_vertical_is_found_so() -> None:
    """A sky: brighter above, dark below, and nothing towards the camera, although only what faces it was seen."""

    def light(n: np.ndarray) -> np.ndarray:
        return 0.6 + 0.35 * n[:, 2]

    fit = fit_light(sight(light, noise=0.02), UP)
    assert fit.toward is None
    assert np.abs(fit.irradiance[[1, 3, 4, 5, 7, 8]]).max() < 1e-6
    assert np.abs(off(fit, light)).max() < 0.06
    sideways = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # z to x
    seen = sight(light, noise=0.02)
    turned = fit_light(seen._replace(normal=seen.normal @ sideways.T), sideways @ UP)
    assert turned.toward is None
    n = spread(500)
    np.testing.assert_allclose(irradiance(turned, n @ sideways.T), irradiance(fit, n), rtol=0.02)


def test_even_light_stays_even() -> None:
    fit = fit_light(sight(lambda n: np.ones(len(n)), noise=0.02), UP)
    assert fit.toward is None
    assert np.abs(fit.irradiance[1:] / fit.irradiance[0]).max() < 0.02
    assert abs(fit.explained) < 0.01


def test_another_vertical_is_another_vertical() -> None:
    """The same world with x upwards: everything turns with it."""
    turn = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # z to x
    light = lamp(np.array([0.5, -0.6, 0.6]))
    seen = sight(light, noise=0.02)
    fits = fit_light(seen, UP), fit_light(seen._replace(normal=seen.normal @ turn.T), turn @ UP)
    assert fits[0].toward is not None
    assert fits[1].toward is not None
    assert np.degrees(np.arccos(np.clip(fits[1].toward @ turn @ fits[0].toward, -1, 1))) < 3
    n = spread(500)
    np.testing.assert_allclose(irradiance(fits[1], n @ turn.T), irradiance(fits[0], n), rtol=0.06)


def test_a_dark_and_a_bright_half_are_albedo() -> None:
    """A person in white before, in black behind, under an even light: no lamp."""
    front = spread(N) @ -AWAY > 0
    albedo = np.where(front[:, None], 0.7, 0.15) * np.ones(3)
    fit = fit_light(sight(lambda n: np.ones(len(n)), albedo, noise=0.02), UP)
    assert fit.toward is None
    assert np.abs(fit.irradiance[1:] / fit.irradiance[0]).max() < 0.03


def test_albedos_stay_in_reach() -> None:
    """White in a light that is dimmer where it was seen than on the whole: the light takes what albedo cannot."""
    white = np.full((N, 3), 0.93)
    fit = fit_light(sight(lambda n: np.ones(len(n)), white), UP)
    assert 0.93 / fit.irradiance[0] ** (1 / 2.2) == pytest.approx(0.9, abs=1e-3)
    assert fit_light(sight(lambda n: np.ones(len(n))), UP).irradiance[0] == pytest.approx(1)


def test_outliers_are_held_down() -> None:
    light, rng = lamp(np.array([0.5, -0.62, 0.6])), np.random.default_rng(1)
    seen = sight(light, noise=0.01)
    wrong = rng.random(len(seen.colour)) < 0.1
    colour = np.where(wrong[:, None], rng.uniform(0, 1, seen.colour.shape), seen.colour)
    fit = fit_light(seen._replace(colour=colour), UP)
    assert np.sqrt(np.mean(off(fit, light) ** 2)) < 0.08


def test_what_was_seen_once_tells_nothing() -> None:
    seen = sight(lamp(np.array([1.0, 0, 0])))
    first = np.unique(seen.surfel, return_index=True)[1]
    with pytest.raises(ValueError, match="no surfel was seen in two frames"):
        fit_light(Sightings(*(values[first] for values in seen)), UP)


def drift(spread: float) -> np.ndarray:
    """Factors of R, G and B of each picture: brightness comes and goes, and white turns a little blue; mean 1."""
    time = np.linspace(0, 2 * np.pi, FRAMES, endpoint=False)
    brightness, blue = spread * np.cos(3 * time + 1), 0.3 * spread * np.sin(time)
    return np.exp(brightness[:, None] + blue[:, None] * [-1, 0, 1])


@pytest.mark.parametrize("light", [lamp(np.array([0.5, -0.62, 0.6])), lambda n: 0.6 + 0.35 * n[:, 2]])
def test_changing_exposures_are_found_beside_the_light(light) -> None:
    steady = sight(light, noise=0.02)
    plain, factors = fit_light(steady, UP), drift(0.15)
    assert not plain.exposures
    fit = fit_light(steady.exposed_by(factors), UP)
    found = np.array([fit.exposures[picture] for picture in range(FRAMES)])
    np.testing.assert_allclose(found, factors, rtol=0.03)
    np.testing.assert_allclose(np.log(found).mean(0), 0, atol=1e-9)
    assert (fit.toward is None) == (plain.toward is None)
    n = spread(500)
    np.testing.assert_allclose(irradiance(fit, n), irradiance(plain, n), rtol=0.1)
    assert fit.rest == pytest.approx(0.02, rel=0.25)
    blind = fit_light(steady.exposed_by(factors), UP, exposures=False)
    assert not blind.exposures
    assert blind.rest > 2 * fit.rest


def test_exposures_are_told_by_picture() -> None:
    """Pictures have numbers of their own, and one that shows nothing has no exposure."""
    seen, factors = sight(lamp(np.array([0.5, -0.62, 0.6])), noise=0.02).exposed_by(drift(0.15)), drift(0.15)
    fit = fit_light(_without(seen, 7), UP)
    assert sorted(fit.exposures) == [10 * picture for picture in range(FRAMES) if picture != 7]
    for picture, found in fit.exposures.items():
        np.testing.assert_allclose(found / fit.exposures[0], factors[picture // 10] / factors[0], rtol=0.04)


def _without(seen: Sightings, picture: int) -> Sightings:
    """Without one picture, the others by ten times their numbers."""
    kept = Sightings(*(column[seen.picture != picture] for column in seen))
    return kept._replace(picture=10 * kept.picture)
