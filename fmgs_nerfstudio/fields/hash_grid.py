"""Multi-resolution hash encoding [40] with tiny-cuda-nn's table layout and indexing.

The flat parameter vector *is* tiny-cuda-nn's `params`: a model trained with one executor opens with the other. The
plain torch form (`encode_reference`) is the definition; numba on CPUs and tiny-cuda-nn on CUDA compute the same.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.fields import hash_kernels
from fmgs_nerfstudio.kernels.constants import constant

_PRIMES = (1, 2654435761, 805459861)
_LARGEST_DENSE_RESOLUTION = 1625  # its cube is the last that fits in uint32
_UINT32 = 0xFFFFFFFF


@dataclass(frozen=True)
class HashGridConfig:
    """Size of a multi-resolution hash grid."""

    levels: int = 16
    """Number of resolutions."""
    features_per_level: int = 2
    """Features per entry; the encoding has levels * features-per-level channels."""
    log2_hashmap_size: int = 16
    """Base-2 logarithm of the largest number of entries per level."""
    base_resolution: int = 16
    """Vertices per axis of the coarsest level."""
    max_resolution: int = 512
    """Vertices per axis of the finest level."""

    @property
    def per_level_scale(self) -> float:
        """Ratio of neighbouring levels' resolutions."""
        if self.levels == 1:
            return 1.0
        # The half keeps scales that would be whole (31, 63, ..) off ceil()'s edge, where the last bit of an exp2f
        # would decide the layout of the table; the finest level still has max_resolution vertices.
        return ((self.max_resolution - 0.5) / self.base_resolution) ** (1 / (self.levels - 1))

    @property
    def channels(self) -> int:
        """Channels of the encoding."""
        return self.levels * self.features_per_level


class Levels(NamedTuple):
    """Per level l, arrays [L]; the entries of level l are rows `first[l] : first[l] + entries[l]` of the table."""

    scale: Array
    """float32: grid units per unit of position."""
    resolution: Array
    """uint32: vertices per axis."""
    entries: Array
    """uint32."""
    first: Array
    """int64: running sum of entries."""
    dense: Array
    """bool: an entry for each vertex; otherwise vertices are hashed."""

    @property
    def rows(self) -> int:
        """Entries of all levels together."""
        return int(self.entries.sum())


