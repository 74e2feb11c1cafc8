"""A CUDA device that is not there: its tensors say that they are on it and compute on the CPU.

Where a real one would refuse to work with a tensor of the CPU, these raise. They do not see what CUDA's kernels
themselves refuse, nor their numbers. `counted` says how many operations a card would get, and where the host waits.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from fmgs_nerfstudio import recorded
from fmgs_nerfstudio.rendering import Camera, Layer
from fmgs_nerfstudio.rendering.cpu import rasterize_cpu

CUDA = torch.device("cuda:0")
_aten = torch.ops.aten
# Indices may be on the CPU, a single value too.
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_, _aten._unsafe_index}
_COPIES = {_aten.copy_, _aten._to_copy, _aten.copy}
_WITH_SCALARS = {_aten.masked_fill, _aten.masked_fill_, _aten.fill, _aten.fill_}
_PRODUCTS = {_aten.mm, _aten.bmm, _aten.addmm, _aten.baddbmm, _aten.addmv, _aten.mv}
# The host needs the result, or its size.
_WAITING = {_aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten._unique2, _aten.repeat_interleave}


@dataclass
class Counts:
    """What was done on the pretended device."""

    operations: Counter[str] = field(default_factory=Counter)
    """That are no views, by name: at least one launch each on a real card."""
    maybe_tf32: Counter[str] = field(default_factory=Counter)
    """Products of float32 that torch's flag lets be TF32."""
    waits: Counter[str] = field(default_factory=Counter)
    """Of the host for the card, by what and the innermost line of this project: values read back, results whose size
    the host needs, and copies from the host that are not `non_blocking`."""

    def wait(self, what: str) -> None:
        self.waits[what + _place()] += 1


def _place() -> str:
    """The innermost line of this project."""
    frames = [f for f in traceback.extract_stack() if "/fmgs_" in f.filename]
    return f" at {frames[-1].filename.split('/fmgs_')[-1]}:{frames[-1].lineno}" if frames else ""


_counting: list[Counts] = []


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what is done meanwhile on the pretended device; a rasteriser in place of gsplat's counts as nothing."""
    _counting.append(Counts())
    try:
        yield _counting[-1]
    finally:
        _counting.pop()


@contextmanager
def uncounted() -> Iterator[None]:
    """What stands in for a kernel counts as nothing."""
    paused = _counting[:]
    _counting.clear()
    try:
        yield
    finally:
        _counting[:] = paused


_tapes: list[list[Callable[[], None]]] = []
"""The one that is being recorded, if any."""


def warm_up(function: Callable[[], None]) -> None:
    """In place of `recorded.warm_up`."""
    function()


