"""Sources of masks: what each layout's values mean."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.masks import HdfMask, NonzeroMask, RleMask, UnionMask, run_lengths
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

VALUES = np.array([[0, 1, 100, 255]], np.uint8).repeat(3, 0)


def save(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def test_where_nonzero_is_the_person(tmp_path: Path) -> None:
    assert NonzeroMask(save(tmp_path / "mask.png", VALUES)).read()[0].tolist() == [0, 1, 1, 1]
    assert NonzeroMask(tmp_path / "mask.png").size() == (4, 3)
    colour = np.zeros((3, 4, 3), np.uint8)
    colour[..., 1] = VALUES
    assert np.array_equal(NonzeroMask(save(tmp_path / "colour.png", colour)).read(), VALUES != 0)
    index = Image.fromarray(VALUES)
    index.putpalette([0, 0, 0, 0, 0, 1] + [0, 0, 0] * 254)
    index.save(tmp_path / "index.png")
    assert NonzeroMask(tmp_path / "index.png").read()[0].tolist() == [0, 1, 1, 1]


def test_rows_of_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "masks.hdf5", "w") as file:
        file.create_dataset("masks", data=np.stack([VALUES, 0 * VALUES]), compression="gzip")
    assert HdfMask(tmp_path / "masks.hdf5", 0).size() == (4, 3)
    assert HdfMask(tmp_path / "masks.hdf5", 0).read()[0].tolist() == [0, 1, 1, 1]
    assert HdfMask(tmp_path / "masks.hdf5", 1).read().max() == 0
    (tmp_path / "cut.hdf5").write_bytes((tmp_path / "masks.hdf5").read_bytes()[:300])
    with pytest.raises(CaptureError, match=r"cut\.hdf5 cannot be read as HDF5"):
        HdfMask(tmp_path / "cut.hdf5", 0).size()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_run_lengths_agree_with_coco(seed: int) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    mask = cv2.resize(rng.integers(0, 2, (5, 4)).astype(np.uint8), (40, 61), interpolation=cv2.INTER_NEAREST)
    code = coco.encode(np.asfortranarray(mask))
    assert np.array_equal(RleMask(Path("x"), 61, 40, code["counts"]).read(), mask)


def test_run_lengths_by_hand() -> None:
    """5 bits a character from '0'; 32 more: to be continued; the third run and on relative to the one before last."""
    assert run_lengths(b"3") == [3]
    assert run_lengths(b"P1") == [32]  # 0 and continued, then 1 << 5
    assert run_lengths(b"321O") == [3, 2, 1, 2 - 1]
    with pytest.raises(CaptureError, match="do not fill 4 x 3 pixels"):
        RleMask(Path("x"), 3, 4, b"3").read()


def test_union(tmp_path: Path) -> None:
    parts = [save(tmp_path / f"{i}.png", np.array([[i == 0, i == 1, 0]], np.uint8)) for i in range(2)]
    union = UnionMask(tuple(NonzeroMask(part) for part in parts))
    assert union.read().tolist() == [[1, 1, 0]]
    assert union.size() == (3, 1)
    odd = NonzeroMask(save(tmp_path / "odd.png", VALUES))
    with pytest.raises(CaptureError, match="have different sizes"):
        UnionMask((*union.parts, odd)).size()
