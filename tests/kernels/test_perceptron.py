"""The CPU's perceptron against plain torch in double precision: values, gradients, rows without gradient, threads."""

import itertools

import numba
import pytest
import torch
from torch import Tensor

from fmgs_nerfstudio.kernels.perceptron import BLOCK, Layer, perceptron, perceptron_reference

WIDTHS = [19, 32, 48, 24]


def layers(dtype: torch.dtype = torch.float32, widths: list[int] = WIDTHS) -> list[Layer]:
    generator = torch.Generator().manual_seed(0)
    made = [
        (torch.randn(o, i, generator=generator) * i**-0.5, torch.randn(o, generator=generator))
        for i, o in itertools.pairwise(widths)
    ]
    return [(weight.to(dtype).requires_grad_(), bias.to(dtype).requires_grad_()) for weight, bias in made]


def pulled(x: Tensor, made: list[Layer], cotangent: Tensor, reference: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Values, and the gradients of points, weights and biases."""
    x = x.clone().requires_grad_()
    y = (perceptron_reference if reference else perceptron)(x, made)
    gradients = torch.autograd.grad(y, [x, *(tensor for layer in made for tensor in layer)], cotangent)
    return y.detach(), list(gradients)


# One row; less than a block; a share; several, of unequal length
@pytest.mark.parametrize("count", [1, 100, 700, 40 * BLOCK + 3])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_values_and_gradients_are_the_references(count: int, share: float) -> None:
    """`share` of the rows have a gradient."""
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, WIDTHS[0], generator=generator)
    cotangent = torch.randn(count, WIDTHS[-1], generator=generator)
    cotangent[torch.rand(count, generator=generator) >= share] = 0
    y, gradients = pulled(x, layers(), cotangent)
    expected, references = pulled(x.double(), layers(torch.float64), cotangent.double(), reference=True)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-5 * count**0.5)


# Tiles of one vector and of two; widths below a vector, and those whose rows would meet in the cache
@pytest.mark.parametrize("widths", [[1, 128, 1], [63, 64, 3], [32, 64, 64, 28], [40, 17]])
def test_all_widths(widths: list[int]) -> None:
    x, cotangent = torch.randn(300, widths[0]), torch.randn(300, widths[-1])
    y, gradients = pulled(x, layers(widths=widths), cotangent)
    expected, references = pulled(x.double(), layers(torch.float64, widths), cotangent.double(), reference=True)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 3 * BLOCK + 5, 60_000])
def test_values_are_the_same_without_a_backward_pass(count: int) -> None:
    x, made = torch.randn(count, WIDTHS[0]), layers()
    with torch.no_grad():
        y = perceptron(x, made)
    assert torch.equal(y, perceptron(x, made).detach())


def test_nan_is_not_hidden_by_relu() -> None:
    x = torch.randn(200, WIDTHS[0])
    x[7] = float("nan")
    y = perceptron(x, layers())
    assert y[7].isnan().all()
    assert y[[*range(7), *range(8, 200)]].isfinite().all()


def test_points_without_gradient_get_none_and_parameters_the_same() -> None:
    x, made, cotangent = torch.randn(50, WIDTHS[0]), layers(), torch.randn(50, WIDTHS[-1])
    parameters = [tensor for layer in made for tensor in layer]
    alone = torch.autograd.grad(perceptron(x, made), parameters, cotangent)
    for gradient, with_points in zip(alone, pulled(x, made, cotangent)[1][1:], strict=True):
        assert torch.equal(gradient, with_points)


def test_same_bits_for_any_number_of_threads() -> None:
    x, cotangent = torch.randn(40 * BLOCK, WIDTHS[0]), torch.randn(40 * BLOCK, WIDTHS[-1])
    several = pulled(x, layers(), cotangent)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        y, gradients = pulled(x, layers(), cotangent)
    finally:
        numba.set_num_threads(threads)
    assert torch.equal(several[0], y)
    assert all(torch.equal(a, b) for a, b in zip(several[1], gradients, strict=True))
