"""The room behind the person of a video: floor, walls, furniture; its light, and the person's shadow in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from fmgs_dataparsers.capture import PinholeCamera
from jaxtyping import Float, Int

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.demo.furniture import Furniture, furnished
from fmgs_nerfstudio.demo.rays import Scene
from fmgs_nerfstudio.demo.render import Light

_SUB = 2  # samples per pixel and axis
_REACH = 0.9  # metres within which a corner is darkened by what is beside it
_RAYS = 16
_BAND = 64  # rows of pixels that are traced at a time
_NEAR = 2.2  # metres from the person beyond which they cast no shadow that is seen
_COARSE = 4  # pixels, of the grid on which the person's shadow is found


def pixel_rays(camera: PinholeCamera, x: Float[Array, "N"], y: Float[Array, "N"]) -> Float[Array, "N 3"]:
    """World directions through places in the image, pixels; their z in the camera is 1."""
    K = camera.K
    seen = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], 1)
    return (seen @ camera.world_to_camera[:3, :3]).astype(np.float32)


def around(normal: Float[Array, "N 3"], rays: int) -> Float[Array, "N R 3"]:
    """Directions over the hemisphere of each normal, as often as their cosine; turned by a pattern of 4 x 4."""
    count = len(normal)
    helper = np.where(np.abs(normal[:, 2:]) < 0.9, [[0, 0, 1]], [[1, 0, 0]]).astype(np.float32)
    u = np.cross(normal, helper)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(normal, u)
    radius = np.sqrt((np.arange(rays, dtype=np.float32) + 0.5) / rays)
    turn = (np.arange(rays) * 2.399963 + (np.arange(count) * 7 % 16)[:, None] * (2 * np.pi / 16)).astype(np.float32)
    return (
        u[:, None] * (radius * np.cos(turn))[..., None]
        + v[:, None] * (radius * np.sin(turn))[..., None]
        + normal[:, None] * np.sqrt(1 - radius**2)[None, :, None]
    )


@dataclass(frozen=True)
class _Lamp:
    """The key lamp or the window: where from, how strong, which colour."""

    toward: Float[Array, "R 3"]
    colour: Float[Array, "3"]

    @staticmethod
    def of(light: Light) -> list[_Lamp]:
        rng, lamps = np.random.default_rng(5), list[_Lamp]()
        if light.key:
            middle = np.array(light.key_direction) / np.linalg.norm(light.key_direction)
            toward = middle + light.key_size * rng.standard_normal((_RAYS, 3)) / np.sqrt(2)
            lamps.append(_Lamp(toward.astype(np.float32), light.key * np.ones(3)))
        if light.window:
            middle = np.array(light.window_direction) / np.linalg.norm(light.window_direction)
            across = np.cross([0, 0, 1], middle) / np.linalg.norm(middle[:2])
            place = rng.uniform(-1, 1, (_RAYS, 2)) * light.window_size
            toward = middle + place[:, :1] * across + place[:, 1:] * np.cross(middle, across)
            lamps.append(_Lamp(toward.astype(np.float32), light.window * np.array(light.window_colour)))
        return lamps


class Room:
    """A still picture of the room, and how a person darkens it.

    Args:
        low, high: the person's whole extent, world metres (z up); nothing stands between them and the camera.
    """

    def __init__(
        self, camera: PinholeCamera, light: Light, low: Float[Array, "3"], high: Float[Array, "3"], seed: int
    ) -> None:
        self.camera, self.light = camera, light
        self.eye = -camera.world_to_camera[:3, :3].T @ camera.world_to_camera[:3, 3]
        self.things: Furniture = furnished(low, high, self.eye, seed)
        self.scene = Scene(self.things.vertices, self.things.faces)
        inside = self.things.faces[~self.things.shell[np.arange(len(self.things.faces))]]
        self.furniture = Scene(self.things.vertices, inside)
        self.lamps = _Lamp.of(light)
        self.picture = self._still()
        self._prepare_shadows(low, high)

    def _hits(self, x: Array, y: Array) -> tuple[Int[Array, "N"], Float[Array, "N 3"], Float[Array, "N 3"]]:
        """Faces, points and the normals of the side that is seen, where rays through these pixels end."""
        d = pixel_rays(self.camera, x, y)
        out = self.scene.hits(np.broadcast_to(self.eye, d.shape), d)
        face = np.maximum(out["primID"], 0)  # the room is closed but behind the camera
        points = (self.eye + d * out["tfar"][:, None]).astype(np.float32)
        normal = self.things.normals[face]
        normal = normal * np.where(np.einsum("ni,ni->n", normal, d) > 0, -1, 1)[:, None]
        return face, points, normal.astype(np.float32)

    def _lit(self, points: Array, normal: Array, face: Array) -> Float[Array, "N 3"]:
        """Irradiance over pi, soft in corners and under furniture."""
        d = around(normal, _RAYS)
        start = np.repeat(points + 2e-3 * normal, _RAYS, axis=0)
        open_ = self.scene.free(start, d.reshape(-1, 3), _REACH).reshape(-1, _RAYS).mean(1)
        ambient = (self.light.unshadowed(normal) * (0.3 + 0.7 * open_) + self.light.fill)[:, None]
        total = ambient * np.array(self.light.ambient_colour)
        for lamp in self.lamps:
            middle = lamp.toward.mean(0) / np.linalg.norm(lamp.toward.mean(0))
            cosine = np.clip(normal @ middle, 0, None)
            toward = lamp.toward[(np.arange(len(points)) * 5) % _RAYS]
            free = self.furniture.free(points + 3e-3 * normal, toward)
            total = total + (cosine * free)[:, None] * lamp.colour
        return total.astype(np.float32)

    def _still(self) -> Float[Array, "H W 3"]:
        """Linear colours of the empty room."""
        width, height = self.camera.width, self.camera.height
        grid = np.arange(height) + 0.5, np.arange(width) + 0.5
        y, x = (a.ravel() for a in np.meshgrid(*grid, indexing="ij"))
        lit, of = np.zeros((height * width, 3), np.float32), np.zeros(height * width, np.int32)
        for rows in range(0, height * width, _BAND * width):
            part = slice(rows, rows + _BAND * width)
            face, points, normal = self._hits(x[part], y[part])
            lit[part], of[part] = self._lit(points, normal, face), self.things.surface[face]
        lit = _calmed(lit.reshape(height, width, 3), of.reshape(height, width))
        picture = np.zeros((height, width, 3), np.float32)
        for rows in range(0, height, _BAND):
            for i in range(_SUB**2):
                dy, dx = (i // _SUB + 0.5) / _SUB - 0.5, (i % _SUB + 0.5) / _SUB - 0.5
                part = slice(rows * width, min(rows + _BAND, height) * width)
                face, points, normal = self._hits(x[part] + dx, y[part] + dy)
                albedo = self.things.albedo(face, points, normal)
                picture[rows : rows + _BAND] += albedo.reshape(-1, width, 3) / _SUB**2
        return picture * lit

    def _prepare_shadows(self, low: Array, high: Array) -> None:
        """The coarse grid of points that a person's shadow may reach."""
        width, height = -(-self.camera.width // _COARSE) + 1, -(-self.camera.height // _COARSE) + 1
        y, x = np.meshgrid(np.arange(height) * _COARSE, np.arange(width) * _COARSE, indexing="ij")
        _, points, normal = self._hits(x.ravel() + 0.0, y.ravel() + 0.0)
        away = np.linalg.norm(np.maximum(np.maximum(low - points, points - high), 0), axis=1)
        lamp_reach = 6.0 if self.lamps else _NEAR
        self._grid, self._at = (height, width), np.flatnonzero(away < lamp_reach)
        self._points, self._normal = points[self._at], normal[self._at]
        self._sky = around(self._normal, _RAYS)
        self._radiance = self.light.sky + self.light.slope * self._sky[..., 2]

    def behind(self, person: Scene) -> Float[Array, "H W 3"]:
        """The room, linear, with the person's shadow."""
        start = self._points + 3e-3 * self._normal
        free = person.free(np.repeat(start, _RAYS, axis=0), self._sky.reshape(-1, 3)).reshape(-1, _RAYS)
        full = self._radiance.sum(1)
        ambient = (self._radiance * free).sum(1) / np.maximum(full, 1e-6)
        light, dark = self.light.unshadowed(self._normal) + self.light.fill, np.zeros(len(start))
        for lamp in self.lamps:
            middle = lamp.toward.mean(0) / np.linalg.norm(lamp.toward.mean(0))
            strength = np.clip(self._normal @ middle, 0, None) * lamp.colour.mean()
            facing = np.flatnonzero(strength > 0)
            seen = person.free(np.repeat(start[facing], _RAYS, axis=0), np.tile(lamp.toward, (len(facing), 1)))
            blocked = np.zeros(len(start))
            blocked[facing] = 1 - seen.reshape(-1, _RAYS).mean(1)
            dark, light = dark + strength * blocked, light + strength
        unshadowed = self.light.unshadowed(self._normal)
        share = 1 - (unshadowed * (1 - ambient) + dark) / light
        grid = np.ones(self._grid[0] * self._grid[1], np.float32)
        grid[self._at] = share
        # smooth before it is enlarged: the pattern of rays repeats every four points
        soft = cv2.blur(grid.reshape(self._grid), (4, 4))
        size = (self._grid[1] * _COARSE, self._grid[0] * _COARSE)
        whole = cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR)
        return self.picture * whole[: self.camera.height, : self.camera.width, None]


def _calmed(values: Float[Array, "H W 3"], surface: Int[Array, "H W"]) -> Float[Array, "H W 3"]:
    """Blurred within each surface."""
    out = np.zeros_like(values)
    blur: Callable[[Array], Array] = lambda a: cv2.blur(a, (8, 8))  # noqa: E731
    for one in np.unique(surface):
        inside = surface == one
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        cut = np.s_[max(rows[0] - 8, 0) : rows[-1] + 9, max(columns[0] - 8, 0) : columns[-1] + 9]
        member = inside[cut].astype(np.float32)
        mean = blur(values[cut] * member[..., None]) / np.maximum(blur(member), 1e-6)[..., None]
        out[cut] = np.where(inside[cut][..., None], mean, out[cut])
    return out
