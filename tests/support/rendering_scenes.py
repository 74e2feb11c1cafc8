"""Random surfels and a camera of generic pose for the rendering tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fmgs_nerfstudio.rendering import Camera, Layer


class Scene(NamedTuple):
    means: Tensor
    frames: Tensor
    """[N, 3, 3], columns t_u, t_v, t_w"""
    scales: Tensor
    opacities: Tensor
    camera: Camera

    @property
    def tangents(self) -> Tensor:
        return self.frames[:, :, :2] * self.scales[:, None]


def random_scene(
    count: int,
    width: int,
    height: int,
    seed: int = 0,
    scales: tuple[float, float] = (0.02, 0.12),
    opacities: tuple[float, float] = (0.05, 0.95),
) -> Scene:
    """Surfels in a cube of 2 m, 3.2 m in front of the camera; log-uniform scales in metres; float64."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    means = uniform(-1, 1, count, 3)
    frames = random_rotations(count, generator)
    scale = uniform(math.log(scales[0]), math.log(scales[1]), count, 2).exp()
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = random_rotations(1, generator)[0]
    viewmat[:3, 3] = torch.tensor([0.05, -0.03, 3.2])
    focal = 1.1 * width
    K = torch.tensor([[focal, 0, 0.51 * width], [0, 1.05 * focal, 0.48 * height], [0, 0, 1]], dtype=torch.float64)
    return Scene(means, frames, scale, uniform(*opacities, count), Camera(viewmat, K, width, height))


def random_rotations(count: int, generator: torch.Generator) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64))
    return q * torch.linalg.det(q)[:, None, None]


def to_dtype(camera: Camera, dtype: torch.dtype) -> Camera:
    return Camera(camera.viewmat.to(dtype), camera.K.to(dtype), camera.width, camera.height)


def leaf(x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return x.detach().to(dtype).clone().requires_grad_()


def random_values(scene: Scene, channels: Sequence[int], seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(len(scene.means), c, generator=generator, dtype=torch.float64) for c in channels]


def own_layer(scene: Scene, values: Tensor, dtype: torch.dtype = torch.float64) -> Layer:
    """A layer whose four tensors are its own leaves."""
    return Layer(*(leaf(x, dtype) for x in (scene.means, scene.tangents, scene.opacities, values)))


def random_cotangents(images: Sequence[Tensor], seed: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image) for image in images]


def pull_back(images: Sequence[Tensor]) -> None:
    """Backward of a random linear function of all images; the same function for every executor."""
    torch.autograd.backward(list(images), random_cotangents(images))


def relative_error(x: Tensor | None, reference: Tensor | None) -> float:
    """L2 norm of the difference over that of the reference."""
    assert x is not None
    assert reference is not None
    assert torch.isfinite(x).all()
    return float((x.double() - reference).norm() / reference.norm().clamp(min=1e-12))
