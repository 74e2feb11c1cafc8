"""Clothes cut from MakeHuman's tights and skirt helpers, which fit the body and follow its shape and skeleton.

A garment is a level function (where it is) and a surface (what it looks like). Lengths are in metres of the T-posed
template body: shoulders at |x| = 0.18 and y = 0.27, wrists at |x| = 0.72, waist at y = -0.10, crotch at -0.31, knees at
-0.68, ankles at -1.12, soles at -1.20.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.demo.easing import smoothstep
from fmgs_nerfstudio.demo.mesh import neighbour_mean
from fmgs_nerfstudio.demo.skinned_surface import Anatomy, Level, SkinnedSurface
from fmgs_nerfstudio.maps.classes import IDS

SOLE = -1.2035
"""Height of the template's soles."""


@dataclass(frozen=True)
class Garment:
    """A surface and where it hides the body."""

    surface: SkinnedSurface
    covers: Level


def patch(anatomy: Anatomy, part: str, material: str, label: str, level: Level) -> SkinnedSurface:
    """The region of a garment and 3 cm more, once subdivided."""
    surface = anatomy.surface(part, material, IDS[label], levels=1)
    return surface.patch(level(surface.anchor) > -0.03)


def finished(cloth: SkinnedSurface, level: Level, fine: bool) -> SkinnedSurface:
    """Cut along its hems, after one more subdivision if `fine`."""
    cloth = cloth.subdivided() if fine else cloth
    return cloth.cut(level(cloth.anchor))


def shirt(anatomy: Anatomy, fine: bool, sleeve: float, hem: float, loose: float, neck: str, tucked: bool) -> Garment:
    """A T-shirt or a pullover: sleeves to |x| = `sleeve`, down to y = `hem`, standing off about `loose` metres."""

    def level(p: Float[Array, "N 3"]) -> Float[Array, "N"]:
        x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
        neckline = 0.352 - y - 0.62 * (z - 0.02)
        if neck == "v":
            neckline = np.where(z > 0.02, np.minimum(neckline, 0.262 + 0.95 * x - y), neckline)
        neckline = np.where(x > 0.16, 1.0, 0.85 * neckline)
        return np.minimum(np.minimum(neckline, sleeve - x), y - hem)

    cloth = patch(anatomy, "tights", "shirt", "Upper_Clothing", level).smoothed_weights(4)
    x, y, z = np.abs(cloth.anchor[:, 0]), cloth.anchor[:, 1], cloth.anchor[:, 2]
    torso = loose * smoothstep(0.22, hem, y) * (0.75 + 0.25 * smoothstep(0.0, 0.1, z))
    if tucked:
        torso = torso * smoothstep(-0.13, -0.02, y)
    arm = 0.8 * loose * (0.35 + 0.65 * smoothstep(0.2, min(sleeve, 0.42), x))
    if sleeve > 0.6:  # a cuff gathers the sleeve at the wrist
        arm = arm * (1 - 0.75 * smoothstep(sleeve - 0.07, sleeve - 0.02, x))
    on_sleeve = smoothstep(0.17, 0.24, x)
    collar = 0.55 + 0.45 * np.where(x < 0.16, smoothstep(0.0, 0.05, 0.352 - y - 0.62 * (z - 0.02)), 1.0)
    ease = collar * ((0.003 if tucked else 0.006) + (1 - on_sleeve) * torso + on_sleeve * arm)
    # a collar lies on the neck instead of bridging from neck to shoulder
    cap = np.where(collar < 0.999, ease + 0.002 + 0.03 * (collar - 0.55), np.inf)
    return Garment(replace(finished(cloth.draped(ease, 90, cap), level, fine), folds=min(1.0, loose / 0.016)), level)


def trousers(anatomy: Anatomy, fine: bool, waist: float, hem: float, loose: float, taper: float) -> Garment:
    """Shorts or trousers from y = `waist` down to y = `hem`; `taper` < 1 narrows the hem."""

    def level(p: Float[Array, "N 3"]) -> Float[Array, "N"]:
        y = p[:, 1]
        return np.where(np.abs(p[:, 0]) > 0.5, -1.0, np.minimum(waist - y, y - hem))

    cloth = patch(anatomy, "tights", "trousers", "Lower_Clothing", level).smoothed_weights(3)
    y = cloth.anchor[:, 1]
    ease = 0.004 + loose * smoothstep(-0.17, -0.36, y) * (1 - (1 - taper) * smoothstep(-0.5, hem, y))
    return Garment(
        replace(finished(cloth.draped(ease, steps=25), level, fine), folds=min(1.0, 0.3 + loose / 0.02)), level
    )


