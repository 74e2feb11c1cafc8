"""The hash encoding against scalar uint32 arithmetic (tiny-cuda-nn's layout), closed forms and autograd."""

import math
import sys
import types
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_cuda_nn as tiny_cuda_nn_stand_in
from support.fake_cuda import fake_cuda

from fmgs_nerfstudio.fields import hash_grid, hash_kernels
from fmgs_nerfstudio.fields.hash_grid import (
    HashEncoding,
    HashGridConfig,
    corners,
    encode,
    encode_reference,
    encode_tinycudann,
    levels,
    locate,
)

SMALL = HashGridConfig(levels=5, features_per_level=2, log2_hashmap_size=9, base_resolution=4, max_resolution=40)
CONFIGS = [
    SMALL,
    HashGridConfig(),
    HashGridConfig(levels=1, features_per_level=4, log2_hashmap_size=12, base_resolution=8, max_resolution=8),
    HashGridConfig(levels=3, features_per_level=2, log2_hashmap_size=14, base_resolution=16, max_resolution=64),
]


def scalar_level(config: HashGridConfig, level: int) -> tuple[float, int, int]:
    """Scale, resolution and entries of a level, one number at a time."""
    growth = np.float32(math.log2(np.float32(config.per_level_scale)))
    exponent = np.float32(np.float32(level) * growth)
    scale = np.float32(np.float32(np.float32(2.0 ** float(exponent)) * np.float32(config.base_resolution)) - 1)
    resolution = math.ceil(scale) + 1
    entries = min(math.ceil(resolution**3 / 8) * 8, 1 << config.log2_hashmap_size)
    return float(scale), resolution, entries


def scalar_corner(x: np.ndarray, corner: int, scale: float, resolution: int, entries: int) -> int:
    """Entry of one corner inside its level, in uint32 arithmetic."""
    cell = [math.floor(float(np.float32(np.float32(value) * np.float32(scale)) + np.float32(0.5))) for value in x]
    i, j, k = (cell[axis] + (corner >> axis & 1) & 0xFFFFFFFF for axis in range(3))
    if resolution <= 1625 and resolution**3 <= entries:
        index = (i + j * resolution + k * resolution * resolution) & 0xFFFFFFFF
    else:
        index = i ^ (j * 2654435761 & 0xFFFFFFFF) ^ (k * 805459861 & 0xFFFFFFFF)
    return index % entries


def points(count: int, seed: int = 0) -> torch.Tensor:
    ends = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.5]])
    return torch.cat([ends, torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))])


@pytest.mark.parametrize("config", CONFIGS)
def test_layout(config):
    grid, first = levels(config), 0
    for level in range(config.levels):
        scale, resolution, entries = scalar_level(config, level)
        assert float(grid.scale[level]) == scale
        assert int(grid.resolution[level]) == resolution
        assert int(grid.entries[level]) == entries
        assert int(grid.first[level]) == first
        first += entries
    assert grid.rows == first
    assert HashEncoding(config).params.shape == (first * config.features_per_level,)


def test_layout_of_the_default_levels():
    grid = levels(HashGridConfig())
    assert grid.scale[0] == 15
    assert grid.scale[-1] == pytest.approx(510.5, rel=1e-6)
    assert list(grid.resolution[:5]) == [16, 21, 26, 32, 41]
    assert grid.resolution[-1] == 512
    assert list(grid.entries[:4]) == [4096, 9264, 17576, 32768]  # 9261 is rounded up to a multiple of 8
    assert list(grid.dense[:5]) == [True, True, True, True, False]
    assert (grid.entries[4:] == 65536).all()
    assert (abs(grid.scale[1:] - np.round(grid.scale[1:])) > 1e-3).all()  # no ceil() hangs on a last bit


@pytest.mark.parametrize("config", CONFIGS)
def test_indices_are_tiny_cuda_nns(config):
    x = torch.cat([points(40), torch.tensor([[-0.3, 1.2, 0.5]])])
    index, weights = corners(x, config)
    assert index.shape == weights.shape == (len(x), config.levels, 8)
    first = levels(config).first
    for n, point in enumerate(x.numpy()):
        for level in range(config.levels):
            expected = [scalar_corner(point, c, *scalar_level(config, level)) + first[level] for c in range(8)]
            assert index[n, level].tolist() == expected


