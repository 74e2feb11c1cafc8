"""Ray tracing of the dressed person with Embree: colour, soft mask, and exact depth, normals and classes.

World: z up, metres. Light is linear; pictures are sRGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from fmgs_dataparsers.capture import PinholeCamera
from jaxtyping import Bool, Float, Int, UInt8

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.demo.person import Person
from fmgs_nerfstudio.demo.rays import Scene
from fmgs_nerfstudio.demo.textures import Material

LightName = Literal["studio", "key", "window", "sky", "flicker"]
_SUB = 3  # samples per pixel and axis; odd, so that one of them is the pixel's centre


@dataclass(frozen=True)
class Light:
    """Light from all sides, brighter from above, symmetric about the vertical; and maybe a lamp or a window fixed in
    the world, or a camera whose exposure changes.

    Radiance from direction d: `sky` + `slope` * d_z. A surface of albedo 1 that sees all of it has the colour
    `sky` + 2/3 `slope` * n_z. `fill` is added without shadows.
    """

    name: LightName
    sky: float
    slope: float
    fill: float
    key: float = 0.0
    """Irradiance of the lamp on a surface that faces it."""
    key_direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Toward the lamp, world axes."""
    key_size: float = 0.08
    """Radius of the lamp's cone in radians: soft shadows."""
    window: float = 0.0
    """Irradiance of the window on a surface that faces it."""
    window_direction: tuple[float, float, float] = (1.0, 0.0, 0.0)
    """Toward the window's middle, world axes."""
    window_size: tuple[float, float] = (0.55, 0.4)
    """Half its width and half its height, in units of the distance."""
    ambient_colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of the light from all sides: its R, G, B."""
    window_colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of the window."""
    flicker: float = 0.0
    """Spread of the training camera's exposure: standard deviation of its logarithm over frames."""

    def unshadowed(self, normal: Float[Array, "N 3"]) -> Float[Array, "N"]:
        """Irradiance (over pi) from all of the ambient light."""
        return self.sky + 2 / 3 * self.slope * normal[:, 2]


