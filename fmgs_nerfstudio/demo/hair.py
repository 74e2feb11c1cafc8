"""Hair: a dome of strands that run from the crown down to a hairline."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import KDTree

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.demo.easing import smoothstep
from fmgs_nerfstudio.demo.noise import value_noise
from fmgs_nerfstudio.demo.rays import Scene
from fmgs_nerfstudio.demo.skinned_surface import Anatomy, SkinnedSurface
from fmgs_nerfstudio.maps.classes import IDS

CENTRE = np.array([0.0, 0.53, 0.065])
# The crown lies behind the top of the head. Rows: side (left), up, front of the frame in which the dome is built.
_FRAME = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
# Hairline of short hair on the template's left side, from the forehead over temple, sideburn and ear to the nape.
_HAIRLINE = np.array([
    [0.000, 0.590, 0.160], [0.030, 0.588, 0.152], [0.052, 0.574, 0.138], [0.061, 0.552, 0.123], [0.068, 0.532, 0.113],
    [0.073, 0.500, 0.099], [0.074, 0.486, 0.094], [0.075, 0.498, 0.085], [0.076, 0.522, 0.072], [0.077, 0.518, 0.052],
    [0.072, 0.490, 0.038], [0.050, 0.450, 0.012], [0.025, 0.440, 0.002], [0.000, 0.438, 0.000],
])  # fmt: skip


def hair(anatomy: Anatomy, style: str, seed: int, fine: bool) -> SkinnedSurface:
    """Hair of a style: "short", "long" (to the chin, over the ears) or "bun"."""
    across, down = (240, 44) if fine else (160, 28)
    azimuth = np.linspace(-np.pi, np.pi, across, endpoint=False)
    t = np.linspace(0, 1, down) ** 0.85
    ragged = 0.10 * value_noise(np.c_[azimuth * 8, np.zeros((across, 2))], seed)
    ragged += 0.07 * value_noise(np.c_[azimuth * 30, np.ones((across, 2))], seed)
    line = _hairline(azimuth) + (ragged - 0.085) * (0.35 + 0.65 * smoothstep(1.0, 0.6, np.abs(azimuth)))
    polar = line[None] * t[:, None] + 0.02
    side, up, front = np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)
    direction = np.stack([side, up, front], -1) @ _FRAME
    skull = _skull(anatomy, direction)

    strands = value_noise(
        np.stack(np.broadcast_arrays(azimuth * 14, t[:, None] * 2.5, 0.0), -1).reshape(-1, 3), seed + 1
    )
    locks = strands.reshape(down, across) - 0.5
    top = smoothstep(-0.1, 0.9, direction[..., 1])
    depth = {"short": 0.010 + 0.012 * top, "long": 0.012 + 0.008 * top, "bun": 0.007 + 0.004 * top}[style]
    rim = smoothstep(1.02, 0.80, t)[:, None]
    height = (depth + 0.006 * locks) * (0.08 + 0.92 * rim) + 0.0008
    points = CENTRE + direction * (skull + height)[..., None]
    if style == "long":
        points = _hanging(points, azimuth, t, locks)
    coordinates = np.stack(np.broadcast_arrays(azimuth, t[:, None], 0.0), -1)
    vertices, anchor, faces = points.reshape(-1, 3), coordinates.reshape(-1, 3), _grid_faces(down, across)
    if style == "bun":
        knot = _knot(seed)
        vertices, anchor, faces = (
            np.concatenate([vertices, knot[0]]),
            np.concatenate([anchor, knot[1]]),
            np.concatenate([faces, knot[2] + len(vertices)]),
        )
    weights = np.zeros((len(vertices), 24))
    weights[:, 15] = 1
    # the hair follows the shape of the head it grows on
    head = np.flatnonzero(anatomy.weights[:, 15] > 0.9)
    distance, near = KDTree(anatomy.vertices[head]).query(vertices, k=8)
    share = 1 / (distance + 0.004)
    shapedirs = np.einsum("vk,vkij->vij", share / share.sum(1, keepdims=True), anatomy.shapedirs[head[near]])
    return SkinnedSurface(vertices, faces, weights, shapedirs, anchor, np.ones(len(vertices)), "hair", IDS["Hair"])


def _hairline(azimuth: Float[Array, "A"]) -> Float[Array, "A"]:
    """Angle from the crown at which hair ends, by azimuth (0 = front)."""
    local = (_HAIRLINE - CENTRE) @ _FRAME.T
    at = np.arctan2(local[:, 0], local[:, 2])
    angle = np.arccos(local[:, 1] / np.linalg.norm(local, axis=1))
    return gaussian_filter1d(np.interp(np.abs(azimuth), at, angle), 1.2, mode="wrap")


def _skull(anatomy: Anatomy, direction: Float[Array, "T A 3"]) -> Float[Array, "T A"]:
    """Distance from the centre to the skin, without the ears."""
    body = anatomy.surface("body", "skin", 0, levels=0)
    rays = direction.reshape(-1, 3)
    hits = Scene(body.vertices, body.triangles).hits(np.broadcast_to(CENTRE, rays.shape), rays)
    radius = hits["tfar"].reshape(direction.shape[:2])
    # ears stick out of an ellipsoid that the rest of the scalp nearly fills
    ellipsoid = 1 / np.linalg.norm(direction / [0.0785, 0.104, 0.118], axis=-1)
    radius = np.where(np.abs(direction[..., 0]) > 0.6, np.minimum(radius, ellipsoid), radius)
    return gaussian_filter1d(gaussian_filter1d(radius, 1.5, axis=1, mode="wrap"), 1.0, axis=0)


def _hanging(points: Float[Array, "T A 3"], azimuth: Array, t: Array, locks: Array) -> Float[Array, "T A 3"]:
    """Chin-length hair: strands leave the head at its widest and fall; a fringe stays over the forehead."""
    falls = smoothstep(0.78, 1.25, np.abs(azimuth))
    bottom = 0.405 + 0.012 * np.cos(azimuth) + 0.008 * (locks[-1] + locks[-8])
    fall = falls * smoothstep(0.45, 0.62, t)[:, None]
    outward = points - CENTRE
    outward[..., 1] = 0
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True) + 1e-9
    # widest horizontal distance so far down each strand
    reach = np.maximum.accumulate(np.einsum("tai,tai->ta", points - CENTRE, outward), axis=0)
    ear = 0.100 * np.exp(-(((np.abs(azimuth) - 1.65) / 0.5) ** 2))
    reach = np.maximum(reach, np.where(t[:, None] > 0.5, ear, 0)) + 0.006
    lower = smoothstep(0.5, 1.0, t)[:, None]
    start = points[np.searchsorted(t, 0.5)]
    target = CENTRE + outward * (reach * (1 - 0.10 * lower**2) + 0.005 * locks)[..., None]
    target[..., 1] = start[None, :, 1] + (bottom - start[:, 1])[None] * np.clip((t[:, None] - 0.5) / 0.5, 0, 1)
    return points + fall[..., None] * (target - points)


def _knot(seed: int) -> tuple[Float[Array, "N 3"], Float[Array, "N 3"], Array]:
    """A bun on the back of the head; its strands wind around it."""
    across, down = 64, 24
    azimuth, polar = np.linspace(-np.pi, np.pi, across, endpoint=False), np.linspace(0.02, np.pi - 0.02, down)[:, None]
    unit = np.stack(
        np.broadcast_arrays(np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)), -1
    )
    twist = value_noise(
        np.stack(np.broadcast_arrays(polar * 9 + azimuth * 0.6, 0.0 * azimuth, 0.0), -1).reshape(-1, 3), seed
    )
    radius = 0.037 + 0.006 * twist.reshape(down, across)
    axis = np.array([0.0, 0.62, -0.78])
    frame = np.stack([np.array([1.0, 0, 0]), np.cross(axis, [1.0, 0, 0]), axis])
    points = np.array([0.0, 0.594, -0.022]) + (unit * radius[..., None] * [1, 1, 0.8]) @ frame
    coordinates = np.stack(np.broadcast_arrays(4 * polar + 0.3 * azimuth, 0.5 + 0.1 * np.sin(azimuth), 0.0), -1)
    return points.reshape(-1, 3), coordinates.reshape(-1, 3), _grid_faces(down, across)


def _grid_faces(down: int, across: int) -> Array:
    """Triangles of a grid that closes on itself across, seen from outside."""
    i, j = np.meshgrid(np.arange(down - 1), np.arange(across), indexing="ij")
    a, b = i * across + j, i * across + (j + 1) % across
    c, d = b + across, a + across
    return np.concatenate([np.stack([a, d, c], -1).reshape(-1, 3), np.stack([a, c, b], -1).reshape(-1, 3)])
