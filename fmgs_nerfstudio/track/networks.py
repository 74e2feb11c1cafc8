"""BlazePose's two networks on OpenCV: where people are in an image, and one person's landmarks and mask.

Bazarevsky et al., BlazePose: On-device Real-time Body Pose Tracking (2020), and the GHUM 3D model card.
`weights/NOTICE.md` says where the weights come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.track.mirror import OTHER_SIDE
from fmgs_nerfstudio.track.records import N_LANDMARKS

WEIGHTS = Path(__file__).parent / "weights"
DETECTOR, LANDMARKS = "person_detection.onnx", "pose_landmark_heavy.tflite"
SIDE = 256
"""Of the image that the landmark network sees, and of the mask that it gives, pixels."""
Image = UInt8[Array, "H W 3"]
"""In OpenCV's order: blue, green, red."""

_DETECTOR_SIDE, _GRIDS = 224, ((28, 2), (14, 2), (7, 6))  # rows and columns, and boxes at each place
_OVERLAP = 0.3  # intersection over union of boxes of the same face
_MARGIN = 1.25  # of a region around the circle through a person's ends
_HEATMAP, _WINDOW, _SURE = 64, 7, 0.25  # cells; cells around a landmark; heat below which it is not moved


@dataclass(frozen=True)
class Region:
    """A square of an image, turned so that a person is upright in it."""

    centre: Float[Array, "2"]
    """Pixels."""
    side: float
    """Pixels."""
    angle: float = 0.0
    """Of the person's up from the image's up, radians, clockwise."""

    @staticmethod
    def around(hips: Float[Array, "2"], end: Float[Array, "2"]) -> Region:
        """From the middle of the hips and a point above it on the circle that holds the person."""
        across, down = end - hips
        return Region(hips, float(2 * _MARGIN * np.hypot(across, down)), float(np.arctan2(across, -down)))

    @property
    def height(self) -> float:
        """Of the person about, in any pose, pixels: they fill the circle inside the margin."""
        return self.side / _MARGIN

    @property
    def rotation(self) -> Float[Array, "2 2"]:
        """Directions of the region to the image's."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]])

    def to_image(self, points: Float[Array, "N 2"], side: float = SIDE) -> Float[Array, "N 2"]:
        """Points of the region's own picture, `side` pixels wide, in the image."""
        return (points - side / 2) * (self.side / side) @ self.rotation.T + self.centre

    def matrix(self, side: float = SIDE) -> Float[Array, "2 3"]:
        """From the image to the region's own picture, for OpenCV, whose pixels' centres are at whole numbers."""
        turn = self.rotation.T * (side / self.side)
        return np.c_[turn, turn @ (0.5 - self.centre) + side / 2 - 0.5]

    def cut(self, image: Image, side: int = SIDE) -> Image:
        """The region's own picture; black where the image ends."""
        shrink = int(self.side // side)
        region = self
        if shrink > 1:  # linear interpolation alone would leave pixels out
            height, width = (max(n // shrink, 1) for n in image.shape[:2])
            scale = np.array([width / image.shape[1], height / image.shape[0]])
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            region = Region(self.centre * scale, self.side * float(scale.mean()), self.angle)
        return cv2.warpAffine(image, region.matrix(side), (side, side), flags=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Detection:
    """A person that the detector found."""

    score: float
    region: Region
    face: Float[Array, "4"]
    """Left, top, right, bottom, pixels."""


@dataclass(frozen=True)
class Look:
    """What the landmark network sees in a region; the conventions are those of `Sightings`."""

    region: Region
    presence: float
    """Whether there is a person at all, 0..1."""
    landmarks: Float[Array, "33 2"]
    depth: Float[Array, "33"]
    world: Float[Array, "33 3"]
    score: Float[Array, "33"]
    mask: Float[Array, "256 256"]
    """The person's coverage of the region's own picture, 0..1."""
    next: Region
    """Where to look in the next frame."""
    agreed: bool
    """Whether the plain and the mirrored picture face the same way: where they do not, their mean is nobody's pose."""


class Detector:
    """Finds people by their faces and the line from hips to head."""

    def __init__(self) -> None:
        self._net = cv2.dnn.readNetFromONNX(str(WEIGHTS / DETECTOR))
        self._outputs = self._net.getUnconnectedOutLayersNames()

    def __call__(self, image: Image, least: float = 0.5) -> list[Detection]:
        """People whose score is `least` or more, the surest first."""
        height, width = image.shape[:2]
        scale = _DETECTOR_SIDE / max(height, width)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        left, top = (_DETECTOR_SIDE - size[0]) // 2, (_DETECTOR_SIDE - size[1]) // 2
        canvas = np.zeros((_DETECTOR_SIDE, _DETECTOR_SIDE, 3), np.uint8)
        canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self._net.setInput(cv2.dnn.blobFromImage(canvas, 1 / 127.5, mean=(127.5,) * 3, swapRB=True))
        logits, found = (output[0] for output in self._net.forward(self._outputs))
        score = _sigmoid(logits[:, 0])
        keep = np.flatnonzero(score >= least)
        # Box middle and size, then four points: hips, end of the body, shoulders, end of the upper body.
        values = found[keep].reshape(-1, 6, 2).astype(float)
        values[:, [0, 2, 3, 4, 5]] += _anchors()[keep, None]
        values = (values - [left, top]) * [width / size[0], height / size[1]]
        values[:, 1] += [left * width / size[0], top * height / size[1]]
        return _merged(score[keep], values)


def _anchors() -> Float[Array, "2254 2"]:
    """Where the boxes of the detector's output are measured from, in its pixels."""
    grids = []
    for cells, boxes in _GRIDS:
        middle = (np.arange(cells) + 0.5) * _DETECTOR_SIDE / cells
        grids.append(np.repeat(np.stack(np.meshgrid(middle, middle), -1).reshape(-1, 2), boxes, 0))
    return np.concatenate(grids)


def _merged(score: Float[Array, "N"], values: Float[Array, "N 6 2"]) -> list[Detection]:
    """One detection for each face: the mean of its overlapping boxes by their scores."""
    low, high = values[:, 0] - values[:, 1] / 2, values[:, 0] + values[:, 1] / 2
    area = (high - low).prod(1)
    left, detections = np.argsort(-score), []
    while len(left):
        first = left[0]
        shared = np.minimum(high[first], high[left]) - np.maximum(low[first], low[left])
        shared = shared.clip(0).prod(1)
        same = shared > _OVERLAP * (area[first] + area[left] - shared)
        same[0] = True
        mean = np.average(values[left[same]], axis=0, weights=score[left[same]])
        face = np.r_[mean[0] - mean[1] / 2, mean[0] + mean[1] / 2]
        detections.append(Detection(float(score[first]), Region.around(mean[2], mean[3]), face))
        left = left[~same]
    return detections


class LandmarkNetwork:
    """Landmarks and mask of the person in a region: mean of the plain and the mirrored picture."""

    def __init__(self, weights: Path = WEIGHTS / LANDMARKS) -> None:
        self._net = cv2.dnn.readNetFromTFLite(str(weights))
        self._outputs = ["Identity", "Identity_1", "Identity_2", "Identity_3", "Identity_4"]

    def __call__(self, image: Image, region: Region) -> Look:
        picture = region.cut(image)
        plain, mirrored = self._pass(picture), self._pass(np.ascontiguousarray(picture[:, ::-1])).mirrored
        both = _Pass(*((a + b) / 2 for a, b in zip(plain.values, mirrored.values, strict=True)))
        scale = region.side / SIDE
        turn = np.eye(3)
        turn[:2, :2] = region.rotation
        hips = [23, 24]
        points = region.to_image(both.landmarks[:, :2])
        depth = both.landmarks[:N_LANDMARKS, 2]
        return Look(
            region=region,
            presence=float(both.presence),
            landmarks=points[:N_LANDMARKS],
            depth=(depth - depth[hips].mean()) * scale,
            world=(both.world - both.world[hips].mean(0)) @ turn.T,
            score=both.score,
            mask=both.mask,
            next=Region.around(points[N_LANDMARKS], points[N_LANDMARKS + 1]),
            agreed=bool(plain.leftward @ mirrored.leftward > 0),
        )

    def _pass(self, picture: Image) -> _Pass:
        self._net.setInput(cv2.dnn.blobFromImage(picture, 1 / 255, swapRB=True))
        landmarks, presence, mask, heat, world = self._net.forward(self._outputs)
        found = landmarks.reshape(39, 5).astype(float)
        return _Pass(
            landmarks=np.c_[_refined(found[:35, :2], _sigmoid(heat[0, :35])), found[:35, 2]],
            score=_sigmoid(found[:N_LANDMARKS, 3:]).prod(1),
            world=world.reshape(39, 3)[:N_LANDMARKS].astype(float),
            mask=_sigmoid(mask[0, 0]),
            presence=presence.reshape(()),
        )


@dataclass(frozen=True)
class _Pass:
    """The network's outputs for one picture, in its pixels."""

    landmarks: Float[Array, "35 3"]
    score: Float[Array, "33"]
    world: Float[Array, "33 3"]
    mask: Float[Array, "256 256"]
    presence: Float[Array, ""]

    @property
    def values(self) -> tuple[Any, ...]:
        return self.landmarks, self.score, self.world, self.mask, self.presence

    @property
    def leftward(self) -> Float[Array, "3"]:
        """Along shoulders and hips, from right to left."""
        return (self.world[[11, 23]] - self.world[[12, 24]]).sum(0)

    @cached_property
    def mirrored(self) -> _Pass:
        """As the picture's mirror image has it."""
        swap = [*OTHER_SIDE, 33, 34]
        return _Pass(
            self.landmarks[swap] * [-1, 1, 1] + [SIDE, 0, 0],
            self.score[OTHER_SIDE],
            self.world[OTHER_SIDE] * [-1, 1, 1],
            self.mask[:, ::-1],
            self.presence,
        )


def _sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))


def _refined(points: Float[Array, "N 2"], heat: Float[Array, "N 64 64"]) -> Float[Array, "N 2"]:
    """Points moved to the centre of mass of the heat around them, where there is heat."""
    cell, reach = SIDE / _HEATMAP, _WINDOW // 2
    refined = points.copy()
    for i, (x, y) in enumerate((points / cell).astype(int)):
        rows = slice(max(y - reach, 0), min(y + reach + 1, _HEATMAP))
        columns = slice(max(x - reach, 0), min(x + reach + 1, _HEATMAP))
        if not (0 <= x < _HEATMAP and 0 <= y < _HEATMAP):
            continue
        window = heat[i, rows, columns]
        if window.max() >= _SURE:
            total = window.sum()
            refined[i] = (
                (window.sum(0) * np.arange(columns.start, columns.stop)).sum() / total * cell,
                (window.sum(1) * np.arange(rows.start, rows.stop)).sum() / total * cell,
            )
    return refined
