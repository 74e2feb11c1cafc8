"""Ray tracing of the dressed person with Embree: colour, soft mask, and exact depth, normals and classes.

World: z up, metres. Light is linear; pictures are sRGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from fmgs_nerfstudio.demo.person import Person
from fmgs_nerfstudio.demo.rays import Scene

LightName = Literal["studio", "key"]
_SUB = 3  # samples per pixel and axis; odd, so that one of them is the pixel's centre


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with OpenCV's axes and pixel convention: the centre of the first pixel is (0, 0)."""

    name: str
    K: Float[np.ndarray, "3 3"]
    R: Float[np.ndarray, "3 3"]
    """World to camera: x right, y down, z forward."""
    T: Float[np.ndarray, "3"]
    """Metres."""
    size: int
    """Width and height in pixels."""

    @property
    def centre(self) -> Float[np.ndarray, "3"]:
        return -self.R.T @ self.T

    def project(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 2"]:
        image = (points @ self.R.T + self.T) @ self.K.T
        return image[:, :2] / image[:, 2:]


@dataclass(frozen=True)
class Light:
    """Light from all sides, brighter from above, symmetric about the vertical; and maybe a lamp fixed in the world.

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

    def unshadowed(self, normal: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N"]:
        """Irradiance (over pi) from all of the ambient light."""
        return self.sky + 2 / 3 * self.slope * normal[:, 2]


LIGHTS: dict[LightName, Light] = {
    "studio": Light("studio", sky=0.72, slope=0.36, fill=0.08),
    "key": Light("key", sky=0.36, slope=0.12, fill=0.05, key=0.85, key_direction=(0.50, -0.62, 0.60)),
}


@dataclass(frozen=True)
class Picture:
    """One rendered image with its exact maps."""

    rgb: UInt8[np.ndarray, "H W 3"]
    mask: Float[np.ndarray, "H W"]
    """Share of the pixel that the person covers."""
    depth: Float[np.ndarray, "H W"]
    """z-depth in metres along the ray through the pixel's centre, 0 where it misses."""
    normal: Float[np.ndarray, "H W 3"]
    """Camera space, OpenGL axes (x right, y up, z toward the camera), 0 where the ray misses."""
    labels: UInt8[np.ndarray, "H W"]


class PosedPerson:
    """A person in one pose, lit: shared by all views of the pose."""

    def __init__(self, person: Person, vertices: Float[np.ndarray, "V 3"], light: Light, seed: int) -> None:
        self.person, self.light = person, light
        self.vertices = vertices.astype(np.float32)
        self.normals = person.normals(self.vertices)
        self.scene = Scene(self.vertices, person.faces)
        self.rng = np.random.default_rng(seed)
        self.exposure = self._exposure()

    def _exposure(self, rays: int = 16, stride: int = 4) -> Float[np.ndarray, "V"]:
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

    def picture(self, camera: Camera, background: float = 0.78) -> Picture:
        """Render one view over a plain grey background of that sRGB value."""
        size = camera.size
        uv = camera.project(self.vertices)
        low = np.clip(np.floor(uv.min(0)).astype(int) - 2, 0, size)
        high = np.clip(np.ceil(uv.max(0)).astype(int) + 3, 0, size)
        w, h = high - low
        sub = (np.arange(_SUB) - (_SUB - 1) / 2) / _SUB
        x = (np.arange(low[0], high[0])[:, None] + sub).ravel()
        y = (np.arange(low[1], high[1])[:, None] + sub).ravel()
        ray = np.stack([*np.meshgrid((x - camera.K[0, 2]) / camera.K[0, 0], (y - camera.K[1, 2]) / camera.K[1, 1]),
                        np.ones((len(y), len(x)))], -1).reshape(-1, 3)  # fmt: skip
        d = (ray @ camera.R).astype(np.float32)
        out = self.scene.hits(np.broadcast_to(camera.centre, d.shape), d)
        hit = np.flatnonzero(out["primID"] >= 0)
        face, u, v = out["primID"][hit], out["u"][hit], out["v"][hit]
        barycentric = np.stack([1 - u - v, u, v], 1)
        d_hit = d[hit]
        corner = self.person.faces[face]
        normal = np.einsum("nk,nki->ni", barycentric, self.normals[corner])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        linear = self._shade(face, corner, barycentric, normal, d_hit, out["tfar"][hit], camera)

        shape = (h, _SUB, w, _SUB)
        colour = np.zeros((d.shape[0], 3), np.float32)
        colour[hit] = linear
        covered = np.zeros(d.shape[0], np.float32)
        covered[hit] = 1
        colour = colour.reshape(*shape, 3).mean((1, 3))
        covered = covered.reshape(shape).mean((1, 3))
        colour += (1 - covered)[..., None] * background**2.2

        depth, labels = np.zeros(len(d), np.float32), np.zeros(len(d), np.uint8)
        depth[hit] = out["tfar"][hit]  # the rays' z is 1 in the camera
        labels[hit] = self.person.face_labels[face]
        axes = np.zeros((len(d), 3), np.float32)
        facing = np.where(np.einsum("ni,ni->n", normal, d_hit) > 0, -1.0, 1.0)[:, None]
        axes[hit] = (facing * normal) @ camera.R.T * [1, -1, -1]
        centre = _SUB // 2

        def placed(values: np.ndarray, fill: float = 0) -> np.ndarray:
            full = np.full((size, size, *values.shape[2:]), fill, values.dtype)
            full[low[1] : high[1], low[0] : high[0]] = values
            return full

        def at_centre(values: np.ndarray) -> np.ndarray:
            return values.reshape(*shape, *values.shape[1:])[:, centre, :, centre]

        rgb = np.rint(255 * np.clip(colour, 0, 1) ** (1 / 2.2)).astype(np.uint8)
        return Picture(
            rgb=placed(rgb, np.rint(255 * background)),
            mask=placed(covered),
            depth=placed(at_centre(depth)),
            normal=placed(at_centre(axes)),
            labels=placed(at_centre(labels)),
        )

    def _shade(
        self, face: np.ndarray, corner: np.ndarray, barycentric: np.ndarray, normal: np.ndarray, d: np.ndarray,
        distance: np.ndarray, camera: Camera,
    ) -> Float[np.ndarray, "N 3"]:  # fmt: skip
        """Linear colour of hits: albedo x light, and a soft reflection of what is above."""
        light = self.light
        view = -d / np.linalg.norm(d, axis=1, keepdims=True)
        back = np.einsum("ni,ni->n", normal, view) < -0.15  # inside of a sleeve or a hem
        material = self.person.appearance(face, corner, barycentric)
        ambient = np.einsum("nk,nk->n", barycentric, self.exposure[corner]) * light.unshadowed(normal) + light.fill
        ambient = np.where(back, 0.45 * ambient, ambient)
        lit = ambient[:, None] ** material.bleed
        if light.key:
            lit = lit + self._key(normal, d, distance, camera)[:, None] * ~back[:, None]
        cosine = np.abs(np.einsum("ni,ni->n", normal, view))
        reflected = 2 * np.einsum("ni,ni->n", normal, view) * normal[:, 2] - view[:, 2]  # its height
        fresnel = 0.04 + 0.5 * (1 - cosine) ** 5
        shine = material.gloss * fresnel * np.clip(0.35 + 0.9 * reflected, 0, 1.25) ** 2 * ambient
        return material.albedo * lit + shine[:, None]

    def _key(self, normal: np.ndarray, d: np.ndarray, distance: np.ndarray, camera: Camera) -> Float[np.ndarray, "N"]:
        """Irradiance from the lamp; one jittered shadow ray per sample, so nine a pixel."""
        light = self.light
        toward = np.array(light.key_direction) / np.linalg.norm(light.key_direction)
        cosine = np.clip(normal @ toward, 0, None)
        lit = np.flatnonzero(cosine > 0)
        origin = camera.centre + d[lit] * distance[lit, None] + 3e-3 * normal[lit]
        jitter = light.key_size * self.rng.standard_normal((len(lit), 3)) / np.sqrt(2)
        free = self.scene.free(origin, toward + jitter)
        cosine[lit] *= free
        return light.key * cosine
