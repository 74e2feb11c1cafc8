"""The CUDA executor: on CPUs through gsplat's Python with its kernels replaced, on a card against the CPU executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
from support.gsplat_backend import KERNELS, install_backend
from support.rendering_scenes import own_layer, pull_back, random_scene, random_values, relative_error, to_dtype
from torch import Tensor

from fmgs_nerfstudio.rendering import Camera, Layer, rasterize, rasterize_finer
from fmgs_nerfstudio.rendering.cuda import _Scene
from fmgs_nerfstudio.rendering.projection import project


@pytest.fixture
def replaced_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    install_backend(monkeypatch, SimpleNamespace(**KERNELS))


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
    """79 channels forward and 75 backward: more than one pass, the last padded."""
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


@pytest.mark.usefixtures("replaced_kernels")
def test_float32_surfels_are_projected_in_float64() -> None:
    """To the last bit; in float32, edge-on surfels come out wrong by 1e-4 in alpha."""
    scene = random_scene(100, 41, 35)
    camera = to_dtype(scene.camera, torch.float32)
    means, tangents, opacities = scene.means.float(), scene.tangents.float(), scene.opacities.float()
    exact = project(means.double(), tangents.double(), to_dtype(camera, torch.float64))
    means2d, M, _ = _Scene.sort(Layer(means, tangents, opacities, means), camera, 1).surfels
    assert torch.equal(means2d[0], exact.means2d.float())
    assert torch.equal(M[0], exact.ray_transforms.float())


def test_a_step_takes_two_passes_forward_and_three_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour, depth, normal and semantics, 2 x 2 pixels for each: the reference's means and gradients."""
    forward, backward = (f"rasterize_to_pixels_{way}_2dgs" for way in ("fwd", "bwd"))
    passes: dict[str, list[int]] = {forward: [], backward: []}

    def counted(name: str) -> Callable[..., object]:
        def kernel(*args: Tensor) -> object:
            passes[name].append(args[2].shape[-1])
            return KERNELS[name](*args)

        return kernel

    install_backend(monkeypatch, SimpleNamespace(**KERNELS | {name: counted(name) for name in passes}))
    scene = random_scene(40, 22, 18, scales=(0.02, 0.2))
    results = []
    for executor in ("cuda", "reference"):
        values = [v.requires_grad_() for v in random_values(scene, [4, 2, 3, 28])]
        layer = own_layer(scene, values[0])
        images = rasterize_finer(routes(layer, values), scene.camera, 2, "cuda" if executor == "cuda" else "reference")
        pull_back(images)
        results.append([*(x.detach() for x in images), *(x.grad for x in (*layer, *values[1:]))])
    assert passes == {forward: [33, 4], backward: [32, 2, 3]}
    for value, expected in zip(*results, strict=True):
        assert relative_error(value, expected) < 1e-6


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
