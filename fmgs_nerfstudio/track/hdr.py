"""Pictures of HDR videos, as phones make them, brought to what other programs take for colours."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8, UInt16

from fmgs_nerfstudio.arrays import Array

PQ, HLG = 16, 18
"""Transfer curves, by their numbers in ITU-T H.273."""
_WHITE = 203.0  # cd/m2 of a white sheet: ITU-R BT.2408
_PEAK, _GAMMA = 1000.0, 1.2  # of the display that HLG is meant for: ITU-R BT.2100
_KNEE = 0.75  # of white; what is brighter is pressed together
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
_LEVELS = 4096


def to_sdr(rgb: UInt16[Array, "H W 3"], curve: int) -> UInt8[Array, "H W 3"]:
    """BT.2020 pictures of that curve as sRGB in OpenCV's order; white is a little below the brightest."""
    light = _light(curve)[rgb]
    if curve == HLG:
        light *= ((light @ _BT2020_LUMA) ** (_GAMMA - 1))[..., None] * (_PEAK / _WHITE)
    light = cv2.transform(light, _TO_BT709[::-1])
    return _encoded()[np.clip(light * (_LEVELS / 8), 0, _LEVELS - 1).astype(np.uint16)]


@cache
def _light(curve: int) -> Float[Array, "65536"]:
    """Of a signal of 16 bits: of the scene, 0..1 (HLG), or of the display in units of white (PQ)."""
    signal = np.arange(65536) / 65535
    if curve == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        power = signal ** (1 / m2)
        light = (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) * 10_000 / _WHITE
    return light.astype(np.float32)


@cache
def _encoded() -> UInt8[Array, "4096"]:
    """Light, 0 to 8 times white, as sRGB."""
    light = (np.arange(_LEVELS) + 0.5) * 8 / _LEVELS
    over = np.maximum(light - _KNEE, 0) / (1 - _KNEE)
    pressed = np.where(light < _KNEE, light, 1 - (1 - _KNEE) * np.exp(-over))
    code = np.where(pressed < 0.0031308, 12.92 * pressed, 1.055 * pressed ** (1 / 2.4) - 0.055)
    return np.rint(255 * code).astype(np.uint8)
