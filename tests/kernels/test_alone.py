"""Small work on one thread: what it costs beside the calling thread, and that the threads come back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numba
import pytest
import torch

from fmgs_nerfstudio.fields.hash_grid import HashGridConfig
from fmgs_nerfstudio.fields.skinning import SkinningField, SkinningFieldConfig, SurfaceWeights, fit_to_surface
from fmgs_nerfstudio.kernels.alone import on_one_thread


@pytest.fixture(autouse=True)
def many() -> Iterator[tuple[int, int]]:
    """As many threads of torch as a user has; numba's as the tests run with."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2, numba.get_num_threads()
    torch.set_num_threads(before)


def test_threads_come_back_after_an_error(many: tuple[int, int]) -> None:
    @on_one_thread()
    def fails() -> None:
        raise KeyError(torch.get_num_threads(), numba.get_num_threads())

    with pytest.raises(KeyError, match=r"\(1, 1\)"):
        fails()
    assert (torch.get_num_threads(), numba.get_num_threads()) == many


def test_the_fit_of_the_skinning_field_keeps_other_cores_free() -> None:
    """All threads of the process together take no more time than the calling one."""
    encoding = HashGridConfig(levels=4, log2_hashmap_size=10)
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 3]])
    field = SkinningField(SkinningFieldConfig(encoding=encoding), torch.tensor([[-1.0] * 3, [2.0] * 3]), 24)
    surface = SurfaceWeights(vertices, faces, torch.eye(4, 24))
    random = torch.Generator().manual_seed(0)
    fit_to_surface(field, surface, 1, random)  # compiles
    own, all_of_them = time.thread_time(), time.process_time()
    fit_to_surface(field, surface, 100, random)
    own, all_of_them = time.thread_time() - own, time.process_time() - all_of_them
    assert own > 0.05
    assert all_of_them < 1.3 * own + 0.02
