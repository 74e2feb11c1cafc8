"""tiny-cuda-nn's torch binding by its documented interface, its kernels in plain torch.

What its native module demands, this demands: a batch of whole granules, contiguous float32 points on the card, and one
flat vector of parameters in the precision that the module was made for, which its output has too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from support.fake_cuda import CudaTensor
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from fmgs_nerfstudio.fields.hash_grid import HashGridConfig, encode_reference, levels

GRANULARITY = 256


class Native:
    """The compiled part."""

    def __init__(self, config: HashGridConfig, precision: torch.dtype) -> None:
        self.config, self.precision = config, precision
        self.n_params = levels(config).rows * config.features_per_level
        self.batches: list[int] = []

    def initial_params(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(self.n_params, generator=generator) * 2e-4 - 1e-4

    def fwd(self, x: Tensor, params: Tensor) -> Tensor:
        self._check(x, params)
        assert isinstance(x, CudaTensor)
        assert isinstance(params, CudaTensor)
        self.batches.append(len(x))
        with _disable_current_modes():
            return CudaTensor(encode_reference(params.held.float(), x.held, self.config).to(self.precision))

    def bwd(self, x: CudaTensor, params: CudaTensor, grad_out: CudaTensor) -> tuple[Tensor, Tensor]:
        self._check(x, params)
        assert grad_out.is_cuda
        assert grad_out.dtype == self.precision
        with _disable_current_modes(), torch.enable_grad():
            leaves = x.held.detach().requires_grad_(), params.held.float().detach().requires_grad_()
            out = encode_reference(leaves[1], leaves[0], self.config)
            grads = torch.autograd.grad(out, leaves, grad_out.held.float())
        return CudaTensor(grads[0]), CudaTensor(grads[1].to(self.precision))

    def _check(self, x: Tensor, params: Tensor) -> None:
        assert x.is_cuda
        assert params.is_cuda
        assert x.dtype == torch.float32
        assert params.dtype == self.precision
        assert x.is_contiguous()
        assert params.is_contiguous()
        assert x.shape[1:] == (3,)
        assert params.shape == (self.n_params,)
        assert len(x) % GRANULARITY == 0


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, native: Native, x: Tensor, params: Tensor, loss_scale: float) -> Tensor:
        ctx.save_for_backward(x, params)
        ctx.native, ctx.loss_scale = native, loss_scale
        return native.fwd(x, params)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, Tensor, None]:
        grad_x, grad_params = ctx.native.bwd(*ctx.saved_tensors, grad_outputs[0] * ctx.loss_scale)
        return None, grad_x / ctx.loss_scale, grad_params / ctx.loss_scale, None


class Encoding(nn.Module):
    """`tinycudann.Encoding`: without a dtype, half precision."""

    def __init__(
        self, n_input_dims: int, encoding_config: Mapping[str, Any], seed: int = 1337, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if n_input_dims != 3 or encoding_config["otype"] != "HashGrid":
            raise RuntimeError("this stands for grids of three dimensions")
        if dtype not in (None, torch.float32, torch.float16):
            raise ValueError(f"Encoding only supports fp32 or fp16 precision, but got {dtype}")
        count, scale = encoding_config["n_levels"], encoding_config["per_level_scale"]
        config = HashGridConfig(
            count,
            encoding_config["n_features_per_level"],
            encoding_config["log2_hashmap_size"],
            encoding_config["base_resolution"],
            math.ceil(encoding_config["base_resolution"] * scale ** (count - 1)),
        )
        self.native = Native(config, dtype or torch.float16)
        self.n_output_dims, self.seed = config.channels, seed
        self.params = nn.Parameter(self.native.initial_params(seed))
        self.loss_scale = 128.0 if self.native.precision == torch.float16 else 1.0

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            warnings.warn("input must be a CUDA tensor", stacklevel=2)
            x = x.cuda()
        whole = -(-len(x) // GRANULARITY) * GRANULARITY
        padded = nn.functional.pad(x, [0, 0, 0, whole - len(x)]) if whole > len(x) else x
        params = self.params.to(self.native.precision).contiguous()
        out = _Function.apply(self.native, padded.to(torch.float).contiguous(), params, self.loss_scale)
        return out[: len(x), : self.n_output_dims]  # pyright: ignore[reportIndexIssue]
