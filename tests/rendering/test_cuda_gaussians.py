"""3D Gaussians through gsplat's Python, on CPUs with its kernels replaced, against splatting written out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gsplat.cuda import _torch_impl
from support.gsplat_backend import install_backend
from support.rendering_scenes import pull_back, random_scene, relative_error, to_dtype
from torch import Tensor

from fmgs_nerfstudio.rendering import Camera, Layer, rasterize

SIZE = 16  # one tile: gsplat's cut at 3 sigma, by tiles, takes nothing away


# --- the kernels, in torch --------------------------------------------------------------------------------------------


def project(means, covars, viewmats, Ks, width, height, eps2d, near, far):
    """gsplat's own torch function; covars comes as the upper triangle."""
    xx, xy, xz, yy, yz, zz = covars.unbind(-1)
    full = torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], dim=-1).view(-1, 3, 3)
    return _torch_impl._fully_fused_projection(means, full, viewmats, Ks, width, height, eps2d, near, far)


def projection_fwd(means, covars, quats, scales, viewmats, Ks, width, height, eps2d, near, far, *rest):
    assert quats is None
    assert scales is None
    assert rest == (0, False, "pinhole")  # smallest radius, compensation, camera
    return project(means, covars, viewmats, Ks, width, height, eps2d, near, far)


def projection_bwd(means, covars, quats, scales, viewmats, Ks, width, height, eps2d, model, radii, *rest):
    v_means2d, v_depths, v_conics = rest[2:5]
    means, covars = (x.detach().requires_grad_() for x in (means, covars))
    with torch.enable_grad():
        _, means2d, depths, conics, _ = project(means, covars, viewmats, Ks, width, height, eps2d, 0.01, 1e10)
    seen = (radii > 0)[..., None]
    cotangents = v_means2d * seen, v_depths * seen[..., 0], v_conics * seen
    v_means, v_covars = torch.autograd.grad((means2d, depths, conics), (means, covars), cotangents)
    return v_means, v_covars, None, None, None


def isect_tiles(means2d, radii, depths, camera_ids, ids, cameras, tile, tiles_x, tiles_y, sort, buffered):
    return _torch_impl._isect_tiles(means2d, radii, depths, tile, tiles_x, tiles_y)


def composite(means2d, conics, colors, opacities, width, height, tile, gaussians) -> Tensor:
    """The formulas of gsplat's kernel for an image of one tile, differentiable: [1, H, W, C]."""
    assert max(width, height) <= tile
    n = gaussians.long()
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    dx, dy = (means2d[0, n, i] - at.to(means2d)[..., None] for i, at in enumerate((x, y)))
    a, b, c = conics[0, n].unbind(-1)
    alpha = (opacities[0, n] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)).clamp(max=0.999)
    alpha = torch.where(alpha < 1 / 255, 0, alpha)
    after = torch.cumprod(1 - alpha, dim=-1)
    before = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], dim=-1)
    return (torch.where(after > 1e-4, alpha * before, 0) @ colors[0, n])[None]


def rasterize_fwd(means2d, conics, colors, opacities, backgrounds, masks, width, height, tile, offsets, gaussians):
    image = composite(means2d, conics, colors, opacities, width, height, tile, gaussians)
    return image, torch.zeros_like(image[..., :1]), torch.zeros_like(image[..., 0]).int()


def rasterize_bwd(means2d, conics, colors, opacities, backgrounds, masks, width, height, tile, *rest):
    gaussians, v_colors, v_alphas, absgrad = rest[1], *rest[4:]
    assert not v_alphas.any()
    assert not absgrad
    leaves = [x.detach().requires_grad_() for x in (means2d, conics, colors, opacities)]
    means2d, conics, colors, opacities = leaves
    with torch.enable_grad():
        image = composite(means2d, conics, colors, opacities, width, height, tile, gaussians)
    v_means2d, v_conics, v_values, v_opacities = torch.autograd.grad(image, leaves, v_colors)
    return None, v_means2d, v_conics, v_values, v_opacities


