"""A function and its gradient as CUDA graphs: recorded once, then replayed by two launches in place of hundreds.

What a step on a card waits for is the host that launches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fmgs_nerfstudio.console import log

_WARM_UP = 3
"""Runs before the recording: libraries make their buffers, and constants go to the card."""


class Replay:
    """A function of tensors whose shapes stay, without gradients. All else that it looks at, the numbers of tensors
    aside, is as it was at the recording; its results hold until the next call.

    Raises RuntimeError where something in the function cannot be recorded, such as a value that the host asks for.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> None:
        self.inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        warm_up(lambda: self._once(function))
        self._replay, self.outputs = record(lambda: tuple(function(*self.inputs)))

    def _once(self, function: Callable[..., Sequence[Tensor]]) -> None:
        function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's results at these inputs, which have the recorded shapes."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.detach().copy_(given)
        self._replay()
        return tuple(x.detach() for x in self.outputs)


class ReplayWithGradient(Replay):
    """The same with the gradient of inputs and `parameters`, whose memory stays; it is asked for before the next call.

    The same kernels run in the same order. A parameter that nothing is asked of has a gradient of zeros.
    """

    def __init__(
        self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], parameters: Sequence[Tensor]
    ) -> None:
        self.parameters = list(parameters)
        super().__init__(function, inputs)
        self._grads = [torch.zeros_like(x) for x in self.outputs if x.requires_grad]
        self._is_zero = [True] * len(self._grads)
        self._pull_back, (self._sizes, self._flat) = record(lambda: _flat(self._gradients(self.outputs, self._grads)))

    def _once(self, function: Callable[..., Sequence[Tensor]]) -> None:
        outputs = function(*self.inputs)
        self._gradients(outputs, [torch.zeros_like(x) for x in outputs if x.requires_grad])

    def _gradients(self, outputs: Sequence[Tensor], grads: Sequence[Tensor]) -> Sequence[Tensor | None]:
        differentiable = [x for x in outputs if x.requires_grad]
        moved = [x for x in (*self.inputs, *self.parameters) if x.requires_grad]
        return torch.autograd.grad(differentiable, moved, grads, retain_graph=True, allow_unused=True)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return _Replayed.apply(self, *inputs, *self.parameters)

    def pull_back(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of inputs and parameters, of those of the results that have one; the caller's own."""
        for i, (own, given) in enumerate(zip(self._grads, grads, strict=True)):
            if given is not None:
                own.copy_(given)
            elif not self._is_zero[i]:
                own.zero_()
            self._is_zero[i] = given is None
        self._pull_back()
        parts = iter(self._flat.clone().split([size.numel() for size in self._sizes if size is not None]))
        of_moved = iter([None if size is None else next(parts).view(size) for size in self._sizes])
        return [next(of_moved) if x.requires_grad else None for x in (*self.inputs, *self.parameters)]


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, replay: ReplayWithGradient, *tensors: Tensor) -> tuple[Tensor, ...]:
        made = Replay.__call__(replay, *tensors[: len(replay.inputs)])
        ctx.replay, ctx.moves = replay, [x.requires_grad for x in replay.outputs]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*compress(made, [not moves for moves in ctx.moves]))
        return made

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_pulled_back(ctx, *grad_outputs)


@once_differentiable
def _pulled_back(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(ctx.replay.pull_back(list(compress(grads, ctx.moves))))


class Recorder:
    """Replays of functions, each recorded when it is first asked for; a function that cannot be recorded runs itself,
    as all do from then on, and it is said.

    Of more than `most` the oldest is forgotten, or with `keeps` the newest runs itself.
    """

    def __init__(self, most: int, keeps: bool = False) -> None:
        self._most, self._keeps = most, keeps
        self._replays: dict[Hashable, Replay] = {}
        self._refused = False

    def __call__(
        self,
        function: Callable[..., Sequence[Tensor]],
        inputs: Sequence[Tensor],
        phase: Hashable,
        parameters: Sequence[Tensor] | None = None,
    ) -> Sequence[Tensor]:
        """The function's results. `phase`: what changes what it does, beside the numbers of its inputs; `parameters`:
        all that it reads and training moves, and none where there is no gradient."""
        kinds = [(x.shape, x.dtype, x.requires_grad) for x in inputs]
        key = phase, *kinds, *(x.requires_grad for x in parameters or ())
        if key not in self._replays:
            if self._refused or (self._keeps and len(self._replays) == self._most):
                return function(*inputs)
            if len(self._replays) == self._most:  # its memory is free for the next
                del self._replays[next(iter(self._replays))]
            try:
                plain = parameters is None
                self._replays[key] = (
                    Replay(function, inputs) if plain else ReplayWithGradient(function, inputs, parameters)
                )
            except RuntimeError as error:
                log(f"This runs without CUDA graphs, which cannot record it: {error}")
                self._refused = True
                return function(*inputs)
        return self._replays[key](*inputs)


def _flat(gradients: Sequence[Tensor | None]) -> tuple[list[torch.Size | None], Tensor]:
    """Gradients end to end, so that one copy takes them all; and their sizes."""
    sizes = [None if x is None else x.shape for x in gradients]
    return sizes, torch.cat([x.flatten() for x in gradients if x is not None])


def warm_up(function: Callable[[], None]) -> None:
    """Run a function apart from what the card does meanwhile, as it must be before it is recorded."""
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            function()
    current.wait_stream(stream)


def record(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """What replays the launches of a function, and its result, whose memory each replay fills anew."""
    graph = torch.cuda.CUDAGraph()
    # Another thread may go on: that which decodes images asks for pinned memory.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = function()
    return graph.replay, result
