"""What is behind the person: does the picture cut to another shot, and does the camera move?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.track.networks import Image, Look

_SIDE, _THUMB = 480, (64, 36)  # of the pictures that are compared, pixels
_CUT = 0.5  # correlation of two backgrounds below which they are of two shots
_NOISE = 16.0  # variance of a background, grey levels, that says nothing
_CORNERS, _LEAST = 120, 10
STILL = 0.01
"""Share of the longer side that the background may shift before the camera is said to move."""


@dataclass
class Scene:
    """Compares each frame with the one before it, outside of the person."""

    grey: UInt8[Array, "H W"] | None = None
    clear: UInt8[Array, "H W"] | None = None
    """1 where the person was not."""
    path: Float[Array, "3 3"] = field(default_factory=lambda: np.eye(3))
    """From the shot's first background to this one, small pixels."""
    shift: float = 0.0
    """How far a corner of the background has moved at most in this shot, of the longer side."""
    told: int = 0
    """Pairs of frames whose backgrounds could be matched."""

    def cuts(self, image: Image) -> bool:
        """Whether another shot begins with this frame."""
        if self.grey is None or self.clear is None:
            return False
        now = _small(image)
        if now.shape != self.grey.shape:
            return True
        before, after, clear = (_thumb(picture) for picture in (self.grey, now, self.clear))
        keep = clear > 0
        if keep.mean() < 0.1:
            return False
        a, b = before[keep].astype(float), after[keep].astype(float)
        covariance = ((a - a.mean()) * (b - b.mean())).mean() + _NOISE
        return bool(covariance / np.sqrt((a.var() + _NOISE) * (b.var() + _NOISE)) < _CUT)

    def begin(self) -> None:
        """A new shot: forget the last one."""
        self.grey, self.clear, self.path, self.shift, self.told = None, None, np.eye(3), 0.0, 0

    def add(self, image: Image, look: Look | None) -> None:
        """Take a frame in, and measure how its background has moved since the last."""
        now, clear = _small(image), None
        clear = np.ones_like(now)
        if look is not None:
            points = look.landmarks * (now.shape[1] / image.shape[1])
            margin = 0.12 * look.next.side * now.shape[1] / image.shape[1]
            (left, top), (right, bottom) = points.min(0) - margin, points.max(0) + margin
            clear[max(int(top), 0) : max(int(bottom), 0), max(int(left), 0) : max(int(right), 0)] = 0
        if self.grey is not None and self.clear is not None and self.grey.shape == now.shape:
            step = _motion(self.grey, now, self.clear & clear)
            if step is not None:
                self.told += 1
                self.path = step @ self.path
                height, width = now.shape
                corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float).T
                moved = np.hypot(*(self.path @ corners - corners)[:2]).max() / max(now.shape)
                self.shift = max(self.shift, float(moved))
        self.grey, self.clear = now, clear

    @property
    def moves(self) -> bool:
        """Whether the camera has moved in this shot."""
        return self.shift > STILL


def _thumb(picture: UInt8[Array, "H W"]) -> UInt8[Array, "36 64"]:
    return cv2.resize(picture, _THUMB, interpolation=cv2.INTER_AREA)


def _small(image: Image) -> UInt8[Array, "H W"]:
    scale = _SIDE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def _motion(
    before: UInt8[Array, "H W"], after: UInt8[Array, "H W"], clear: UInt8[Array, "H W"]
) -> Float[Array, "3 3"] | None:
    """The similarity that moves the background, by its corners; none where it shows too few."""
    corners: Any = cv2.goodFeaturesToTrack(before, _CORNERS, 0.02, 8, mask=255 * clear)
    if corners is None or len(corners) < _LEAST:
        return None
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, np.empty(0, np.float32))
    there = found[:, 0] > 0
    if there.sum() < _LEAST:
        return None
    similarity: Any = cv2.estimateAffinePartial2D(corners[there], moved[there], ransacReprojThreshold=1.0)
    matrix, inliers = similarity
    if matrix is None or inliers.sum() < max(_LEAST, 0.4 * there.sum()):
        return None
    return np.r_[matrix, [[0.0, 0.0, 1.0]]]
