"""Which terms are active, and that each has a weight and an implementation."""

from __future__ import annotations

from fmgs_nerfstudio.modalities import all_terms
from fmgs_nerfstudio.objective import LossWeights, Objective
from fmgs_nerfstudio.priors.maps import Kind


def test_every_term_has_a_weight_and_the_other_way_round() -> None:
    assert LossWeights().at(0.0).keys() == all_terms().keys()


def test_a_missing_prior_or_a_zero_weight_leaves_terms_out() -> None:
    def active(weights: LossWeights, priors: list[Kind]) -> set[str]:
        return set(Objective.of(all_terms(), weights, priors).terms)

    everything = set(all_terms())
    assert active(LossWeights(), ["semantics", "depth", "normal", "mask"]) == everything
    assert everything - active(LossWeights(), ["depth", "normal"]) == {"L_s", "L_reg"}
    assert everything - active(LossWeights(), []) == {"L_s", "L_reg", "L_d", "L_n"}
    assert "L_tv" not in active(LossWeights(tv=0.0), ["normal"])


def test_only_what_a_term_needs_is_rendered() -> None:
    weights = LossWeights(d=0, sn=0, n=0, tv=0, s=0)
    assert Objective.of(all_terms(), weights, ["depth", "normal", "semantics"]).modalities == ["colour"]


def test_the_weight_of_the_skinning_loss_falls() -> None:
    weights = LossWeights(skin=10.0, skin_late=0.1, skin_until=0.1)
    assert weights.at(0.05)["L_skin"] == 10.0
    assert weights.at(0.2)["L_skin"] == 0.1
