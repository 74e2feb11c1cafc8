"""gsplat's kernels in plain torch: what its Python calls where there is no card."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

NATIVE = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65)
"""Channels that gsplat 1.4's rasteriser is compiled for; more exist."""


def isect_tiles(means2d, radii, depths, camera_ids, ids, cameras, tile, tiles_x, tiles_y, sort, buffered):
    """Pairs of a surfel and a 16-px tile that the square of half side `radii` around it touches, by tile and depth."""
    pairs = []
    for n, ((x, y), r, z) in enumerate(zip(means2d[0].tolist(), radii[0].tolist(), depths[0].tolist(), strict=True)):
        if r > 0:
            columns = range(max(0, int((x - r) // tile)), min(tiles_x, int(-(-(x + r) // tile))))
            rows = range(max(0, int((y - r) // tile)), min(tiles_y, int(-(-(y + r) // tile))))
            pairs += [(i * tiles_x + j, z, n) for i in rows for j in columns]
    pairs.sort()
    tile_ids = torch.tensor([tile_id << 32 for tile_id, _, _ in pairs], dtype=torch.int64)
    return None, tile_ids, torch.tensor([n for _, _, n in pairs], dtype=torch.int32)


def isect_offset_encode(tile_ids, cameras, tiles_x, tiles_y):
    tiles = torch.arange(tiles_x * tiles_y) << 32
    return torch.searchsorted(tile_ids, tiles).int().view(1, tiles_y, tiles_x)


def composite_tiles(means2d, M, colors, opacities, width, height, tile, offsets, surfels) -> Tensor:
    """gsplat's documented formulas, differentiable: [H, W, C]."""
    starts = [*offsets.flatten().tolist(), len(surfels)]
    image = colors.new_zeros(offsets.shape[1] * tile, offsets.shape[2] * tile, colors.shape[-1])
    for k in range(offsets.numel()):
        n = surfels[starts[k] : starts[k + 1]].long()
        top, left = k // offsets.shape[2] * tile, k % offsets.shape[2] * tile
        y, x = torch.meshgrid(top + torch.arange(tile) + 0.5, left + torch.arange(tile) + 0.5, indexing="ij")
        x, y = x.to(M)[..., None], y.to(M)[..., None]
        h_u = x[..., None] * M[0, n, 2] - M[0, n, 0]
        h_v = y[..., None] * M[0, n, 2] - M[0, n, 1]
        p = torch.linalg.cross(h_u, h_v)
        gaussian = ((p[..., :2] / p[..., 2:]) ** 2).sum(-1)
        low_pass = 2 * ((x - means2d[0, n, 0]) ** 2 + (y - means2d[0, n, 1]) ** 2)
        alpha = (opacities[0, n] * torch.exp(-torch.minimum(gaussian, low_pass) / 2)).clamp(max=0.999)
        alpha = torch.where(alpha < 1 / 255, 0, alpha)
        after = torch.cumprod(1 - alpha, dim=-1)
        before = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], dim=-1)
        weights = torch.where(after > 1e-4, alpha * before, 0)
        image = image.index_put(
            (torch.arange(top, top + tile)[:, None], torch.arange(left, left + tile)), weights @ colors[0, n]
        )
    return image[:height, :width]


def rasterize_fwd(means2d, M, colors, opacities, normals, backgrounds, masks, *geometry):
    assert colors.shape[-1] in NATIVE, "Unsupported number of channels"
    assert all(x.is_contiguous() for x in (means2d, M, colors, opacities, normals)), "GSPLAT_CHECK_INPUT"
    image = composite_tiles(means2d, M, colors, opacities, *geometry)[None]
    other = torch.zeros_like(image[..., :1])
    return image, other, other.expand(*image.shape[:3], 3), other, other, other.int(), other.int()


def rasterize_bwd(means2d, M, colors, opacities, normals, densify, backgrounds, masks, *rest):
    geometry, v_colors = rest[:5], rest[9]
    assert colors.shape[-1] in NATIVE, "Unsupported number of channels"
    assert v_colors.shape[-1] == rest[5].shape[-1] == colors.shape[-1]
    tensors = (means2d, M, colors, opacities, normals, densify, *rest[3:14])
    assert all(x.is_contiguous() for x in tensors), "GSPLAT_CHECK_INPUT"
    assert not any(x.any() for x in rest[10:14]), "gradients of what nobody asked for"
    leaves = [x.detach().requires_grad_() for x in (means2d, M, colors, opacities)]
    with torch.enable_grad():
        image = composite_tiles(*leaves, *geometry)
    v_means2d, v_M, v_values, v_opacities = torch.autograd.grad(image, leaves, v_colors[0])
    return None, v_means2d, v_M, v_values, v_opacities, torch.zeros_like(normals), torch.zeros_like(densify)


KERNELS: dict[str, Callable] = {
    "isect_tiles": isect_tiles,
    "isect_offset_encode": isect_offset_encode,
    "rasterize_to_pixels_fwd_2dgs": rasterize_fwd,
    "rasterize_to_pixels_bwd_2dgs": rasterize_bwd,
}


def install_backend(monkeypatch: pytest.MonkeyPatch, kernels: object) -> None:
    """As if gsplat had compiled these; importing its real backend would start nvcc."""
    backend = ModuleType("gsplat.cuda._backend")
    monkeypatch.setattr(backend, "_C", kernels, raising=False)
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", backend)
