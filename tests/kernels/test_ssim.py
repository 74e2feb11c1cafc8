"""SSIM: the fused kernel against the plain form, the plain form against scipy, torchmetrics and finite differences."""

import re
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchmetrics.functional.image import structural_similarity_index_measure

from fmgs_nerfstudio.kernels.ssim import ssim, ssim_in_few, ssim_reference


def images(height: int, width: int, channels: int = 3, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height * width)
    image = torch.rand(height, width, channels, generator=generator, dtype=dtype)
    noise = torch.rand(height, width, channels, generator=generator, dtype=dtype)
    return image, 0.6 * image + 0.4 * noise


def test_plain_form_by_definition():
    """Moments under a gaussian window with zeros outside the image, by scipy."""
    image, target = images(17, 23, dtype=torch.float64)
    offset = np.arange(-5, 6)
    window = np.exp(-(offset**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(values: np.ndarray) -> np.ndarray:
        rows = ndimage.correlate1d(values, window, axis=0, mode="constant")
        return ndimage.correlate1d(rows, window, axis=1, mode="constant")

    x, y = image.numpy(), target.numpy()
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 1e-4, 9e-4
    expected = ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
    assert ssim_reference(image, target).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("function", [ssim, ssim_in_few, ssim_reference])
def test_equals_torchmetrics_on_a_black_border(function):
    """torchmetrics pads by reflection, which gives zeros too where the image ends in 6 px of black."""
    image, target = (torch.nn.functional.pad(x, (0, 0, 6, 6, 6, 6)) for x in images(40, 50))
    x, y = (values.movedim(-1, 0)[None] for values in (image, target))
    _, map = structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    torch.testing.assert_close(function(image, target), map.mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", [ssim, ssim_in_few])
@pytest.mark.parametrize("shape", [(40, 33, 3), (64, 64, 1), (4, 7, 3), (1, 1, 3)])
def test_kernel_equals_the_plain_form(shape, function):
    image, target = images(*shape)
    image.requires_grad_()
    value, expected = function(image, target), ssim_reference(image.double(), target.double())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(3 * value, image)
    (expected_grad,) = torch.autograd.grad(3 * expected, image)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-3, atol=1e-4 * expected_grad.abs().max().item())


def test_kernel_takes_views_and_flat_images():
    image, target = images(30, 20)
    turned = image.transpose(0, 1).requires_grad_()
    value = ssim(turned, target.transpose(0, 1))
    torch.testing.assert_close(value, ssim(image, target), rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(value, turned)
    (expected,) = torch.autograd.grad(ssim_reference(turned, target.transpose(0, 1)), turned)
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-7)

    flat = torch.full((16, 16, 3), 0.5, requires_grad=True)
    value = ssim(flat, flat.detach())
    torch.testing.assert_close(value, torch.tensor(1.0))
    assert torch.autograd.grad(value, flat)[0].abs().max() < 1e-4


@pytest.mark.parametrize("function", [ssim_in_few, ssim_reference])
def test_gradient_by_finite_differences(function):
    image, target = images(7, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda image: function(image, target), image.requires_grad_())


def by_convolution(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """By cuDNN on a card, in TF32 unless its flag is off."""
    offset = torch.arange(-5, 6, dtype=image.dtype)
    window = torch.exp(-(offset**2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = (values.movedim(-1, 0)[:, None] for values in (image, target))

    def blur(map: torch.Tensor) -> torch.Tensor:
        rows = torch.nn.functional.conv2d(map, window.view(1, 1, -1, 1), padding=(5, 0))
        return torch.nn.functional.conv2d(rows, window.view(1, 1, 1, -1), padding=(0, 5))

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    return ((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean()


@pytest.mark.parametrize("shape", [(40, 33, 3), (6, 50, 1), (5, 3, 2), (1, 1, 3)])
def test_plain_form_equals_convolutions(shape):
    image, target = images(*shape, dtype=torch.float64)
    image.requires_grad_()
    value, expected = ssim_reference(image, target), by_convolution(image, target)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(x, image)[0] for x in (value, expected)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12 * grads[1].abs().max().item())


@contextmanager
def tf32(allowed: bool):
    flags: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [holder.allow_tf32 for holder in flags]
    try:
        for holder in flags:
            holder.allow_tf32 = allowed
        yield
    finally:
        for holder, value in zip(flags, before, strict=True):
            holder.allow_tf32 = value


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_precision_flags_change_nothing(device):
    image, target = (x.to(device) for x in images(64, 48))
    image.requires_grad_()
    exact = ssim_reference(image.double(), target.double())
    (exact_grad,) = torch.autograd.grad(exact, image)
    found = []
    for allowed in (True, False):
        with tf32(allowed):
            value = ssim_reference(image, target)
            found.append((value, *torch.autograd.grad(value, image)))
        torch.testing.assert_close(value, exact.float(), rtol=1e-5, atol=0)
        torch.testing.assert_close(found[-1][1], exact_grad, rtol=1e-3, atol=1e-4 * exact_grad.abs().max().item())
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_plain_form_uses_nothing_that_the_flags_change():
    """Neither a convolution nor a product of matrices, forward and backward."""
    image, target = images(20, 20)
    image.requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ssim_reference(image, target).backward()
    names = {event.key for event in profile.key_averages()}
    assert "aten::add_" in names
    assert not [name for name in names if re.search("conv|mm|matmul|mv|dot", name)]


def test_no_gradient_to_the_target_and_no_second():
    image, target = (x.requires_grad_() for x in images(8, 8))
    value = ssim(image, target)
    assert torch.autograd.grad(value, target, allow_unused=True)[0] is None
    (grad,) = torch.autograd.grad(ssim(image, target).square(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
