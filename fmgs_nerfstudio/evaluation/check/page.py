"""The check as people look at it: a sheet of overlays, and one HTML page with everything in it."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.evaluation.html import render
from fmgs_nerfstudio.judge.fit_check import GOOD, LEAST, OFF, FitReport, FrameCheck, corrected, spread
from fmgs_nerfstudio.priors.crop import person_box

Picture = UInt8[Array, "H W 3"]
_COLUMNS, _SPREAD, _WORST = 6, 12, 6
_TILE = (240, 320)  # width, height
_BODY, _MASK, _CORRECTED, _WHITE = (255, 0, 200), (255, 220, 0), (0, 255, 120), (255, 255, 255)


def overlay_sheet(report: FitReport) -> Picture:
    """RGB: frames spread over the capture and, in the last row, the worst. Body filled, mask outlined; in green the
    body as it would be without the mistake that was found."""
    shown = [*spread(report.frames, _SPREAD), *report.worst(_WORST)]
    tiles = [_tile(report, frame) for frame in shown]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[i : i + _COLUMNS]) for i in range(0, len(tiles), _COLUMNS)]
    return np.vstack([_legend(rows[0].shape[1], report.cause is not None), *rows])


def html_page(report: FitReport, facts: Mapping[str, str], sheet_png: bytes) -> str:
    """One file that needs no other."""
    name = report.capture.root.name
    limits = {"good": GOOD, "least": LEAST, "off": OFF}
    return render("check.html", name=name, report=report, facts=facts, sheet_png=sheet_png, **limits)


def _tile(report: FitReport, frame: FrameCheck) -> Picture:
    image = report.capture.image(frame.frame)
    shape = (image.shape[1], image.shape[0])

    def enlarged(mask: Bool[Array, "h w"]) -> UInt8[Array, "H W"]:
        return cv2.resize(mask.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST)

    mask, body = enlarged(frame.view.mask), enlarged(report.silhouettes.draw(frame.view))
    other = corrected(report, frame)
    green = np.zeros_like(body) if other is None else enlarged(report.silhouettes.draw(other))
    box = person_box((mask | body | green).astype(np.float32))
    tile = _fit(np.where((body > 0)[..., None], 0.55 * image + 0.45 * np.array(_BODY), image).astype(np.uint8)[box])
    for silhouette, colour in ((mask, _MASK), (green, _CORRECTED)):
        outline, _ = cv2.findContours(
            (_fit(silhouette[box] * 255) > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(tile, outline, -1, colour, 1)
    _write(tile, frame.name, (6, 16))
    _write(tile, f"IoU {frame.iou:.2f}", (6, _TILE[1] - 8), _WHITE if frame.iou >= OFF else (255, 80, 80))
    return tile


def _fit(tile: Array) -> Array:
    """The tile at the sheet's size, its proportions kept, black beside it."""
    scale = min(_TILE[0] / tile.shape[1], _TILE[1] / tile.shape[0])
    size = (max(1, round(tile.shape[1] * scale)), max(1, round(tile.shape[0] * scale)))
    small = cv2.resize(tile, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    out = np.zeros((_TILE[1], _TILE[0], *tile.shape[2:]), np.uint8)
    top, left = (_TILE[1] - size[1]) // 2, (_TILE[0] - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = small
    return out


def _legend(width: int, with_correction: bool) -> Picture:
    legend, x = np.zeros((26, width, 3), np.uint8), 8
    entries = [("SMPL fit as read", _BODY), ("mask", _MASK), ("with the mistake undone", _CORRECTED)]
    for text, colour in entries[: 3 if with_correction else 2]:
        legend[8:20, x : x + 18] = colour
        _write(legend, text, (x + 26, 18))
        x += 50 + 9 * len(text)
    _write(legend, "last row: the worst frames", (x, 18))
    return legend


def _write(picture: Picture, text: str, place: tuple[int, int], colour: tuple[int, int, int] = _WHITE) -> None:
    for thickness, ink in ((3, (0, 0, 0)), (1, colour)):  # an edge, so that it reads on any picture
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, ink, thickness, cv2.LINE_AA)
