"""The CUDA executor: on CPUs through gsplat's Python with its kernels replaced, on a card against the CPU executor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace

import pytest
import torch
from gsplat.cuda import _wrapper
from support.rendering_scenes import own_layer, pull_back, random_scene, random_values, relative_error, to_dtype
from torch import Tensor

from fmgs_nerfstudio.rendering import Camera, Layer, rasterize
from fmgs_nerfstudio.rendering.cuda import _project
from fmgs_nerfstudio.rendering.projection import project

NATIVE = (1, 2, 3, 4, 8, 16, 32, 64)


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
    assert colors.shape[-1] in NATIVE, "gsplat would pad with uninitialised memory"
    assert M.is_contiguous()
    image = composite_tiles(means2d, M, colors, opacities, *geometry)[None]
    other = torch.zeros_like(image[..., :1])
    return image, other, other.expand(*image.shape[:3], 3), other, other, other.int(), other.int()


def rasterize_bwd(means2d, M, colors, opacities, normals, densify, backgrounds, masks, *rest):
    geometry, v_colors = rest[:5], rest[9]
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


@pytest.fixture
def replaced_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    install_backend(monkeypatch, SimpleNamespace(**KERNELS))
    monkeypatch.setattr(_wrapper, "_make_lazy_cuda_func", KERNELS.__getitem__)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def routes(layer: Layer, values: Sequence[Tensor]) -> list[Layer]:
    means, tangents, opacities, _ = layer
    return [
        layer,
        Layer(means, tangents.detach(), opacities, values[1]),
        Layer(means.detach(), tangents, opacities.detach(), values[2]),
        Layer(means.detach(), tangents.detach(), opacities.detach(), values[3]),
    ]


@pytest.mark.usefixtures("replaced_kernels")
@pytest.mark.parametrize("scales", [(0.003, 0.02), (0.05, 0.4)])
def test_values_and_gradients_are_the_references(scales: tuple[float, float]) -> None:
    """Channels 5 and 70 need padding; 70 is more than one pass."""
    scene = random_scene(60, 41, 35, scales=scales)
    results = []
    for executor in ("cuda", "reference"):
        values = [v.requires_grad_() for v in random_values(scene, [5, 1, 3, 70])]
        layer = own_layer(scene, values[0])
        layers = routes(layer, values)
        images = rasterize(layers, scene.camera, "cuda" if executor == "cuda" else "reference")
        pull_back(images)
        results.append((images, [x.grad for x in (*layer, *values[1:])]))
    (images, gradients), (expected, references) = results
    for image, reference in zip(images, expected, strict=True):
        torch.testing.assert_close(image, reference, atol=1e-8, rtol=1e-6)
    for gradient, reference in zip(gradients, references, strict=True):
        assert relative_error(gradient, reference) < 1e-6


@pytest.mark.usefixtures("replaced_kernels")
def test_nothing_to_see() -> None:
    scene = random_scene(5, 20, 20)
    behind = Camera(torch.diag(torch.tensor([1.0, 1, -1, 1])).double() @ scene.camera.viewmat, scene.camera.K, 20, 20)
    layer = own_layer(scene, random_values(scene, [3])[0])
    (image,) = rasterize([layer], behind, "cuda")
    assert (image == 0).all()
    pull_back([image])
    assert all(x.grad is not None and (x.grad == 0).all() for x in layer)


def test_float32_surfels_are_projected_in_float64() -> None:
    """To the last bit; in float32, edge-on surfels come out wrong by 1e-4 in alpha."""
    scene = random_scene(100, 41, 35)
    camera = to_dtype(scene.camera, torch.float32)
    means, tangents = scene.means.float(), scene.tangents.float()
    exact = project(means.double(), tangents.double(), to_dtype(camera, torch.float64))
    for value, expected in zip(_project(means, tangents, camera), exact, strict=True):
        assert torch.equal(value, expected.to(value.dtype))


def test_without_nvcc_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    install_backend(monkeypatch, None)
    scene = random_scene(5, 20, 20)
    with pytest.raises(RuntimeError, match=r"nvcc.*--machine\.device-type cpu"):
        rasterize([own_layer(scene, torch.ones(5, 1))], scene.camera, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_card_gives_the_cpus_numbers() -> None:
    scene = random_scene(2000, 200, 150, scales=(0.005, 0.05))
    results = []
    for device in ("cuda", "cpu"):
        values = [v.to(device, torch.float32).requires_grad_() for v in random_values(scene, [4, 1, 3, 28])]
        leaves = [x.detach().to(device, torch.float32) for x in (scene.means, scene.tangents, scene.opacities)]
        layer = Layer(*(x.requires_grad_() for x in leaves), values=values[0])
        camera = to_dtype(scene.camera, torch.float32)
        camera = Camera(camera.viewmat.to(device), camera.K.to(device), camera.width, camera.height)
        images = rasterize(routes(layer, values), camera)
        pull_back(images)
        results.append(([x.cpu() for x in images], [x.grad for x in (*layer, *values[1:])]))
    (images, gradients), (expected, references) = results
    for image, reference in zip(images, expected, strict=True):
        assert ((image - reference).abs() > 1e-4).double().mean() < 2e-3
    for gradient, reference in zip(gradients, references, strict=True):
        assert gradient is not None
        assert reference is not None
        assert relative_error(gradient.cpu(), reference.double()) < 1e-3
