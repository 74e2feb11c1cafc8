from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from fmgs_nerfstudio.kernels.simd import (
    LANES,
    any_lane,
    exp_negative,
    lane_sums,
    load,
    ramp,
    splat,
    store,
    where,
)


@njit
def exponential(x, out):
    for i in range(0, x.size, LANES):
        store(out, i, exp_negative(load(x, i)))


def test_exponential() -> None:
    x = np.linspace(-80, 0, 80_000).astype(np.float32)
    out = np.empty_like(x)
    exponential(x, out)
    np.testing.assert_allclose(out, np.exp(x.astype(np.float64)), rtol=6e-6)
    small = x > -6
    np.testing.assert_allclose(out[small], np.exp(x[small].astype(np.float64)), rtol=6e-7)
    assert out[-1] == 1


@njit
def sums(x, out):
    store(
        out,
        0,
        lane_sums(load(x, 0), load(x, 8), load(x, 16), load(x, 24), load(x, 32), load(x, 40), load(x, 48), load(x, 56)),
    )


def test_lane_sums() -> None:
    x = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    out = np.empty(8, np.float32)
    sums(x.ravel(), out)
    np.testing.assert_allclose(out, x.sum(axis=1), rtol=1e-5)


@njit
def arithmetic(x, out):
    a = load(x, 3)  # not aligned
    b = splat(x[0])
    a += ramp() * 2
    store(out, 0, where((a > b) & (a <= 9), (a - b) / 4, -1))
    return any_lane(a > 1000), any_lane(a != b)


def test_arithmetic_and_masks() -> None:
    x = np.array([2, 9, 9, 1, 3, 5, -20, 0, np.nan, 1, -6.0], np.float32)
    out = np.empty(8, np.float32)
    assert arithmetic(x, out) == (False, True)
    a = x[3:] + 2 * np.arange(8)
    expected = np.where((a > 2) & (a <= 9), (a - 2) / 4, -1)
    np.testing.assert_array_equal(out, expected)


def test_lanes_do_not_mix_with_other_types() -> None:
    @njit
    def wrong(x):
        return ramp() + x

    with pytest.raises(Exception, match="No implementation of function"):
        wrong("a")