@pytest.fixture
def replaced_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = SimpleNamespace(
        fully_fused_projection_fwd=projection_fwd,
        fully_fused_projection_bwd=projection_bwd,
        isect_tiles=isect_tiles,
        isect_offset_encode=_torch_impl._isect_offset_encode,
        rasterize_to_pixels_fwd=rasterize_fwd,
        rasterize_to_pixels_bwd=rasterize_bwd,
        CameraModelType=SimpleNamespace(),
        PINHOLE="pinhole",  # where gsplat looks for it
    )
    install_backend(monkeypatch, kernels)


# --- splatting by hand ------------------------------------------------------------------------------------------------


class Gaussians(NamedTuple):
    means: np.ndarray
    tangents: np.ndarray
    opacities: np.ndarray
    values: np.ndarray


def by_hand(gaussians: Gaussians, camera: Camera) -> np.ndarray:
    """Zwicker's splatting pixel by pixel, the projection's Jacobian from finite differences: [H, W, C], float64."""
    view, K = camera.viewmat.numpy().astype(float), camera.K.numpy().astype(float)

    def pixel(point: np.ndarray) -> np.ndarray:
        seen = K @ (view[:3, :3] @ point + view[:3, 3])
        return seen[:2] / seen[2]

    image = np.zeros((camera.height, camera.width, gaussians.values.shape[1]))
    T = np.ones(image.shape[:2])
    for n in np.argsort((gaussians.means @ view[:3, :3].T + view[:3, 3])[:, 2]):
        mean, A = gaussians.means[n], gaussians.tangents[n]
        h = 1e-5
        J = np.stack([(pixel(mean + h * e) - pixel(mean - h * e)) / (2 * h) for e in np.eye(3)], axis=1)
        precision = np.linalg.inv(J @ A @ A.T @ J.T + 0.3 * np.eye(2))
        for row in range(camera.height):
            for column in range(camera.width):
                d = np.array([column + 0.5, row + 0.5]) - pixel(mean)
                alpha = min(0.999, gaussians.opacities[n] * np.exp(-0.5 * d @ precision @ d))
                if alpha >= 1 / 255 and T[row, column] * (1 - alpha) > 1e-4:
                    image[row, column] += T[row, column] * alpha * gaussians.values[n]
                    T[row, column] *= 1 - alpha
    return image


def scene(count: int, channels: int) -> tuple[Gaussians, Camera]:
    """Gaussians in generic pose before a generic camera, each some pixels wide; the first is isotropic."""
    made = random_scene(count, SIZE, SIZE, scales=(0.1, 0.4))
    third = made.scales.flip(0)[:, :1]
    tangents = made.frames * torch.cat([made.scales, third], dim=1)[:, None]
    tangents[0] = made.frames[0] * 0.25
    values = torch.randn(count, channels, dtype=torch.float64)
    return Gaussians(*(x.numpy() for x in (made.means * 0.5, tangents, made.opacities, values))), made.camera


