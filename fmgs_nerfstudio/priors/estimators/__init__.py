"""Networks that make prior maps: one file each, one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fmgs_nerfstudio.priors.estimators import pipelines, sapiens, sapiens2
from fmgs_nerfstudio.priors.estimators.base import EstimatorOptions, Network

ESTIMATORS: Mapping[str, Callable[[EstimatorOptions], list[Network]]] = {
    "sapiens": sapiens.networks,
    "sapiens-foreground": sapiens.foreground,
    "sapiens2": sapiens2.networks,
    "sapiens2-matting": sapiens2.matting,
    "transformers": pipelines.networks,
}