def record(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """In place of `recorded.record`: what is done on the pretended device meanwhile, once more on the same memory.

    Raises RuntimeError, as CUDA does, where the host waits or gives something.
    """
    assert not _tapes
    _tapes.append([])
    try:
        result = function()
    finally:
        tape = _tapes.pop()

    def replay() -> None:
        _operates("graph")
        with _disable_current_modes():
            for again in tape:
                again()

    return replay, result


def _recorded(result: Any, compute: Callable[[], Any] | None = None) -> None:
    """Note how to make a result anew, in its memory; without `compute` it becomes again what it is now."""
    if not _tapes:
        return
    memory = [leaf.held if isinstance(leaf, CudaTensor) else leaf for leaf in tree_leaves(result)]
    memory = [leaf for leaf in memory if isinstance(leaf, Tensor)]
    with _disable_current_modes():
        kept = [leaf.clone() for leaf in memory] if compute is None else []

    def again() -> None:
        with torch.inference_mode(any(leaf.is_inference() for leaf in memory)), torch.no_grad():
            made = [leaf for leaf in tree_leaves(compute()) if isinstance(leaf, Tensor)] if compute else kept
            for old, new in zip(memory, made, strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.detach().copy_(new)

    _tapes[-1].append(again)


def _waits(what: str) -> None:
    if _tapes:
        raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
    for counts in _counting:
        counts.wait(what)


def _operates(name: str) -> None:
    for counts in _counting:
        counts.operations[name] += 1


class CudaTensor(torch.Tensor):
    """Holds a tensor of the CPU. Autograd's engine sees a CPU tensor, since it would ask a card for its streams."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> CudaTensor:
        strides, offset = held.stride(), held.storage_offset()
        with torch.inference_mode(held.is_inference()):
            made = Tensor._make_wrapper_subclass(
                cls, held.size(), strides=strides, storage_offset=offset, dtype=held.dtype
            )
        made.held = held
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():  # else results would be made this class by Python alone
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        return _move(self, *args, **kwargs)

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        return _move(self, "cpu")

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self

    def numpy(self, *, force: bool = False) -> np.ndarray:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        _waits("numpy")
        return self.held.detach().numpy().copy()

    def tolist(self) -> Any:
        _waits("tolist")
        return self.held.tolist()

    def new_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        _waits("new_tensor")
        _operates("new_tensor")
        return CudaTensor(self.held.new_tensor(*_held(args), **kwargs))

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"CudaTensor({self.held})"

    def __format__(self, spec: str) -> str:
        return format(self.held, spec)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """While it lasts, `device="cuda"` and `.to("cuda")` give tensors of the fake device, and what is recorded for it is
    replayed on it."""
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Kernels() as kernels, _Functions(kernels), pytest.MonkeyPatch.context() as patch:
            patch.setattr(recorded, "record", record)
            patch.setattr(recorded, "warm_up", warm_up)
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapped)


def rasterize_held(layers: Sequence[Layer], camera: Camera, factor: int = 1) -> list[Tensor]:
    """In place of gsplat's kernels: the CPU executor on what fake tensors hold; differentiable."""
    tensors = [camera.viewmat, camera.K, *(value for layer in layers for value in layer)]
    assert all(tensor.is_cuda for tensor in tensors), [tensor.device for tensor in tensors]

    def draw(viewmat: Tensor, K: Tensor, *values: Tensor) -> list[Tensor]:
        own = [Layer(*values[i : i + 4]) for i in range(0, len(values), 4)]
        return rasterize_cpu(own, Camera(viewmat, K, camera.width, camera.height), factor)

    return list(_Apart.apply(draw, *tensors))


class _Apart(torch.autograd.Function):
    """A function of what the tensors hold, with a graph of its own: its backward makes tensors on the CPU."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., list[Tensor]], *tensors: CudaTensor) -> tuple[Tensor, ...]:
        with _disable_current_modes(), torch.enable_grad():
            pairs = zip(tensors, ctx.needs_input_grad[1:], strict=True)
            ctx.leaves = [tensor.held.detach().requires_grad_(needed) for tensor, needed in pairs]
            ctx.results = function(*ctx.leaves)
        return tuple(CudaTensor(result.detach()) for result in ctx.results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [leaf for leaf in ctx.leaves if leaf.requires_grad]
        with _disable_current_modes():
            found = iter(torch.autograd.grad(ctx.results, wanted, _held(grads), True, allow_unused=True))
        made = [next(found) if leaf.requires_grad else None for leaf in ctx.leaves]
        return None, *(None if grad is None else CudaTensor(grad) for grad in made)


class _Functions(TorchFunctionMode):
    """What happens before autograd: moves, and new tensors."""

    def __init__(self, kernels: _Kernels) -> None:
        super().__init__()
        self.kernels = kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.backward:
            with self, self.kernels.creating(True):
                return torch.autograd.backward(args[0], kwargs.pop("gradient", None), **kwargs)
        if func in (Tensor.to, Tensor.cuda) and not isinstance(args[0], CudaTensor):
            return _move(*args, **kwargs) if func is Tensor.to else _move(args[0], CUDA)
        if not _is_cuda(kwargs.get("device")):
            given = any(isinstance(leaf, CudaTensor) for leaf in tree_leaves((args, kwargs)))
            if given and func in (torch.tensor, torch.as_tensor):
                _waits(func.__name__)
                _operates(func.__name__)
                return CudaTensor(func(*_held(args), **kwargs))
            with self.kernels.creating(given):
                return func(*args, **kwargs)
        _check_generator(kwargs)
        kwargs["device"] = "cpu"
        if func in (torch.tensor, torch.as_tensor):
            _waits(func.__name__)
        _operates(func.__name__)
        made = tree_map_only(Tensor, CudaTensor, _held(func(*_held(args), **kwargs)))
        _recorded(made)
        return made


class _Kernels(TorchDispatchMode):
    """What happens below autograd. Tensors that PyTorch itself makes are where its arguments are."""

    def __init__(self) -> None:
        super().__init__()
        self._creating = False

    @contextmanager
    def creating(self, creating: bool) -> Iterator[None]:
        before, self._creating = self._creating, creating
        try:
            yield
        finally:
            self._creating = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(isinstance(tensor, CudaTensor) for tensor in tensors):
            return _compute(func, args, kwargs)
        result = func(*args, **kwargs)
        if not self._creating or tensors:
            return result
        _recorded(result)
        return tree_map_only(Tensor, CudaTensor, result)


class _ToCuda(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return CudaTensor(value.detach().clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _held(grads[0])


class _ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: CudaTensor) -> Tensor:
        return value.held.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return CudaTensor(grads[0])


def _move(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to` in all its forms."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for arg in args:
        if isinstance(arg, Tensor):
            device, dtype = arg.device, arg.dtype
        elif isinstance(arg, torch.dtype):
            dtype = arg
        elif isinstance(arg, (str, torch.device)):
            device = arg
    if dtype is not None:
        tensor = Tensor.to(tensor, dtype)
    if device is None or _is_cuda(device) == isinstance(tensor, CudaTensor):
        return tensor
    if not (_is_cuda(device) and kwargs.get("non_blocking")):
        _waits("copy")
    if _tapes:
        raise RuntimeError("a copy between host and card while it is recorded")
    _operates("copy")
    return (_ToCuda if _is_cuda(device) else _ToCpu).apply(tensor)


def _compute(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    _check_devices(func, args, kwargs)
    _check_generator(kwargs)
    _count(func, args, kwargs)
    held = _held(args), _held(kwargs)
    result = func(*held[0], **held[1])
    _recorded(result, lambda: func(*held[0], **held[1]))
    if func.overloadpacket is _aten.copy_:
        return args[0]
    given = {id(_held(leaf)): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, CudaTensor)}

    def wrapped(tensor: Tensor) -> Tensor:
        """Again the same one where it was changed in place."""
        return given[id(tensor)] if id(tensor) in given else CudaTensor(tensor)

    return tree_map_only(Tensor, wrapped, result)


def _count(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if not (_counting or _tapes):
        return
    packet = func.overloadpacket
    if not func.is_view and packet is not _aten.detach:
        _operates(str(packet))
    if packet in _PRODUCTS and torch.get_float32_matmul_precision() != "highest":
        for counts in _counting if any(_is_float32(x) for x in args) else ():
            counts.maybe_tf32[str(packet) + _place()] += 1
    indices = tree_leaves(args[1]) if packet in _INDEXED else []
    masks = [x for x in indices if isinstance(x, Tensor) and x.dtype == torch.bool]
    from_host = [x for x in indices if isinstance(x, Tensor) and not isinstance(x, CudaTensor)]
    host = [x for x in args if isinstance(x, Tensor) and not isinstance(x, CudaTensor)]
    if packet in _WAITING or masks or from_host or (packet in _COPIES and host and not kwargs.get("non_blocking")):
        _waits(str(packet))


def _check_devices(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise where CUDA would. A number on the CPU may meet tensors on the card in pointwise functions, and in these
    alone."""
    packet = func.overloadpacket
    if packet in _COPIES:
        return
    numbers = torch.Tag.pointwise in func.tags or packet in _WITH_SCALARS or packet in _INDEXED
    values = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | dict(kwargs)
    for argument in func._schema.arguments:
        value = values.get(argument.name)
        if packet in _INDEXED and argument.name == "indices" and isinstance(values["self"], CudaTensor):
            continue
        written = argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor) and not isinstance(tensor, CudaTensor):
                number = tensor.dim() == 0 and isinstance(value, Tensor) and numbers and not written
                if not number:
                    raise RuntimeError(
                        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
                        f"cpu! (argument {argument.name} of {func})"
                    )


def _check_generator(kwargs: Mapping[str, Any]) -> None:
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != "cuda":
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{generator.device.type}'")


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _is_float32(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float32


def _held(value: Any) -> Any:
    return tree_map_only(CudaTensor, lambda tensor: tensor.held, value)
