"""The fitted body, the mask and the landmarks over the frames of a tracked video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from fmgs_dataparsers.capture import Capture, Frame
from jaxtyping import Bool

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.view import MeshView, PosedBody
from fmgs_nerfstudio.evaluation.tiles import (
    ALARM,
    BODY,
    MASK,
    TILE,
    WHITE,
    Picture,
    draw_outline,
    sheet_of,
    tile_of,
    write_on,
)
from fmgs_nerfstudio.priors.crop import person_box
from fmgs_nerfstudio.track.records import Sightings

LEFT, RIGHT = (255, 140, 0), (0, 170, 255)
"""Colours of the person's left and right landmarks."""
_IS_LEFT = np.array([False, *[True] * 3, *[False] * 3, *[True, False] * 13])
"""BlazePose's order: nose, left eye, right eye, then pairs."""
_SURE = 0.5
_COLUMNS, _TILES = 6, 18
_LEAST_IOU = 0.7


@dataclass(frozen=True)
class Overlays:
    """Pictures of a tracked capture, frame by frame in the order of time."""

    capture: Capture
    sightings: Sightings

    @cached_property
    def frames(self) -> list[Frame]:
        """One per fit; the i-th is the i-th sighting."""
        by_pose = {frame.pose_id: frame for frames in self.capture.splits.values() for frame in frames}
        return [by_pose[pose_id] for pose_id in sorted(by_pose)]

    @cached_property
    def _body(self) -> PosedBody:
        return PosedBody(BodyModel.load(self.capture.body_model), self.capture.betas, self.capture.poses)

    def pictures(self) -> Iterator[Picture]:
        """RGB at the capture's working size."""
        return (self._draw(i)[0] for i in range(len(self.frames)))

    def sheet(self) -> tuple[Picture, dict[str, float]]:
        """Tiles spread over the video, and the IoU of naked body and mask of each frame that is shown, by name."""
        count = min(_TILES, len(self.frames))
        shown = np.unique(np.linspace(0, len(self.frames) - 1, count).round().astype(int))
        tiles, found = [], {}
        for i in shown.tolist():
            picture, mask, body = self._draw(i, outline=False)
            box = person_box((mask | body).astype(np.float32))
            tile = tile_of(picture[box])
            draw_outline(tile, tile_of(mask[box].astype(np.uint8) * 255) > 127, MASK)
            name = self.frames[i].stem
            found[name] = iou = float((mask & body).sum() / max((mask | body).sum(), 1))
            write_on(tile, f"{name}, {self.sightings.time[i]:.1f} s", (6, 16))
            write_on(tile, f"IoU {iou:.2f}", (6, TILE[1] - 8), WHITE if iou >= _LEAST_IOU else ALARM)
            tiles.append(tile)
        legend = [("fitted body", BODY), ("mask", MASK), ("person's left", LEFT), ("person's right", RIGHT)]
        return sheet_of(tiles, _COLUMNS, legend), found

    def _draw(self, i: int, outline: bool = True) -> tuple[Picture, Bool[Array, "H W"], Bool[Array, "H W"]]:
        """The picture, the person's mask, and where the body is."""
        frame, capture = self.frames[i], self.capture
        picture, mask = capture.image(frame).copy(), capture.mask(frame) > 0.5
        K, width, height = capture.intrinsics(frame.camera)
        extrinsic = capture.cameras[frame.camera].world_to_camera
        view = self._body.view(frame.pose_id, capture.transl[frame.pose_id], K, extrinsic, width, height)
        _shade(picture, view)
        if outline:
            draw_outline(picture, mask, MASK)
        radius = max(2, height // 250)
        for (x, y), score, left in zip(
            self.sightings.landmarks[i] / capture.downscale, self.sightings.score[i], _IS_LEFT, strict=True
        ):
            if score >= _SURE and 0 <= x < width and 0 <= y < height:
                cv2.circle(picture, (int(x), int(y)), radius, LEFT if left else RIGHT, -1, cv2.LINE_AA)
        return picture, mask, view.silhouette


def _shade(picture: Picture, view: MeshView) -> None:
    """Lay the body over the picture, lit from the camera, half transparent."""
    inside = view.silhouette
    light = 0.3 + 0.7 * np.abs(view.normal[inside][:, 2:])
    picture[inside] = (0.5 * picture[inside] + 0.5 * light * np.array(BODY)).astype(np.uint8)
