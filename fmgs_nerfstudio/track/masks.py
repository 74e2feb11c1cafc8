"""Soft masks: the landmark network's coarse ones, drawn to the image's edges."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.track.networks import SIDE, Image, Look

_EPSILON = 1e-3  # of the guided filter: variance of grey, 0..1, below which nothing is an edge


def person_mask(image: Image, look: Look) -> Float[Array, "H W"]:
    """The person's coverage of each pixel, 0..1: the largest piece of the network's mask.

    Edges are those of the image: a guided filter (He et al., Guided Image Filtering, 2010) on the person's box.
    """
    height, width = image.shape[:2]
    coarse = cv2.warpAffine(
        look.mask.astype(np.float32),
        look.region.matrix(),
        (width, height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
    ).clip(0, 1)
    person = _largest(coarse)
    cell = look.region.side / SIDE
    radius = max(round(2 * cell), 2)
    columns, rows = np.flatnonzero(person.any(0)), np.flatnonzero(person.any(1))
    mask = np.zeros((height, width), np.float32)
    if not len(rows):
        return mask
    margin = 3 * radius
    box = (
        slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
        slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
    )
    reach = 2 * radius + 1
    near = cv2.dilate(person[box].astype(np.uint8), np.ones((reach, reach), np.uint8))
    grey = cv2.cvtColor(image[box], cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
    mask[box] = _guided(grey, coarse[box] * near, radius).clip(0, 1)
    return mask * _largest(mask)


def _largest(mask: Float[Array, "H W"]) -> Float[Array, "H W"]:
    """1 on the largest connected piece, and its soft rim, of what is covered."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask > 0.05).astype(np.uint8))
    if count < 2:
        return np.zeros_like(mask)
    return (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.float32)


def _guided(guide: Float[Array, "H W"], values: Float[Array, "H W"], radius: int) -> Float[Array, "H W"]:
    """`values` as the local linear functions of `guide` that fit them best."""

    def mean(array: Array) -> Array:
        return cv2.blur(array, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    middle, level = mean(guide), mean(values)
    slope = (mean(guide * values) - middle * level) / (mean(guide * guide) - middle**2 + _EPSILON)
    return mean(slope) * guide + mean(level - slope * middle)
