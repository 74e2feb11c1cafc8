"""3D Gaussians instead of surfels: gsplat 1.4's 3DGS as it is, on CUDA only, to compare the two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.rendering.cuda import check_backend
from fmgs_nerfstudio.rendering.layers import Camera, Layer


def rasterize_gaussians(layers: Sequence[Layer], camera: Camera) -> list[Float[Tensor, "H W C"]]:
    """Composite layer by layer Gaussians of covariance A A^T, A = `tangents` with three columns.

    Their images are 3DGS' own: J W Sigma W^T J^T + 0.3 I pixels squared, cut at the tiles that 3 sigma reaches.
    Channels need no padding of ours: here gsplat pads with zeros.

    Raises RuntimeError if gsplat cannot run on this machine.
    """
    check_backend()
    from gsplat.rendering import rasterization

    images = []
    for layer in layers:
        ignored = layer.means.new_empty(0)
        image, _, _ = rasterization(
            means=layer.means,
            quats=ignored,
            scales=ignored,
            covars=torch.bmm(layer.tangents, layer.tangents.mT),
            opacities=layer.opacities,
            colors=layer.values,
            viewmats=camera.viewmat[None],
            Ks=camera.K[None],
            width=camera.width,
            height=camera.height,
            packed=False,
        )
        images.append(image[0])
    return images