def skirt(anatomy: Anatomy, fine: bool, waist: float, hem: float, flare: float, pleats: int) -> Garment:
    """A skirt down to y = `hem`, wider by `flare` metres there, with `pleats` waves around."""

    def level(p: Float[Array, "N 3"]) -> Float[Array, "N"]:
        return np.minimum(waist - p[:, 1], p[:, 1] - hem)

    def covers(p: Float[Array, "N 3"]) -> Float[Array, "N"]:  # legs are seen from below
        return np.where(np.abs(p[:, 0]) > 0.5, -1.0, np.minimum(waist - p[:, 1], p[:, 1] - max(hem, -0.33) - 0.02))

    cloth = patch(anatomy, "skirt", "skirt", "Lower_Clothing", level).smoothed_weights(8)
    x, y, z = cloth.anchor.T
    down = np.clip((waist - y) / (waist - hem), 0, 1)
    around = np.arctan2(x, z - 0.01)
    out = np.stack([np.sin(around), np.zeros_like(around), np.cos(around)], 1)
    wave = np.cos(pleats * around + 0.9 * np.sin(2 * around) + 0.5 * np.sin(3 * around + 1))
    width = flare * down**1.2 + 0.014 * down * (1 + wave) * (0.4 + 0.6 * down)
    cloth = cloth.draped(np.full(len(y), 0.012), steps=20)
    cloth = replace(cloth, vertices=cloth.vertices + out * width[:, None], folds=0.4)
    return Garment(finished(cloth, level, fine), covers)


def socks(anatomy: Anatomy, fine: bool, top: float) -> Garment:
    """Socks up to y = `top`."""

    def level(p: Float[Array, "N 3"]) -> Float[Array, "N"]:
        return np.where(np.abs(p[:, 0]) > 0.5, -1.0, top - p[:, 1])

    def shown(p: Float[Array, "N 3"]) -> Float[Array, "N"]:
        return np.minimum(level(p), shoe_line(p) + 0.03)  # toes would poke through the shoe

    cloth = patch(anatomy, "tights", "socks", "Left_Sock", shown)
    cloth = cloth.draped(np.full(len(cloth.vertices), 0.0025), steps=3)
    return Garment(replace(finished(cloth, shown, fine), folds=0.15), level)


def shoe_line(p: Float[Array, "N 3"]) -> Float[Array, "N"]:
    """Height above the opening of a low shoe: higher at heel and tongue than at the sides."""
    z = p[:, 2]
    return p[:, 1] + 1.122 - 0.022 * smoothstep(0.02, -0.06, z) - 0.03 * smoothstep(0.03, 0.085, z)


def shoes(anatomy: Anatomy, fine: bool, sole: float) -> Garment:
    """Low shoes with a flat outsole `sole` metres thick."""

    def level(p: Float[Array, "N 3"]) -> Float[Array, "N"]:
        return np.where(np.abs(p[:, 0]) > 0.5, -1.0, -shoe_line(p))

    cloth = patch(anatomy, "tights", "shoes", "Left_Shoe", level)
    cloth = cloth.draped(0.006 + 0.002 * smoothstep(0.03, 0.0, level(cloth.anchor)), steps=35)
    cloth = finished(cloth, level, fine)
    x, y, z = cloth.vertices.T.copy()
    side = np.sign(x)
    # A shoe's last: the toe box is rounder and higher than a foot, the bottom is flat, the sole stands out a little.
    middle = side * (0.122 + 0.030 * smoothstep(0.0, 0.2, z))
    toe = smoothstep(0.14, 0.24, z)
    y = y + 0.012 * toe * smoothstep(SOLE, SOLE + 0.04, y)
    low = smoothstep(SOLE + 0.032, SOLE + 0.014, y)
    x = middle + (x - middle) * (1 + 0.07 * low)
    z = 0.06 + (z - 0.06) * (1 + 0.035 * low)
    flat = SOLE - sole + 0.010 * smoothstep(0.19, 0.27, z)  # toe spring
    y = np.where(y < SOLE + 0.012, flat + np.maximum(y - SOLE - 0.002, 0) * (0.012 + sole) / 0.010, y)
    points, mean = np.stack([x, y, z], 1), neighbour_mean(cloth.faces, len(x))
    for _ in range(2):
        points = 0.5 * points + 0.5 * (mean @ points)
    cloth = replace(cloth, vertices=points, anchor=points)
    # a stiff shoe bends at the ball only, and not with the ankle's skin
    weights = np.zeros_like(cloth.weights)
    bend = 0.75 * smoothstep(0.135, 0.205, z)
    for ankle, toes, mask in ((7, 10, x > 0), (8, 11, x <= 0)):
        weights[mask, toes], weights[mask, ankle] = bend[mask], 1 - bend[mask]
    return Garment(replace(cloth, weights=weights), level)


def watch(anatomy: Anatomy, fine: bool) -> Garment:
    """A wrist watch on the left arm: a strap and a round case on the back of the wrist."""
    at = np.array([0.688, 0.2655, 0.038])

    def level(p: Float[Array, "N 3"]) -> Float[Array, "N"]:
        return np.where(
            p[:, 0] < 0.5, -1.0, 0.0105 + 0.006 * smoothstep(0.27, 0.285, p[:, 1]) - np.abs(p[:, 0] - at[0])
        )

    strap = patch(anatomy, "body", "watch", "Apparel", level)
    from_dial = np.hypot(strap.anchor[:, 0] - at[0], strap.anchor[:, 2] - at[2])
    case = smoothstep(0.0185, 0.0155, from_dial) * smoothstep(at[1], at[1] + 0.01, strap.anchor[:, 1])
    strap = strap.draped(0.0028 + 0.0045 * case, steps=2)
    return Garment(finished(strap, level, fine), lambda p: np.full(len(p), -1.0))
