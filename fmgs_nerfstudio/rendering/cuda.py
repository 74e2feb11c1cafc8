"""The CUDA executor: our projection, then gsplat 1.4's tiles and 2DGS kernels, in as few passes as they allow.

A forward pass composites up to 33 channels of any layers. A backward pass gives one gradient of the geometry, so there
is one for each geometry that has a gradient; values of layers without one go along as zeros, which add nothing to it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fmgs_nerfstudio.rendering.layers import Camera, Layer
from fmgs_nerfstudio.rendering.projection import ELLIPSE, Projection, bounds, project

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


@torch.no_grad()
def radii(projection: Projection, opacities: Float[Tensor, "N"], camera: Camera) -> Int[Tensor, "N"]:
    """Half side of a square around `means2d` that covers the surfel's box, whole pixels; 0 where it shows nowhere."""
    lower, upper = bounds(projection, opacities, camera)
    reach = torch.maximum((lower - projection.means2d).abs(), (upper - projection.means2d).abs()).amax(dim=1)
    return torch.where((lower < upper).all(dim=1), reach.ceil(), 0.0).int()


def _project(means: Float[Tensor, "N 3"], tangents: Float[Tensor, "N 3 2"], camera: Camera) -> Projection:
    """In float64: edge-on surfels need it (alpha to 3e-5 instead of 1e-4 when it is rounded once, for the kernels)."""
    exact = Camera(camera.viewmat.double(), camera.K.double(), camera.width, camera.height)
    return project(means.double(), tangents.double(), exact)


