"""The kernel for small products against torch, values and gradients."""

from __future__ import annotations

import pytest
import torch

from fmgs_nerfstudio.linalg import matmul, matvec


@pytest.mark.parametrize(("i", "j", "k"), [(3, 3, 3), (3, 3, 2), (3, 2, 3), (3, 3, 1), (1, 4, 2)])
def test_values_and_gradients(i: int, j: int, k: int) -> None:
    a, b = torch.randn(101, i, j, requires_grad=True), torch.randn(101, j, k, requires_grad=True)
    cotangent = torch.randn(101, i, k)
    ours, plain = matmul(a, b), torch.bmm(a, b)
    assert torch.allclose(ours, plain, atol=1e-5)
    got, expected = (torch.autograd.grad(value, (a, b), cotangent) for value in (ours, plain))
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(got, expected, strict=True))


def test_transposed_and_detached_inputs() -> None:
    a, b = torch.randn(7, 3, 2, requires_grad=True), torch.randn(7, 3, 3)
    product = matmul(a.transpose(1, 2), b)
    assert torch.allclose(product, torch.bmm(a.transpose(1, 2), b), atol=1e-5)
    product.sum().backward()
    assert a.grad is not None
    assert a.grad.shape == a.shape


def test_matvec_and_double() -> None:
    a, x = torch.randn(5, 3, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    assert torch.allclose(matvec(a, x), torch.einsum("nij,nj->ni", a, x))
    assert torch.allclose(matvec(a.float(), x.float()).double(), matvec(a, x), atol=1e-5)
