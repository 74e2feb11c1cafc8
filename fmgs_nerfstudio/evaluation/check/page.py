"""The check as people look at it: a sheet of overlays, and one HTML page with everything in it."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.evaluation.html import render
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
from fmgs_nerfstudio.judge.fit_check import GOOD, LEAST, OFF, FitReport, FrameCheck, corrected, spread
from fmgs_nerfstudio.priors.crop import person_box

_COLUMNS, _SPREAD, _WORST = 6, 12, 6
_CORRECTED = (0, 255, 120)


def overlay_sheet(report: FitReport) -> Picture:
    """RGB: frames spread over the capture and, in the last row, the worst. Body filled, mask outlined; in green the
    body as it would be without the mistake that was found."""
    shown = [*spread(report.frames, _SPREAD), *report.worst(_WORST)]
    found = [("with the mistake undone", _CORRECTED)] if report.cause is not None else []
    legend = [("SMPL fit as read", BODY), ("mask", MASK), *found, ("last row: the worst frames", None)]
    return sheet_of([_tile(report, frame) for frame in shown], _COLUMNS, legend)


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
    tile = tile_of(np.where((body > 0)[..., None], 0.55 * image + 0.45 * np.array(BODY), image).astype(np.uint8)[box])
    for silhouette, colour in ((mask, MASK), (green, _CORRECTED)):
        draw_outline(tile, tile_of(silhouette[box] * 255) > 127, colour)
    write_on(tile, frame.name, (6, 16))
    write_on(tile, f"IoU {frame.iou:.2f}", (6, TILE[1] - 8), WHITE if frame.iou >= OFF else ALARM)
    return tile
