from __future__ import annotations

import math
from collections.abc import Iterator

import numba
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rendering_scenes import (
    Scene,
    own_layer,
    pull_back,
    random_cotangents,
    random_scene,
    random_values,
    relative_error,
    to_dtype,
)
from torch import Tensor

from fmgs_nerfstudio.rendering import Camera, Layer, rasterize, rasterize_finer

SCENES = {
    "ordinary": random_scene(200, 70, 53),
    "sub-pixel": random_scene(300, 50, 45, scales=(0.002, 0.01)),
    "large and opaque": random_scene(150, 48, 64, scales=(0.05, 0.5), opacities=(0.5, 1.0)),
    "faint": random_scene(200, 33, 31, opacities=(0.0, 0.02)),
}


def render_and_pull_back(
    scene: Scene, values: list[Tensor], executor: str, factor: int = 1
) -> tuple[list[Tensor], list[Layer]]:
    """Own leaves for every layer; kernels in float32, definition in float64, both from the same float32 numbers."""
    dtype = torch.float32 if executor == "cpu" else torch.float64
    scene = Scene(
        *(x.float().double() for x in scene[:4]), camera=to_dtype(to_dtype(scene.camera, torch.float32), dtype)
    )
    layers = [own_layer(scene, v.float(), dtype) for v in values]
    images = rasterize_finer(layers, scene.camera, factor, "cpu" if executor == "cpu" else "reference")
    pull_back(images)
    return images, layers


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("name", SCENES)
def test_values_and_gradients_are_the_references(name: str, factor: int) -> None:
    """Also where the kernel averages finer pixels itself; the definition renders the finer image."""
    values = random_values(SCENES[name], [4, 1, 3, 28])
    images, layers = render_and_pull_back(SCENES[name], values, "cpu", factor)
    expected, references = render_and_pull_back(SCENES[name], values, "reference", factor)
    for image, reference in zip(images, expected, strict=True):
        assert image.dtype == torch.float32
        error = (image - reference).abs()
        assert error.mean() < 1e-5
        assert (error > 1e-4).double().mean() < 2e-3  # a pixel may fall on the other side of a cut-off
    for layer, reference in zip(layers, references, strict=True):
        for tensor, other in zip(layer, reference, strict=True):
            assert relative_error(tensor.grad, other.grad) < 1e-3


def test_gradients_take_the_routes_that_detach_leaves_open() -> None:
    """One set of leaves in several layers: each tensor gets the sum over the layers that were not detached from it."""
    scene = SCENES["ordinary"]
    values = random_values(scene, [4, 1, 3, 28])

    def render(executor: str) -> list[Tensor]:
        dtype = torch.float32 if executor == "cpu" else torch.float64
        means, tangents, opacities, *v = own_layer(scene, values[0], dtype)
        v += [x.to(dtype).requires_grad_() for x in values[1:]]
        layers = [
            Layer(means, tangents, opacities, v[0]),
            Layer(means, tangents.detach(), opacities, v[1]),
            Layer(means.detach(), tangents, opacities.detach(), v[2]),
            Layer(means.detach(), tangents.detach(), opacities.detach(), v[3]),
            Layer(means, tangents, opacities, v[1]),  # the same geometry, and values in use already
        ]
        pull_back(rasterize(layers, to_dtype(scene.camera, dtype), "cpu" if executor == "cpu" else "reference"))
        gradients = [x.grad for x in (means, tangents, opacities, *v)]
        return [g for g in gradients if g is not None]

    for ours, reference in zip(render("cpu"), render("reference"), strict=True):
        assert relative_error(ours, reference) < 1e-3


def test_a_detached_layer_gives_its_values_a_gradient_and_nothing_else() -> None:
    scene = SCENES["ordinary"]
    layer = own_layer(scene, random_values(scene, [28])[0], torch.float32)
    detached = Layer(layer.means.detach(), layer.tangents.detach(), layer.opacities.detach(), layer.values)
    (image,) = rasterize([detached], to_dtype(scene.camera, torch.float32))
    (cotangent,) = random_cotangents([image])
    image.backward(cotangent)
    assert layer.means.grad is None
    (reference,) = rasterize(
        [Layer(*(x.detach().double() for x in layer))], to_dtype(scene.camera, torch.float64), "reference"
    )
    # The image is linear in the values
    assert layer.values.grad is not None
    torch.testing.assert_close(
        (layer.values.grad * layer.values.detach()).sum().double(),
        (cotangent * reference).sum().double(),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(threads)


def test_same_bits_from_run_to_run() -> None:
    values = random_values(SCENES["ordinary"], [4, 3])
    first = render_and_pull_back(SCENES["ordinary"], values, "cpu")
    assert_same_bits(first, render_and_pull_back(SCENES["ordinary"], values, "cpu"))


def test_same_bits_for_any_number_of_threads(request: pytest.FixtureRequest) -> None:
    values = random_values(SCENES["ordinary"], [4, 3])
    several = render_and_pull_back(SCENES["ordinary"], values, "cpu")
    request.getfixturevalue("one_thread")
    assert_same_bits(several, render_and_pull_back(SCENES["ordinary"], values, "cpu"))


def assert_same_bits(a: tuple[list[Tensor], list[Layer]], b: tuple[list[Tensor], list[Layer]]) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True))
    for layer, other in zip(a[1], b[1], strict=True):
        for x, y in zip(layer, other, strict=True):
            assert x.grad is not None
            assert y.grad is not None
            assert torch.equal(x.grad, y.grad)


