"""The rows of the paper's Table 3: one prior after the other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from fmgs_nerfstudio.batch.plan import Variant

WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "fmgs-avatar": {"d": 0.02, "sn": 0.02, "n": 0.05, "tv": 0.02, "s": 0.1, "reg": 1e-3},
    "fmgs-avatar-paper": {"d": 0.02, "sn": 0.02, "n": 0.02, "tv": 0.02, "s": 0.1, "reg": 1e-3},
}
"""The methods' weights of the priors. All are named in a row that changes one: the paper's lambda_n is three terms'."""
PRIORS = ("d", "sn", "n", "tv", "s", "reg")
FULL = "+ L_s: full method"
TABLE_3: Mapping[str, tuple[str, ...]] = {
    "none": PRIORS,
    "+ L_d": ("sn", "n", "tv", "s", "reg"),
    "+ L_sn": ("n", "tv", "s", "reg"),
    "+ L_n": ("s", "reg"),
    FULL: (),
}
"""Priors that a row does without."""


def weigh(method: str, factors: Mapping[str, float]) -> tuple[str, ...]:
    """Flags for `ns-train METHOD` that multiply the method's own weights of the priors."""
    weights = WEIGHTS[method] if factors else {}
    named = {term: weight * factors.get(term, 1) for term, weight in weights.items()}
    return tuple(
        chain.from_iterable((f"--pipeline.model.weights.lambda-{term}", f"{value:g}") for term, value in named.items())
    )


def table_3(method: str) -> tuple[Variant, ...]:
    """A variant for each row."""
    return tuple(Variant(row, method, weigh(method, dict.fromkeys(w, 0.0))) for row, w in TABLE_3.items())
