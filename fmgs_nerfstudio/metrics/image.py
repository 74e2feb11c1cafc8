"""Metrics of one image, and of its maps where exact truth is at hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fmgs_nerfstudio.metrics.protocols import PROTOCOLS, Networks, measure, paper_protocol, views


def image_metrics(
    outputs: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
    split: str = "",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    networks: Networks | None = None,
) -> dict[str, float]:
    """psnr (dB), ssim, lpips (times 1000) under the paper's protocol for data of this `split` (`Capture.protocol`);
    the measures of other papers (`protocols.MEASURES`); mask_iou; and where `batch` has the exact maps depth_mm,
    surface_normal_degrees (of normals from depth), and normal_degrees and miou of outputs that were trained.

    `outputs` as `compose_outputs` makes them of the modalities that are shown; `batch`: image [H, W, 3] and mask
    [H, W, 1], on the same `background`; `bound` [H, W, 1] for the measures that look at the posed body's box;
    `truth_normal`, `truth_depth`, `truth_semantics`. `networks`: LPIPS is left out for those that are not there.
    Normals and depth count where truth and rendering both cover more than half a pixel.
    """
    device = outputs["rgb"].device
    there = {name: value.to(device) for name, value in batch.items()}
    alpha, mask = outputs["accumulation"], there["mask"]
    seen = views(outputs["rgb"], alpha, there["image"], mask, background, there.get("bound"))
    measured = measure(seen, networks or {})
    covered, person = alpha[..., 0] > 0.5, mask[..., 0] > 0.5
    metrics = PROTOCOLS[paper_protocol(split)].columns(measured) | {"mask_iou": iou(covered, person)} | measured
    if "truth_normal" in batch:
        truth = {name: there[f"truth_{name}"] for name in ("normal", "depth", "semantics")}
        both = covered & person & (truth["depth"] > 0)
        metrics |= {
            f"{name}_degrees": angle_degrees(outputs[name][both], truth["normal"][both])
            for name in ("normal", "surface_normal")
            if name in outputs
        }
        metrics["depth_mm"] = float((outputs["depth"][..., 0] - truth["depth"])[both].abs().mean() * 1000)
        if "logits" in outputs:
            metrics["miou"] = mean_iou(outputs["logits"].argmax(-1), truth["semantics"].long())
    return metrics


def iou(a: Bool[Tensor, "H W"], b: Bool[Tensor, "H W"]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def angle_degrees(a: Float[Tensor, "P 3"], b: Float[Tensor, "P 3"]) -> float:
    """Mean angle between unit vectors; those of length 0 in `b` are left out."""
    cosine = (a * b).sum(-1)[b.norm(dim=-1) > 0.5]
    return float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean())


def mean_iou(labels: Int[Tensor, "H W"], truth: Int[Tensor, "H W"]) -> float:
    """Mean intersection over union of the classes present in the truth, background left out."""
    present = [c for c in truth.unique().tolist() if c != 0]
    return sum(iou(labels == c, truth == c) for c in present) / max(len(present), 1)
