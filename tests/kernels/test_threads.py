"""Threads rest while work is small or another's, and come back."""

from __future__ import annotations

from collections.abc import Iterator

import numba
import pytest
import torch

from fmgs_nerfstudio.fields.hash_grid import HashGridConfig
from fmgs_nerfstudio.fields.skinning import SkinningField, SkinningFieldConfig, SurfaceWeights, fit_to_surface
from fmgs_nerfstudio.kernels.threads import one_thread, one_torch_thread


def threads() -> tuple[int, int]:
    return torch.get_num_threads(), numba.get_num_threads()


@pytest.fixture(autouse=True)
def many() -> Iterator[tuple[int, int]]:
    """More threads of torch than one; numba's as the tests run with."""
    before = threads()
    torch.set_num_threads(2)
    yield threads()
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


def test_threads_come_back_after_an_error(many: tuple[int, int]) -> None:
    @one_thread()
    def fails() -> None:
        raise KeyError(threads())

    with pytest.raises(KeyError, match=r"\(1, 1\)"):
        fails()
    assert threads() == many


def test_torch_alone_rests(many: tuple[int, int]) -> None:
    with one_torch_thread():
        assert threads() == (1, many[1])
    assert threads() == many


def test_the_fit_of_the_skinning_field_leaves_other_cores_free(monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = HashGridConfig(levels=4, log2_hashmap_size=10)
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 3]])
    field = SkinningField(SkinningFieldConfig(encoding=encoding), torch.tensor([[-1.0] * 3, [2.0] * 3]), 24)
    surface, seen = SurfaceWeights(vertices, faces, torch.eye(4, 24)), set[tuple[int, int]]()
    sample = surface.sample
    monkeypatch.setattr(surface, "sample", lambda *arguments: (seen.add(threads()), sample(*arguments))[1])
    fit_to_surface(field, surface, 2, torch.Generator().manual_seed(0))
    assert seen == {(1, 1)}