LIGHTS: dict[LightName, Light] = {
    "studio": Light("studio", sky=0.72, slope=0.36, fill=0.08),
    "key": Light("key", sky=0.36, slope=0.12, fill=0.05, key=0.85, key_direction=(0.50, -0.62, 0.60)),
    "window": Light(
        "window", sky=0.34, slope=0.06, fill=0.05, ambient_colour=(1.08, 1.0, 0.86),
        window=0.8, window_direction=(0.92, -0.35, 0.2), window_colour=(0.9, 1.0, 1.12),
    ),
    "sky": Light("sky", sky=0.62, slope=0.55, fill=0.04, ambient_colour=(0.97, 1.0, 1.05)),
    "flicker": Light("flicker", sky=0.72, slope=0.36, fill=0.08, flicker=0.25),
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One rendered image with its exact maps."""

    rgb: UInt8[Array, "H W 3"]
    mask: Float[Array, "H W"]
    """Share of the pixel that the person covers."""
    depth: Float[Array, "H W"]
    """z-depth in metres along the ray through the pixel's centre, 0 where it misses."""
    normal: Float[Array, "H W 3"]
    """Camera space, OpenGL axes (x right, y up, z toward the camera), 0 where the ray misses."""
    labels: UInt8[Array, "H W"]


class PosedPerson:
    """A person in one pose, lit: shared by all views of the pose."""

    def __init__(self, person: Person, vertices: Float[Array, "V 3"], light: Light, seed: int) -> None:
        self.person, self.light = person, light
        self.vertices = vertices.astype(np.float32)
        self.normals = person.normals(self.vertices)
        self.scene = Scene(self.vertices, person.faces)
        self.rng = np.random.default_rng(seed)
        self.exposure = self._exposure()

    def _exposure(self, rays: int = 16, stride: int = 4) -> Float[Array, "V"]:
        """Share of the ambient light that reaches a vertex past the person's own shadows.

        Cosine-weighted rays from every fourth vertex; the mean over neighbours fills the others and calms the noise.
        """
        light, count = self.light, len(self.vertices)
        chosen = np.arange(self.rng.integers(stride), count, stride)
        normal = self.normals[chosen]
        k = np.arange(rays)
        radius = np.sqrt((k + 0.5) / rays)
        turn = k * 2.399963 + self.rng.uniform(0, 2 * np.pi, (len(chosen), 1)).astype(np.float32)
        helper = np.where(np.abs(normal[:, 2:]) < 0.9, [[0, 0, 1]], [[1, 0, 0]]).astype(np.float32)
        u = np.cross(normal, helper)
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        v = np.cross(normal, u)
        d = (
            u[:, None] * (radius * np.cos(turn))[..., None]
            + v[:, None] * (radius * np.sin(turn))[..., None]
            + normal[:, None] * np.sqrt(1 - radius**2)[None, :, None]
        ).reshape(-1, 3)
        origins = np.repeat(self.vertices[chosen] + 1.5e-3 * normal, rays, axis=0)
        free = self.scene.free(origins, d)
        radiance = np.where(free, light.sky + light.slope * d[:, 2], 0.08).reshape(-1, rays).mean(1)
        # the rest is smooth over the surface once the normal's own part is taken out; it comes back at every hit
        share, weight = np.zeros(count, np.float32), np.zeros(count, np.float32)
        share[chosen], weight[chosen] = radiance / light.unshadowed(normal), 1
        mean = self.person.neighbours
        for _ in range(4):
            share, weight = 0.4 * share + 0.6 * (mean @ share), 0.4 * weight + 0.6 * (mean @ weight)
        share = np.where(weight < 1e-4, 0.5, share / np.maximum(weight, 1e-4))
        # what the rays are too coarse for: valleys are darker than ridges
        hollow = np.einsum("vi,vi->v", mean @ self.vertices - self.vertices, self.normals)
        return share * (1 - 0.30 * np.tanh(hollow / 0.0006)).astype(np.float32)

    def picture(
        self,
        camera: PinholeCamera,
        background: float = 0.78,
        exposure: float = 1.0,
        room: Float[Array, "H W 3"] | None = None,
    ) -> Picture:
        """Render one view over a plain grey background of that sRGB value, or before linear colours of a `room`;
        `exposure` multiplies all light."""
        rotation, translation = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
        centre = -rotation.T @ translation
        window = _Window.around(self.vertices, camera)
        d = window.rays()
        out = self.scene.hits(np.broadcast_to(centre, d.shape), d)
        hit = np.flatnonzero(out["primID"] >= 0)
        face, u, v = out["primID"][hit], out["u"][hit], out["v"][hit]
        corner, weights = self.person.faces[face], np.stack([1 - u - v, u, v], 1)
        back = np.einsum("ni,ni->n", out["Ng"][hit], d[hit]) > 0  # inside of a sleeve or a hem
        view = -d[hit] / np.linalg.norm(d[hit], axis=1, keepdims=True)
        normal = _facing(np.einsum("nk,nki->ni", weights, self.normals[corner]), back, view)

        material = self.person.appearance(face, corner, weights)
        unshadowed = np.einsum("nk,nk->n", weights, self.exposure[corner]) * np.where(back, 0.45, 1)
        points = centre - view * (out["tfar"][hit] * np.linalg.norm(d[hit], axis=1))[:, None]
        lamp = self._lamp(points, normal)[:, None] + self._window(points, normal)
        colour = self._shade(material, normal, view, unshadowed, lamp)

        covered = window.mean(hit, np.ones(len(hit), np.float32))
        behind = background**2.2 if room is None else window.cut(room)
        rgb = _encoded(exposure * (window.mean(hit, colour) + (1 - covered)[..., None] * behind))
        axes = (normal @ rotation.T * [1, -1, -1]).astype(np.float32)
        return Picture(
            rgb=window.placed(rgb, np.rint(255 * background * exposure ** (1 / 2.2)))
            if room is None
            else window.over(rgb, _encoded(exposure * room)),
            mask=window.placed(covered),
            depth=window.placed(window.centre(hit, out["tfar"][hit])),  # the rays' z is 1 in the camera
            normal=window.placed(window.centre(hit, axes)),
            labels=window.placed(window.centre(hit, self.person.face_labels[face])),
        )

    def _shade(
        self,
        material: Material,
        normal: Float[Array, "N 3"],
        view: Float[Array, "N 3"],
        unshadowed: Float[Array, "N"],
        lamp: Float[Array, "N #C"],
    ) -> Float[Array, "N 3"]:
        """Linear colour: albedo x light, and a soft reflection of what is above."""
        ambient = unshadowed * self.light.unshadowed(normal) + self.light.fill
        colour = np.array(self.light.ambient_colour, np.float32)
        cosine = np.einsum("ni,ni->n", normal, view)
        fresnel = 0.04 + 0.5 * (1 - cosine) ** 5
        above = 2 * cosine * normal[:, 2] - view[:, 2]  # height of the mirrored view direction
        shine = material.gloss * fresnel * np.clip(0.35 + 0.9 * above, 0, 1.25) ** 2 * ambient
        return material.albedo * (ambient[:, None] ** material.bleed * colour + lamp) + shine[:, None] * colour

    def _lamp(self, points: Float[Array, "N 3"], normal: Float[Array, "N 3"]) -> Float[Array, "N"]:
        """Irradiance from the lamp; one jittered shadow ray per sample, so nine a pixel."""
        light = self.light
        if not light.key:
            return np.zeros(len(points), np.float32)
        toward = np.array(light.key_direction) / np.linalg.norm(light.key_direction)
        cosine = np.clip(normal @ toward, 0, None)
        lit = np.flatnonzero(cosine > 0)
        jitter = light.key_size * self.rng.standard_normal((len(lit), 3)) / np.sqrt(2)
        cosine[lit] *= self.scene.free(points[lit] + 3e-3 * normal[lit], toward + jitter)
        return light.key * cosine

    def _window(self, points: Float[Array, "N 3"], normal: Float[Array, "N 3"]) -> Float[Array, "N #C"]:
        """Irradiance from the window. Each sample of a pixel looks at a pane of its own: soft shadows."""
        light = self.light
        if not light.window:
            return np.zeros((len(points), 1), np.float32)
        middle = np.array(light.window_direction) / np.linalg.norm(light.window_direction)
        across = np.cross([0, 0, 1], middle) / np.linalg.norm(middle[:2])
        pane = (np.arange(len(points)) * 4) % 9  # neighbours look at different panes
        place = (np.stack([pane // 3, pane % 3], 1) + self.rng.random((len(points), 2))) * 2 / 3 - 1
        place *= light.window_size
        toward = middle + place[:, :1] * across + place[:, 1:] * np.cross(middle, across)
        toward /= np.linalg.norm(toward, axis=1, keepdims=True)
        cosine = np.clip(np.einsum("ni,ni->n", normal, toward), 0, None)
        lit = np.flatnonzero(cosine > 0)
        cosine[lit] *= self.scene.free(points[lit] + 3e-3 * normal[lit], toward[lit])
        return light.window * cosine[:, None] * np.array(light.window_colour)


def _facing(normal: Float[Array, "N 3"], back: Bool[Array, "N"], view: Float[Array, "N 3"]) -> Float[Array, "N 3"]:
    """Unit normals of the side that is seen; interpolated ones that look away at a silhouette are turned edge-on."""
    normal = np.where(back[:, None], -normal, normal)
    away = np.minimum(np.einsum("ni,ni->n", normal, view), 0)
    normal = normal - away[:, None] * view
    return normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9)


def _encoded(linear: Float[Array, "H W 3"]) -> UInt8[Array, "H W 3"]:
    return np.rint(255 * np.clip(linear, 0, 1) ** (1 / 2.2)).astype(np.uint8)


@dataclass(frozen=True)
class _Window:
    """The part of an image that the person is in, and its samples: row by row, `_SUB` x `_SUB` per pixel."""

    camera: PinholeCamera
    low: Int[Array, "2"]
    """First column and row."""
    high: Int[Array, "2"]
    """Last column and row, and one more."""

    @staticmethod
    def around(points: Float[Array, "N 3"], camera: PinholeCamera) -> _Window:
        """A margin of two pixels around points of the world."""
        E, size = camera.world_to_camera, (camera.width, camera.height)
        image = (points @ E[:3, :3].T + E[:3, 3]) @ camera.K.T
        index = image[:, :2] / image[:, 2:] - 0.5  # whole at the pixels' centres
        low, high = np.floor(index.min(0)).astype(int) - 2, np.ceil(index.max(0)).astype(int) + 3
        return _Window(camera, np.clip(low, 0, size), np.clip(high, 0, size))

    def rays(self) -> Float[Array, "S 3"]:
        """World directions whose z in the camera is 1."""
        K, offset = self.camera.K, (np.arange(_SUB) + 0.5) / _SUB
        x, y = ((np.arange(a, b)[:, None] + offset).ravel() for a, b in zip(self.low, self.high, strict=True))
        x, y = np.meshgrid((x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1])
        camera_rays = np.stack([x, y, np.ones_like(x)], -1, dtype=np.float32).reshape(-1, 3)
        return camera_rays @ self.camera.world_to_camera[:3, :3].astype(np.float32)

    def _samples(self, hit: Int[Array, "N"], values: Array) -> Array:
        """[H, _SUB, W, _SUB, ...], 0 where there was no hit."""
        w, h = self.high - self.low
        full = np.zeros((h * w * _SUB**2, *values.shape[1:]), values.dtype)
        full[hit] = values
        return full.reshape(h, _SUB, w, _SUB, *values.shape[1:])

    def mean(self, hit: Int[Array, "N"], values: Array) -> Array:
        """Mean over each pixel's samples."""
        samples = self._samples(hit, values)
        # nine strided sums: many times faster than numpy's mean over two short axes
        return np.add.reduce([samples[:, i, :, j] for i in range(_SUB) for j in range(_SUB)]) / _SUB**2

    def centre(self, hit: Int[Array, "N"], values: Array) -> Array:
        """The sample at each pixel's centre."""
        return self._samples(hit, values)[:, _SUB // 2, :, _SUB // 2]

    def placed(self, values: Array, fill: float = 0) -> Array:
        """The whole image."""
        full = np.full((self.camera.height, self.camera.width, *values.shape[2:]), fill, values.dtype)
        return self.over(values, full)

    def over(self, values: Array, whole: Array) -> Array:
        """`whole` with its part replaced, in place."""
        self.cut(whole)[:] = values
        return whole

    def cut(self, whole: Array) -> Array:
        """Its part of a whole image."""
        return whole[self.low[1] : self.high[1], self.low[0] : self.high[0]]
