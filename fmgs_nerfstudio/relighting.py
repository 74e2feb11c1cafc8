"""Another light than the one in which the avatar was filmed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from fmgs_dataparsers.capture import Capture
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.fields.light import GAMMA, Light, irradiance_of
from fmgs_nerfstudio.gate import IMAGE, FileError, check_pixels, decode, read_bytes

_MAP_SIZE = (64, 32)
"""Width and height to which maps are shrunk: irradiance is smooth."""
_HDR = re.compile(rb"^[-+]Y +(\d+) +[-+]X +(\d+)\s*$", re.MULTILINE)


class LightError(ValueError):
    """A light that cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class Relighting:
    """The light that shades the avatar."""

    light: Literal["own", "none"] = "own"
    """own: the one that training found, or the environment's. none: no light, colours are albedo."""
    environment: Path | None = None
    """A light from an image of all directions (.hdr; .png, .jpg), twice as wide as high, up above; its middle column is
    where the first training camera stands."""
    turn: float = 0.0
    """Degrees by which the light is turned about the vertical, counterclockwise seen from above."""
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of the light's red, green and blue."""


def relit(own: Light | None, wanted: Relighting, capture: Capture) -> Light | None:
    """The light that `wanted` asks for, of an avatar of this capture with a light of its `own`.

    Raises:
        LightError: the avatar has none of its own, so that its colours are lit already; or the map cannot be used.
    """
    if wanted == Relighting():
        return own
    if own is None:
        raise LightError(
            "the avatar was trained without a light, and its colours are as they were lit; to relight it, train with "
            "--pipeline.model.light.kind sh"
        )
    if not (all(0 <= c <= 100 for c in wanted.colour) and math.isfinite(wanted.turn)):
        raise LightError(f"the light's colour is {wanted.colour}, its turn {wanted.turn}; expected 0 to 100; degrees")
    light = own
    if wanted.light == "none":
        light = Light().to(own.irradiance.device)
    elif wanted.environment is not None:
        radiance = _kept_map(wanted.environment, _changed(wanted.environment))
        irradiance = irradiance_from(radiance, *_axes(capture)).to(own.irradiance)
        light = Light(own.irradiance[0].mean() * irradiance)  # as bright as its own, on the whole
    up = torch.tensor(capture.up, device=own.irradiance.device)
    return light.turned(up, math.radians(wanted.turn)).coloured(wanted.colour)


def read_map(path: Path) -> Float[Array, "H W 3"]:
    """Linear light from all directions, shrunk to a small image.

    Raises:
        LightError: it is no such image.
    """
    try:
        content = read_bytes(path, IMAGE)
        if content.startswith((b"#?RADIANCE", b"#?RGBE")):
            pixels = _decode_hdr(path, content)
        else:
            pixels = decode(path, cv2.IMREAD_COLOR).astype(np.float32) / 255
            pixels = pixels**GAMMA
    except (FileError, OSError) as error:
        raise LightError(str(error)) from error
    height, width = pixels.shape[:2]
    if abs(width - 2 * height) > 2:
        raise LightError(f"{path} has {width} x {height} pixels; a map of all directions is twice as wide as high")
    if not (np.isfinite(pixels).all() and pixels.any() and (pixels >= 0).all()):
        raise LightError(f"{path} is black, or has values that are no light (negative, infinite)")
    return cv2.resize(pixels, _MAP_SIZE, interpolation=cv2.INTER_AREA)[..., ::-1].astype(np.float64)


@lru_cache(maxsize=2)
def _kept_map(path: Path, changed: int) -> Float[Array, "H W 3"]:
    """Of a file as it is: the viewer asks with every picture."""
    return read_map(path)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # reading it says what is wrong


def _decode_hdr(path: Path, content: bytes) -> Array:
    """Radiance's .hdr, whose header says its size in a line of text."""
    found = _HDR.search(content[:4096])
    if found is None:
        raise FileError(f"{path} is no .hdr with rows from above; save it again as one")
    height, width = map(int, found.groups())
    check_pixels(path, width, height)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise FileError(f"{path} cannot be read as an image: {error}") from error
    if pixels is None or pixels.shape != (height, width, 3):  # pyright: ignore[reportUnnecessaryComparison]
        raise FileError(f"{path} cannot be read as an image; copy it again from its source")
    return pixels


def irradiance_from(
    radiance: Float[Array, "H W 3"], front: Float[Array, "3"], up: Float[Array, "3"]
) -> Float[Tensor, "9 3"]:
    """Coefficients (as of `Light`) of the light of a map in longitude and latitude, whose middle is at `front`; its
    mean over all directions and colours is 1."""
    height, width = radiance.shape[:2]
    latitude = np.pi / 2 - (np.arange(height) + 0.5)[:, None] / height * np.pi
    longitude = (np.arange(width) + 0.5) / width * 2 * np.pi - np.pi
    right = np.cross(front, up)
    around = np.cos(longitude)[:, None] * front + np.sin(longitude)[:, None] * right
    directions = np.cos(latitude)[..., None] * around + np.sin(latitude)[..., None] * up
    light = (radiance * np.cos(latitude)[..., None]).reshape(-1, 3)  # pixels near the poles are small
    irradiance = irradiance_of(torch.from_numpy(directions.reshape(-1, 3))) @ torch.from_numpy(light)
    return (irradiance / irradiance[0].mean()).float()


def _axes(capture: Capture) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
    """Towards the first training camera, horizontally, and upwards: unit vectors."""
    up = np.asarray(capture.up, dtype=float)
    sight = capture.cameras[capture.splits["train"][0].camera].world_to_camera[2, :3]
    front = -(sight - (sight @ up) * up)
    if np.linalg.norm(front) < 1e-3:  # it looks down or up
        front = np.cross(up, np.eye(3)[np.abs(up).argmin()])
    return front / np.linalg.norm(front), up
