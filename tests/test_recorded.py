"""Functions recorded as CUDA graphs, on a pretended card that does again what was done at the recording."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.fake_cuda import CUDA, counted, fake_cuda
from torch import Tensor

from fmgs_nerfstudio.recorded import Replay, ReplayWithGradient


@pytest.fixture(autouse=True)
def card() -> Iterator[None]:
    with fake_cuda():
        yield


def on_card(*values: float, moves: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).to(CUDA).requires_grad_(moves)


def function(x: Tensor, y: Tensor, weight: Tensor, unused: Tensor) -> list[Tensor]:
    """Three results, of which one has no gradient, with a sum in place between."""
    sums = torch.zeros(3, device="cuda")
    sums += (x * weight).detach()
    return [(x * weight).sin() + y, sums, x.square() * y]


def numbers(tensors: Any) -> list[list[float] | None]:
    return [None if x is None else x.detach().cpu().tolist() for x in tensors]


@pytest.mark.parametrize("seen", [(0, 2), (0,), (2,)], ids=str)
def test_a_replay_is_the_function_with_its_gradient(seen: tuple[int, ...]) -> None:
    """At other inputs and parameters than it was recorded at; also where some result has no gradient."""
    weight, unused = on_card(1, 2, 3, moves=True), on_card(5, moves=True)
    first = on_card(0.1, 0.2, 0.3, moves=True), on_card(1, 1, 2)
    replay = ReplayWithGradient(lambda x, y: function(x, y, weight, unused), first, [weight, unused])
    for shift in (0.0, 0.7, -0.4):
        with torch.no_grad():
            weight += shift
        x, y = on_card(1 + shift, -2, 3 * shift, moves=True), on_card(4, shift, 6)
        wanted, got = function(x, y, weight, unused), replay(x, y)
        assert numbers(got) == numbers(wanted)
        assert [made.requires_grad for made in got] == [True, False, True]
        pulls = []
        for results in (wanted, got):
            loss = sum(((2 + i) * results[i]).sum() for i in seen)
            assert isinstance(loss, Tensor)
            pulls.append(numbers(torch.autograd.grad(loss, (x, weight, unused), allow_unused=True)))
        (of_x, of_weight, of_unused), pulled = pulls
        assert of_unused is None  # and so by the replay
        assert pulled == [of_x, of_weight or [0, 0, 0], None]


def test_gradients_add_up() -> None:
    """Those of a second step do not overwrite those of the first."""
    weight = on_card(1, 2, moves=True)
    replay = ReplayWithGradient(lambda x: [x * weight], [on_card(0, 0)], [weight])
    for x in (on_card(1, 2), on_card(10, 20)):
        replay(x)[0].sum().backward()
    assert weight.grad is not None
    assert numbers([weight.grad]) == [[11, 22]]


def test_a_replay_takes_two_launches() -> None:
    weight = on_card(1, 2, moves=True)
    replay = Replay(lambda x: [((x * weight).sin() + x).cos()], [on_card(0, 0)])
    with counted() as counts:
        replay(on_card(1, 2))
    assert counts.operations == {"aten.copy_": 1, "graph": 1, "copy": 1}


@pytest.mark.parametrize("value", [lambda x: x * float(x.sum()), lambda x: x[x > 0], lambda x: x.to("cpu")])
def test_what_waits_is_refused(value: Any) -> None:
    with pytest.raises(RuntimeError, match=r"capturing|recorded"):
        Replay(lambda x: [value(x)], [on_card(1, 2)])
