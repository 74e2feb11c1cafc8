"""The CPU kernels against their peers in one run: least of several times, forward and backward together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from nerfstudio.field_components.encodings import HashEncoding as NerfstudioHashEncoding
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from fmgs_nerfstudio.fields.hash_grid import HashEncoding, HashGridConfig
from fmgs_nerfstudio.kernels.ssim import ssim
from fmgs_nerfstudio.rendering import Camera, Layer, rasterize

Result = tuple[str, str, float, str, float]


def least(function: Callable[[], Tensor], leaves: Iterable[Tensor], repeats: int = 7) -> float:
    """Milliseconds of `function` and the backward pass of its sum, at best."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.autograd.grad(function().sum(), list(leaves))
        best = min(best, time.perf_counter() - start)
    return best * 1000


def hash_encoding() -> Result:
    config = HashGridConfig()
    ours = HashEncoding(config)
    peer = NerfstudioHashEncoding(16, 16, 512, 16, 2, implementation="torch")
    x = torch.rand(13_776, 3, requires_grad=True)
    return (
        "hash encoding, 13,776 points",
        "numba",
        least(lambda: ours(x), [x, ours.params]),
        "nerfstudio (torch)",
        least(lambda: peer(x), [x, peer.hash_table]),
    )


def image_similarity() -> Result:
    image, target = torch.rand(512, 512, 3, requires_grad=True), torch.rand(512, 512, 3)

    def peer() -> Tensor:
        a, b = (value.permute(2, 0, 1)[None] for value in (image, target))
        result = structural_similarity_index_measure(a, b, data_range=1.0)
        assert isinstance(result, Tensor)
        return result

    ours = least(lambda: ssim(image, target), [image])
    return "SSIM, 512 x 512", "numba", ours, "torchmetrics", least(peer, [image])


def rasterizer() -> Result:
    """A ball of surfels; the peer is the plain definition, which is dense: a small image."""
    count, size = 400, 64
    directions = torch.nn.functional.normalize(torch.randn(count, 3), dim=-1)
    means = (directions * 0.5 + torch.tensor([0.0, 0.0, 2.0])).requires_grad_()
    tangents = (torch.randn(count, 3, 2) * 0.05).requires_grad_()
    values = torch.rand(count, 4, requires_grad=True)
    layer = Layer(means, tangents, torch.full((count,), 0.9), values)
    camera = Camera(torch.eye(4), torch.tensor([[80.0, 0, 32], [0, 80, 32], [0, 0, 1]]), size, size)
    leaves = [means, tangents, values]
    ours = least(lambda: rasterize([layer], camera, "cpu")[0], leaves)
    peer = least(lambda: rasterize([layer], camera, "reference")[0], leaves, repeats=3)
    return "2DGS, 400 surfels, 64 x 64", "numba", ours, "plain torch", peer


def main() -> None:
    table = Table("what (forward + backward)", "ours", "ms", "peer", "ms", "times as fast")
    for benchmark in (hash_encoding, image_similarity, rasterizer):
        what, ours, ours_ms, peer, peer_ms = benchmark()
        table.add_row(what, ours, f"{ours_ms:.1f}", peer, f"{peer_ms:.1f}", f"{peer_ms / ours_ms:.1f}")
    Console().print(table)
    Console().print(f"{torch.get_num_threads()} threads; noisy machines: repeat, and trust the ratios")


if __name__ == "__main__":
    main()
