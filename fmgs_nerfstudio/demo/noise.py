"""Smooth random fields, and the errors that real estimators make: poses, masks, depth, normals, labels."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array

_LATTICE = np.random.default_rng(7).random((16, 16, 16), dtype=np.float32)


def value_noise(points: Float[Array, "N 3"], seed: int) -> Float[Array, "N"]:
    """Smooth noise in 0..1 with features of about one unit; one lattice for all seeds, each at its own place."""
    shifted = np.asarray(points, np.float32) + np.random.default_rng(seed).uniform(0, 16, 3).astype(np.float32)
    cell = np.floor(shifted)
    f = shifted - cell
    f = f * f * (3 - 2 * f)
    low = cell.astype(np.int32) & 15
    high = (low + 1) & 15
    flat = _LATTICE.reshape(-1)
    x, y, z = (low[:, 0] << 8, high[:, 0] << 8), (low[:, 1] << 4, high[:, 1] << 4), (low[:, 2], high[:, 2])
    along_z = [
        [flat[x[i] | y[j] | z[0]] * (1 - f[:, 2]) + flat[x[i] | y[j] | z[1]] * f[:, 2] for j in (0, 1)] for i in (0, 1)
    ]
    along_y = [row[0] * (1 - f[:, 1]) + row[1] * f[:, 1] for row in along_z]
    return along_y[0] * (1 - f[:, 0]) + along_y[1] * f[:, 0]


def smooth_field(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Float[Array, "H W"]:
    """Gaussian random field of unit variance, correlated over about `sigma` pixels; `shape` is (H, W)."""
    # drawn on a coarse grid: a wide blur of white noise, cheaply
    step = max(1.0, sigma / 2)
    small = (int(np.ceil(shape[0] / step)) + 8, int(np.ceil(shape[1] / step)) + 8)
    field = cv2.GaussianBlur(rng.standard_normal(small).astype(np.float32), (0, 0), sigma / step)
    field *= 2 * np.sqrt(np.pi) * sigma / step  # a blur of sigma leaves a standard deviation of 1 / (2 sqrt(pi) sigma)
    x, y = (4 + np.arange(n, dtype=np.float32) / step for n in (shape[1], shape[0]))
    return cv2.remap(field, *np.meshgrid(x, y), interpolation=cv2.INTER_CUBIC)


def smooth_track(frames: int, size: int, rng: np.random.Generator) -> Float[Array, "T size"]:
    """Random curves over time, correlated over about 4 frames, with a mean square of exactly 1 over everything."""
    track = gaussian_filter1d(rng.standard_normal((frames + 32, size)), 4.0, axis=0)[16:-16]
    return track / np.sqrt(np.mean(track**2))


def noisy_poses(
    pose: Float[Array, "T 72"], transl: Float[Array, "T 3"], amount: float, rng: np.random.Generator
) -> tuple[Float[Array, "T 72"], Float[Array, "T 3"]]:
    """A fit that is off, smoothly in time: every joint by 0.015 rad (rms angle) and the body by 5 mm (rms distance)."""
    frames = len(pose)
    error = 0.015 / np.sqrt(3) * amount * smooth_track(frames, 72, rng)
    exact = Rotation.from_rotvec(pose.reshape(-1, 3))
    turned = (Rotation.from_rotvec(error.reshape(-1, 3)) * exact).as_rotvec().reshape(frames, 72)
    moved = transl + 0.005 / np.sqrt(3) * amount * smooth_track(frames, 3, rng)
    return (turned, moved) if amount else (pose.copy(), transl.copy())


def noisy_mask(mask: Float[Array, "H W"], amount: float, rng: np.random.Generator) -> Float[Array, "H W"]:
    """A silhouette that is off by 1 to 2 pixels, in and out, in blobs (by less in images below 256 pixels)."""
    if not amount:
        return mask
    inside = (mask > 0.5).astype(np.uint8)
    # signed distance to the border, which lies half a pixel from the nearest pixel centres
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    distance -= inside - 0.5
    scale = min(1.0, mask.shape[0] / 256)
    field = smooth_field(mask.shape, 10 * scale, rng)
    return np.clip(distance + amount * scale * np.clip(0.9 * field * np.abs(field), -2, 2) + 0.5, 0, 1)


def noisy_depth(
    depth: Float[Array, "H W"], mask: Bool[Array, "H W"], amount: float, rng: np.random.Generator
) -> Float[Array, "H W"]:
    """Relative depth as Sapiens gives it: about 0..1 over the person, larger is farther, scale and shift unknown.

    `amount` 1: a low-frequency error of 3 % of the person's depth range (rms), and scale and shift that differ per
    frame by 5 %. Outside of the mask the values mean nothing, as with the real estimator.
    """
    low, high = (float(depth[mask].min()), float(depth[mask].max())) if mask.any() else (0.0, 1.0)
    relative = (spread(depth, mask) - low) / max(high - low, 1e-6)
    scale, shift = 1 + 0.05 * amount * rng.standard_normal(), 0.05 * amount * rng.standard_normal()
    error = 0.03 * amount * smooth_field(depth.shape, depth.shape[0] / 12, rng)
    return (scale * relative + shift + error).astype(np.float32)


def noisy_normals(
    normal: Float[Array, "H W 3"], mask: Bool[Array, "H W"], amount: float, rng: np.random.Generator
) -> Float[Array, "H W 3"]:
    """Normals that are too smooth and, in patches of about a twentieth of the image, 15 degrees off (rms)."""
    size = normal.shape[0]
    filled = np.stack([spread(normal[..., k], mask) for k in range(3)], -1)
    if not amount:
        return filled
    filled = cv2.GaussianBlur(filled, (0, 0), 0.5 * amount * max(1.0, size / 256))
    filled /= np.linalg.norm(filled, axis=-1, keepdims=True) + 1e-9
    # turn about random axes in the image plane and along the view: 15 degrees where they are orthogonal to the normal
    angle = np.radians(15) * amount / np.sqrt(2)
    axis = angle * np.stack([smooth_field(normal.shape[:2], size / 20, rng) for _ in range(3)], -1)
    turned = Rotation.from_rotvec(axis.reshape(-1, 3)).apply(filled.reshape(-1, 3)).reshape(normal.shape)
    return turned.astype(np.float32)


def noisy_labels(labels: UInt8[Array, "H W"], amount: float, rng: np.random.Generator) -> UInt8[Array, "H W"]:
    """Labels that are wrong along borders: looked up about 2 pixels away, in blobs (less in images below 256)."""
    if not amount:
        return labels
    h, w = labels.shape
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    scale = min(1.0, h / 256)
    dx, dy = (1.5 * amount * scale * smooth_field((h, w), 8 * scale, rng) for _ in range(2))
    return cv2.remap(labels, x + dx, y + dy, interpolation=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def spread(values: Float[Array, "H W"], mask: Bool[Array, "H W"]) -> Float[Array, "H W"]:
    """Values of the nearest masked pixel everywhere outside of the mask."""
    if not mask.any():
        return np.zeros_like(values)
    _, nearest = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(nearest.max() + 1, values.dtype)
    table[nearest[mask]] = values[mask]
    return table[nearest]