def frontal(
    positions: list[tuple[float, float, float]],
    tangents: list[list[list[float]]],
    opacity: float,
    width: int,
    height: int,
) -> Scene:
    """Surfels before a camera at the origin that looks along z; focal length 40 px."""
    t = torch.tensor(tangents, dtype=torch.float64).reshape(-1, 3, 2)
    frames = torch.cat([t, torch.zeros(len(t), 3, 1, dtype=torch.float64)], dim=2)
    K = torch.tensor([[40.0, 0, width / 2], [0, 40, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Scene(
        torch.tensor(positions, dtype=torch.float64).reshape(-1, 3),
        frames,
        torch.ones(len(t), 2, dtype=torch.float64),
        torch.full((len(t),), opacity, dtype=torch.float64),
        Camera(torch.eye(4, dtype=torch.float64), K, width, height),
    )


DISC = [[0.2, 0.0], [0.0, 0.2], [0.0, 0.0]]
EDGE_CASES = {
    "nothing": frontal([], [], 0.9, 20, 12),
    "all behind the camera": frontal([(0, 0, -2), (0.1, 0, -1)], [DISC, DISC], 0.9, 20, 12),
    "before and behind": frontal([(0, 0, 2), (0, 0, -2), (0, 0, 0.005)], [DISC] * 3, 0.9, 20, 12),
    "partly outside": frontal([(-0.5, 0, 2), (0.55, 0.3, 2), (3, 3, 2)], [DISC] * 3, 0.9, 20, 12),
    "almost edge-on": frontal([(0.13, 0.02, 2)], [[[0.013, 0.0], [0.002, 0.2], [0.2, 0.0]]], 0.9, 21, 13),
    "a line": frontal([(0.01, 0.02, 2), (0, 0, 2.5)], [[[0.2, 0.0], [0.0, 0.0], [0.0, 0.0]], DISC], 0.9, 21, 13),
    "a point": frontal([(0.01, 0.02, 2), (0, 0, 2.5)], [[[0.0] * 2] * 3, DISC], 0.9, 21, 13),
    "one pixel": frontal([(0, 0, 2)], [DISC], 0.9, 1, 1),
    "covers all": frontal([(0, 0, 3)], [[[50.0, 0.0], [0.0, 50.0], [0.0, 0.0]]], 0.5, 50, 35),
    "opaque stack": frontal([(0.03, 0.02, 2 + 0.1 * i) for i in range(40)], [DISC] * 40, 0.9, 37, 18),
    "fully opaque": frontal([(0.03, 0.02, 2 + 0.1 * i) for i in range(5)], [DISC] * 5, 1.0, 37, 18),
    "equal depths": frontal([(0.02 * i, 0, 2) for i in range(20)], [DISC] * 20, 0.3, 37, 18),
    "reaches the camera's plane": frontal([(0.0, 0.2, 1.0)], [[[0.1, 0.0], [0.0, 0.0], [0.0, 0.5]]], 0.9, 50, 35),
}


@pytest.mark.parametrize("name", EDGE_CASES)
def test_edge_cases(name: str) -> None:
    scene = EDGE_CASES[name]
    values = random_values(scene, [3, 1])
    images, layers = render_and_pull_back(scene, values, "cpu")
    expected, references = render_and_pull_back(scene, values, "reference")
    for image, reference in zip(images, expected, strict=True):
        torch.testing.assert_close(image.double(), reference, atol=2e-4, rtol=0)
    for layer, other in zip(layers, references, strict=True):
        for x, y in zip(layer, other, strict=True):
            assert x.grad is not None
            assert y.grad is not None
            torch.testing.assert_close(x.grad.double(), y.grad, atol=2e-3 * (1 + float(y.grad.norm())), rtol=0)


def test_the_stack_is_cut_where_nothing_more_shows() -> None:
    """At the centre T is 0.1, 0.01, 0.001, (1e-4: not composited): only three surfels get a gradient there."""
    scene = frontal([(0, 0, 2 + 0.1 * i) for i in range(10)], [DISC] * 10, 0.9001, 1, 1)
    _, layers = render_and_pull_back(scene, random_values(scene, [1]), "cpu")
    gradient = layers[0].values.grad
    assert gradient is not None
    assert (gradient[:3] != 0).all()
    assert (gradient[3:] == 0).all()


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    count=st.integers(1, 60),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    channels=st.lists(st.integers(1, 11), min_size=1, max_size=3),
    size=st.floats(0.003, 0.6),
    seed=st.integers(0, 1000),
)
def test_any_scene(count: int, width: int, height: int, channels: list[int], size: float, seed: int) -> None:
    scene = random_scene(count, width, height, seed, (size / 3, size))
    values = random_values(scene, channels)
    images, layers = render_and_pull_back(scene, values, "cpu")
    expected, references = render_and_pull_back(scene, values, "reference")
    for image, reference in zip(images, expected, strict=True):
        assert ((image - reference).abs() > 1e-4).double().mean() <= 2e-3 + 1 / reference.numel()
    for layer, other in zip(layers, references, strict=True):
        for x, y in zip(layer, other, strict=True):
            assert relative_error(x.grad, y.grad) < 0.02  # few pixels: one at a cut-off counts


def test_a_loss_that_is_nan_where_nothing_shows_does_no_harm() -> None:
    scene = frontal([(0, 0, 2)], [DISC], 0.9, 30, 20)
    layer = own_layer(scene, torch.ones(1, 2), torch.float32)
    (image,) = rasterize([layer], to_dtype(scene.camera, torch.float32))
    shown = image[..., 0] > 0
    assert shown.any()
    assert not shown.all()
    image.backward(torch.where(shown, 1.0, torch.nan)[..., None].expand_as(image))
    gradients = [x.grad.clone() for x in layer if x.grad is not None]
    assert len(gradients) == 4
    for x in layer:
        x.grad = None
    (image,) = rasterize([layer], to_dtype(scene.camera, torch.float32))
    image.sum().backward()
    for gradient, x in zip(gradients, layer, strict=True):
        torch.testing.assert_close(gradient, x.grad)


def test_double_precision_goes_in_and_its_gradient_comes_back() -> None:
    scene = SCENES["ordinary"]
    layer = own_layer(scene, random_values(scene, [2])[0])
    (image,) = rasterize([layer], scene.camera)
    image.sum().backward()
    assert layer.means.grad is not None
    assert layer.means.grad.dtype == torch.float64


def test_images_of_shared_kernels_keep_the_layers_order() -> None:
    """Detached layers are composited last inside; what comes out is in the order that went in."""
    scene = SCENES["ordinary"]
    first, second = (own_layer(scene, v, torch.float32) for v in random_values(scene, [2, 3]))
    first = Layer(*(x.detach() for x in first[:3]), values=first.values)
    camera = to_dtype(scene.camera, torch.float32)
    images = rasterize([first, second], camera)
    torch.testing.assert_close(images[0], rasterize([first], camera)[0])
    torch.testing.assert_close(images[1], rasterize([second], camera)[0])


def test_shapes_that_do_not_fit_are_refused() -> None:
    scene = SCENES["ordinary"]
    layer = own_layer(scene, torch.ones(199, 1), torch.float32)
    with pytest.raises(ValueError, match=r"\(200, 1\)"):
        rasterize([layer], scene.camera)
    with pytest.raises(ValueError, match=r"\[N, C\]"):
        rasterize([layer._replace(values=torch.ones(200))], scene.camera)


def test_a_disc_before_a_disc_in_closed_form() -> None:
    """Two frontal discs on the axis: w = o1 g1 + (1 - o1 g1) o2 g2 along the middle row."""
    scene = frontal([(0, 0, 2), (0, 0, 4)], [DISC, DISC], 0.6, 31, 31)
    means, tangents, opacities = (x.float() for x in (scene.means, scene.tangents, scene.opacities))
    (image,) = rasterize([Layer(means, tangents, opacities, torch.ones(2, 1))], to_dtype(scene.camera, torch.float32))
    for j in range(31):
        dx = j - 15
        alphas = [0.6 * math.exp(-0.5 * min((dx / (40 * 0.2 / z)) ** 2, 2 * dx**2)) for z in (2, 4)]
        a, b = (alpha if alpha >= 1 / 255 else 0 for alpha in alphas)
        assert image[15, j, 0].item() == pytest.approx(a + (1 - a) * b, abs=1e-5)
