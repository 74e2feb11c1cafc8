"""What stands in the room of a video: boxes with procedural surfaces, other ones for each seed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.demo.noise import value_noise

Colour = tuple[float, float, float]
_BOX_FACES = np.array(
    [[0, 2, 1], [1, 2, 3], [4, 5, 6], [5, 7, 6], [0, 1, 4], [1, 5, 4], [2, 6, 3], [3, 6, 7], [0, 4, 2], [2, 4, 6],
     [1, 3, 5], [3, 7, 5]]
)  # fmt: skip
_WALLS = ("#d9d3c7", "#b9c4c9", "#c9b8a6", "#a9b5a0", "#d7cfd8", "#9fa9b8", "#e2ddd2", "#b58f7a")
_WOODS = ("#a9784b", "#7a5233", "#c49a6c", "#5d4030", "#b98d5f")
_CLOTHS = ("#5b6b7a", "#8a4b3c", "#6f7d5c", "#3d4350", "#b59a6a", "#7d5a78", "#c2bdb4")
_BOOKS = ("#7a2f2f", "#2f4a75", "#c9b06a", "#3f6a4a", "#d9d3c7", "#2b2e36", "#b5562c", "#6a4c93")


@dataclass(frozen=True)
class Look:
    """A surface: its kind, and two sRGB colours."""

    kind: str
    """plain, wood, planks, tiles, carpet, stripes, bricks, art."""
    one: Colour
    two: Colour
    size: float = 0.1
    """Metres of its pattern."""
    along: int = 0
    """Axis along which planks lie or stripes follow each other."""


@dataclass(frozen=True)
class Furniture:
    """Triangles in the world, metres, z up; faces of one flat surface share its number."""

    vertices: Float[Array, "V 3"]
    faces: Int[Array, "F 3"]
    normals: Float[Array, "F 3"]
    surface: Int[Array, "F"]
    looks: list[Look]
    """One for each box; face f belongs to box f // 12."""
    shell: Bool[Array, "F"]
    """Walls, floor and ceiling: they cast no shadow."""
    seed: int

    def albedo(
        self, face: Int[Array, "N"], points: Float[Array, "N 3"], normal: Float[Array, "N 3"]
    ) -> Float[Array, "N 3"]:
        """Linear colours at points on these faces."""
        out, box = np.zeros((len(face), 3), np.float32), face // 12
        for one in np.unique(box):
            at = np.flatnonzero(box == one)
            out[at] = _painted(self.looks[one], points[at], normal[at], self.seed + int(one))
        return out


def _rgb(code: str) -> Colour:
    return (int(code[1:3], 16) / 255, int(code[3:5], 16) / 255, int(code[5:7], 16) / 255)


def _painted(look: Look, p: Array, normal: Array, seed: int) -> Float[Array, "N 3"]:
    one, two = np.array(look.one), np.array(look.two)
    axes = [a for a in range(3) if a != int(np.abs(normal).mean(0).argmax())]  # those of the surface
    a, b = p[:, axes[0]], p[:, axes[1]]
    if look.kind in ("planks", "wood"):
        along, across = (p[:, look.along], a if axes[0] != look.along else b)
        row = np.floor(across / look.size) if look.kind == "planks" else np.zeros(len(p))
        tone = np.sin(row * 12.9898 + seed) * 0.5 + 0.5
        streaks = value_noise(np.stack([along * 2 + 7 * row, across * 45, row * 3.7], 1), seed)
        mixed = 0.35 * tone + 0.65 * streaks
        joint = _joint(across, look.size, 0.004) if look.kind == "planks" else 0 * a
        ends = _joint(along + 0.83 * row, 1.3, 0.004) if look.kind == "planks" else 0 * a
        colour = one + (two - one) * mixed[:, None]
        colour = colour * (1 - 0.55 * np.maximum(joint, ends))[:, None]
    elif look.kind in ("tiles", "bricks"):
        row = np.floor(b / look.size)
        wide = look.size * (2.6 if look.kind == "bricks" else 1.0)
        shifted = a + (0.5 * wide * (row % 2) if look.kind == "bricks" else 0)
        tone = np.sin(row * 12.9898 + np.floor(shifted / wide) * 78.233 + seed) * 0.5 + 0.5
        fine = value_noise(p * 40, seed)
        gap = np.maximum(_joint(b, look.size, 0.008), _joint(shifted, wide, 0.008))[:, None]
        colour = (one * (0.82 + 0.25 * tone + 0.14 * fine)[:, None]) * (1 - gap) + two * gap
    elif look.kind == "stripes":
        wave = p[:, look.along] / look.size
        colour = np.where((wave % 1 < 0.5)[:, None], one, two) * (0.95 + 0.08 * value_noise(p * 30, seed))[:, None]
    elif look.kind == "carpet":
        pattern = value_noise(p * (1 / look.size), seed) > 0.52
        colour = np.where(pattern[:, None], one, two) * (0.8 + 0.35 * value_noise(p * 220, seed + 1))[:, None]
    elif look.kind == "art":
        blobs = value_noise(p * 6 / look.size * 0.2 + seed, seed)
        third = np.array([one[2], two[0], one[1]])
        colour = np.where((blobs > 0.62)[:, None], one, np.where((blobs > 0.42)[:, None], two, third))
    else:
        colour = one * (0.94 + 0.10 * value_noise(p * 3, seed) + 0.03 * value_noise(p * 60, seed + 1))[:, None]
    return np.clip(colour, 0, 1).astype(np.float32) ** 2.2


