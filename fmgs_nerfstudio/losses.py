"""The training objectives of section 4.4 as pure functions, one per symbol.

Each is a mean over its valid pixels, pairs, points or classes, so that weights keep their meaning when the image or the
mesh changes size. Where nothing is valid, a loss is exactly 0 and so is its gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fmgs_nerfstudio.kernels.classes import deviation_from_mean
from fmgs_nerfstudio.kernels.cross_entropy import cross_entropy
from fmgs_nerfstudio.kernels.isometry import distance_change
from fmgs_nerfstudio.kernels.pixel_sums import absolute_difference, binary_cross_entropy, dot_product, variation
from fmgs_nerfstudio.kernels.ssim import l1_and_ssim


def photometric_loss(
    image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"], lambda_ssim: float = 0.2
) -> Float[Tensor, ""]:
    """L_c (Eq. 13): (1 - lambda) L1 + lambda L_SSIM with L_SSIM = 1 - SSIM; colours in [0, 1]."""
    l1, ssim = l1_and_ssim(image, target)
    return torch.lerp(l1, 1 - ssim, lambda_ssim)


def mask_loss(alpha: Float[Tensor, "*pixels"], mask: Float[Tensor, "*pixels"]) -> Float[Tensor, ""]:
    """L_m (Eq. 14): binary cross-entropy of the rendered opacity against a mask in [0, 1], which may be soft.

    The opacity is drawn 1e-4 towards 1/2 (where the rasteriser stops, too): a wrong pixel that is saturated costs a
    finite amount and keeps its gradient, which a clamp would not give it.
    """
    return binary_cross_entropy(alpha, mask, margin=1e-4) / alpha.numel()


def pose_prior_loss(of_frame: Float[Tensor, "K"], of_clip: Float[Tensor, "C"]) -> Float[Tensor, ""]:
    """L_pose (beyond the paper): the mean square of a frame's corrections and that of the whole clip's, in standard
    deviations; normal priors, but for a factor: where images say little, poses stay as they were fitted."""
    return of_frame.square().mean() + of_clip.square().mean()


def sample_pairs(valid: Bool[Tensor, "H W"], draws: Float[Tensor, "P 2"]) -> Int[Tensor, "P 2"]:
    """Random pairs (x_1, x_2) of valid pixels for `depth_ranking_loss`, as flat indices: the k-th of n for a draw of
    [k / n, (k + 1) / n). If no pixel is valid, of the last pixel with itself, which nothing ranks.

    The host does not wait for n.
    """
    count = valid.flatten().cumsum(0)
    wanted = (draws.double() * count[-1]).long() + 1
    return torch.searchsorted(count, wanted).clamp_max(len(count) - 1)


def depth_ranking_loss(
    depth: Float[Tensor, "H W"], prior: Float[Tensor, "H W"], pairs: Int[Tensor, "P 2"], alpha: float = 10.0
) -> Float[Tensor, ""]:
    """L_d (Eq. 15, 16): |tanh(alpha (D(x_1) - D(x_2))) - ord(D_(x_1), D_(x_2))|, mean over pairs of flat pixel indices.

    Depth in metres; in the prior larger is farther, in any unit. Pairs that the prior does not order (ties, values
    that are not finite) are left out.
    """
    order = _difference(prior, pairs).nan_to_num(0, 0, 0).sign()
    # |tanh - ord| where the order is 1 or -1
    apart = torch.addcmul(order.abs(), order, torch.tanh(alpha * _difference(depth, pairs)), value=-1)
    return apart.sum() / _count(order != 0)


def normal_consistency_loss(
    normal: Float[Tensor, "H W 3"], surface_normal: Float[Tensor, "H W 3"], valid: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """L_sn (section 4.4): |N - N^|_1, summed over components; N^ from the rendered depth; mean over valid pixels."""
    return absolute_difference(normal, surface_normal, valid) / _count(valid)


def normal_prior_loss(
    normal: Float[Tensor, "H W 3"], prior: Float[Tensor, "H W 3"], valid: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """L_n (section 4.4): 1 - N . N_ of unit normals; mean over valid pixels."""
    return (valid.sum() - dot_product(normal, prior, valid)) / _count(valid)


def total_variation_loss(normal: Float[Tensor, "H W 3"], valid: Bool[Tensor, "H W"]) -> Float[Tensor, ""]:
    """L_tv (Eq. 17): |N_(i,j+1) - N_ij| + |N_(i+1,j) - N_ij| over components; mean over neighbours both valid."""
    total, pairs = variation(normal, valid)
    return total / pairs.clamp(min=1)


def semantic_loss(
    logits: Float[Tensor, "H W C"], labels: Int[Tensor, "H W"], valid: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """L_s (Eq. 19): cross-entropy; labels are classes 0 .. C-1 where valid; mean over valid pixels."""
    return cross_entropy(logits, labels, valid) / _count(valid)


def semantic_regularization(
    features: Float[Tensor, "N D"], labels: Int[Tensor, "N"], classes: int
) -> Float[Tensor, ""]:
    """L_reg (Eq. 20): |f_i - f_j|^2 of surfels of one class, mean over the pairs of a class, then over classes present.

    Eq. 20 divides the pair sum of a class by |G_c|, and so grows with the mesh; here it is divided by |G_c|^2, the
    number of its pairs (i, j), i = j included. In closed form that is 2 / |G_c| sum_i |f_i - mean|^2.
    """
    return 2 * deviation_from_mean(features, labels, classes)


def skinning_loss(predicted: Float[Tensor, "P J"], target: Float[Tensor, "P J"]) -> Float[Tensor, ""]:
    """L_skin [30]: squared error of skinning weights, summed over joints, mean over points of the template."""
    return (predicted - target).square().sum() / max(len(predicted), 1)


def isometry_loss(
    canonical: Float[Tensor, "N D"], posed: Float[Tensor, "N D"], neighbours: Int[Tensor, "C K"]
) -> Float[Tensor, ""]:
    """L_iso [30]: | |x_i - x_j| - |x'_i - x'_j| |, mean over neighbours (i, j) of the first C points; metres.

    The gradient is zero where two points coincide.
    """
    return distance_change(canonical, posed, neighbours) / max(neighbours.numel(), 1)


def _count(valid: Bool[Tensor, "*pixels"]) -> Int[Tensor, ""]:
    """Number of valid pixels, at least 1."""
    return valid.sum().clamp(min=1)


def _difference(values: Float[Tensor, "H W"], pairs: Int[Tensor, "P 2"]) -> Float[Tensor, "P"]:
    """Between the two of each pair of flat pixel indices; by index_select, whose backward is the fastest of torch."""
    first, second = values.flatten().index_select(0, pairs.flatten()).view(-1, 2).unbind(1)
    return first - second