def test_half_offset_and_wrap():
    """At x = 1 of a 16-vertex level the cell is 15, so its far vertex 16 is the next row's vertex 0."""
    config = HashGridConfig(levels=1, log2_hashmap_size=16, base_resolution=16, max_resolution=16)
    index, weights = corners(torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), config)
    assert index[0, 0, :4].tolist() == [15, 16, 31, 32]
    assert weights[0, 0].tolist() == [0.125] * 8  # 15 + 0.5 and twice 0 + 0.5
    assert index[1, 0, 7] == (16 + 16 * 16 + 16 * 256) % 4096


@pytest.mark.parametrize("config", CONFIGS)
def test_kernel_finds_the_same_cells(config):
    x = torch.cat([points(500), torch.rand(50, 3) * 4 - 2])
    index, fraction = torch.empty(config.levels, len(x), 8, dtype=torch.int32), torch.empty(config.levels, len(x), 3)
    hash_kernels.locate(x.numpy(), *levels(config), index.numpy(), fraction.numpy())
    expected_index, expected_fraction = locate(x, config)
    # A fused multiply-add may put a point on the other side of a cell's face, where the encoding is continuous.
    same = ((fraction - expected_fraction).abs() < 0.5).all(dim=-1)
    assert same.float().mean() > 0.999
    assert torch.equal(index[same].long(), expected_index[same])
    torch.testing.assert_close(fraction[same], expected_fraction[same], rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), st.floats(-2, 2, width=32))
