"""Frames: a bounded cache, and an order that depends on seed and step alone."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from fmgs_nerfstudio.data import FMGSDataManager, FrameCache


def _frame(index: int) -> dict[str, Any]:
    return {"image": torch.full((256, 1024), float(index))}  # one MiB


def test_memory_is_bounded_and_frames_are_right() -> None:
    loaded: list[int] = []

    def load(index: int) -> dict[str, Any]:
        loaded.append(index)
        return _frame(index)

    cache = FrameCache(load, length=1000, megabytes=8)
    for index in range(100):
        assert cache.get(index, ahead=[index + 1])["image"][0, 0] == index
    assert len(cache._frames) <= 8
    assert loaded == list(range(101))  # each once, though asked for twice
    cache.get(0)
    assert loaded[-1] == 0  # dropped and read again


def test_decoding_is_off_the_training_thread() -> None:
    threads: set[str] = set()

    def load(index: int) -> dict[str, Any]:
        threads.add(threading.current_thread().name)
        return _frame(index)

    FrameCache(load, length=3, megabytes=8).get(0, ahead=[1])
    assert threading.current_thread().name not in threads


def test_an_unreadable_frame_is_told_where_it_is_asked_for() -> None:
    def load(index: int) -> dict[str, Any]:
        raise ValueError(f"frame {index} is broken")

    with pytest.raises(ValueError, match="frame 1"):
        FrameCache(load, length=3, megabytes=8).get(1)


def _order(seed: int, steps: range) -> list[int]:
    manager = cast(
        FMGSDataManager,
        SimpleNamespace(train_dataset=range(7), config=SimpleNamespace(train_cameras_sampling_seed=seed)),
    )
    return [FMGSDataManager._train_index(manager, step) for step in steps]


def test_every_pass_has_every_frame_once_in_an_order_of_its_own() -> None:
    order = _order(0, range(21))
    passes = [order[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3


def test_a_resumed_run_sees_the_same_frames() -> None:
    assert _order(0, range(21))[10:] == _order(0, range(10, 21))
    assert _order(0, range(21)) != _order(1, range(21))
