"""The CUDA executor: our projection, then gsplat 1.4's tiles and 2DGS kernels, in as few passes as they allow.

A forward pass composites up to 33 channels of any layers. A backward pass gives one gradient of the geometry, so there
is one for each geometry that has a gradient; values of layers without one go along as zeros, which add nothing to it.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fmgs_nerfstudio.rendering.cuda_geometry import Projected, project, unproject
from fmgs_nerfstudio.rendering.layers import Camera, Layer

_TILE = 16
# Counts that gsplat's kernels are compiled for; with more than 33, registers and shared memory leave few of a card's
# blocks at work.
_NATIVE_CHANNELS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33)
_MOST = _NATIVE_CHANNELS[-1]


def check_backend() -> Any:
    """gsplat's kernels (the first time, its nvcc build takes minutes).

    Raises RuntimeError if gsplat has none, with the two ways out: 1.4 would go on to an AttributeError of None.
    """
    why = "found no nvcc on the PATH"
    try:
        if (kernels := importlib.import_module("gsplat.cuda._backend")._C) is not None:
            return kernels
    except (RuntimeError, ImportError, OSError) as error:  # nvcc of another version, or a build that failed
        why = f"could not: {error}"
    raise RuntimeError(
        f"gsplat has no CUDA kernels: it compiles them at first use, and {why}. Install the CUDA toolkit of this "
        f"torch's version ({torch.version.cuda}), or run on the CPU: --machine.device-type cpu"
    )


class _Scene(NamedTuple):
    """Surfels projected and sorted into tiles: what forward and backward share."""

    kernels: Any
    projected: Projected
    surfels: tuple[Tensor, Tensor, Tensor]
    """Centres in pixels [1, N, 2], ray transforms [1, N, 3, 3] and opacities [1, N], rounded."""
    tiles: tuple[int, int, int, Tensor, Tensor]
    """Width, height, side of a tile, where each tile's surfels begin, surfels by tile and depth."""
    factor: int
    """Composited pixels for one of the image, along an axis."""
    zeros: Float[Tensor, "Z"]

    @classmethod
    def sort(cls, layer: Layer, camera: Camera, factor: int) -> _Scene:
        kernels, camera = check_backend(), camera.finer(factor)
        means, tangents, opacities = (x.detach() for x in layer[:3])
        projected = project(means, tangents, opacities, camera)
        M = projected.columns.mT
        M, means2d, depths = (x.to(means.dtype).contiguous()[None] for x in (M, projected.centres, M[:, 2, 2]))
        tiles_x, tiles_y = -(-camera.width // _TILE), -(-camera.height // _TILE)
        _, keys, ids = kernels.isect_tiles(
            *(means2d, projected.radii[None], depths, None, None, 1, _TILE, tiles_x, tiles_y, True, True)
        )
        offsets = kernels.isect_offset_encode(keys, 1, tiles_x, tiles_y)
        surfels = means2d, M, opacities[None].contiguous()
        zeros = means.new_zeros(3 * max(len(means), camera.width * camera.height))
        return cls(kernels, projected, surfels, (camera.width, camera.height, _TILE, offsets, ids), factor, zeros)

    def nothing(self, *shape: int) -> Float[Tensor, "..."]:
        """Zeros: what gsplat's kernels ask for and nobody needs."""
        return self.zeros[: math.prod(shape)].view(shape)

    def composite(self, values: Float[Tensor, "N C"]) -> tuple[Float[Tensor, "H W C"], list[Tensor]]:
        """The image; and the alphas, last and median surfels of its pixels."""
        (means2d, M, opacities), images, ends = self.surfels, [], []
        for part in values.split(_MOST, dim=1):
            image, *_, last, median = made = self.kernels.rasterize_to_pixels_fwd_2dgs(
                *(means2d, M, _native(part)[None].contiguous(), opacities, self.nothing(*M.shape[:3])),
                *(None, None, *self.tiles),
            )
            image, ends = image[0, ..., : part.shape[1]], [made[1], last, median]
            if self.factor > 1:
                image = image.unflatten(1, (-1, self.factor)).unflatten(0, (-1, self.factor)).mean((1, 3))
            images.append(image)
        return _beside(images), ends

    def pull_back(
        self, values: Float[Tensor, "N C"], moving: int, grad: Float[Tensor, "H W C"], ends: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of centres, ray transforms and opacities, each [1, N, ...], by the first `moving` channels alone;
        of the values [N, C], by all."""
        (means2d, M, opacities), f = self.surfels, self.factor
        alphas, last, median = ends
        no_alphas, no_normals = self.nothing(*alphas.shape), self.nothing(*alphas.shape[:3], 3)
        of_surfels, of_values = [], []
        for start in range(0, values.shape[1], _MOST):
            channels = min(_MOST, values.shape[1] - start)
            v_image = _native(grad[..., start : start + channels])[:, None, :, None]
            v_image = (v_image.expand(-1, f, -1, f, -1) / f**2).reshape(1, *alphas.shape[1:3], -1).contiguous()
            colours = _native(values[:, start : max(start, min(start + channels, moving))], channels)[None].contiguous()
            _, *v_surfels, v_colours, v_opacities, _, _ = self.kernels.rasterize_to_pixels_bwd_2dgs(
                *(means2d, M, colours, opacities, self.nothing(*M.shape[:3]), self.nothing(*means2d.shape)),
                *(None, None, *self.tiles),
                # The composited channels matter to gsplat's distortion alone, whose gradient is zero.
                *(v_image, alphas, last, median, v_image, no_alphas, no_normals, no_alphas, no_alphas, False),
            )
            of_surfels.append((*v_surfels, v_opacities))
            of_values.append(v_colours[0, :, :channels])
        return *(functools.reduce(torch.add, parts) for parts in zip(*of_surfels, strict=True)), _beside(of_values)


def _native(values: Float[Tensor, "*rows C"], channels: int = 0) -> Float[Tensor, "*rows D"]:
    """With zeros beside them, up to a count of channels that the kernels know."""
    have = values.shape[-1]
    wanted = next(n for n in _NATIVE_CHANNELS if n >= max(have, channels))
    return values if wanted == have else F.pad(values, (0, wanted - have))


def _beside(parts: list[Tensor] | tuple[Tensor, ...]) -> Float[Tensor, "*rows C"]:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class _Composite(torch.autograd.Function):
    """(values [N, C]; means, tangents and opacities of every geometry) -> image [H, W, C]."""

    @staticmethod
    def forward(ctx: Any, scene: _Scene, passes: Sequence[_Pass], values: Tensor, *geometry: Tensor) -> Tensor:
        image, ends = scene.composite(values.detach())
        ctx.scene, ctx.passes = scene, passes
        ctx.save_for_backward(values, *ends)
        return image

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_gradients(ctx, *grad_outputs)


class _Pass(NamedTuple):
    """Channels [start, end) of the backward, of which the first `moving` have a gradient to the geometry."""

    start: int
    end: int
    moving: int


@once_differentiable
def _gradients(ctx: Any, grad: Float[Tensor, "H W C"]) -> tuple[Tensor, ...]:
    (values, *ends), scene = ctx.saved_tensors, ctx.scene
    made = [
        scene.pull_back(values[:, start:end], moving, grad[..., start:end], ends) for start, end, moving in ctx.passes
    ]
    v_means2d, v_M, v_opacities, v_values = zip(*made, strict=True)
    v_geometry = []
    if ctx.passes[0].moving:
        v_means, v_tangents = unproject(scene.projected, torch.cat(v_means2d), torch.cat(v_M))
        v_geometry = [v for i in range(len(made)) for v in (v_means[i], v_tangents[i], v_opacities[i][0])]
    return _beside(v_values), *v_geometry


def rasterize_cuda(layers: Sequence[Layer], camera: Camera, factor: int = 1) -> list[Float[Tensor, "H W C"]]:
    """Composite all layers at once: `factor` x `factor` pixels for each, and their mean. Layers whose geometry is the
    same tensors share its gradient's pass. The host waits for the card once, for the number of surfels in tiles.
    """
    # Channels by geometry; those of layers without a gradient to theirs go with the first.
    members: dict[tuple[int, ...], list[int]] = {}
    for i, layer in enumerate(layers):
        has_gradient = any(x.requires_grad for x in layer[:3])
        members.setdefault(tuple(map(id, layer[:3])) if has_gradient else (), []).append(i)
    detached = members.pop((), [])
    groups = list(members.values()) or [[]]
    channels, passes, order = [layer.values.shape[1] for layer in layers], list[_Pass](), list[int]()
    for group in groups:
        own = [*group, *([] if order else detached)]
        start = passes[-1].end if passes else 0
        passes.append(_Pass(start, start + sum(channels[i] for i in own), sum(channels[i] for i in group)))
        order += own

    geometry = [x for group in groups if group for x in layers[group[0]][:3]]
    values = _beside([layers[i].values for i in order])
    image = _Composite.apply(_Scene.sort(layers[0], camera, factor), passes, values, *geometry)
    parts = dict(zip(order, image.split([channels[i] for i in order], dim=-1), strict=True))
    return [parts[i] for i in range(len(layers))]