def test_constant_table_gives_the_constant(position, value):
    config = SMALL
    params = torch.full((levels(config).rows * 2,), value)
    out = encode(params, torch.tensor([position]), config)
    torch.testing.assert_close(out, torch.full_like(out, value), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("executor", [encode, encode_reference])
def test_dense_level_interpolates_linear_functions(executor):
    """Vertex (i, j, k) sits at (index - 0.5) / scale, so a linear table gives the linear function and its slope."""
    config = HashGridConfig(levels=1, features_per_level=2, base_resolution=9, max_resolution=9)
    slope = torch.tensor([[0.3, 2.0], [-0.7, 0.0], [1.1, -0.5]])
    entry = torch.arange(levels(config).rows)
    vertex = torch.stack([entry % 9, entry // 9 % 9, entry // 81], dim=-1)
    params = (((vertex - 0.5) / 8) @ slope).flatten()
    x = (points(100) * 0.9).requires_grad_()  # away from the wrap at 1
    out = executor(params, x, config)
    torch.testing.assert_close(out, x.detach() @ slope, rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, slope.sum(dim=1).expand_as(grad), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_kernels_equal_the_reference(config):
    torch.manual_seed(1)
    params = torch.randn(levels(config).rows * config.features_per_level, requires_grad=True)
    x = torch.cat([torch.rand(300, 3), torch.rand(20, 3) * 3 - 1]).requires_grad_()
    grad_out = torch.randn(len(x), config.channels)
    out, expected = encode(params, x, config), encode_reference(params, x, config)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4 * config.max_resolution / 40)
    grads = torch.autograd.grad(out, (params, x), grad_out)
    expected_grads = torch.autograd.grad(expected, (params, x), grad_out)
    assert torch.linalg.vector_norm(grads[0] - expected_grads[0]) < 1e-4 * torch.linalg.vector_norm(expected_grads[0])
    assert torch.linalg.vector_norm(grads[1] - expected_grads[1]) < 1e-3 * torch.linalg.vector_norm(expected_grads[1])


def test_reference_gradients_by_finite_differences():
    params = torch.randn(levels(SMALL).rows * 2, dtype=torch.float64, requires_grad=True)
    x = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda params, x: encode_reference(params, x, SMALL), (params, x), eps=1e-6, fast_mode=True
    )


def test_module():
    torch.manual_seed(0)
    encoding = HashEncoding(SMALL)
    assert list(encoding.state_dict()) == ["params"]
    assert 0.9e-4 < encoding.params.abs().max() <= 1e-4
    x = torch.rand(50, 3)
    grads = [torch.autograd.grad(encoding(x).square().sum(), encoding.params)[0] for _ in range(2)]
    assert torch.equal(*grads)
    assert encoding(torch.rand(0, 3)).shape == (0, 10)
    (grad,) = torch.autograd.grad(encoding(x).square().sum(), encoding.params, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
    torch.testing.assert_close(encoding.double()(x.double()).float(), encoding.float()(x), rtol=1e-4, atol=1e-8)


@pytest.fixture
def tiny_cuda_nn(monkeypatch):
    """As if it were installed, on a fake card."""
    stand_in: Any = types.ModuleType("tinycudann")
    stand_in.Encoding = tiny_cuda_nn_stand_in.Encoding
    stand_in.__spec__ = ModuleSpec("tinycudann", None)
    monkeypatch.setitem(sys.modules, "tinycudann", stand_in)
    hash_grid._tinycudann_encoding.cache_clear()
    with fake_cuda():
        yield
    hash_grid._tinycudann_encoding.cache_clear()


@pytest.mark.usefixtures("tiny_cuda_nn")
@pytest.mark.parametrize("count", [1, 256, 300])
def test_tinycudann_runs_with_our_parameters(count):
    """In float32, on whole granules; its own parameters, of its own seed, are neither read nor moved."""
    params, x = torch.randn(levels(SMALL).rows * 2, requires_grad=True), torch.rand(count, 3, requires_grad=True)
    grad_out = torch.randn(count, SMALL.channels)
    expected = encode_reference(params, x, SMALL)
    expected_grads = torch.autograd.grad(expected, (params, x), grad_out)
    on_card = [value.detach().to("cuda").requires_grad_() for value in (params, x)]
    out = encode(on_card[0], on_card[1], SMALL)
    grads = torch.autograd.grad(out, on_card, grad_out.to("cuda"))
    native: Any = hash_grid._tinycudann_encoding(SMALL).native
    assert native.batches == [256 if count <= 256 else 512]
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.detach().cpu(), expected.detach(), rtol=1e-6, atol=1e-6)
    for grad, reference in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad.cpu(), reference, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="lays out"):
        encode(on_card[0][:-2], on_card[1], SMALL)


@pytest.mark.usefixtures("tiny_cuda_nn")
def test_a_module_trains_through_tinycudann_and_doubles_do_not():
    """A step moves the flat vector that the checkpoint has; float64 is left to the reference, which has it."""
    encoding = HashEncoding(SMALL)
    encoding.params = torch.nn.Parameter(encoding.params.detach().to("cuda"))
    before = encoding.params.detach().cpu().clone()
    x = torch.rand(70, 3).to("cuda")
    encoding(x).sum().backward()
    torch.optim.SGD(encoding.parameters(), lr=1.0).step()
    expected = torch.autograd.functional.jacobian(lambda p: encode_reference(p, x.cpu(), SMALL).sum(), before)
    torch.testing.assert_close(encoding.params.detach().cpu(), before - expected, rtol=1e-5, atol=1e-6)
    double = encode(encoding.params.double(), x.double(), SMALL)
    assert double.dtype == torch.float64
    native: Any = hash_grid._tinycudann_encoding(SMALL).native
    assert native.batches == [256]


def test_without_tinycudann_the_torch_encoding_runs_on_a_card():
    assert find_spec("tinycudann") is None
    params, x = torch.randn(levels(SMALL).rows * 2), torch.rand(70, 3)
    with fake_cuda():
        out = encode(params.to("cuda"), x.to("cuda"), SMALL)
        assert out.is_cuda
        torch.testing.assert_close(out.cpu(), encode_reference(params, x, SMALL))


def test_a_tinycudann_that_cannot_be_loaded_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    with pytest.raises(RuntimeError, match="pip uninstall tinycudann"):
        encode_tinycudann(torch.zeros(levels(CONFIGS[3]).rows * 2), torch.rand(3, 3), CONFIGS[3])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
@pytest.mark.parametrize("config", CONFIGS)
def test_cuda_equals_the_reference(config):
    """tiny-cuda-nn's own kernels where tinycudann is installed."""
    torch.manual_seed(1)
    params = torch.randn(levels(config).rows * config.features_per_level, requires_grad=True, device="cuda")
    x = torch.rand(300, 3, device="cuda").requires_grad_()
    grad_out = torch.randn(300, config.channels, device="cuda")
    out, expected = encode(params, x, config), encode_reference(params, x, config)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4 * config.max_resolution / 40)
    grads = torch.autograd.grad(out, (params, x), grad_out)
    for grad, reference in zip(grads, torch.autograd.grad(expected, (params, x), grad_out), strict=True):
        assert torch.linalg.vector_norm(grad - reference) < 1e-3 * torch.linalg.vector_norm(reference)
