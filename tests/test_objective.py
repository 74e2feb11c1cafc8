"""Which terms are active, and that each has a weight and an implementation."""

from __future__ import annotations

from fmgs_nerfstudio.objective import TERMS, LossWeights, active_terms


def test_every_term_has_a_weight_and_the_other_way_round() -> None:
    assert LossWeights().at(0.0).keys() == TERMS.keys()


def test_a_missing_prior_or_a_zero_weight_leaves_terms_out() -> None:
    weights = LossWeights()
    everything = active_terms(weights, ["semantics", "depth", "normal", "mask"])
    assert set(everything) == set(TERMS)
    assert set(TERMS) - set(active_terms(weights, ["depth", "normal"])) == {"L_s", "L_reg"}
    assert set(TERMS) - set(active_terms(weights, [])) == {"L_s", "L_reg", "L_d", "L_n"}
    assert "L_tv" not in active_terms(LossWeights(tv=0.0), ["normal"])


def test_the_weight_of_the_skinning_loss_falls() -> None:
    weights = LossWeights(skin=10.0, skin_late=0.1, skin_until=0.1)
    assert weights.at(0.05)["L_skin"] == 10.0
    assert weights.at(0.2)["L_skin"] == 0.1
