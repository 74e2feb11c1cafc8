"""The renderer's border."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fmgs_nerfstudio.rendering.cpu import rasterize_cpu
from fmgs_nerfstudio.rendering.cpu_kernels import TILE
from fmgs_nerfstudio.rendering.cuda import rasterize_cuda
from fmgs_nerfstudio.rendering.cuda_gaussians import rasterize_gaussians
from fmgs_nerfstudio.rendering.layers import Camera, Layer
from fmgs_nerfstudio.rendering.reference import rasterize_reference

Executor = Literal["auto", "cpu", "cuda", "reference"]
_OF_SURFELS: dict[str, Callable[..., list[Tensor]]] = {
    "cpu": rasterize_cpu,
    "cuda": rasterize_cuda,
    "reference": rasterize_reference,
}
_OF_GAUSSIANS = {"cuda": rasterize_gaussians}


def rasterize(layers: Sequence[Layer], camera: Camera, executor: Executor = "auto") -> list[Float[Tensor, "H W C"]]:
    """Composite every layer's values over the image: sum_i w_i values_i; no background, nothing divided by alpha.

    w_i = alpha_i prod_{j<i} (1 - alpha_j), front to back by the depth of the surfels' centres. All layers have the same
    geometry by value; gradients go to the tensors that each was given. "auto" chooses by the tensors' device. Tangents
    of three columns are 3D Gaussians', which "cuda" alone renders.

    Raises ValueError if shapes do not fit or the executor renders surfels only, RuntimeError if gsplat cannot run on
    this machine ("cuda").
    """
    executor = _choose(layers, executor)
    return (_OF_GAUSSIANS if _are_3d(layers) else _OF_SURFELS)[executor](layers, camera)


def _are_3d(layers: Sequence[Layer]) -> bool:
    return layers[0].tangents.shape[-1] == 3


def _choose(layers: Sequence[Layer], executor: Executor) -> Executor:
    """The executor for these layers, checked."""
    count, is_3d = len(layers[0].means), _are_3d(layers)
    for layer in layers:
        if layer.values.dim() != 2:
            raise ValueError(f"values must be [N, C], not {list(layer.values.shape)}")
        shapes = [tuple(x.shape) for x in layer]
        expected = [(count, 3), (count, 3, 3 if is_3d else 2), (count,), (count, layer.values.shape[1])]
        if shapes != expected:
            raise ValueError(f"means, tangents, opacities and values must be {expected}, not {shapes}")
    if executor == "auto":
        executor = "cuda" if layers[0].means.is_cuda else "cpu"
    if is_3d and executor not in _OF_GAUSSIANS:
        raise ValueError(f"3D Gaussians (tangents of three columns) are rendered on CUDA only, not on {executor!r}")
    return executor


def rasterize_finer(
    layers: Sequence[Layer], camera: Camera, factor: int, executor: Executor = "auto"
) -> list[Float[Tensor, "H W C"]]:
    """`rasterize` with `factor` pixels for each, along both axes, and their mean.

    The low-pass disc of 2DGS is a pixel wide. At a silhouette many surfels lie on top of each other, each with its
    disc: outlines come out 1.3 pixels too wide, and a surface that is fitted to masks that much too small.
    """
    if factor == 1:
        return rasterize(layers, camera, executor)
    executor = _choose(layers, executor)
    if not _are_3d(layers) and (executor == "cuda" or (executor == "cpu" and TILE % factor == 0)):
        return _OF_SURFELS[executor](layers, camera, factor)  # finer images would be most of the memory traffic
    images = rasterize(layers, camera.finer(factor), executor)
    return [avg_pool2d(image.movedim(-1, 0), factor).movedim(0, -1) for image in images]
