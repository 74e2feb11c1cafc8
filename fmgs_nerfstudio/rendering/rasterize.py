"""The renderer's border."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.rendering.cpu import rasterize_cpu
from fmgs_nerfstudio.rendering.cuda import rasterize_cuda
from fmgs_nerfstudio.rendering.layers import Camera, Layer
from fmgs_nerfstudio.rendering.reference import rasterize_reference

Executor = Literal["auto", "cpu", "cuda", "reference"]
_EXECUTORS = {"cpu": rasterize_cpu, "cuda": rasterize_cuda, "reference": rasterize_reference}


def rasterize(layers: Sequence[Layer], camera: Camera, executor: Executor = "auto") -> list[Float[Tensor, "H W C"]]:
    """Composite every layer's values over the image: sum_i w_i values_i; no background, nothing divided by alpha.

    w_i = alpha_i prod_{j<i} (1 - alpha_j), front to back by the depth of the surfels' centres. All layers have the same
    geometry by value; gradients go to the tensors that each was given. "auto" chooses by the tensors' device.

    Raises ValueError if shapes do not fit, RuntimeError if gsplat cannot run on this machine ("cuda").
    """
    count = len(layers[0].means)
    for layer in layers:
        if layer.values.dim() != 2:
            raise ValueError(f"values must be [N, C], not {list(layer.values.shape)}")
        shapes = [tuple(x.shape) for x in layer]
        expected = [(count, 3), (count, 3, 2), (count,), (count, layer.values.shape[1])]
        if shapes != expected:
            raise ValueError(f"means, tangents, opacities and values must be {expected}, not {shapes}")
    if executor == "auto":
        executor = "cuda" if layers[0].means.is_cuda else "cpu"
    return _EXECUTORS[executor](layers, camera)
