"""Factors of training pictures by their poses."""

from __future__ import annotations

import numpy as np
import torch

from fmgs_nerfstudio.fields.exposure import Exposure


def test_poses_between_are_interpolated_in_the_logarithm_and_those_outside_are_as_the_nearest() -> None:
    exposure = Exposure(6)
    assert torch.equal(exposure(3), torch.ones(3))
    exposure.set({4: np.array([4.0, 1, 1]), 1: np.array([0.5, 1, 2]), 3: np.array([2.0, 1, 1])})
    expected = [[0.5, 1, 2], [0.5, 1, 2], [1, 1, 2**0.5], [2, 1, 1], [4, 1, 1], [4, 1, 1]]
    np.testing.assert_allclose(exposure.factors.numpy(), expected, rtol=1e-6)


def test_it_is_kept_with_the_run_and_older_runs_are_steady() -> None:
    exposure, other = Exposure(2), Exposure(2)
    exposure.set({0: np.array([0.8, 0.9, 1.0]), 1: np.array([1.2, 1.1, 1.0])})
    other.load_state_dict(exposure.state_dict())
    assert torch.equal(other.factors, exposure.factors)
    assert not list(other.parameters())
    old = Exposure(2)
    old.load_state_dict({})
    assert torch.equal(old.factors, torch.ones(2, 3))
