"""Soft masks: the landmark network's coarse ones, drawn to the image's edges."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.track.networks import SIDE, Image, Look

_EPSILON = 1e-4  # of the guided filter: variance of colours, 0..1, below which nothing is an edge
_CELLS = 3  # of the coarse mask, that an edge may be off by
_SEEN = 0.05  # coverage that belongs to a piece of the mask
_WORKING = 320  # pixels of the person's box above which colours are compared at half its size


def person_mask(image: Image, look: Look) -> Float[Array, "H W"]:
    """The person's coverage of each pixel, 0..1: the largest piece of the network's mask.

    Edges are those of the image: a guided filter (He et al., Guided Image Filtering, 2010) on the person's box.
    """
    height, width = image.shape[:2]
    matrix, flags = look.region.matrix(), cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    coarse = cv2.warpAffine(look.mask.astype(np.float32), matrix, (width, height), flags=flags).clip(0, 1)
    person = largest(coarse)
    mask = np.zeros((height, width), np.float32)
    columns, rows = np.flatnonzero(person.any(0)), np.flatnonzero(person.any(1))
    if not len(rows):
        return mask
    radius = max(round(_CELLS * look.region.side / SIDE), 2)
    margin = 2 * radius
    box = (
        slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
        slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
    )
    near = cv2.dilate(person[box].astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    guide = image[box].astype(np.float32) / 255
    mask[box] = _guided(guide, coarse[box] * near, radius).clip(0, 1)
    return mask * largest(mask)


def largest(mask: Float[Array, "H W"]) -> Float[Array, "H W"]:
    """1 on the largest connected piece, and its soft rim, of what is covered."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask > _SEEN).astype(np.uint8))
    if count < 2:
        return np.zeros_like(mask)
    return (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.float32)


def _guided(guide: Float[Array, "H W 3"], values: Float[Array, "H W"], radius: int) -> Float[Array, "H W"]:
    """`values` as the functions, linear in the guide's colour around each pixel, that fit them best.

    The functions are found at half the size where that is enough (He and Sun, Fast Guided Filter, 2015).
    """
    height, width = values.shape
    shrink = 2 if max(height, width) > _WORKING else 1
    size = (-(-width // shrink), -(-height // shrink))
    small, target = (cv2.resize(a, size, interpolation=cv2.INTER_AREA) for a in (guide, values))
    reach = 2 * max(round(radius / shrink), 1) + 1

    def mean(array: Array) -> Array:
        return cv2.blur(array, (reach, reach), borderType=cv2.BORDER_REFLECT)

    colour, level = mean(small), mean(target)
    r, g, b = cv2.split(small)
    spread = mean(cv2.merge([r * r, r * g, r * b, g * g])), mean(cv2.merge([g * b, b * b]))
    R, G, B = cv2.split(colour)
    rr, rg, rb, gg = (a - c for a, c in zip(cv2.split(spread[0]), (R * R, R * G, R * B, G * G), strict=True))
    gb, bb = (a - c for a, c in zip(cv2.split(spread[1]), (G * B, B * B), strict=True))
    rr, gg, bb = rr + _EPSILON, gg + _EPSILON, bb + _EPSILON
    x, y, z = cv2.split(mean(small * target[..., None]) - colour * level[..., None])
    # The inverse of the symmetric matrix of the colours' spread, by its cofactors.
    c0, c1, c2 = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    determinant = rr * c0 + rg * c1 + rb * c2
    c3, c4, c5 = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    slope = cv2.merge([c0 * x + c1 * y + c2 * z, c1 * x + c3 * y + c4 * z, c2 * x + c4 * y + c5 * z])
    slope /= determinant[..., None]
    offset = level - (slope * colour).sum(-1)
    slope, offset = (cv2.resize(mean(a), (width, height)) for a in (slope, offset))
    return (slope * guide).sum(-1) + offset
