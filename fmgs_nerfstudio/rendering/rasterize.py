"""The renderer's border."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.rendering.layers import Camera, Layer

Executor = Literal["auto", "cpu", "cuda", "reference"]


def rasterize(
    layers: Sequence[Layer], camera: Camera, executor: Executor = "auto"
) -> list[Float[Tensor, "H W C"]]:
    """Composite every layer's values over the image: sum_i w_i values_i, no background, nothing divided by alpha.

    w_i = alpha_i prod_j<i (1 - alpha_j), front to back by the depth of the surfels' centres. All layers must have the same
    geometry by value; gradients go to the tensors each was given. "auto" chooses by the tensors' device.
    """
    if executor == "auto":
        executor = "cuda" if layers[0].means.is_cuda else "cpu"
    if executor == "reference":
        from fmgs_nerfstudio.rendering.reference import rasterize_reference

        return rasterize_reference(layers, camera)
    if executor == "cuda":
        from fmgs_nerfstudio.rendering.cuda import rasterize_cuda

        return rasterize_cuda(layers, camera)
    from fmgs_nerfstudio.rendering.cpu import rasterize_cpu

    return rasterize_cpu(layers, camera)
