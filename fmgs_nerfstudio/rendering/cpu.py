"""The CPU executor: all layers in one forward and one backward pass of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.rendering import cpu_kernels
from fmgs_nerfstudio.rendering.cpu_kernels import TILE
from fmgs_nerfstudio.rendering.layers import Camera, Layer
from fmgs_nerfstudio.rendering.projection import Projection, bounds, project, ray_transforms


@dataclass(frozen=True)
class _Scene:
    """Surfels sorted and binned into tiles: all that forward and backward share."""

    columns: np.ndarray
    means2d: np.ndarray
    opacities: np.ndarray
    order: np.ndarray
    records: np.ndarray
    boxes: np.ndarray
    starts: np.ndarray
    ranks: np.ndarray
    first_slot: np.ndarray
    tiles: np.ndarray
    tiles_x: int

    @classmethod
    @torch.no_grad()
    def sort(cls, projection: Projection, opacities: Float[Tensor, "N"], camera: Camera) -> _Scene:
        lower, upper = bounds(projection, opacities, camera)
        visible = (lower < upper).all(dim=1)
        columns = projection.ray_transforms.mT.contiguous().numpy()
        means2d, depths, o = (x.contiguous().numpy() for x in (projection.means2d, projection.depths, opacities.detach()))
        order = cpu_kernels.depth_order(depths, visible.numpy())
        records, boxes = cpu_kernels.prepare(order, columns, means2d, o, lower.numpy(), upper.numpy())
        tiles_x, tiles_y = -(-camera.width // TILE), -(-camera.height // TILE)
        starts, ranks, first_slot = cpu_kernels.bin_surfels(boxes, tiles_x, tiles_y)
        # Long lists first, dealt to the workers in turn
        tiles = np.argsort(-np.diff(starts), kind="stable")[: np.count_nonzero(np.diff(starts))]
        return cls(columns, means2d, o, order, records, boxes, starts, ranks, first_slot, tiles, tiles_x)


class _Composite(torch.autograd.Function):
    """(values [N, C]; ray transforms and opacities of every geometry) -> image [C, H, W]."""

    @staticmethod
    def forward(ctx, scene: _Scene, camera: Camera, groups: np.ndarray, values: Tensor, *geometry: Tensor) -> Tensor:
        ctx.scene, ctx.groups = scene, groups
        image = values.new_zeros(values.shape[1], camera.height, camera.width)
        cpu_kernels.composite(
            scene.tiles,
            scene.tiles_x,
            scene.starts,
            scene.ranks,
            scene.records,
            scene.boxes,
            scene.order,
            values.numpy(),
            image.numpy(),
            numba.get_num_threads(),
        )
        ctx.save_for_backward(values, image)
        return image

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        values, image = ctx.saved_tensors
        scene, groups = ctx.scene, ctx.groups
        n_groups = len(groups) - 1
        slots, touched = cpu_kernels.composite_backward(
            scene.tiles,
            scene.tiles_x,
            scene.starts,
            scene.ranks,
            scene.records,
            scene.boxes,
            scene.first_slot,
            scene.order,
            values.numpy(),
            groups,
            image.numpy(),
            cotangent.contiguous().numpy(),
            numba.get_num_threads(),
        )
        v_columns, v_opacities, v_values = cpu_kernels.reduce_slots(
            scene.order,
            scene.first_slot,
            slots,
            touched,
            scene.columns,
            scene.means2d,
            scene.opacities,
            n_groups,
            values.shape[1],
        )
        geometry = [torch.from_numpy(v) for g in range(n_groups) for v in (v_columns[g].transpose(0, 2, 1), v_opacities[g])]
        return None, None, None, torch.from_numpy(v_values), *geometry


def rasterize_cpu(layers: Sequence[Layer], camera: Camera) -> list[Float[Tensor, "H W C"]]:
    """Composite all layers at once, in float32. Layers that share their geometry's tensors share the work."""
    layers = [Layer(*(x.float() for x in layer)) for layer in layers]
    camera = Camera(camera.viewmat.float(), camera.K.float(), camera.width, camera.height)
    with torch.no_grad():
        projection = project(layers[0].means, layers[0].tangents, camera)
    scene = _Scene.sort(projection, layers[0].opacities, camera)

    # Layers by the leaves of their geometry; those without a gradient to it come last, in no group.
    members: dict[tuple[int, ...], list[int]] = {}
    for i, layer in enumerate(layers):
        key = tuple(id(x) for x in layer[:3]) if any(x.requires_grad for x in layer[:3]) else ()
        members.setdefault(key, []).append(i)
    keys = sorted(members, key=lambda key: key == ())
    channel_counts = [sum(layers[i].values.shape[1] for i in members[key]) for key in keys if key]
    groups = np.cumsum([0, *channel_counts], dtype=np.int64)

    transforms: dict[tuple[int, ...], Tensor] = {}
    geometry: list[Tensor] = []
    for key in keys:
        if key:
            layer = layers[members[key][0]]
            if key[:2] not in transforms:
                transforms[key[:2]] = ray_transforms(layer.means, layer.tangents, camera)
            geometry += [transforms[key[:2]], layer.opacities]

    channel_order = [i for key in keys for i in members[key]]
    values = torch.cat([layers[i].values for i in channel_order], dim=1)
    image = _Composite.apply(scene, camera, groups, values, *geometry)
    parts = dict(zip(channel_order, image.split([layers[i].values.shape[1] for i in channel_order]), strict=True))
    return [parts[i].permute(1, 2, 0) for i in range(len(layers))]