def layer_of(gaussians: Gaussians, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Layer:
    return Layer(*(torch.from_numpy(x).to(device, dtype).requires_grad_() for x in gaussians))


# --- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("replaced_kernels")
def test_one_round_gaussian() -> None:
    """On the axis, Sigma = s^2 I has the image ((f s / z)^2 + 0.3) I: a closed form without a matrix."""
    s, z, f, opacity = 0.2, 2.0, 20.0, 0.8
    K = torch.tensor([[f, 0, 8], [0, f, 8], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(torch.eye(4, dtype=torch.float64), K, SIZE, SIZE)
    means = torch.tensor([[0.0, 0, z]], dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    layer = Layer(means, turn[None] * s, torch.full((1,), opacity).double(), torch.ones(1, 1).double())
    (image,) = rasterize([layer], camera, "cuda")
    d = torch.arange(SIZE) + 0.5 - 8.0
    squared = d[:, None] ** 2 + d**2
    expected = opacity * torch.exp(-0.5 * squared.double() / ((f * s / z) ** 2 + 0.3))
    torch.testing.assert_close(image[..., 0], torch.where(expected < 1 / 255, 0, expected), atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("replaced_kernels")
def test_values_are_splatting_by_hand() -> None:
    """Channels 28 are padded by gsplat, 40 are two passes; layers do not see each other."""
    gaussians, camera = scene(12, 40)
    layers = [layer_of(gaussians._replace(values=gaussians.values[:, :c])) for c in (4, 28, 40)]
    expected = by_hand(gaussians, camera)
    assert np.abs(expected).max() > 0.5
    for image in rasterize(layers, camera, "cuda"):
        np.testing.assert_allclose(image.detach().numpy(), expected[..., : image.shape[-1]], atol=1e-6)


@pytest.mark.usefixtures("replaced_kernels")
def test_gradients_are_finite_differences_by_hand() -> None:
    """Along random directions of all means, tangents, opacities and values; routes end where they are detached."""
    gaussians, camera = scene(5, 2)
    layer = layer_of(gaussians)
    detached = Layer(layer.means, layer.tangents.detach(), layer.opacities.detach(), layer.values.detach())
    (image, other) = rasterize([layer, detached], camera, "cuda")
    cotangent = torch.randn(image.shape, dtype=torch.float64)
    image.backward(cotangent, retain_graph=True)
    gradients = [x.grad.clone() for x in layer if x.grad is not None]
    for name, gradient in zip(Gaussians._fields, gradients, strict=True):
        for _ in range(3):
            x, h = getattr(gaussians, name), 1e-6
            direction = np.random.default_rng(0).standard_normal(x.shape)
            ahead, behind = (by_hand(gaussians._replace(**{name: x + s * h * direction}), camera) for s in (1, -1))
            slope = ((ahead - behind) / (2 * h) * cotangent.numpy()).sum()
            assert float((gradient.numpy() * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-4), name
    layer.means.grad = layer.tangents.grad = None
    other.backward(cotangent)
    assert layer.tangents.grad is None
    assert relative_error(layer.means.grad, gradients[0]) < 1e-9


@pytest.mark.usefixtures("replaced_kernels")
def test_flat_gaussians_and_hidden_ones_have_finite_gradients() -> None:
    """A third scale of 0, an opacity of 0, and one behind the camera."""
    gaussians, camera = scene(4, 3)
    gaussians.tangents[1, :, 2] = 0
    gaussians.opacities[2] = 0
    behind = torch.tensor([0, 0, -1.0], dtype=torch.float64)
    gaussians.means[3] = (camera.viewmat[:3, :3].T @ (behind - camera.viewmat[:3, 3])).numpy()
    layer = layer_of(gaussians)
    pull_back(rasterize([layer], camera, "cuda"))
    for x in layer:
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
        assert not x.grad[3].any()
        assert x.grad[:2].any()


@pytest.mark.parametrize("executor", ["auto", "cpu", "reference"])
def test_only_cuda_renders_them(executor: str) -> None:
    gaussians, camera = scene(2, 1)
    with pytest.raises(ValueError, match="on CUDA only"):
        rasterize([layer_of(gaussians)], camera, executor)  # pyright: ignore[reportArgumentType]


def test_surfels_and_gaussians_are_not_mixed() -> None:
    gaussians, camera = scene(2, 1)
    layer = layer_of(gaussians)
    with pytest.raises(ValueError, match="must be"):
        rasterize([layer, layer._replace(tangents=layer.tangents[..., :2])], camera, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_card_splats_as_by_hand() -> None:
    gaussians, camera = scene(12, 28)
    on_card = to_dtype(camera, torch.float32)
    on_card = Camera(on_card.viewmat.cuda(), on_card.K.cuda(), SIZE, SIZE)
    layer = layer_of(gaussians, torch.float32, "cuda")
    (image,) = rasterize([layer], on_card)
    np.testing.assert_allclose(image.detach().cpu().numpy(), by_hand(gaussians, camera), atol=1e-4)
    cotangent = torch.randn(image.shape, dtype=torch.float64)
    image.backward(cotangent.to(image))
    for name, x in zip(Gaussians._fields, layer, strict=True):
        value, h = getattr(gaussians, name), 1e-6
        direction = np.random.default_rng(0).standard_normal(value.shape)
        ahead, behind = (by_hand(gaussians._replace(**{name: value + s * h * direction}), camera) for s in (1, -1))
        slope = ((ahead - behind) / (2 * h) * cotangent.numpy()).sum()
        assert x.grad is not None
        assert float((x.grad.cpu().numpy() * direction).sum()) == pytest.approx(slope, rel=1e-2, abs=1e-2), name
