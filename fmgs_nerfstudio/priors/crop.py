"""The person's box: a network sees more of a person who fills its image. Cutting, and putting the maps back."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.maps.info import Kind

Box = tuple[slice, slice]
"""Rows and columns of an image."""

MARGIN = 0.1
"""Growth of the box on each side, as a share of its longer side."""
ASPECT = 3 / 4
"""Width : height that the box is brought to as far as the image allows; Sapiens squashes what it gets to 768 x 1024."""


def person_box(mask: Float[Array, "H W"]) -> Box:
    """Box of the mask, grown by `MARGIN` and to `ASPECT`; the whole image where nothing is masked."""
    height, width = mask.shape
    rows, columns = (np.flatnonzero((mask > 0.5).any(axis)) for axis in (1, 0))
    if len(rows) == 0:
        return slice(0, height), slice(0, width)
    tall, wide = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    grow = 2 * MARGIN * max(tall, wide)
    tall, wide = tall + grow, wide + grow
    tall, wide = max(tall, wide / ASPECT), max(wide, tall * ASPECT)
    return _span(rows[0], rows[-1] + 1, tall, height), _span(columns[0], columns[-1] + 1, wide, width)


def _span(first: int, last: int, length: float, limit: int) -> slice:
    """`length` pixels about the middle of first..last, moved into 0..limit."""
    size = min(round(length), limit)
    start = min(max(round((first + last - size) / 2), 0), limit - size)
    return slice(start, start + size)


def paste(kind: Kind, values: Array, box: Box, shape: tuple[int, int]) -> Array:
    """The map of the whole image [H, W, ...] from the map of its box.

    Outside is background: 0, and for depth, which has no background, the nearest value inside.
    """
    rows, columns = box
    if values.shape[:2] == shape:
        return values
    if kind == "depth":
        borders = (rows.start, shape[0] - rows.stop, columns.start, shape[1] - columns.stop)
        return cv2.copyMakeBorder(values, *borders, borderType=cv2.BORDER_REPLICATE)
    whole = np.zeros((*shape, *values.shape[2:]), values.dtype)
    whole[rows, columns] = values
    return whole
