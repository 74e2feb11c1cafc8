"""Tiles of contact sheets: pictures brought to one size, outlines and words on them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from fmgs_nerfstudio.arrays import Array

Picture = UInt8[Array, "H W 3"]
TILE = (240, 320)
"""Width and height of a tile, pixels."""
BODY, MASK, WHITE, ALARM = (255, 0, 200), (255, 220, 0), (255, 255, 255), (255, 80, 80)


def tile_of(picture: UInt8[Array, "H W *C"]) -> UInt8[Array, "h w *C"]:
    """The picture at the size of a tile, its proportions kept, black beside it."""
    scale = min(TILE[0] / picture.shape[1], TILE[1] / picture.shape[0])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    out = np.zeros((TILE[1], TILE[0], *picture.shape[2:]), np.uint8)
    top, left = (TILE[1] - size[1]) // 2, (TILE[0] - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = small
    return out


def draw_outline(tile: Picture, inside: Bool[Array, "h w"], colour: tuple[int, int, int]) -> None:
    """Draw the outline of `inside` on `tile`."""
    outline, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(tile, outline, -1, colour, 1)


def write_on(picture: Picture, text: str, place: tuple[int, int], colour: tuple[int, int, int] = WHITE) -> None:
    """Write `text` at `place`, its lower left corner; with an edge, so that it reads on any picture."""
    for thickness, ink in ((3, (0, 0, 0)), (1, colour)):
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, ink, thickness, cv2.LINE_AA)


def sheet_of(
    tiles: Sequence[Picture], columns: int, legend: Sequence[tuple[str, tuple[int, int, int] | None]]
) -> Picture:
    """Rows of tiles under a line that explains their colours."""
    filled = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    rows = [np.hstack(filled[i : i + columns]) for i in range(0, len(filled), columns)]
    line, x = np.zeros((26, rows[0].shape[1], 3), np.uint8), 8
    for text, colour in legend:
        if colour is not None:
            line[8:20, x : x + 18] = colour
            x += 26
        write_on(line, text, (x, 18))
        x += 24 + 9 * len(text)
    return np.vstack([line, *rows])
