"""A contact sheet of prior maps: whether they are right is seen at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from fmgs_dataparsers.capture import Capture, Frame
from jaxtyping import Bool, Float, UInt8

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.maps.classes import CLASSES, PALETTE
from fmgs_nerfstudio.priors.body_view import BodyView
from fmgs_nerfstudio.priors.crop import person_box

Picture = UInt8[Array, "H W 3"]
TITLES = ("image and fitted body", "mask", "parsing", "depth (near is bright)", "normals (x y z as r g b)")
_TILE = (240, 320)  # width, height
_RED, _WHITE = (255, 60, 60), (255, 255, 255)


def contact_sheet(capture: Capture, frames: Sequence[Frame], warnings: Mapping[Frame, Sequence[str]]) -> Picture:
    """One row per frame, RGB: the image with the outline of the SMPL fit, mask, parsing, depth, normals.

    Maps that a frame has not are black; its warnings are written in red. Below, the classes that occur.
    """
    body, rows, present = BodyView(capture), [], set()
    for frame in frames:
        tiles, labels = _tiles(capture, body, frame)
        present |= set(labels)
        row = np.hstack(tiles)
        _write(row, f"{frame.camera}/{frame.stem}", (6, 16))
        for line, warning in enumerate(warnings.get(frame, ())):
            _write(row, warning, (6, 36 + 20 * line), _RED)
        rows.append(row)
    header = np.zeros((24, _TILE[0] * len(TITLES), 3), np.uint8)
    for column, title in enumerate(TITLES):
        _write(header, title, (column * _TILE[0] + 6, 16))
    return np.vstack([header, *rows, _legend(sorted(present - {0}), header.shape[1])])


def _tiles(capture: Capture, body: BodyView, frame: Frame) -> tuple[list[Picture], list[int]]:
    image, on_body = capture.image(frame), body.draw(frame).silhouette
    mask, semantics = capture.prior("mask", frame), capture.prior("semantics", frame)
    depth, normal = capture.prior("depth", frame), capture.prior("normal", frame)
    person = (capture.mask(frame) if mask is None else mask) > 0.5
    box = person_box((person | on_body).astype(np.float32))
    nothing = np.zeros_like(image)
    tiles = [
        image,
        nothing if mask is None else np.repeat(_bytes(mask)[..., None], 3, axis=2),
        nothing if semantics is None else _over(image, semantics),
        nothing if depth is None else _depth_picture(depth, person),
        nothing if normal is None else _bytes((normal + 1) / 2) * person[..., None],
    ]
    tiles = [_fit(tile[box]) for tile in tiles]
    outline = _fit(on_body[box].astype(np.uint8) * 255)
    found, _ = cv2.findContours((outline > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(tiles[0], found, -1, (0, 255, 0), 1)
    return tiles, [] if semantics is None else np.unique(semantics).tolist()


def _over(image: Picture, labels: UInt8[Array, "H W"]) -> Picture:
    """Class colours over the image."""
    mixed = (0.35 * image + 0.65 * PALETTE[labels]).astype(np.uint8)
    return np.where((labels > 0)[..., None], mixed, image // 2)


def _depth_picture(depth: Float[Array, "H W"], person: Bool[Array, "H W"]) -> Picture:
    if not person.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = np.percentile(depth[person], (1, 99))
    gray = np.where(person, 1 - 0.85 * np.clip((depth - near) / max(far - near, 1e-6), 0, 1), 0)
    return np.ascontiguousarray(cv2.applyColorMap(_bytes(gray), cv2.COLORMAP_INFERNO)[..., ::-1])


def _fit(tile: Array) -> Array:
    """The tile at the sheet's size, its proportions kept, black beside it."""
    scale = min(_TILE[0] / tile.shape[1], _TILE[1] / tile.shape[0])
    size = (max(1, round(tile.shape[1] * scale)), max(1, round(tile.shape[0] * scale)))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(np.ascontiguousarray(tile), size, interpolation=smooth)
    out = np.zeros((_TILE[1], _TILE[0], *tile.shape[2:]), np.uint8)
    top, left = (_TILE[1] - size[1]) // 2, (_TILE[0] - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = small
    return out


def _legend(classes: Sequence[int], width: int) -> Picture:
    columns = 6
    legend = np.zeros((22 * max(1, -(-len(classes) // columns)), width, 3), np.uint8)
    for place, index in enumerate(classes):
        x, y = place % columns * (width // columns), place // columns * 22
        legend[y + 5 : y + 17, x + 6 : x + 24] = PALETTE[index]
        _write(legend, CLASSES[index].replace("_", " "), (x + 30, y + 16))
    return legend


def _write(picture: Picture, text: str, place: tuple[int, int], colour: tuple[int, int, int] = _WHITE) -> None:
    for thickness, ink in ((3, (0, 0, 0)), (1, colour)):  # an edge, so that it reads on any picture
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, ink, thickness, cv2.LINE_AA)


def _bytes(values: Float[Array, "..."]) -> UInt8[Array, "..."]:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
