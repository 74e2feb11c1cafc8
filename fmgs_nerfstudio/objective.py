"""The training objective (4.4): which terms there are, what each needs, and how it is computed (Eq. 21)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from fmgs_nerfstudio import losses
from fmgs_nerfstudio.modalities import Avatar
from fmgs_nerfstudio.priors.classes import NUM_CLASSES
from fmgs_nerfstudio.priors.maps import Kind
from fmgs_nerfstudio.routes import ROUTES, pose_surfels
from fmgs_nerfstudio.surfels import Surfels


@dataclass(frozen=True)
class LossWeights:
    """Weights by the paper's symbols; a term with weight 0 is neither computed nor rendered for."""

    lambda_ssim: float = 0.2
    """Share of SSIM in the photometric loss L_c (Eq. 13; the paper's)."""
    m: float = 0.1
    """Mask loss L_m (Eq. 14; [30]'s)."""
    d: float = 0.02
    """Ordinal depth loss L_d (Eq. 16)."""
    sn: float = 0.02
    """Self-consistency of normals L_sn (Eq. 18)."""
    n: float = 0.05
    """Normal prior L_n (Eq. 18)."""
    tv: float = 0.02
    """Total variation of normals L_tv (Eq. 17)."""
    s: float = 0.1
    """Semantic loss L_s (Eq. 19)."""
    reg: float = 1e-3
    """Semantic-guided regularisation L_reg (Eq. 20)."""
    skin: float = 10.0
    """Skinning loss L_skin until `skin_until` ([30]'s)."""
    skin_late: float = 0.1
    """Skinning loss L_skin after it ([30]'s)."""
    skin_until: float = 1 / 15
    """Fraction of the run at which the weight of L_skin falls ([30]: 1,000 of 15,000 steps)."""
    iso: float = 1.0
    """Isometry of neighbouring centres L_iso ([30]'s)."""
    iso_cov: float = 100.0
    """Isometry of neighbouring covariances, the second part of L_iso ([30]'s)."""

    def at(self, progress: float) -> dict[str, float]:
        """Weight of every term at a fraction of the run, by the term's name."""
        return {
            "L_c": 1.0,
            "L_m": self.m,
            "L_d": self.d,
            "L_sn": self.sn,
            "L_n": self.n,
            "L_tv": self.tv,
            "L_s": self.s,
            "L_reg": self.reg,
            "L_skin": self.skin if progress < self.skin_until else self.skin_late,
            "L_iso": self.iso,
            "L_iso_cov": self.iso_cov,
        }


@dataclass(frozen=True)
class Term:
    """What a loss term needs."""

    modalities: tuple[str, ...] = ()
    """Rendered modalities."""
    prior: Kind | None = None
    """Prior map without which the term is left out."""


TERMS: Mapping[str, Term] = {
    "L_c": Term(("colour",)),
    "L_m": Term(("colour",)),
    "L_d": Term(("depth",), "depth"),
    "L_sn": Term(("depth", "normal")),
    "L_n": Term(("normal",), "normal"),
    "L_tv": Term(("normal",)),
    "L_s": Term(("semantics",), "semantics"),
    "L_reg": Term((), "semantics"),
    "L_skin": Term(),
    "L_iso": Term(),
    "L_iso_cov": Term(),
}
DEPTH_PAIRS = 8192
"""Pixel pairs drawn for L_d in a step."""
NEIGHBOURS = 4
"""Neighbours of a surfel in L_iso, as in [30]."""


def active_terms(weights: LossWeights, priors: Iterable[Kind]) -> tuple[str, ...]:
    """Terms with a weight whose prior is at hand."""
    at_hand = {None, *priors}
    return tuple(name for name, weight in weights.at(0.0).items() if weight > 0 and TERMS[name].prior in at_hand)


def neighbours_of(points: Float[Tensor, "N 3"]) -> Int[Tensor, "N K"]:
    """The nearest other points of each."""
    places = points.numpy(force=True)
    nearest = np.asarray(KDTree(places).query(places, k=NEIGHBOURS + 1)[1])
    return torch.from_numpy(nearest[:, 1:].copy()).to(points.device)


def image_terms(
    outputs: dict[str, Tensor], batch: dict[str, Tensor], lambda_ssim: float, generator: torch.Generator
) -> dict[str, Callable[[], Float[Tensor, ""]]]:
    """Terms on rendered maps (`compose_outputs`) against `batch`: image, mask and `prior_*` maps.

    Normals and depth count where the mask and the rendering both cover more than half a pixel.
    """
    alpha, mask = outputs["accumulation"][..., 0], batch["mask"][..., 0]
    valid = (alpha.detach() > 0.5) & (mask > 0.5)

    def where_normal(other: Tensor) -> Tensor:
        return valid & (other.detach().norm(dim=-1) > 0.5)

    return {
        "L_c": lambda: losses.photometric_loss(outputs["rgb"], batch["image"], lambda_ssim),
        "L_m": lambda: losses.mask_loss(alpha, mask),
        "L_d": lambda: losses.depth_ranking_loss(
            outputs["depth"][..., 0], batch["prior_depth"], losses.sample_pairs(valid, DEPTH_PAIRS, generator)
        ),
        "L_sn": lambda: losses.normal_consistency_loss(
            outputs["normal"], outputs["surface_normal"], where_normal(outputs["surface_normal"])
        ),
        "L_n": lambda: losses.normal_prior_loss(
            outputs["normal"], batch["prior_normal"], where_normal(batch["prior_normal"])
        ),
        "L_tv": lambda: losses.total_variation_loss(outputs["normal"], valid),
        "L_s": lambda: losses.semantic_loss(outputs["logits"], batch["prior_semantics"], torch.ones_like(valid)),
    }


def surfel_terms(
    avatar: Avatar, template: Surfels, neighbours: Int[Tensor, "N K"], predicted: Tensor, target: Tensor
) -> dict[str, Callable[[], Float[Tensor, ""]]]:
    """Terms on the surfels: `template` is what they were before correction, `predicted` and `target` [P, 24] are
    skinning weights at points of the template's surface."""
    posed = pose_surfels(avatar.canonical, avatar.opacities, avatar.T, ROUTES["colour"])
    return {
        "L_reg": lambda: losses.semantic_regularization(avatar.f_s, avatar.logits.detach().argmax(-1), NUM_CLASSES),
        "L_skin": lambda: losses.skinning_loss(predicted, target),
        "L_iso": lambda: losses.isometry_loss(template.means, posed.means, neighbours),
        "L_iso_cov": lambda: losses.covariance_isometry_loss(
            _covariance(template.frames[..., :2] * template.scales[:, None]), _covariance(posed.tangents), neighbours
        ),
    }


def _covariance(tangents: Float[Tensor, "N 3 2"]) -> Float[Tensor, "N 3 3"]:
    return torch.bmm(tangents, tangents.transpose(1, 2))
