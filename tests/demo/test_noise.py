"""Errors are as large as promised."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.demo import noise

SIZE = 256
Y, X = np.mgrid[:SIZE, :SIZE]
DISC = np.hypot(X - 127.5, Y - 127.5) < 90


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("sigma", [3.0, 8.0, 20.0])
def test_smooth_field(sigma: float) -> None:
    fields = np.stack([noise.smooth_field((SIZE, SIZE), sigma, rng(i)) for i in range(24)])
    np.testing.assert_allclose(fields.std(), 1, atol=0.12)
    # two points sigma * 2 apart: a blurred field's correlation exp(-d^2 / 4 sigma^2)
    shift = round(2 * sigma)
    correlation = np.mean(fields[:, :, shift:] * fields[:, :, :-shift]) / fields.var()
    np.testing.assert_allclose(correlation, np.exp(-1), atol=0.15)


def test_value_noise_is_smooth_and_seeded() -> None:
    points = rng().uniform(-50, 50, (4000, 3))
    values = noise.value_noise(points, 1)
    assert 0 <= values.min() < 0.2
    assert 0.8 < values.max() <= 1
    assert np.abs(noise.value_noise(points + np.array([1e-3, 0, 0]), 1) - values).max() < 3e-3
    assert np.corrcoef(noise.value_noise(points, 2), values)[0, 1] < 0.2


@pytest.mark.parametrize("amount", [0.5, 1.0, 2.0])
def test_poses(amount: float) -> None:
    pose, transl = rng(1).normal(0, 0.5, (200, 72)), rng(2).normal(size=(200, 3))
    noisy, moved = noise.noisy_poses(pose, transl, amount, rng(3))
    error = Rotation.from_rotvec(noisy.reshape(-1, 3)) * Rotation.from_rotvec(pose.reshape(-1, 3)).inv()
    angle = np.sqrt(np.mean(error.magnitude().reshape(200, 24) ** 2))
    np.testing.assert_allclose(angle, 0.015 * amount, rtol=0.02)
    distance = moved - transl
    np.testing.assert_allclose(np.sqrt(np.mean(np.sum(distance**2, 1))), 0.005 * amount, rtol=0.02)
    # smooth in time: from one frame to the next the error changes far less than it is large
    assert np.sqrt(np.mean(np.diff(distance, axis=0) ** 2)) < 0.35 * np.sqrt(np.mean(distance**2))


def test_mask_is_off_by_one_to_two_pixels_at_its_border_only() -> None:
    soft = np.clip(90.5 - np.hypot(X - 127.5, Y - 127.5), 0, 1).astype(np.float32)
    noisy = noise.noisy_mask(soft, 1.0, rng())
    assert 0 <= noisy.min() <= noisy.max() <= 1
    wrong = (noisy > 0.5) != (soft > 0.5)
    rim = np.abs(np.hypot(X - 127.5, Y - 127.5) - 90) < 3
    assert not wrong[~rim].any()
    width = wrong.sum() / (2 * np.pi * 90)  # mean displacement of the border
    assert 0.4 < width < 1.2
    assert wrong[DISC].any()
    assert wrong[~DISC].any()
    good = np.abs(np.hypot(X - 127.5, Y - 127.5) - 90) < 0.5
    assert 0.2 < wrong[good].mean() < 0.5  # one side of the border, where there is a blob


def test_depth_is_relative_with_a_low_frequency_error() -> None:
    depth = np.where(DISC, 3 + 0.002 * X + 0.1 * np.sin(Y / 20), 0).astype(np.float32)
    errors, scales = [], []
    for i in range(20):
        relative = noise.noisy_depth(depth, DISC, 1.0, rng(i))
        a = np.c_[depth[DISC], np.ones(DISC.sum())]
        solution, *_ = np.linalg.lstsq(a, relative[DISC], rcond=None)
        assert solution[0] > 0  # larger is farther
        scales.append(solution[0] * np.ptp(depth[DISC]))
        errors.append(np.std(relative[DISC] - a @ solution))
    assert 0.015 < np.mean(errors) < 0.04  # of a range of 1; the affine fit takes some of it away
    np.testing.assert_allclose(np.mean(scales), 1, atol=0.1)
    assert np.std(scales) > 0.02


def test_normals_are_fifteen_degrees_off_in_patches() -> None:
    z = np.sqrt(np.clip(1 - ((X - 127.5) / 100) ** 2 - ((Y - 127.5) / 100) ** 2, 0.01, 1))
    normal = np.stack([(X - 127.5) / 100, (127.5 - Y) / 100, z], -1)
    normal = (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32)
    angles, neighbours = [], []
    inner = binary_erosion(DISC, iterations=4)
    for i in range(8):
        noisy = noise.noisy_normals(normal, DISC, 1.0, rng(i))
        np.testing.assert_allclose(np.linalg.norm(noisy, axis=-1), 1, atol=1e-4)
        cosine = np.sum(noisy * normal, -1)
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1)))[inner])
        neighbours.append(np.sum(noisy[:, 1:] * noisy[:, :-1], -1)[inner[:, 1:]].min())
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(angles))), 15, atol=2.5)
    assert np.degrees(np.arccos(min(neighbours))) < 10  # patches, no speckle


def test_labels_are_wrong_at_borders_only() -> None:
    labels = np.where(DISC, np.where(X > 127, 5, 22), 0).astype(np.uint8)
    noisy = noise.noisy_labels(labels, 1.0, rng())
    wrong = noisy != labels
    near = np.zeros_like(DISC)
    for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:].T, labels[:-1].T)):
        edge = a != b
        near |= np.pad(edge, ((0, 0), (0, 1))) if a.shape == (SIZE, SIZE - 1) else np.pad(edge, ((0, 0), (0, 1))).T
    border = binary_dilation(near, iterations=9)
    assert not wrong[np.logical_not(border)].any()
    assert 0.1 < wrong[binary_dilation(near, iterations=1)].mean() < 0.7
    assert set(np.unique(noisy)) == {0, 5, 22}


def test_zero_is_exact() -> None:
    mask = DISC.astype(np.float32)
    labels = (DISC * 22).astype(np.uint8)
    depth = np.where(DISC, 3 + 0.002 * X, 0).astype(np.float32)
    np.testing.assert_array_equal(noise.noisy_mask(mask, 0, rng()), mask)
    np.testing.assert_array_equal(noise.noisy_labels(labels, 0, rng()), labels)
    relative = noise.noisy_depth(depth, DISC, 0, rng())
    np.testing.assert_allclose(relative[DISC], (depth[DISC] - depth[DISC].min()) / np.ptp(depth[DISC]), atol=1e-5)
    normal = np.where(DISC[..., None], np.array([0.0, 0.6, 0.8]), 0).astype(np.float32)
    np.testing.assert_array_equal(noise.noisy_normals(normal, DISC, 0, rng())[DISC], normal[DISC])
    pose, transl = rng(1).normal(size=(5, 72)), rng(2).normal(size=(5, 3))
    for exact, noisy in zip((pose, transl), noise.noisy_poses(pose, transl, 0, rng()), strict=True):
        np.testing.assert_array_equal(noisy, exact)


def test_spread_takes_the_nearest_value() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 2], mask[4, 6] = True, True
    values = np.where(mask, X[:9, :9], 0).astype(np.float32)
    spread = noise.spread(values, mask)
    assert np.all(spread[:, :4] == 2)
    assert np.all(spread[:, 5:] == 6)