def _joint(x: Array, period: float, width: float) -> Array:
    """1 in the gaps between equal pieces."""
    return (np.abs((x / period + 0.5) % 1 - 0.5) * period < width / 2).astype(float)


class _Store:
    def __init__(self, rng: np.random.Generator) -> None:
        self.corners: list[Array] = []
        self.looks: list[Look] = []
        self.rng = rng

    def pick(self, codes: tuple[str, ...]) -> Colour:
        return _rgb(codes[int(self.rng.integers(len(codes)))])

    def box(
        self, low: tuple[float, float, float], high: tuple[float, float, float], look: Look, yaw: float = 0
    ) -> None:
        """A box, turned about the vertical through its middle."""
        corners = np.array([[(low, high)[(i >> k) & 1][k] for k in range(3)] for i in range(8)], float)
        middle, c, s = corners.mean(0), np.cos(yaw), np.sin(yaw)
        turned = (corners - middle) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        self.corners.append(turned + middle)
        self.looks.append(look)

    def wood(self, along: int) -> Look:
        return Look("wood", self.pick(_WOODS), self.pick(_WOODS), along=along)

    def done(self, shell: int, seed: int) -> Furniture:
        vertices = np.concatenate(self.corners)
        faces = np.concatenate([_BOX_FACES + 8 * i for i in range(len(self.corners))])
        a, b, c = vertices[faces.T]
        normals = np.cross(b - a, c - a)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return Furniture(vertices.astype(np.float32), faces, normals.astype(np.float32), np.arange(len(faces)) // 2,
                         self.looks, np.arange(len(faces)) < 12 * shell, seed)  # fmt: skip


def furnished(low: Float[Array, "3"], high: Float[Array, "3"], eye: Float[Array, "3"], seed: int) -> Furniture:
    """The room of a seed around a person who stays between `low` and `high`, with nothing in the camera's way."""
    rng = np.random.default_rng([seed, 61])
    store = _Store(rng)
    back = float(high[1] + rng.uniform(0.7, 2.2))
    left, right = float(low[0] - rng.uniform(0.9, 2.4)), float(high[0] + rng.uniform(0.9, 2.4))
    front, top = float(eye[1] - 1.0), float(max(rng.uniform(2.4, 3.0), eye[2] + 0.4, high[2] + 0.2))
    _shell(store, (left, right, front, back, top))
    shell = len(store.looks)
    _skirting(store, left, right, front, back)
    places = [left + 0.25, left + 0.25 + (right - left) / 2]
    makers = [_shelf, _sofa, _table, _plant, _lamp, _cupboard]
    order = [int(i) for i in rng.permutation(len(makers))]
    for place, which in zip(places, order, strict=False):
        makers[which](store, place + rng.uniform(0, 0.3), back, float(high[1]) + 0.35)
    for x in rng.uniform(left + 0.4, right - 0.8, int(rng.integers(1, 4))):
        _picture(store, float(x), back)
    _door(store, left if rng.random() < 0.5 else right, float(rng.uniform(low[1], high[1])), left)
    return store.done(shell, seed)


