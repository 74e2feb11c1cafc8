"""Generic depth and parsing models: transformers' real pipelines on tiny random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fmgs_nerfstudio.maps.classes import IDS
from fmgs_nerfstudio.maps.info import Kind
from fmgs_nerfstudio.priors.checkpoints import CheckpointError, find_weights
from fmgs_nerfstudio.priors.estimators import ESTIMATORS
from fmgs_nerfstudio.priors.estimators.base import EstimatorError, EstimatorOptions

transformers = pytest.importorskip("transformers", reason="the extra 'priors' is not installed")

ATR = ("Background", "Hat", "Hair", "Sunglasses", "Upper-clothes", "Skirt", "Pants", "Dress", "Belt", "Left-shoe",
       "Right-shoe", "Face", "Left-leg", "Right-leg", "Left-arm", "Right-arm", "Bag", "Scarf")  # fmt: skip


def refuse(what: str) -> bool:
    raise AssertionError(f"asked to download {what}")


def opened(folder: Path, *kinds: Kind, **options: Any) -> Any:
    wanted = EstimatorOptions(checkpoint=str(folder), kinds=frozenset(kinds), **options)
    network = next(n for n in ESTIMATORS["transformers"](wanted) if set(kinds) <= set(n.kinds))
    assert network.weights is not None
    return network.open(find_weights(network.weights, str(folder), refuse))


def depth_model(folder: Path, **config: Any) -> Any:
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=28, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    settings = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=4, patch_size=14, **config,
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.DepthAnythingForDepthEstimation(settings).eval()
    model.save_pretrained(folder)
    transformers.DPTImageProcessor(
        size={"height": 28, "width": 28}, do_pad=False, keep_aspect_ratio=False, ensure_multiple_of=14
    ).save_pretrained(folder)
    return model


def parsing_model(folder: Path, names: tuple[str, ...] = ATR) -> Any:
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8,
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    torch.manual_seed(2)
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    model.save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return model


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 255, (9, 7, 3), np.uint8), size) for size in ((60, 90), (100, 70))]


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "kind", "direction"),
    [({}, "inverse", "nearer"), ({"depth_estimation_type": "metric", "max_depth": 20}, "metric", "farther")],
)
def test_depth_is_recorded_as_what_it_is(tmp_path: Path, config: dict[str, Any], kind: str, direction: str) -> None:
    model = depth_model(tmp_path / "depths", **config)
    estimator = opened(tmp_path / "depths", "depth")
    assert (estimator.info.depth_kind, estimator.info.depth_direction) == (kind, direction)
    assert estimator.info.estimator == "depths"
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "depths")
    for image, maps in zip(images(), estimator(images()), strict=True):
        raw = model(**processor(images=image, return_tensors="pt")).predicted_depth
        expected = F.interpolate(raw[:, None], size=image.shape[:2], mode="bicubic")[0, 0].numpy()
        assert maps["depth"].shape == image.shape[:2]
        np.testing.assert_allclose(maps["depth"], expected, atol=1e-3 * max(np.ptp(expected), 1e-6))


def test_unknown_depth_must_be_said(tmp_path: Path) -> None:
    depth_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "chmv2"}))
    with pytest.raises(EstimatorError, match=r"what depth a chmv2 gives is not known here; say --depth-kind inverse"):
        opened(tmp_path, "depth")


@torch.no_grad()
def test_parsing_speaks_goliath(tmp_path: Path) -> None:
    model = parsing_model(tmp_path)
    to_ours = [0, 1, 3, 1, 22, 12, 12, 22, 1, 8, 17, 2, 7, 16, 6, 15, 1, 1]  # ATR's 18 by hand
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    for image, maps in zip(images(), opened(tmp_path, "semantics", "mask")(images()), strict=True):
        logits = model(**processor(images=image, return_tensors="pt")).logits
        ids = F.interpolate(logits, size=image.shape[:2], mode="bilinear")[0].argmax(0).numpy()
        assert len(np.unique(ids)) > 1
        assert (maps["semantics"] == np.array(to_ours)[ids]).mean() > 0.99
        np.testing.assert_array_equal(maps["mask"], maps["semantics"] > 0)


def test_strange_classes_need_a_map(tmp_path: Path) -> None:
    parsing_model(tmp_path / "model", ("background", "person", "cat"))
    with pytest.raises(EstimatorError, match=r"class 'person' has no counterpart.*--label-map"):
        opened(tmp_path / "model", "semantics")
    table = tmp_path / "map.json"
    table.write_text(json.dumps({"person": "Upper_Clothing", "*": "Background"}))
    estimator = opened(tmp_path / "model", "semantics", label_map=table)
    assert estimator.table == {"background": 0, "person": IDS["Upper_Clothing"], "cat": 0}
    for wrong, message in (
        ({"persona": "Hair"}, "no class 'persona'"),
        ({"person": "Shirt"}, "'Shirt' is none of Background"),
        ([1], "expected a JSON object"),
    ):
        table.write_text(json.dumps(wrong))
        with pytest.raises(EstimatorError, match=message):
            opened(tmp_path / "model", "semantics", label_map=table)


def test_a_depth_model_is_no_parsing_model(tmp_path: Path) -> None:
    depth_model(tmp_path)
    with pytest.raises(CheckpointError, match="names no classes"):
        opened(tmp_path, "semantics")
    with pytest.raises(EstimatorError, match="is one model: add --kinds depth"):
        ESTIMATORS["transformers"](EstimatorOptions(checkpoint=str(tmp_path)))
    with pytest.raises(EstimatorError, match="--size is of Sapiens"):
        ESTIMATORS["transformers"](EstimatorOptions(size="1b"))
