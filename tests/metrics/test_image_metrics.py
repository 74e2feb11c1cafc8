"""Metrics of masks and maps against torchmetrics and closed forms; the images' are in test_metric_protocols.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from fmgs_nerfstudio.maps.classes import NUM_CLASSES
from fmgs_nerfstudio.metrics.image import angle_degrees, image_metrics, iou, mean_iou
from fmgs_nerfstudio.metrics.protocols import MEASURES


def test_mean_iou_is_torchmetrics_over_present_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, truth = (torch.randint(0, 5, (40, 40), generator=generator) for _ in range(2))
    per_class = MulticlassJaccardIndex(num_classes=NUM_CLASSES, average="none")(labels, truth)
    assert mean_iou(labels, truth) == pytest.approx(float(per_class[1:5].mean()), abs=1e-6)


def test_iou_of_empty_masks() -> None:
    empty, full = torch.zeros(3, 3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)
    assert (iou(empty, empty), iou(empty, full), iou(full, full)) == (1.0, 0.0, 1.0)


def test_angle_leaves_out_missing_truth() -> None:
    a = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    b = torch.tensor([[0, 1.0, 0], [0.5**0.5, 0.5**0.5, 0], [0, 0, 0]])
    assert angle_degrees(a, b) == pytest.approx((90 + 45) / 2, abs=1e-3)


def test_a_perfect_image_and_one_that_is_off_by_known_amounts() -> None:
    height, width = 24, 24
    ids = torch.randint(1, 5, (height, width), dtype=torch.uint8)
    normal = torch.nn.functional.normalize(torch.randn(height, width, 3), dim=-1)
    batch = {
        "image": torch.rand(height, width, 3),
        "mask": torch.ones(height, width, 1),
        "truth_depth": torch.full((height, width), 2.0),
        "truth_normal": normal,
        "truth_semantics": ids,
    }
    outputs = {
        "rgb": batch["image"] + 1e-3,
        "accumulation": torch.ones(height, width, 1),
        "depth": torch.full((height, width, 1), 2.013),
        "normal": normal,
        "logits": torch.nn.functional.one_hot(ids.long(), NUM_CLASSES).float(),
    }
    metrics = image_metrics(outputs, batch)
    assert metrics["psnr"] == pytest.approx(60, abs=0.2)
    assert metrics["ssim"] > 0.999
    assert metrics["mask_iou"] == 1
    assert metrics["depth_mm"] == pytest.approx(13, abs=0.01)
    assert metrics["normal_degrees"] < 0.1
    assert metrics["miou"] == 1
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())
    without_truth = image_metrics(outputs, {key: batch[key] for key in ("image", "mask")})
    seen = {name for name, one in MEASURES.items() if one.net is None and one.view in ("black", "white8")}
    assert set(without_truth) == {"psnr", "ssim", "mask_iou"} | seen


def test_maps_count_where_truth_and_rendering_both_cover_more_than_half_a_pixel() -> None:
    """Two of five pixels do: 10 mm behind and 30 mm before the truth, at a right angle to it and along it."""
    up, toward = [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
    outputs = {
        "rgb": torch.zeros(1, 5, 3),
        "accumulation": torch.tensor([[1, 0.6, 0.4, 1, 1]])[..., None],
        "depth": torch.tensor([[2.01, 1.97, 9, 9, 9]])[..., None],
        "normal": torch.tensor([[up, toward, up, up, up]]),
        "logits": torch.zeros(1, 5, NUM_CLASSES),
    }
    batch = {
        "image": torch.zeros(1, 5, 3),
        "mask": torch.tensor([[1, 1, 1, 0.4, 0.6]])[..., None],
        "truth_depth": torch.tensor([[2.0, 2.0, 2.0, 2.0, 0.0]]),
        "truth_normal": torch.tensor([[toward] * 5]),
        "truth_semantics": torch.ones(1, 5, dtype=torch.uint8),
    }
    metrics = image_metrics(outputs, batch)
    assert metrics["depth_mm"] == pytest.approx(20, abs=1e-3)
    assert metrics["normal_degrees"] == pytest.approx(45)
    assert metrics["mask_iou"] == pytest.approx(3 / 5)
