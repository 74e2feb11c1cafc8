"""The training objectives of section 4.4 as pure functions, one per symbol.

Each is a mean over its valid pixels, pairs, points or classes, so that weights keep their meaning when the image or the
mesh changes size. Where nothing is valid, a loss is exactly 0 and so is its gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from fmgs_nerfstudio.kernels.isometry import distance_change
from fmgs_nerfstudio.kernels.ssim import ssim


def photometric_loss(
    image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"], lambda_ssim: float = 0.2
) -> Float[Tensor, ""]:
    """L_c (Eq. 13): (1 - lambda) L1 + lambda L_SSIM with L_SSIM = 1 - SSIM; colours in [0, 1]."""
    return (1 - lambda_ssim) * functional.l1_loss(image, target) + lambda_ssim * (1 - ssim(image, target))


def mask_loss(alpha: Float[Tensor, "*pixels"], mask: Float[Tensor, "*pixels"]) -> Float[Tensor, ""]:
    """L_m (Eq. 14): binary cross-entropy of the rendered opacity against a mask in [0, 1], which may be soft.

    The opacity is drawn 1e-4 towards 1/2 (where the rasteriser stops, too): a wrong pixel that is saturated costs a
    finite amount and keeps its gradient, which a clamp would not give it.
    """
    margin = 1e-4
    return functional.binary_cross_entropy(margin + (1 - 2 * margin) * alpha, mask)


def sample_pairs(valid: Bool[Tensor, "H W"], count: int, generator: torch.Generator) -> Int[Tensor, "P 2"]:
    """Random pairs (x_1, x_2) of valid pixels for `depth_ranking_loss`, as flat indices; none if no pixel is valid."""
    pixels = valid.flatten().nonzero()[:, 0]
    if len(pixels) == 0:
        return pixels.new_empty(0, 2)
    draws = torch.randint(len(pixels), (count, 2), generator=generator, device=generator.device)
    return pixels[draws.to(pixels.device, non_blocking=True)]


def depth_ranking_loss(
    depth: Float[Tensor, "H W"], prior: Float[Tensor, "H W"], pairs: Int[Tensor, "P 2"], alpha: float = 10.0
) -> Float[Tensor, ""]:
    """L_d (Eq. 15, 16): |tanh(alpha (D(x_1) - D(x_2))) - ord(D_(x_1), D_(x_2))|, mean over pairs of flat pixel indices.

    Depth in metres; in the prior larger is farther, in any unit. Pairs that the prior does not order (ties, values
    that are not finite) are left out.
    """
    first, second = depth.flatten()[pairs].unbind(-1)
    prior_first, prior_second = prior.flatten()[pairs].unbind(-1)
    order = torch.sign(prior_first - prior_second).nan_to_num(0) * (prior_first.isfinite() & prior_second.isfinite())
    difference = torch.tanh(alpha * (first - second)) - order
    return _mean_where(order != 0, difference.abs())


def normal_consistency_loss(
    normal: Float[Tensor, "H W 3"], surface_normal: Float[Tensor, "H W 3"], valid: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """L_sn (section 4.4): |N - N^|_1, summed over components; N^ from the rendered depth; mean over valid pixels."""
    return _mean_where(valid, (normal - surface_normal).abs())


def normal_prior_loss(
    normal: Float[Tensor, "H W 3"], prior: Float[Tensor, "H W 3"], valid: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """L_n (section 4.4): 1 - N . N_ of unit normals; mean over valid pixels."""
    prior = torch.where(valid[..., None], prior, 0)  # undefined normals may be NaN
    return (valid.sum() - (normal * prior).sum()) / valid.sum().clamp(min=1)


def total_variation_loss(normal: Float[Tensor, "H W 3"], valid: Bool[Tensor, "H W"]) -> Float[Tensor, ""]:
    """L_tv (Eq. 17): |N_(i,j+1) - N_ij| + |N_(i+1,j) - N_ij| over components; mean over neighbours both valid."""
    along, down = valid[:, 1:] & valid[:, :-1], valid[1:] & valid[:-1]
    total = _sum_where(along, normal.diff(dim=1).abs()) + _sum_where(down, normal.diff(dim=0).abs())
    return total / (along.sum() + down.sum()).clamp(min=1)


def semantic_loss(
    logits: Float[Tensor, "H W C"], labels: Int[Tensor, "H W"], valid: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """L_s (Eq. 19): cross-entropy; labels are classes 0 .. C-1 where valid; mean over valid pixels."""
    ignored = -100
    targets = labels.long().masked_fill(~valid, ignored).flatten()
    total = functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=ignored, reduction="sum")
    return total / valid.sum().clamp(min=1)


def semantic_regularization(
    features: Float[Tensor, "N D"], labels: Int[Tensor, "N"], classes: int
) -> Float[Tensor, ""]:
    """L_reg (Eq. 20): |f_i - f_j|^2 of surfels of one class, mean over the pairs of a class, then over classes present.

    Eq. 20 divides the pair sum of a class by |G_c|, and so grows with the mesh; here it is divided by |G_c|^2, the
    number of its pairs (i, j), i = j included. In closed form that is 2 / |G_c| sum_i |f_i - mean|^2.
    """
    labels = labels.long()
    members = functional.one_hot(labels, classes).to(features)
    sizes = members.sum(dim=0)
    # The sum is least at the mean: no gradient passes through it.
    means = (members.T @ features.detach()) / sizes.clamp(min=1)[:, None]
    deviation = (features - means[labels]).square().sum(dim=-1)
    present = (sizes > 0).sum().clamp(min=1)
    return (2 / sizes[labels] * deviation).sum() / present


def skinning_loss(predicted: Float[Tensor, "P J"], target: Float[Tensor, "P J"]) -> Float[Tensor, ""]:
    """L_skin [30]: squared error of skinning weights, summed over joints, mean over points of the template."""
    return (predicted - target).square().sum() / max(len(predicted), 1)


def isometry_loss(
    canonical: Float[Tensor, "N D"], posed: Float[Tensor, "N D"], neighbours: Int[Tensor, "N K"]
) -> Float[Tensor, ""]:
    """L_iso [30]: | |x_i - x_j| - |x'_i - x'_j| |, mean over neighbours (i, j); positions in metres.

    The gradient is zero where two points coincide.
    """
    return distance_change(canonical, posed, neighbours) / max(neighbours.numel(), 1)


def _sum_where(valid: Bool[Tensor, "*pixels"], values: Float[Tensor, "*pixels_and_channels"]) -> Float[Tensor, ""]:
    """Sum of the values, over their channels too, where valid."""
    return torch.where(valid.view(*valid.shape, *[1] * (values.ndim - valid.ndim)), values, 0).sum()


def _mean_where(valid: Bool[Tensor, "*pixels"], values: Float[Tensor, "*pixels_and_channels"]) -> Float[Tensor, ""]:
    """`_sum_where` by the number of valid pixels."""
    return _sum_where(valid, values) / valid.sum().clamp(min=1)
