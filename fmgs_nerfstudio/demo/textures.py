"""Procedural textures, evaluated at ray hits on the T-posed template: no UV seams, no resolution.

Colours are sRGB values in 0..1 until `Material.albedo`, which is linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.demo.easing import bump, smoothstep
from fmgs_nerfstudio.demo.garments import SOLE
from fmgs_nerfstudio.demo.look import Look
from fmgs_nerfstudio.demo.noise import value_noise

Points = Float[Array, "N 3"]
Values = Float[Array, "N"]
Colours = Float[Array, "N 3"]


@dataclass(frozen=True)
class Hits:
    """Points on one material."""

    anchor: Points
    """T-pose position (hair: azimuth, share of the way down, 0)."""
    normal: Points
    """T-pose normal."""
    hem: Values
    """Distance to the nearest hem in metres."""


@dataclass(frozen=True)
class Material:
    albedo: Colours
    gloss: Values
    bleed: Colours
    """Exponent of the light per channel: below 1 brightens its shadows (light under the skin)."""


def mix(a: Array | tuple[float, ...], b: Array | tuple[float, ...], t: Values) -> Colours:
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return a + (b - a) * t[:, None].astype(np.float32)


def line(x: Values, at: float, width: float, soft: float = 0.0008) -> Values:
    """1 within `width` / 2 of `at`."""
    return smoothstep(width / 2 + soft, width / 2 - soft, np.abs(x - at))


def stripes(x: Values, period: float, share: float) -> Values:
    """1 on stripes that fill `share` of every period."""
    phase = np.abs((x / period) % 1.0 - 0.5) * period
    return smoothstep(share * period / 2 + 0.0008, share * period / 2 - 0.0008, phase)


# Skin ------------------------------------------------------------


def skin(hits: Hits, look: Look) -> tuple[Colours, Values]:
    p = hits.anchor
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    tone = np.array(look.skin)
    red, dark = tone * [1.02, 0.80, 0.78], tone * 0.78
    colour = mix(tone * 1.03, tone * 0.95, value_noise(p * 35, 1))
    colour = mix(colour, red, 0.35 * value_noise(p * 90, 2) ** 2)
    limb = np.maximum(bump(x, 0.463, 0.03) * (z < 0.035) * (x > 0.3), bump(y, -0.676, 0.04) * (z > 0.06) * (x < 0.3))
    fingers = smoothstep(0.80, 0.88, x)
    colour = mix(
        colour,
        red,
        np.clip(0.55 * limb + 0.45 * fingers + 0.25 * bump(x, 0.80, 0.012) * (hits.normal[:, 1] > 0.3), 0, 1),
    )
    nail = smoothstep(0.35, 0.6, hits.normal[:, 1]) * smoothstep(0.883, 0.887, x)
    colour = mix(colour, tone * [1.06, 0.95, 0.93], 0.7 * nail)
    gloss = np.full(len(p), 0.55)
    head = (y > 0.36) & (x < 0.12)
    if head.any():
        colour[head], gloss[head] = _face(p[head], colour[head], look, red, dark)
    return colour, gloss


def _face(p: Points, colour: Colours, look: Look, red: Array, dark: Array) -> tuple[Colours, Values]:
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    front = smoothstep(0.10, 0.14, z)
    cheek = bump(x, 0.048, 0.02) * bump(y, 0.478, 0.02) * front
    nose = bump(x, 0.0, 0.016) * bump(y, 0.478, 0.014) * smoothstep(0.165, 0.18, z)
    ear = smoothstep(0.078, 0.088, x)
    colour = mix(colour, red, np.clip(0.5 * cheek + 0.4 * nose + 0.45 * ear, 0, 1))
    lid = bump(np.hypot((x - 0.031) / 1.5, y - 0.5135), 0.0125, 0.005) * front
    colour = mix(colour, dark * [1, 0.93, 0.93], 0.38 * lid)
    # lashes: the rim of the eye opening
    opening = np.hypot((x - 0.0315) / 0.0155, (y - 0.5125) / np.where(y > 0.5125, 0.0068, 0.0062))
    lash = bump(opening, 0.93, 0.17) * smoothstep(0.508, 0.516, y) + 0.35 * bump(opening, 0.98, 0.13)
    colour = mix(colour, (0.13, 0.09, 0.08), np.clip(0.75 * lash * smoothstep(0.12, 0.135, z), 0, 1))
    # brows: an arch of fine hairs
    along = np.clip((x - 0.011) / 0.042, 0, 1)
    arch = 0.5285 + 0.0085 * np.sin(np.pi * (0.12 + 0.62 * along)) - 0.002 * along
    thick = 0.0042 * (1 - 0.6 * along) * smoothstep(0.006, 0.013, x) * smoothstep(0.058, 0.048, x)
    hairs = 0.6 + 0.7 * value_noise(np.stack([x * 900 + 300 * (y - arch), y * 260, z * 50], 1), 3)
    brow = smoothstep(1.25, 0.5, np.abs(y - arch) / np.maximum(thick, 1e-5)) * (thick > 1e-4) * front
    colour = mix(colour, np.array(look.hair_colour) * 0.75, np.clip(0.85 * brow * hairs, 0, 1))
    upper, lower = lips(p)
    lip_colour = mix(
        red * look.lips, red * np.array(look.lips) * 0.86, value_noise(np.stack([x * 500, y * 60, z * 60], 1), 4)
    )
    lip = np.maximum(upper, lower)
    colour = mix(colour, lip_colour, 0.85 * lip)
    seam = line(y + 0.25 * x * x * 10, 0.4402, 0.0012, 0.001) * (x < 0.027) * smoothstep(0.15, 0.16, z)
    colour = mix(colour, dark * [0.55, 0.40, 0.40], 0.75 * seam)
    # the shade of cropped hair where the scalp shows through at the hairline
    scalp = smoothstep(0.545, 0.60, y - 0.22 * (z - 0.10)) * (z < 0.15) + smoothstep(0.055, 0.02, z) * (y > 0.45) * (
        x < 0.078
    )
    colour = mix(colour, np.array(look.hair_colour), 0.75 * np.clip(scalp, 0, 1))
    return colour, 0.5 + 0.7 * lip + 0.35 * nose


def lips(p: Points) -> tuple[Values, Values]:
    """How much a point of the face belongs to the upper and to the lower lip, 0..1."""
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    reach = np.clip(1 - (x / 0.0265) ** 2, 0, 1)
    middle = 0.4403 - 0.0006 * (x / 0.0265) ** 2
    bow = 0.0105 * reach**0.6 - 0.0016 * bump(x, 0.0, 0.004)
    front = (z > 0.145) & (x < 0.0265)
    upper = smoothstep(-0.0006, 0.0002, y - middle) * smoothstep(0.0006, -0.0006, y - middle - bow) * front
    lower = (
        smoothstep(0.0002, -0.0006, y - middle) * smoothstep(-0.0006, 0.0006, y - middle + 0.0128 * reach**0.6) * front
    )
    return upper, lower


def eye(hits: Hits, look: Look) -> tuple[Colours, Values]:
    p = hits.anchor
    # the gaze: straight ahead, slightly inward
    r = np.hypot(np.abs(p[:, 0]) - 0.0305, p[:, 1] - 0.5125)
    veins = value_noise(p * 400, 5)
    white = mix((0.93, 0.91, 0.89), (0.90, 0.82, 0.79), 0.6 * smoothstep(0.008, 0.015, r) * veins)
    angle = np.arctan2(p[:, 1] - 0.5125, np.abs(p[:, 0]) - 0.0305)
    rays = value_noise(np.stack([9 * np.cos(angle), 9 * np.sin(angle), 150 * r], 1), 6)
    iris = np.array(look.iris) * (0.65 + 0.7 * rays[:, None])
    iris = mix(iris, iris * 0.35, smoothstep(0.0050, 0.0060, r))
    colour = mix(white, iris, smoothstep(0.0064, 0.0057, r))
    colour = mix(colour, (0.03, 0.03, 0.03), smoothstep(0.0030, 0.0024, r))
    glint = smoothstep(0.0014, 0.0008, np.hypot(np.abs(p[:, 0]) - 0.0325, p[:, 1] - 0.5150))
    return mix(colour, (1.0, 1.0, 1.0), glint), np.full(len(p), 1.0)


def hair(hits: Hits, look: Look) -> tuple[Colours, Values]:
    azimuth, t = hits.anchor[:, 0], hits.anchor[:, 1]
    fine = value_noise(np.stack([azimuth * 90 + 3 * t, t * 6, 0 * t], 1), 7)
    coarse = value_noise(np.stack([azimuth * 26 + 1.5 * t, t * 4, 0 * t], 1), 8)
    tone = np.array(look.hair_colour)
    strand = np.clip(0.55 * fine + 0.6 * coarse, 0, 1)
    colour = mix(tone * 0.55, np.clip(tone * 1.45 + 0.02, 0, 1), strand)
    parting = smoothstep(0.05, 0.0, t)
    return mix(colour, tone * 0.6, 0.5 * parting), (0.35 + 0.8 * strand) * (0.35 + float(tone.mean()))


# Cloth ------------------------------------------------------------


def weave(hits: Hits, colour: Colours, strength: float) -> Colours:
    """The unevenness of cloth."""
    coarse, fine = value_noise(hits.anchor * 60, 9), value_noise(hits.anchor * 420, 10)
    return colour * (1 + strength * (0.6 * (coarse - 0.5) + (fine - 0.5)))[:, None]


def hems(hits: Hits, colour: Colours, width: float, amount: float = 0.16) -> Colours:
    """A stitched hem: a darker seam `width` from the edge, and a shade at the edge itself."""
    seam = line(hits.hem, width, 0.0018) + 0.8 * smoothstep(0.0025, 0.0, hits.hem)
    return colour * (1 - amount * np.clip(seam, 0, 1))[:, None]


def shirt(hits: Hits, look: Look) -> tuple[Colours, Values]:
    p = hits.anchor
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    seam_at = 0.192 + 0.10 * (0.27 - y) * (y < 0.27)
    sleeve = x > seam_at
    along = np.where(sleeve, x - 0.19 + 0.03, 0.30 - y)
    a, b, c = (np.array(colour) for colour in look.shirt_colours)
    colour = np.broadcast_to(a, p.shape).copy()
    if look.shirt == "striped":
        colour = mix(colour, b, stripes(along, 0.052, 0.46))
    elif look.shirt == "raglan":
        colour = mix(colour, b, sleeve.astype(float))
    elif look.shirt == "checked":
        around = np.where(sleeve, np.arctan2(z - 0.03, y - 0.265) * 0.055, np.arctan2(p[:, 0], z - 0.02) * 0.14)
        for coordinate in (along, around):
            colour = mix(colour, b, 0.5 * stripes(coordinate, 0.07, 0.42))
            colour = mix(colour, c, 0.8 * stripes(coordinate + 0.035, 0.07, 0.06))
    elif look.shirt == "block":
        colour = mix(colour, b, (along > 0.30) & ~sleeve)
        colour = mix(colour, c, line(along, 0.30, 0.022) * ~sleeve)
        colour = mix(colour, c, line(x, 0.33, 0.018) * sleeve)
    for print_ in look.prints:
        side = hits.normal[:, 2] > 0.15 if print_.front else hits.normal[:, 2] < -0.15
        u = (p[:, 0] if print_.front else -p[:, 0]) / print_.width + 0.5
        v = (print_.y - y) / print_.height + 0.5
        texel = sample(artwork(print_.motif, print_.text, print_.colours), u, v)
        colour = mix(colour, texel[:, :3], texel[:, 3] * side * ~sleeve)
    colour = colour * (1 - 0.22 * line(x - seam_at, 0.0, 0.0022) * (y > 0.1))[:, None]
    rib = smoothstep(0.017, 0.0155, hits.hem) * ((y > 0.2) & (x < 0.16) | (x > 0.6) | (look.sleeve > 0.6) & (y < 0.0))
    knit = 0.86 + 0.14 * stripes(np.where(x > 0.6, z + y, p[:, 0] + 0.6 * z), 0.006, 0.5)
    colour = mix(colour, np.array(look.trim) * knit[:, None], rib)
    colour = hems(hits, weave(hits, colour, 0.10), 0.018)
    return np.clip(colour, 0, 1), np.full(len(p), 0.18)


def trousers(hits: Hits, look: Look) -> tuple[Colours, Values]:
    p = hits.anchor
    x, y, z = p.T
    tone, accent = np.array(look.trouser_colours[0]), np.array(look.trouser_colours[1])
    colour = np.broadcast_to(tone, p.shape).copy()
    outer = line(z, 0.018, 0.0025) * (np.abs(x) > 0.13) * (y < -0.16)
    if look.trousers == "denim":
        twill = value_noise(np.stack([(x + y) * 700, (x - y) * 90, z * 400], 1), 11)
        colour = colour * (0.80 + 0.4 * twill)[:, None]
        worn = bump(y, -0.50, 0.22) * smoothstep(0.05, 0.09, z) + 0.6 * value_noise(p * 14, 12) * (y > -1.0)
        colour = mix(colour, np.clip(tone * 1.55 + 0.06, 0, 1), 0.38 * np.clip(worn, 0, 1))
    elif look.trousers == "track":
        colour = mix(colour, accent, line(z, 0.018, 0.026) * (np.abs(x) > 0.11))
        colour = mix(colour, accent, line(z, 0.052, 0.008) * (np.abs(x) > 0.11))
    elif look.trousers == "checked":
        around = np.arctan2(np.abs(x) - 0.12, z - 0.03) * 0.085
        for coordinate in (around, y):
            colour = mix(
                colour, accent, 0.35 * stripes(coordinate, 0.06, 0.30) + 0.5 * stripes(coordinate + 0.03, 0.06, 0.04)
            )
    colour = colour * (1 - 0.35 * outer * (look.trousers != "track"))[:, None]
    pocket = line(np.abs(x) * 0.75 + (y + 0.235) * 0.66, 0.098, 0.0022) * (z > 0.0) * (y > -0.30) * (y < -0.17)
    stitch = accent if look.trousers == "denim" else tone * 0.6
    colour = mix(colour, stitch, 0.6 * pocket)
    back = (z < -0.02) & (np.abs(np.abs(x) - 0.085) < 0.052) & (np.abs(y + 0.265) < 0.06)
    edge = np.minimum(0.052 - np.abs(np.abs(x) - 0.085), 0.06 - np.abs(y + 0.265))
    colour = mix(colour, stitch, 0.6 * line(edge, 0.004, 0.0022) * back)
    colour = hems(hits, weave(hits, colour, 0.14), 0.022, 0.25)
    return np.clip(colour, 0, 1), np.full(len(p), 0.15)


def skirt(hits: Hits, look: Look) -> tuple[Colours, Values]:
    p = hits.anchor
    tone, accent = np.array(look.trouser_colours[0]), np.array(look.trouser_colours[1])
    around = np.arctan2(p[:, 0], p[:, 2] - 0.01)
    colour = np.broadcast_to(tone, p.shape).copy()
    if look.trousers == "checked":
        for coordinate in (around * 0.16, p[:, 1]):
            colour = mix(
                colour, accent, 0.45 * stripes(coordinate, 0.08, 0.38) + 0.6 * stripes(coordinate + 0.04, 0.08, 0.05)
            )
    elif look.trousers == "dotted":
        row = np.floor(p[:, 1] / 0.045)
        u = (around * 0.16 / 0.045 + 0.5 * (row % 2)) % 1 - 0.5
        v = (p[:, 1] / 0.045) % 1 - 0.5
        colour = mix(colour, accent, smoothstep(0.26, 0.22, np.hypot(u, v)))
    else:
        colour = mix(colour, accent, line(hits.hem, 0.045, 0.012) + line(hits.hem, 0.066, 0.006))
    band = smoothstep(-0.163, -0.161, p[:, 1])
    colour = mix(colour, accent * 0.9, 0.9 * band)
    return np.clip(hems(hits, weave(hits, colour, 0.12), 0.014), 0, 1), np.full(len(p), 0.2)


def socks(hits: Hits, look: Look) -> tuple[Colours, Values]:
    y = hits.anchor[:, 1]
    tone, accent = np.array(look.sock_colours[0]), np.array(look.sock_colours[1])
    angle = np.arctan2(np.abs(hits.anchor[:, 0]) - 0.125, hits.anchor[:, 2] - 0.01)
    rib = 0.88 + 0.12 * np.sin(angle * 60)
    colour = np.broadcast_to(tone, (len(y), 3)) * rib[:, None]
    for at in (0.020, 0.044):
        colour = mix(colour, accent * rib[:, None], line(look.socks - y, at, 0.013))
    return weave(hits, colour, 0.1), np.full(len(y), 0.12)


def shoes(hits: Hits, look: Look) -> tuple[Colours, Values]:
    p = hits.anchor
    x, y, z = p.T
    upper, sole, accent = (np.array(colour) for colour in look.shoe_colours)
    across = np.abs(x) - (0.122 + 0.030 * smoothstep(0.0, 0.2, z))  # from the shoe's middle line, outward positive
    colour = np.broadcast_to(upper, p.shape).copy()
    stripe = np.abs(across) > 0.016
    for k in range(2):
        colour = mix(colour, accent, line(z + 1.1 * (y - SOLE), 0.098 + 0.032 * k, 0.013) * stripe * (y < -1.105))
    heel = line(z, -0.07, 0.06) * (np.abs(across) < 0.022) * (y > SOLE + 0.03)
    colour = mix(colour, accent, 0.9 * heel)
    toe_cap = smoothstep(0.188, 0.190, z + 0.25 * (y - SOLE) - 6 * across**2)
    colour = mix(colour, np.clip(sole * 0.97, 0, 1), toe_cap)
    tongue = (np.abs(across) < 0.019) & (z > 0.055) & (z < 0.158) & (hits.normal[:, 1] > 0.1)
    colour = mix(colour, upper * 0.72, tongue)
    for k in range(5):
        bar = (
            line(z + 0.35 * np.abs(across), 0.082 + 0.0165 * k, 0.0062)
            * (np.abs(across) < 0.023)
            * (hits.normal[:, 1] > 0.1)
        )
        colour = mix(colour, np.array(look.laces), bar)
    rubber = smoothstep(SOLE + 0.018, SOLE + 0.0165, y - 0.008 * smoothstep(0.17, 0.24, z))
    colour = mix(colour, sole, rubber)
    colour = mix(colour, accent, rubber * line(y, SOLE + 0.006, 0.0035))
    colour = mix(colour, sole * 0.55, smoothstep(SOLE - 0.009, SOLE - 0.011, y))
    colour = hems(hits, weave(hits, colour, 0.08), 0.006, 0.3)
    return np.clip(colour, 0, 1), 0.35 + 0.5 * np.maximum(toe_cap, rubber)


def watch(hits: Hits, look: Look) -> tuple[Colours, Values]:
    p = hits.anchor
    u, v = p[:, 0] - 0.688, p[:, 2] - 0.038
    r = np.hypot(u, v)
    top = hits.normal[:, 1] > 0.2
    colour = np.broadcast_to(look.strap, p.shape).copy()
    colour = mix(colour, (0.62, 0.63, 0.66), smoothstep(0.0180, 0.0172, r) * top)
    colour = mix(colour, (0.93, 0.94, 0.92), smoothstep(0.0146, 0.0140, r) * top)
    hand = (np.abs(u) < 0.0009) & (v > -0.002) & (v < 0.011) | (np.abs(v - 0.4 * u) < 0.0011) & (u > 0) & (u < 0.008)
    return mix(colour, (0.08, 0.08, 0.1), hand & top), np.full(len(p), 1.2)


# Prints ------------------------------------------------------------


@lru_cache(maxsize=32)
def artwork(motif: str, text: str, colours: tuple[tuple[float, float, float], ...]) -> Float[Array, "256 256 4"]:
    """RGBA picture of a print: "box", "badge" or "plain" with lines of text."""
    n = 512
    image = np.zeros((n, n, 4), np.float32)
    ground, ink = (*colours[0], 1.0), (*colours[1], 1.0)
    if motif == "box":
        cv2.rectangle(image, (8, 8), (n - 8, n - 8), ground, -1)
        cv2.rectangle(image, (26, 26), (n - 26, n - 26), ink, 7)
    elif motif == "badge":
        cv2.circle(image, (n // 2, n // 2), n // 2 - 8, ground, -1, cv2.LINE_AA)
        cv2.circle(image, (n // 2, n // 2), n // 2 - 34, ink, 9, cv2.LINE_AA)
    else:
        image[..., :3] = colours[1]
    lines = text.split("\n")
    room = 0.62 * n if motif == "badge" else 0.8 * n
    for i, words in enumerate(lines):
        (w, h), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_DUPLEX, 1.0, 2)
        scale = min(room / w, 0.78 * room / (h * len(lines)))
        thickness = max(2, int(5.5 * scale))
        w, h = int(w * scale), int(h * scale)
        centre = n / 2 + (i - (len(lines) - 1) / 2) * room / len(lines)
        at = (int((n - w) / 2), int(centre + h / 2))
        cv2.putText(image, words, at, cv2.FONT_HERSHEY_DUPLEX, scale, ink, thickness, cv2.LINE_AA)
    return cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)


def sample(image: Float[Array, "H W C"], u: Values, v: Values) -> Float[Array, "N C"]:
    """Bilinear lookup at u, v in 0..1 (left to right, top to bottom); 0 outside."""
    h, w = image.shape[:2]
    out = np.zeros((len(u), image.shape[2]), np.float32)
    inside = np.flatnonzero((u > 0) & (u < 1) & (v > 0) & (v < 1))
    x, y = np.clip(u[inside] * w - 0.5, 0, w - 1.001), np.clip(v[inside] * h - 0.5, 0, h - 1.001)
    i, j = x.astype(int), y.astype(int)
    a, b = (x - i)[:, None], (y - j)[:, None]
    out[inside] = (image[j, i] * (1 - a) + image[j, i + 1] * a) * (1 - b) + (
        image[j + 1, i] * (1 - a) + image[j + 1, i + 1] * a
    ) * b
    return out


SHADERS = {
    "skin": skin, "eye": eye, "hair": hair, "shirt": shirt, "trousers": trousers, "skirt": skirt, "socks": socks,
    "shoes": shoes, "watch": watch,
}  # fmt: skip


def material(name: str, hits: Hits, look: Look) -> Material:
    """Albedo (linear), gloss and bleed of hits on one material."""
    colour, gloss = SHADERS[name](hits, look)
    bleed = np.array([0.90, 1.0, 1.04] if name == "skin" else [1.0, 1.0, 1.0], np.float32)
    return Material(
        np.clip(colour, 0, 1).astype(np.float32) ** 2.2,
        gloss.astype(np.float32),
        np.broadcast_to(bleed, (len(gloss), 3)),
    )