@functools.cache
def levels(config: HashGridConfig) -> Levels:
    """tiny-cuda-nn's table layout, in its float32 arithmetic."""
    growth = np.float32(np.log2(np.float64(np.float32(config.per_level_scale))))
    exponent = np.arange(config.levels, dtype=np.float32) * growth
    # log2 and exp2 through float64, rounded: what a good log2f and exp2f give on any machine
    scale = np.exp2(exponent.astype(np.float64)).astype(np.float32) * np.float32(config.base_resolution) - np.float32(1)
    resolution = np.ceil(scale).astype(np.int64) + 1
    vertices = resolution**3
    entries = np.minimum((vertices + 7) // 8 * 8, 2**config.log2_hashmap_size)
    dense = (resolution <= _LARGEST_DENSE_RESOLUTION) & (vertices <= entries)
    first = np.cumsum(entries) - entries
    return Levels(scale, resolution.astype(np.uint32), entries.astype(np.uint32), first, dense)


def locate(x: Float[Tensor, "N 3"], config: HashGridConfig) -> tuple[Int[Tensor, "L N 8"], Float[Tensor, "L N 3"]]:
    """Cell of each point in each level: rows of its eight corners in the table, and the position inside the cell.

    Corner c is the cell plus (c & 1, c >> 1 & 1, c >> 2). Differentiable to `x` through the position inside the cell.
    Outside [0, 1] the index wraps, as tiny-cuda-nn's does.
    """
    grid = levels(config)

    def per_level(values: Array, dtype: torch.dtype = torch.int64) -> Tensor:
        return constant(tuple(values.ravel().tolist()), dtype, x.device).view(values.shape)

    p = x * per_level(grid.scale, x.dtype)[:, None, None] + 0.5
    cell = p.detach().floor()
    both = constant((0, 1), torch.int64, x.device)
    vertex = (cell.long()[..., None] + both & _UINT32) * per_level(_strides(config))[:, None, :, None]
    i, j, k = (v.unflatten(2, at) for v, at in zip(vertex.unbind(2), ((1, 1, 2), (1, 2, 1), (2, 1, 1)), strict=True))
    dense = int(grid.dense.sum())  # the coarse levels
    rows = torch.cat([i[:dense] + j[:dense] + k[:dense], i[dense:] ^ j[dense:] ^ k[dense:]]).flatten(2) & _UINT32
    return per_level(grid.first)[:, None, None] + rows % per_level(grid.entries)[:, None, None], p - cell


def _strides(config: HashGridConfig) -> Array:
    """int64 [L, 3]: what a vertex's coordinates are multiplied by before they are added, or in hashed levels xored."""
    resolution, dense = levels(config).resolution.astype(np.int64), levels(config).dense
    return np.where(dense[:, None], resolution[:, None] ** np.arange(3), np.array(_PRIMES, dtype=np.int64))


def trilinear_weights(fraction: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 8"]:
    """Weights of a cell's eight corners, in the order of `locate`."""
    x, y, z = torch.stack([1 - fraction, fraction], dim=-1).unbind(-2)
    return (z[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]).flatten(-3)


def corners(x: Float[Tensor, "N 3"], config: HashGridConfig) -> tuple[Int[Tensor, "N L 8"], Float[Tensor, "N L 8"]]:
    """Table rows (entries) and trilinear weights of the eight corners around each point of [0, 1]^3, per level."""
    index, fraction = locate(x, config)
    return index.transpose(0, 1), trilinear_weights(fraction).transpose(0, 1)


def interpolate_reference(
    table: Float[Tensor, "R F"], index: Int[Tensor, "L N 8"], fraction: Float[Tensor, "L N 3"]
) -> Float[Tensor, "N LF"]:
    """Weighted sum of the corners' rows per level, levels side by side; plain torch, differentiable by autograd."""
    return interpolate(table, index.transpose(0, 1), trilinear_weights(fraction).transpose(0, 1))


def interpolate(
    table: Float[Tensor, "R F"], index: Int[Tensor, "N L 8"], weights: Float[Tensor, "N L 8"]
) -> Float[Tensor, "N LF"]:
    """`interpolate_reference` of trilinear weights that are known. Rows lie as the result does: none is copied."""
    # index_select, since its backward (index_add) is the fastest that torch has for this
    rows = table.index_select(0, index.flatten()).view(*index.shape, -1)
    return (rows * weights[..., None]).sum(dim=-2).flatten(1)


def encode_reference(
    params: Float[Tensor, "P"], x: Float[Tensor, "N 3"], config: HashGridConfig
) -> Float[Tensor, "N LF"]:
    """The encoding in plain torch, for any device and dtype; the definition the executors are tested against."""
    return interpolate_reference(params.view(-1, config.features_per_level), *locate(x, config))


class _EncodeOnCpu(torch.autograd.Function):
    """`encode_reference` as numba kernels, with gradients to the table and to the positions."""

    @staticmethod
    def forward(ctx: Any, params: Tensor, x: Tensor, config: HashGridConfig) -> Tensor:
        grid = levels(config)
        x = x.detach().contiguous()
        index = torch.empty(config.levels, len(x), 8, dtype=torch.int32)
        fraction = torch.empty(config.levels, len(x), 3)
        hash_kernels.locate(x.numpy(), *grid, index.numpy(), fraction.numpy())
        table = params.detach().view(-1, config.features_per_level)
        ctx.save_for_backward(table, index, fraction)
        ctx.scale = grid.scale
        return gather(table, index, fraction)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        return *_gradients(ctx, *grad_outputs), None


@once_differentiable
def _gradients(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None]:
    table, index, fraction = ctx.saved_tensors
    grad_params = grad_x = None
    if ctx.needs_input_grad[0]:
        grad_params = scatter(grad_out, index, fraction, like=table).view(-1)
    if ctx.needs_input_grad[1]:
        grad_x = torch.zeros(index.shape[1], 3)
        hash_kernels.position_gradient(
            grad_out.contiguous().numpy(),
            table.numpy(),
            index.numpy(),
            fraction.numpy(),
            ctx.scale,
            (0,) * table.shape[1],
            grad_x.numpy(),
        )
    return grad_params, grad_x


def gather(
    table: Float[Tensor, "R F"], index: Int[Tensor, "L N 8"], fraction: Float[Tensor, "L N 3"]
) -> Float[Tensor, "N LF"]:
    """`interpolate_reference` as a numba kernel (float32 on CPU, int32 index), without autograd."""
    out = table.new_empty(index.shape[1], index.shape[0] * table.shape[1])
    hash_kernels.gather(table.numpy(), index.numpy(), fraction.numpy(), (0,) * table.shape[1], out.numpy())
    return out


def scatter(
    grad_out: Float[Tensor, "N LF"], index: Int[Tensor, "L N 8"], fraction: Float[Tensor, "L N 3"], like: Tensor
) -> Float[Tensor, "R F"]:
    """Transpose of `gather`: the gradient of the table, shaped `like` it; deterministic."""
    grad_table = torch.zeros_like(like)
    lanes, workers = (0,) * like.shape[1], min(numba.get_num_threads(), len(index))
    hash_kernels.scatter(
        grad_out.contiguous().numpy(), index.numpy(), fraction.numpy(), lanes, workers, grad_table.numpy()
    )
    return grad_table


@functools.cache
def _tinycudann_encoding(config: HashGridConfig) -> nn.Module:
    try:
        import tinycudann
    except (ImportError, OSError) as error:
        raise RuntimeError(
            f"tinycudann is installed and cannot be loaded: {error}. Build it again for this torch "
            f"({torch.__version__}) and card, or use the torch encoding: pip uninstall tinycudann"
        ) from error

    return tinycudann.Encoding(
        n_input_dims=3,
        encoding_config={
            "otype": "HashGrid",
            "n_levels": config.levels,
            "n_features_per_level": config.features_per_level,
            "log2_hashmap_size": config.log2_hashmap_size,
            "base_resolution": config.base_resolution,
            "per_level_scale": config.per_level_scale,
        },
        dtype=torch.float32,
    )


def encode_tinycudann(
    params: Float[Tensor, "P"], x: Float[Tensor, "N 3"], config: HashGridConfig
) -> Float[Tensor, "N LF"]:
    """The encoding by tiny-cuda-nn (CUDA), run with our parameters in place of its own."""
    encoding = _tinycudann_encoding(config)
    own = encoding.get_parameter("params")
    if own.shape != params.shape:
        raise RuntimeError(
            f"tiny-cuda-nn lays out {own.numel()} parameters for {config}, expected {params.numel()}: "
            "uninstall tinycudann to use the torch encoding, and report this."
        )
    return torch.func.functional_call(encoding, {"params": params}, (x,))


def encode(params: Float[Tensor, "P"], x: Float[Tensor, "N 3"], config: HashGridConfig) -> Float[Tensor, "N LF"]:
    """The encoding by the executor for the tensors' device."""
    if x.dtype == torch.float32 and x.device.type == "cpu":
        return _EncodeOnCpu.apply(params, x, config)
    if x.is_cuda and x.dtype == torch.float32 and importlib.util.find_spec("tinycudann"):
        return encode_tinycudann(params, x, config)
    return encode_reference(params, x, config)


class HashEncoding(nn.Module):
    """Multi-resolution hash encoding H() of moving points (Eq. 9), with gradients to the table and to the points."""

    def __init__(self, config: HashGridConfig) -> None:
        super().__init__()
        self.config = config
        self.params = nn.Parameter(torch.empty(levels(config).rows * config.features_per_level).uniform_(-1e-4, 1e-4))

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N LF"]:
        """Encode points of [0, 1]^3; features are level-major."""
        return encode(self.params, x, self.config)
