"""The CUDA executor: our projection, then gsplat 1.4's tiles and 2DGS kernels, one pass per layer."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fmgs_nerfstudio.rendering.layers import Camera, Layer
from fmgs_nerfstudio.rendering.projection import Projection, bounds, project

_TILE = 16
# Counts that gsplat compiles. Others it pads with uninitialised memory, whose NaNs reach every gradient (0 * NaN);
# above 64, the backward's shared memory is more than many cards have.
_NATIVE_CHANNELS = (1, 2, 3, 4, 8, 16, 32, 64)


def check_backend() -> None:
    """Import gsplat's kernels (the first time, its nvcc build takes minutes).

    Raises RuntimeError if gsplat has none, with the two ways out: 1.4 would go on to an AttributeError of None.
    """
    why = "found no nvcc on the PATH"
    try:
        if importlib.import_module("gsplat.cuda._backend")._C is not None:
            return
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
    """`project` in float64, rounded once at its end: edge-on surfels need it (alpha to 3e-5 instead of 1e-4)."""
    exact = Camera(camera.viewmat.double(), camera.K.double(), camera.width, camera.height)
    M, means2d, depths, valid = project(means.double(), tangents.double(), exact)
    return Projection(M.to(means.dtype), means2d.to(means.dtype), depths.to(means.dtype), valid)


def rasterize_cuda(layers: Sequence[Layer], camera: Camera) -> list[Float[Tensor, "H W C"]]:
    """Composite layer by layer; layers with the same means and tangents share a projection, all share the tiles."""
    check_backend()
    from gsplat.cuda._wrapper import isect_offset_encode, isect_tiles, rasterize_to_pixels_2dgs

    projections: dict[tuple[int, int], Projection] = {}
    for layer in layers:
        key = id(layer.means), id(layer.tangents)
        if key not in projections:
            projections[key] = _project(layer.means, layer.tangents, camera)

    first = next(iter(projections.values()))
    tiles_x, tiles_y = -(-camera.width // _TILE), -(-camera.height // _TILE)
    means2d, depths = first.means2d.detach(), first.depths.detach()
    covered = radii(first, layers[0].opacities, camera)
    _, tile_ids, surfels = isect_tiles(means2d[None], covered[None], depths[None], _TILE, tiles_x, tiles_y)
    offsets = isect_offset_encode(tile_ids, 1, tiles_x, tiles_y)

    images = []
    for layer in layers:
        projection = projections[id(layer.means), id(layer.tangents)]
        parts = []
        for values in layer.values.split(_NATIVE_CHANNELS[-1], dim=1):
            channels = values.shape[1]
            padding = next(n for n in _NATIVE_CHANNELS if n >= channels) - channels
            image, *_ = rasterize_to_pixels_2dgs(
                means2d=projection.means2d[None],
                ray_transforms=projection.ray_transforms[None],
                colors=F.pad(values, (0, padding))[None],
                opacities=layer.opacities[None],
                normals=torch.zeros_like(layer.means)[None],
                densify=torch.zeros_like(means2d)[None],
                image_width=camera.width,
                image_height=camera.height,
                tile_size=_TILE,
                isect_offsets=offsets,
                flatten_ids=surfels,
            )
            parts.append(image[0, ..., :channels])
        images.append(torch.cat(parts, dim=-1))
    return images
