"""Half a pixel: does the calibration have its pixel centres where the reader takes them to be?

A body that is drawn half a pixel off lies inside the clothes on both sides, but nearer to one: the blurred mask M is
the blurred silhouette B, moved by d and grown by c, M - B = -d . grad B + c |grad B|, by least squares over the pixels.
Growth takes up clothes, d what is not the same on both sides. Left and right are alike in a person who turns; above
and below are not (shoes, hems), which moves d by -0.1 to 0.6 pixels down on the demo's captures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from fmgs_dataparsers.conventions import PixelCentres
from jaxtyping import Bool, Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.judge.silhouette import Silhouettes, View

_BLUR = 1.0  # pixels; makes silhouettes differentiable
_ROUNDS = 3  # of Gauss and Newton; falls short where clothes are wider than the blur, rather than overshoot
_LEAST_FRAMES = 8
_ACROSS = (0.3, 0.8)  # pixels of the file that x may be off by
_DOWN = (0.15, 0.9)  # wider, for shoes and hems
_SURE = 0.1  # pixels; largest standard error


def shift_of(silhouettes: Silhouettes, view: View) -> Float[Array, "2"]:
    """Pixels of the view, right and down, that the body must move by to lie in the middle of its mask."""
    mask, shift = _blurred(view.mask), np.zeros(2)
    for _ in range(_ROUNDS):
        K = view.K.copy()
        K[:2, 2] += shift
        body = _blurred(silhouettes.draw(view._replace(K=K)))
        down, right = np.gradient(body)
        slopes = np.stack([-right, -down, np.hypot(right, down)], -1).reshape(-1, 3).astype(np.float64)
        shift = shift + (np.linalg.pinv(slopes.T @ slopes) @ (slopes.T @ (mask - body).ravel()))[:2]
    return shift


def pixel_centres_doubt(shifts: Mapping[str, Sequence[Float[Array, "2"]]], read_as: PixelCentres) -> str | None:
    """What to tell whose calibration looks half a pixel off, else None.

    `shifts` by camera, of frames that fit, in pixels of the files; `read_as`: whole or half, see `PixelCentres`.
    """
    pooled = np.array([shift for members in shifts.values() for shift in members]).reshape(-1, 2)
    if len(pooled) < _LEAST_FRAMES:
        return None
    cut = len(pooled) // 5  # a fifth at each end may be outliers
    mean = np.sort(pooled, axis=0)[cut : len(pooled) - cut].mean(0)
    error = 1.4826 * np.median(np.abs(pooled - np.median(pooled, 0)), 0) / np.sqrt(len(pooled))
    # What is at half and read as whole is drawn half a pixel too far right and down.
    sign = -1 if read_as == "whole" else 1
    x, y = sign * mean
    cameras = [np.median(members, 0)[0] * sign for members in shifts.values() if len(members) >= _LEAST_FRAMES]
    likely = _ACROSS[0] <= x <= _ACROSS[1] and _DOWN[0] <= y <= _DOWN[1]
    if not likely or error.max() > _SURE or min(cameras, default=1) <= 0:
        return None
    other = "half" if read_as == "whole" else "whole"
    return (
        f"the body lies {abs(x):.1f} pixels too far {'right' if sign < 0 else 'left'} and {abs(y):.1f} too far "
        f"{'down' if sign < 0 else 'up'}, alike in {len(pooled)} frames: the calibration may have its pixel centres "
        f"{'at + 0.5' if other == 'half' else 'at whole numbers'}; try pixel-centres {other}"
    )


def _blurred(covered: Bool[Array, "H W"]) -> Float[Array, "H W"]:
    return cv2.GaussianBlur(covered.astype(np.float32), (0, 0), _BLUR)