def _shell(store: _Store, bounds: tuple[float, float, float, float, float]) -> None:
    left, right, front, back, top = bounds
    rng, thick = store.rng, 0.1
    floors = (
        Look("planks", store.pick(_WOODS), store.pick(_WOODS), rng.uniform(0.09, 0.2), int(rng.integers(2))),
        Look("tiles", store.pick(_WALLS), (0.42, 0.41, 0.4), rng.uniform(0.3, 0.6)),
        Look("carpet", store.pick(_CLOTHS), store.pick(_CLOTHS), rng.uniform(0.1, 0.3)),
    )
    walls = (
        Look("plain", store.pick(_WALLS), (1, 1, 1)),
        Look("stripes", store.pick(_WALLS), store.pick(_WALLS), rng.uniform(0.12, 0.3), 0),
        Look("bricks", store.pick(("#8f5a48", "#a77b66", "#d8d2c6")), (0.7, 0.68, 0.65), 0.075),
        Look("planks", store.pick(_WOODS), store.pick(_WOODS), 0.14, 2),
    )
    store.box((left - 1, front - 1, -thick), (right + 1, back + 1, 0), floors[int(rng.integers(3))])
    store.box((left - 1, back, 0), (right + 1, back + thick, top), walls[int(rng.integers(4))])
    side = Look("plain", store.pick(_WALLS), (1, 1, 1))
    store.box((left - thick, front - 1, 0), (left, back, top), side)
    store.box((right, front - 1, 0), (right + thick, back, top), side)
    store.box(
        (left - 1, front - 1, top), (right + 1, back + 1, top + thick), Look("plain", (0.93, 0.93, 0.92), (1, 1, 1))
    )


def _skirting(store: _Store, left: float, right: float, front: float, back: float) -> None:
    look = Look("plain", (0.9, 0.89, 0.87), (1, 1, 1))
    store.box((left, back - 0.015, 0), (right, back, 0.09), look)
    store.box((left, front, 0), (left + 0.015, back, 0.09), look)
    store.box((right - 0.015, front, 0), (right, back, 0.09), look)


def _shelf(store: _Store, x: float, back: float, near: float) -> None:
    rng, look = store.rng, store.wood(0)
    width, height, deep = rng.uniform(0.7, 1.1), rng.uniform(1.3, 2.1), min(0.3, back - near)
    y = back - deep
    for at in (x, x + width - 0.03):
        store.box((at, y, 0), (at + 0.03, back, height), look)
    boards = np.linspace(0.05, height - 0.03, int(rng.integers(4, 7)))
    for z in boards:
        store.box((x, y, z), (x + width, back, z + 0.025), look)
    for low, high in pairwise(boards.tolist()):
        at = x + 0.04
        while at < x + width - 0.12 and rng.random() < 0.93:
            thick, tall = rng.uniform(0.02, 0.06), rng.uniform(0.55, 0.9) * (high - low - 0.03)
            cover = Look("plain", store.pick(_BOOKS), (1, 1, 1))
            store.box(
                (at, y + rng.uniform(0.02, 0.06), low + 0.025), (at + thick, back - 0.03, low + 0.025 + tall), cover
            )
            at += thick + rng.uniform(0.001, 0.03)


def _sofa(store: _Store, x: float, back: float, near: float) -> None:
    rng, cloth = store.rng, Look("carpet", store.pick(_CLOTHS), store.pick(_CLOTHS), 0.02)
    width, deep = rng.uniform(1.3, 1.8), min(0.8, back - near)
    y = back - deep
    store.box((x, y, 0.06), (x + width, back - 0.02, 0.42), cloth)
    store.box((x, back - 0.25, 0.42), (x + width, back - 0.02, 0.85), cloth)
    for at in (x, x + width - 0.18):
        store.box((at, y, 0.42), (at + 0.18, back - 0.02, 0.62), cloth)
    pillow = Look("stripes", store.pick(_CLOTHS), store.pick(_WALLS), 0.06, 0)
    store.box((x + 0.25, back - 0.45, 0.43), (x + 0.65, back - 0.3, 0.75), pillow, rng.uniform(-0.3, 0.3))


