"""Frames: a bounded cache, and an order that depends on seed and step alone."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils import comms
from support.zju_capture import write_capture

from fmgs_nerfstudio.data import FMGSDataManager, FMGSDataManagerConfig, FrameCache, at_full, at_half, crop_to_person


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
    cache.get(100)  # waits for what was to be decoded ahead
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


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_share_each_pass(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never one frame twice in a step; all seven in as few steps as that takes."""
    monkeypatch.setattr(comms, "get_world_size", lambda: ranks)
    steps = -(-7 // ranks)
    drawn = []
    for rank in range(ranks):
        monkeypatch.setattr(comms, "get_rank", lambda rank=rank: rank)
        drawn.append(_order(0, range(4 * steps)))
    by_step = list(zip(*drawn, strict=True))
    assert all(len(set(frames)) == ranks for frames in by_step)
    passes = [by_step[i : i + steps] for i in range(0, 4 * steps, steps)]
    assert all({frame for frames in one for frame in frames} == set(range(7)) for one in passes)


def test_what_is_decoded_ahead_is_not_dropped_before_it_is_asked_for() -> None:
    """Frames so large that four fill the memory, and nine are named as coming."""
    loaded = list[int]()

    def load(index: int) -> dict[str, Any]:
        loaded.append(index)
        return {"image": torch.zeros(1000, 1000, 3)}

    cache = FrameCache(load, length=20, megabytes=1)
    for index in range(10):
        cache.get(index, ahead=range(index + 1, index + 10))
    cache.get(11)  # the last that there was room for
    assert sorted(loaded) == list(range(12))


def test_frames_wait_at_half_precision_and_are_trained_on_at_full(tmp_path: Path) -> None:
    """Off by a sixteenth of an 8-bit level at most: half of the last of ten binary digits below 1."""
    write_capture(tmp_path / "capture")
    manager = FMGSDataManagerConfig(data=tmp_path / "capture", check_fit=False).setup(device="cpu", test_mode="val")
    _, batch = manager.next_train(0)
    index = batch["image_idx"]
    kept = manager.cached_train.get(index)
    assert kept["image"].dtype == kept["mask"].dtype == torch.float16
    camera = manager.train_cameras[index : index + 1]
    _, exact = crop_to_person(camera, manager.train_dataset.get_data(index), manager.config.crop_margin)
    for name in ("image", "mask"):
        assert batch[name].dtype == torch.float32
        torch.testing.assert_close(batch[name], exact[name], rtol=0, atol=2**-12)
    maps = {"prior_normal": torch.rand(4, 4, 3), "prior_depth": 3 + torch.rand(4, 4), "prior_semantics": torch.ones(4)}
    again = at_full(at_half(maps))
    assert {name: value.dtype for name, value in again.items()} == {name: value.dtype for name, value in maps.items()}
    torch.testing.assert_close(again["prior_normal"], maps["prior_normal"], rtol=0, atol=2**-12)
    assert torch.equal(again["prior_depth"], maps["prior_depth"])  # metres: 2 mm would be lost
    assert at_half(maps)["prior_normal"].dtype == torch.float16


def test_evaluation_keeps_few_frames(tmp_path: Path) -> None:
    """Each is seen once, and training's are to stay."""
    write_capture(tmp_path / "capture")
    manager = FMGSDataManagerConfig(data=tmp_path / "capture", check_fit=False).setup(device="cpu", test_mode="val")
    manager.next_eval_image(0)
    assert manager.cached_eval._capacity == 4
    manager.next_train(0)
    assert manager.cached_train._capacity > 1000


def camera(height: int, width: int) -> Cameras:
    return Cameras(torch.eye(4)[None, :3], fx=100.0, fy=100.0, cx=20.0, cy=30.0, width=width, height=height)[0:1]


def test_a_crop_sees_the_same_rays() -> None:
    """Pixel (i, j) of the crop is pixel (i + y0, j + x0) of the image, in the maps and in the camera."""
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(40.0), indexing="ij")
    batch: dict[str, Any] = {
        "image": torch.stack([rows, columns, rows], -1),
        "mask": torch.zeros(60, 40, 1),
        "image_idx": 3,
    }
    batch["mask"][20:40, 10:15] = 1
    whole = camera(60, 40)
    cropped, maps = crop_to_person(whole, batch, margin=0.1)
    y0, x0 = (int(value) for value in maps["image"][0, 0, :2])
    assert (y0, x0) == (18, 8)
    assert maps["image"].shape == (24, 9, 3)
    assert (int(cropped.height), int(cropped.width)) == (24, 9)
    assert float(cropped.cx) == 20 - x0
    assert float(cropped.cy) == 30 - y0
    assert maps["image_idx"] == 3
    coords = torch.tensor([[5.5, 3.5]])
    there = whole.generate_rays(0, coords=coords + torch.tensor([[y0, x0]]))
    here = cropped.generate_rays(0, coords=coords)
    assert torch.allclose(there.directions, here.directions, atol=1e-6)


@pytest.mark.parametrize(
    ("least", "y0", "x0", "size"),
    [
        ((24, 9), 18, 8, (24, 9)),  # its own
        ((30, 19), 15, 3, (30, 19)),  # five more pixels on each side, or three and a half above
        ((10, 99), 18, 0, (24, 40)),  # no more than there are
        ((59, 31), 1, 0, (59, 31)),  # moved to where it lies in the image
    ],
)
def test_a_small_crop_takes_in_more_of_the_image(
    least: tuple[int, int], y0: int, x0: int, size: tuple[int, int]
) -> None:
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(40.0), indexing="ij")
    batch = {"image": torch.stack([rows, columns, rows], -1), "mask": torch.zeros(60, 40, 1)}
    batch["mask"][20:40, 10:15] = 1
    cropped, maps = crop_to_person(camera(60, 40), batch, 0.1, least)
    assert maps["image"].shape[:2] == maps["mask"].shape[:2] == size
    assert maps["image"][0, 0].tolist() == [y0, x0, y0]
    assert (float(cropped.cx), float(cropped.cy)) == (20 - x0, 30 - y0)
    assert (int(cropped.height), int(cropped.width)) == size
    assert float(maps["enlarged"]) == pytest.approx(size[0] * size[1] / (24 * 9))


def test_an_empty_mask_is_not_cropped() -> None:
    batch = {"image": torch.zeros(6, 4, 3), "mask": torch.zeros(6, 4, 1)}
    cropped, maps = crop_to_person(camera(6, 4), batch, margin=0.1)
    assert maps["image"].shape == (6, 4, 3)
    assert int(cropped.height) == 6
