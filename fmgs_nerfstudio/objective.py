"""The training objective (4.4): which terms there are, what each needs, and how it is computed (Eq. 21)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from fmgs_nerfstudio import losses
from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.kernels.isometry import covariances
from fmgs_nerfstudio.kernels.normal_maps import long_where
from fmgs_nerfstudio.maps.maps import Kind
from fmgs_nerfstudio.patches import Patch
from fmgs_nerfstudio.routes import OPEN, PosedSurfels
from fmgs_nerfstudio.surfels import Surfels


@dataclass(frozen=True)
class LossWeights:
    """Weights by the paper's symbols; a term with weight 0 is neither computed nor rendered for.

    The paper leaves d, n, s and reg open; `docs/ablation-and-tuning.md` has what was tried.
    """

    lambda_ssim: float = 0.2
    """Share of SSIM in the photometric loss L_c (Eq. 13, the paper's value)."""
    lambda_m: float = 0.1
    """Weight of the mask loss L_m (Eq. 14, 3DGS-Avatar's value)."""
    lambda_d: float = 0.02
    """Weight of the ordinal depth loss L_d (Eq. 16)."""
    lambda_sn: float | None = 0.02
    """Weight of the self-consistency of normals L_sn (Eq. 18). None: the same as lambda-n."""
    lambda_n: float = 0.05
    """Weight of the normal prior L_n (Eq. 18)."""
    lambda_tv: float | None = 0.02
    """Weight of the total variation of normals L_tv (Eq. 17). None: the same as lambda-n."""
    lambda_s: float = 0.1
    """Weight of the semantic loss L_s (Eq. 19)."""
    lambda_reg: float = 1e-3
    """Weight of the semantic-guided regularisation L_reg (Eq. 20)."""
    lambda_skin: float = 10.0
    """Weight of the skinning loss L_skin until skin-until (3DGS-Avatar's value)."""
    lambda_skin_late: float = 0.1
    """Weight of the skinning loss L_skin after skin-until (3DGS-Avatar's value)."""
    skin_until: float = 1 / 15
    """Fraction of the run at which the weight of L_skin drops (3DGS-Avatar: 1,000 of 15,000 steps)."""
    lambda_iso: float = 1.0
    """Weight of the isometry of neighbouring centres L_iso (3DGS-Avatar's value)."""
    lambda_iso_cov: float = 100.0
    """Weight of the isometry of neighbouring covariances, the second part of L_iso (3DGS-Avatar's value)."""
    lambda_pose: float = 1e-3
    """Weight of the prior of corrections L_pose, where the capture states how far its fits may be off."""

    def at(self, progress: float) -> dict[str, float]:
        """Weight of every term at a fraction of the run, by the term's name."""
        return {
            "L_c": 1.0,
            "L_m": self.lambda_m,
            "L_d": self.lambda_d,
            "L_sn": self.lambda_n if self.lambda_sn is None else self.lambda_sn,
            "L_n": self.lambda_n,
            "L_tv": self.lambda_n if self.lambda_tv is None else self.lambda_tv,
            "L_s": self.lambda_s,
            "L_reg": self.lambda_reg,
            "L_skin": self.lambda_skin if progress < self.skin_until else self.lambda_skin_late,
            "L_iso": self.lambda_iso,
            "L_iso_cov": self.lambda_iso_cov,
            "L_pose": self.lambda_pose,
        }


@dataclass
class LossInputs:
    """What loss terms of pixels may look at in one training step."""

    outputs: Mapping[str, Tensor]
    """Rendered maps (`compose_outputs`)."""
    batch: Mapping[str, Tensor]
    """image, mask, and `prior_*` maps."""
    draws: Float[Tensor, "P 2"]
    """Random numbers in [0, 1), for the pairs of pixels that L_d ranks."""
    lambda_ssim: float

    @property
    def enlarged(self) -> Float[Tensor, ""] | float:
        """Pixels of the picture, as many times those of the person's own crop."""
        return self.batch.get("enlarged", 1.0)

    @cached_property
    def valid(self) -> Bool[Tensor, "H W"]:
        """Where normals and depth count: mask and rendering both cover more than half a pixel."""
        return (self.outputs["accumulation"][..., 0].detach() > 0.5) & (self.batch["mask"][..., 0] > 0.5)

    def valid_where(self, normal: Float[Tensor, "H W 3"]) -> Bool[Tensor, "H W"]:
        """As `valid`, and where this normal is defined."""
        return long_where(self.valid, normal.detach())


@dataclass
class SurfelInputs:
    """What loss terms of surfels may look at in one training step, before a pixel is drawn."""

    avatar: Avatar
    template: Surfels
    """The surfels before correction."""
    patch: Patch
    """Where isometry is looked at in this step."""

    @property
    def posed(self) -> PosedSurfels:
        return self.avatar.posed.by(OPEN)

    def in_patch(self, *values: Float[Tensor, "N *shape"]) -> tuple[Float[Tensor, "M *shape"], ...]:
        """Those of the patch's rows."""
        return tuple(value.index_select(0, self.patch.rows) for value in values)


@dataclass(frozen=True)
class Term:
    """A loss term, and what it needs."""

    compute: Callable[[Any], Float[Tensor, ""]]
    """Of `LossInputs`, or `of_surfels` of `SurfelInputs`."""
    modalities: tuple[str, ...] = ()
    """Rendered modalities."""
    prior: Kind | None = None
    """Prior map that it learns from: a frame without one trains without the term."""
    weight: float | None = None
    """Weight of a term that `LossWeights` does not list."""
    of_surfels: bool = False
    """It needs no pixels, nor a value that the host reads: a card replays it."""


def _photometric(inputs: LossInputs) -> Float[Tensor, ""]:
    return losses.photometric_loss(inputs.outputs["rgb"], inputs.batch["image"], inputs.lambda_ssim) * inputs.enlarged


def _depth_ranking(inputs: LossInputs) -> Float[Tensor, ""]:
    pairs = losses.sample_pairs(inputs.valid, inputs.draws)
    return losses.depth_ranking_loss(inputs.outputs["depth"][..., 0], inputs.batch["prior_depth"], pairs)


def _normal_consistency(inputs: LossInputs) -> Float[Tensor, ""]:
    surface = inputs.outputs["surface_normal"]
    return losses.normal_consistency_loss(inputs.outputs["normal"], surface, inputs.valid_where(surface))


def _normal_prior(inputs: LossInputs) -> Float[Tensor, ""]:
    prior = inputs.batch["prior_normal"]
    return losses.normal_prior_loss(inputs.outputs["normal"], prior, inputs.valid_where(prior))


def _skinning(inputs: SurfelInputs) -> Float[Tensor, ""]:
    assert inputs.avatar.skinned is not None
    return losses.skinning_loss(*inputs.avatar.skinned)


def _isometry(inputs: SurfelInputs) -> Float[Tensor, ""]:
    before, after = inputs.in_patch(inputs.template.means, inputs.posed.means)
    return losses.isometry_loss(before, after, inputs.patch.neighbours) * inputs.patch.scale


def _covariance_isometry(inputs: SurfelInputs) -> Float[Tensor, ""]:
    """The isometry of covariances in [30]: `isometry_loss` of their six distinct entries as points; m^2."""
    frames, scales, tangents = inputs.in_patch(*inputs.template[1:], inputs.posed.tangents)
    before, after = covariances(frames, scales), covariances(tangents)
    return losses.isometry_loss(before, after, inputs.patch.neighbours) * inputs.patch.scale


TERMS: Mapping[str, Term] = {
    "L_c": Term(_photometric, ("colour",)),
    "L_m": Term(lambda x: losses.mask_loss(x.outputs["accumulation"], x.batch["mask"]) * x.enlarged, ("colour",)),
    "L_d": Term(_depth_ranking, ("depth",), "depth"),
    "L_sn": Term(_normal_consistency, ("depth", "normal")),
    "L_n": Term(_normal_prior, ("normal",), "normal"),
    "L_tv": Term(lambda x: losses.total_variation_loss(x.outputs["normal"], x.valid), ("normal",)),
    "L_skin": Term(_skinning, of_surfels=True),
    "L_iso": Term(_isometry, of_surfels=True),
    "L_iso_cov": Term(_covariance_isometry, of_surfels=True),
    "L_pose": Term(lambda x: losses.pose_prior_loss(x.outputs["of_frame"], x.outputs["of_clip"])),
}
"""The terms on colour, geometry and skinning; distilled modalities bring theirs (`modalities.py`)."""
DEPTH_PAIRS = 8192
"""Pixel pairs drawn for L_d in a step."""


@dataclass(frozen=True)
class Objective:
    """The terms of a run, weighted (Eq. 21)."""

    terms: Mapping[str, Term]
    weights: LossWeights

    @staticmethod
    def of(terms: Mapping[str, Term], weights: LossWeights, priors: Iterable[Kind]) -> Objective:
        """Those of `terms` that have a weight and whose prior is at hand."""
        whole = Objective(terms, weights)
        at_hand = {None, *priors}
        active = {name: t for name, t in terms.items() if whole.weight(name, 0.0) > 0 and t.prior in at_hand}
        return Objective(active, weights)

    @property
    def modalities(self) -> list[str]:
        """What must be rendered; the colour always."""
        return sorted({"colour", *(m for term in self.terms.values() for m in term.modalities)})

    def weight(self, name: str, progress: float) -> float:
        """Weight of a term at a fraction of the run."""
        own = self.terms[name].weight
        return self.weights.at(progress)[name] if own is None else own

    def of_surfels(self, inputs: SurfelInputs) -> dict[str, Float[Tensor, ""]]:
        """The terms that need no pixels, not weighted, by name."""
        return {name: term.compute(inputs) for name, term in self.terms.items() if term.of_surfels}

    def of_pixels(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """The others, not weighted, by name; without those whose prior map this frame lacks."""
        active = self.active(inputs.batch)
        return {name: term.compute(inputs) for name, term in active.items() if not term.of_surfels}

    def active(self, batch: Container[str]) -> dict[str, Term]:
        """Terms whose prior map is in the batch, by name."""
        return {n: term for n, term in self.terms.items() if term.prior is None or f"prior_{term.prior}" in batch}

    def weighted(
        self, terms: Mapping[str, Float[Tensor, ""]], batch: Container[str], progress: float
    ) -> dict[str, Float[Tensor, ""]]:
        """Those active, each times its weight, by name."""
        return {name: self.weight(name, progress) * terms[name] for name in self.active(batch)}