class _Scene(NamedTuple):
    """Surfels projected and sorted into tiles: what forward and backward share."""

    kernels: Any
    projection: Projection
    to_pixels: Float[Tensor, "3 3"]
    """K R, float64."""
    surfels: tuple[Tensor, Tensor, Tensor]
    """Centres in pixels [1, N, 2], ray transforms [1, N, 3, 3] and opacities [1, N], rounded."""
    tiles: tuple[int, int, int, Tensor, Tensor]
    """Width, height, side of a tile, where each tile's surfels begin, surfels by tile and depth."""
    factor: int
    """Composited pixels for one of the image, along an axis."""

    @classmethod
    def sort(cls, layer: Layer, camera: Camera, factor: int) -> _Scene:
        kernels, camera = check_backend(), camera.finer(factor)
        means, tangents, opacities = (x.detach() for x in layer[:3])
        projection = _project(means, tangents, camera)
        M, means2d, depths = (x.to(means.dtype).contiguous() for x in projection[:3])
        covered = radii(Projection(M, means2d, depths, projection.valid), opacities, camera)
        tiles_x, tiles_y = -(-camera.width // _TILE), -(-camera.height // _TILE)
        _, keys, ids = kernels.isect_tiles(
            *(means2d[None], covered[None], depths[None], None, None, 1, _TILE, tiles_x, tiles_y, True, True)
        )
        offsets = kernels.isect_offset_encode(keys, 1, tiles_x, tiles_y)
        to_pixels = camera.K.double() @ camera.viewmat[:3, :3].double()
        surfels = means2d[None], M[None], opacities[None].contiguous()
        return cls(kernels, projection, to_pixels, surfels, (camera.width, camera.height, _TILE, offsets, ids), factor)

    def composite(self, values: Float[Tensor, "N C"]) -> tuple[Float[Tensor, "H W C"], list[Tensor]]:
        """The image; and the alphas, last and median surfels of its pixels."""
        (means2d, M, opacities), images, ends = self.surfels, [], []
        normals = torch.zeros_like(M[..., 0])
        for part in values.split(_MOST, dim=1):
            image, *_, last, median = made = self.kernels.rasterize_to_pixels_fwd_2dgs(
                *(means2d, M, _native(part)[None], opacities, normals, None, None, *self.tiles)
            )
            image, ends = image[0, ..., : part.shape[1]], [made[1], last, median]
            if self.factor > 1:
                image = image.unflatten(1, (-1, self.factor)).unflatten(0, (-1, self.factor)).mean((1, 3))
            images.append(image)
        return images[0] if len(images) == 1 else torch.cat(images, dim=-1), ends

    def pull_back(
        self, values: Float[Tensor, "N C"], moving: int, grad: Float[Tensor, "H W C"], ends: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of centres, ray transforms and opacities, each [1, N, ...], by the first `moving` channels alone;
        of the values [N, C], by all."""
        (means2d, M, opacities), f = self.surfels, self.factor
        alphas, last, median = ends
        nothing, no_normals = torch.zeros_like(alphas), alphas.new_zeros(*alphas.shape[:3], 3)
        of_surfels, of_values = [], []
        for start in range(0, values.shape[1], _MOST):
            v_image = _native(grad[..., start : start + _MOST])
            if f > 1:
                v_image = v_image.div(f * f)[:, None, :, None].expand(-1, f, -1, f, -1).flatten(2, 3).flatten(0, 1)
            v_image, channels = v_image[None].contiguous(), min(_MOST, values.shape[1] - start)
            colours = _native(values[:, start : max(start, min(start + _MOST, moving))], channels)[None]
            _, *v_surfels, v_colours, v_opacities, _, _ = self.kernels.rasterize_to_pixels_bwd_2dgs(
                *(means2d, M, colours, opacities, torch.zeros_like(M[..., 0]), torch.zeros_like(means2d)),
                *(None, None, *self.tiles),
                # The composited channels matter to gsplat's distortion alone, whose gradient is zero.
                *(v_image, alphas, last, median, v_image, nothing, no_normals, nothing, nothing, False),
            )
            of_surfels.append((*v_surfels, v_opacities))
            of_values.append(v_colours[0, :, :channels])
        v_means2d, v_M, v_opacities = (functools.reduce(torch.add, parts) for parts in zip(*of_surfels, strict=True))
        return v_means2d, v_M, v_opacities, torch.cat(of_values, dim=1)

    def unproject(
        self, v_means2d: Float[Tensor, "G N 2"], v_M: Float[Tensor, "G N 3 3"]
    ) -> tuple[Float[Tensor, "G N 3"], Float[Tensor, "G N 3 2"]]:
        """Gradients of means and tangents: the transpose of `project`'s derivative, for G gradients at once."""
        M, centre, _, _ = self.projection
        w = M[:, 2]
        signs = torch.cat([w.new_ones(2), w.new_full((1,), -1.0)])  # without a copy
        # The centre is sum_k signs_k M_ik w_k / conic; conic is -1 where the image is no ellipse (`projection._box`).
        conic = (signs * w * w).sum(1)
        is_ellipse = w[:, :2].square().sum(1) < ELLIPSE * w[:, 2] ** 2
        signs = signs / torch.where(is_ellipse, conic, -1.0)[:, None]
        by_w = signs[:, None] * (M[:, :2] - 2 * (is_ellipse[:, None] * centre)[..., None] * w[:, None])
        v_centre = v_means2d.double()[..., None]
        v_rows = [v_M[..., :2, :] + v_centre * (signs * w)[:, None], v_M[..., 2:, :] + (v_centre * by_w).sum(-2, True)]
        columns = torch.cat(v_rows, dim=-2).mT.reshape(-1, 3) @ self.to_pixels
        v_tangents, v_means = columns.to(v_M.dtype).view(v_M.shape).split([2, 1], dim=-2)
        return v_means[..., 0, :], v_tangents.mT


def _native(values: Float[Tensor, "*rows C"], channels: int = 0) -> Float[Tensor, "*rows D"]:
    """With zeros beside them, up to a count of channels that the kernels know."""
    have = values.shape[-1]
    wanted = next(n for n in _NATIVE_CHANNELS if n >= max(have, channels))
    return values.contiguous() if wanted == have else F.pad(values, (0, wanted - have))


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
        v_means, v_tangents = scene.unproject(torch.cat(v_means2d), torch.cat(v_M))
        v_geometry = [v for i in range(len(made)) for v in (v_means[i], v_tangents[i], v_opacities[i][0])]
    return torch.cat(v_values, dim=1), *v_geometry


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
    values = torch.cat([layers[i].values for i in order], dim=1)
    image = _Composite.apply(_Scene.sort(layers[0], camera, factor), passes, values, *geometry)
    parts = dict(zip(order, image.split([channels[i] for i in order], dim=-1), strict=True))
    return [parts[i] for i in range(len(layers))]
