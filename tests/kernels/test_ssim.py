"""SSIM: the fused kernel against the plain form, the plain form against scipy, torchmetrics and finite differences."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchmetrics.functional.image import structural_similarity_index_measure

from fmgs_nerfstudio.kernels.ssim import ssim, ssim_reference


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


@pytest.mark.parametrize("function", [ssim, ssim_reference])
def test_equals_torchmetrics_on_a_black_border(function):
    """torchmetrics pads by reflection, which gives zeros too where the image ends in 6 px of black."""
    image, target = (torch.nn.functional.pad(x, (0, 0, 6, 6, 6, 6)) for x in images(40, 50))
    x, y = (values.movedim(-1, 0)[None] for values in (image, target))
    _, map = structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    torch.testing.assert_close(function(image, target), map.mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 33, 3), (64, 64, 1), (4, 7, 3), (1, 1, 3)])
def test_kernel_equals_the_plain_form(shape):
    image, target = images(*shape)
    image.requires_grad_()
    value, expected = ssim(image, target), ssim_reference(image.double(), target.double())
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


def test_plain_gradient_by_finite_differences():
    image, target = images(7, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda image: ssim_reference(image, target), image.requires_grad_())


def test_no_gradient_to_the_target_and_no_second():
    image, target = (x.requires_grad_() for x in images(8, 8))
    value = ssim(image, target)
    assert torch.autograd.grad(value, target, allow_unused=True)[0] is None
    (grad,) = torch.autograd.grad(ssim(image, target).square(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
