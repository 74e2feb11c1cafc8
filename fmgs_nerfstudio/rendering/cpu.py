"""The CPU executor: all layers in one forward and one backward pass of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.kernels.simd import LANES
from fmgs_nerfstudio.rendering.cpu_geometry import MOMENTS, RECORD, project, reduce_slots
from fmgs_nerfstudio.rendering.cpu_kernels import PLANE, TILE, bin_surfels, composite, composite_backward
from fmgs_nerfstudio.rendering.layers import Camera, Layer


class _Scene(NamedTuple):
    """Surfels projected and binned: what forward and backward share."""

    means: Array
    tangents: Array
    opacities: Array
    to_pixels: Array
    """K [R | t], [3, 4], float64"""
    records: Array
    starts: Array
    surfels: Array
    first_slot: Array
    tiles: Array
    """Tiles with surfels, the longest lists first: they are dealt to the cores in turn."""
    tiles_x: int
    factor: int
    """Composited pixels for one of the image, along an axis"""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """As the kernels want them: tiles_x, factor and workers."""
        return self.tiles_x, self.factor, numba.get_num_threads()

    @classmethod
    def bin(cls, layer: Layer, camera: Camera, factor: int) -> _Scene:
        camera = camera.finer(factor)
        means, tangents, opacities = (x.detach().contiguous().numpy() for x in layer[:3])
        to_pixels = (camera.K.double() @ camera.viewmat[:3].double()).numpy()
        records, depths = np.zeros((len(means), RECORD), np.float32), np.zeros(len(means), np.float32)
        project(means, tangents, opacities, to_pixels, camera.width, camera.height, records, depths)
        tiles_x, tiles_y = -(-camera.width // TILE), -(-camera.height // TILE)
        starts, surfels, first_slot = bin_surfels(records, depths, tiles_x, tiles_y)
        lengths = np.diff(starts)
        tiles = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
        return cls(means, tangents, opacities, to_pixels, records, starts, surfels, first_slot, tiles, tiles_x, factor)


class _Composite(torch.autograd.Function):
    """(values [N, C]; means, tangents and opacities of every geometry) -> image [C, H, W]."""

    @staticmethod
    def forward(ctx: Any, scene: _Scene, camera: Camera, groups: Array, values: Tensor, *geometry: Tensor) -> Tensor:
        image = values.new_zeros(values.shape[1], camera.height, camera.width)
        s = scene
        planes = np.empty((len(s.tiles) if any(ctx.needs_input_grad) else 0, values.shape[1] * PLANE), np.float32)
        composite(s.sizes, s.tiles, s.starts, s.surfels, s.records, values.numpy(), image.numpy(), planes)
        ctx.scene, ctx.groups, ctx.planes = scene, groups, planes
        ctx.save_for_backward(values)
        return image

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        s, groups = ctx.scene, ctx.groups
        n_slots, n_groups, (count, channels) = s.first_slot[-1], len(groups) - 1, values.shape
        slots = np.empty((n_slots, n_groups * MOMENTS + -(-channels // LANES) * LANES), np.float32)
        touched = np.zeros(n_slots, np.bool_)
        composite_backward(
            *(s.sizes, s.tiles, s.starts, s.surfels, s.first_slot, s.records, values.numpy(), groups),
            *(ctx.planes, grad_outputs[0].contiguous().numpy(), slots, touched),
        )
        v_geometry = [values.new_zeros(n_groups, count, *shape) for shape in ((3,), (3, 2), ())]
        v_values = torch.zeros_like(values)
        reduce_slots(
            *(s.first_slot, slots, touched, s.means, s.tangents, s.opacities, s.to_pixels),
            *(v.numpy() for v in (*v_geometry, v_values)),
        )
        return None, None, None, v_values, *(v[g] for g in range(n_groups) for v in v_geometry)


def rasterize_cpu(layers: Sequence[Layer], camera: Camera, factor: int = 1) -> list[Float[Tensor, "H W C"]]:
    """Composite all layers at once, in float32: `factor` x `factor` pixels for each, and their mean. `factor` divides
    TILE. Layers whose geometry is the same tensors share its gradient's cost.
    """
    layers = [Layer(*(x.float() for x in layer)) for layer in layers]

    # Channels by geometry; layers that have no gradient to theirs come last, in no group.
    members: dict[tuple[int, ...], list[int]] = {}
    for i, layer in enumerate(layers):
        has_gradient = any(x.requires_grad for x in layer[:3])
        members.setdefault(tuple(map(id, layer[:3])) if has_gradient else (), []).append(i)
    detached = members.pop((), [])
    channels = [layer.values.shape[1] for layer in layers]
    groups = np.cumsum([0, *(sum(channels[i] for i in group) for group in members.values())], dtype=np.int64)
    order = [i for group in members.values() for i in group] + detached

    geometry = [x for group in members.values() for x in layers[group[0]][:3]]
    values = torch.cat([layers[i].values for i in order], dim=1)
    image = _Composite.apply(_Scene.bin(layers[0], camera, factor), camera, groups, values, *geometry)
    parts = dict(zip(order, image.split([channels[i] for i in order]), strict=True))
    return [parts[i].permute(1, 2, 0) for i in range(len(layers))]