def _table(store: _Store, x: float, back: float, near: float) -> None:
    rng, look = store.rng, store.wood(0)
    width, deep = rng.uniform(0.8, 1.3), min(0.6, back - near)
    y = back - deep
    store.box((x, y, 0.71), (x + width, back - 0.03, 0.74), look)
    for a in (x + 0.03, x + width - 0.08):
        for b in (y + 0.03, back - 0.1):
            store.box((a, b, 0), (a + 0.05, b + 0.05, 0.71), look)
    screen = Look("art", store.pick(_BOOKS), store.pick(_WALLS), 0.2)
    store.box((x + 0.2, back - 0.2, 0.78), (x + 0.75, back - 0.17, 1.12), screen, rng.uniform(-0.2, 0.2))
    mug = Look("plain", store.pick(_BOOKS), (1, 1, 1))
    store.box((x + width - 0.25, y + 0.15, 0.74), (x + width - 0.17, y + 0.23, 0.84), mug, 0.5)


def _plant(store: _Store, x: float, back: float, near: float) -> None:
    rng, y = store.rng, back - 0.35
    store.box((x, y, 0), (x + 0.28, y + 0.28, 0.3), Look("plain", store.pick(_CLOTHS), (1, 1, 1)), 0.4)
    for _ in range(26):
        length, out = rng.uniform(0.2, 0.5), rng.uniform(-0.28, 0.28, 2)
        low = np.array([x + 0.14 + out[0] * 0.6, y + 0.14 + min(out[1], 0.15) * 0.6, rng.uniform(0.3, 0.9)])
        green = tuple(np.array((0.22, 0.42, 0.18)) * rng.uniform(0.7, 1.5))
        leaf = Look("plain", (float(green[0]), float(green[1]), float(green[2])), (1, 1, 1))
        size = (0.05, 0.008, length)
        store.box(
            (low[0], low[1], low[2]), (low[0] + size[0], low[1] + size[1], low[2] + size[2]), leaf, rng.uniform(0, 3)
        )


def _lamp(store: _Store, x: float, back: float, near: float) -> None:
    metal, y = Look("plain", (0.25, 0.25, 0.26), (1, 1, 1)), back - 0.3
    store.box((x, y, 0), (x + 0.26, y + 0.26, 0.03), metal, 0.3)
    store.box((x + 0.115, y + 0.115, 0.03), (x + 0.145, y + 0.145, 1.45), metal)
    store.box((x - 0.03, y - 0.03, 1.4), (x + 0.29, y + 0.29, 1.72), Look("plain", (1.0, 0.95, 0.82), (1, 1, 1)), 0.3)


def _cupboard(store: _Store, x: float, back: float, near: float) -> None:
    rng, look = store.rng, store.wood(2)
    width, height, deep = rng.uniform(0.9, 1.4), rng.uniform(0.7, 1.9), min(0.45, back - near)
    y = back - deep
    store.box((x, y, 0.05), (x + width, back - 0.01, height), look)
    knob = Look("plain", (0.2, 0.2, 0.2), (1, 1, 1))
    for k in range(2):
        a = x + 0.02 + k * width / 2
        store.box((a, y - 0.012, 0.08), (a + width / 2 - 0.04, y, height - 0.03), look)
        store.box((a + 0.04, y - 0.04, height / 2), (a + 0.06, y - 0.012, height / 2 + 0.12), knob)


def _picture(store: _Store, x: float, back: float) -> None:
    rng = store.rng
    width, height, z = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.6), rng.uniform(1.25, 1.6)
    store.box((x, back - 0.025, z), (x + width, back, z + height), Look("plain", store.pick(_WOODS), (1, 1, 1)))
    art = Look("art", store.pick(_BOOKS), store.pick(_WALLS), rng.uniform(0.1, 0.4))
    store.box((x + 0.03, back - 0.03, z + 0.03), (x + width - 0.03, back - 0.02, z + height - 0.03), art)


def _door(store: _Store, x: float, y: float, left: float) -> None:
    inward = 0.03 if x == left else -0.03
    look = store.wood(2)
    store.box((min(x, x + inward), y, 0), (max(x, x + inward), y + 0.9, 2.03), look)
