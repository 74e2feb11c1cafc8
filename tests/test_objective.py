"""Which terms are active, and that each has a weight and an implementation."""

from __future__ import annotations

import pytest
import torch

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.maps.maps import Kind
from fmgs_nerfstudio.modalities import all_terms
from fmgs_nerfstudio.objective import TERMS, LossWeights, Objective, SurfelInputs
from fmgs_nerfstudio.patches import Patch
from fmgs_nerfstudio.surfels import Surfels


def test_every_term_has_a_weight_and_the_other_way_round() -> None:
    assert LossWeights().at(0.0).keys() == all_terms().keys()


def test_a_missing_prior_or_a_zero_weight_leaves_terms_out() -> None:
    def active(weights: LossWeights, priors: list[Kind]) -> set[str]:
        return set(Objective.of(all_terms(), weights, priors).terms)

    everything = set(all_terms())
    assert active(LossWeights(), ["semantics", "depth", "normal", "mask"]) == everything
    assert everything - active(LossWeights(), ["depth", "normal"]) == {"L_s", "L_reg"}
    assert everything - active(LossWeights(), []) == {"L_s", "L_reg", "L_d", "L_n"}
    assert "L_tv" not in active(LossWeights(lambda_tv=0.0), ["normal"])


def test_only_what_a_term_needs_is_rendered() -> None:
    weights = LossWeights(lambda_d=0, lambda_sn=0, lambda_n=0, lambda_tv=0, lambda_s=0)
    assert Objective.of(all_terms(), weights, ["depth", "normal", "semantics"]).modalities == ["colour"]


def test_the_weight_of_the_skinning_loss_falls() -> None:
    weights = LossWeights(lambda_skin=10.0, lambda_skin_late=0.1, skin_until=0.1)
    assert weights.at(0.05)["L_skin"] == 10.0
    assert weights.at(0.2)["L_skin"] == 0.1


@pytest.mark.parametrize("scales", [2, 3])
def test_covariances_are_those_of_surfels_and_of_3d_gaussians(scales: int) -> None:
    """L_iso_cov by its formula: R S^2 R^T before, T R S^2 R^T T^T after, distances over the upper triangle."""
    frames, _ = torch.linalg.qr(torch.randn(10, 3, 3))
    surfels = Surfels(torch.zeros(10, 3), frames, torch.rand(10, scales))
    T, neighbours, none = torch.randn(10, 3, 4), torch.arange(10).roll(1)[:, None], torch.zeros(0)
    avatar = Avatar(surfels, T, torch.ones(10), none, none, none, {})
    step = SurfelInputs(avatar, surfels, Patch(torch.arange(10), neighbours, torch.ones(())))
    squared = torch.nn.functional.pad(surfels.scales**2, (0, 3 - scales))
    before = frames @ torch.diag_embed(squared) @ frames.mT
    after = T[..., :3] @ before @ T[..., :3].mT
    row, column = torch.triu_indices(3, 3)
    distances = [(x - x.roll(1, 0))[:, row, column].norm(dim=-1) for x in (before, after)]
    expected = (distances[0] - distances[1]).abs().mean()
    assert torch.allclose(TERMS["L_iso_cov"].compute(step), expected, atol=1e-5)
