"""Sapiens2 through transformers' real classes with tiny random weights, against their own post-processing."""

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
from fmgs_nerfstudio.priors.checkpoints import CheckpointError, find_weights
from fmgs_nerfstudio.priors.estimators import ESTIMATORS
from fmgs_nerfstudio.priors.estimators.base import EstimatorOptions, Network

transformers = pytest.importorskip("transformers", reason="the extra 'priors' is not installed")
if not hasattr(transformers, "Sapiens2Config"):
    pytest.skip(f"transformers {transformers.__version__} has no Sapiens2", allow_module_level=True)

CLASSES = {
    "seg": ("Sapiens2ForSemanticSegmentation", 29),
    "normal": ("Sapiens2ForNormalEstimation", 3),
    "pointmap": ("Sapiens2ForPointmapEstimation", 3),
    "matting": ("Sapiens2ForImageMatting", 4),
}
HEIGHT, WIDTH = 128, 96


def save(root: Path, task: str) -> Any:
    class_name, channels = CLASSES[task]
    head: dict[str, Any] = {
        "upsample_out_channels": [16, 16, 16, 16], "use_pixel_shuffle": True, "upsample_kernel_size": 3,
        "conv_out_channels": [16],
    }  # fmt: skip
    if task == "pointmap":
        head |= {"scale_conv_out_channels": [8], "scale_final_hidden_sizes": [8, 8]}
    config = transformers.Sapiens2Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_attention_heads=2, image_size=[HEIGHT, WIDTH], num_register_tokens=1, num_labels=channels,
        head_config=transformers.Sapiens2HeadConfig(**head),
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(config).eval()
    if task == "pointmap":  # a random scale may be near 0
        torch.nn.init.constant_(model.scale_head.predictor.proj.bias, 2.0)
        torch.nn.init.zeros_(model.scale_head.predictor.proj.weight)
    folder = root / f"sapiens2-{task}-{'1b' if task == 'matting' else '0.4b'}"
    model.save_pretrained(folder)
    transformers.Sapiens2ImageProcessor(size={"height": HEIGHT, "width": WIDTH}).save_pretrained(folder)
    return model


def refuse(what: str) -> bool:
    raise AssertionError(f"asked to download {what}")


def networks(root: Path, name: str = "sapiens2") -> dict[str, Network]:
    size = None if name.endswith("matting") else "0.4b"
    return {network.name: network for network in ESTIMATORS[name](EstimatorOptions(size=size, checkpoint=str(root)))}


def opened(network: Network, root: Path):
    assert network.weights is not None
    return network.open(find_weights(network.weights, str(root), refuse))


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 255, (9, 7, 3), np.uint8), size) for size in ((60, 90), (100, 70))]


def normalised(image: np.ndarray) -> torch.Tensor:
    """RGB in 0..1 with ImageNet's statistics."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean[:, None, None]) / std[:, None, None]


def resized(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(pixels[None], size=(height, width), mode="bilinear", antialias=True)[0]


@torch.no_grad()
def test_parsing_squashes_and_maps_29_classes_to_28(tmp_path: Path) -> None:
    model = save(tmp_path, "seg")
    found = opened(networks(tmp_path)["sapiens2-seg-0.4b"], tmp_path)(images())
    for image, maps in zip(images(), found, strict=True):
        logits = model(resized(normalised(image), HEIGHT, WIDTH)[None]).logits
        assert logits.shape == (1, 29, HEIGHT, WIDTH)
        ids = F.interpolate(logits, size=image.shape[:2], mode="bilinear")[0].argmax(0).numpy()
        expected = np.where(ids == 2, IDS["Apparel"], np.where(ids > 2, ids - 1, ids))
        assert len(np.unique(expected)) > 3
        assert (maps["semantics"] == expected).mean() > 0.97  # its processor rounds resized images to 8 bits
        np.testing.assert_array_equal(maps["mask"], maps["semantics"] > 0)
        assert maps["semantics"].shape == image.shape[:2]


@torch.no_grad()
def test_normals_and_depth_are_padded_and_unpadded(tmp_path: Path) -> None:
    normal_model, point_model = save(tmp_path, "normal"), save(tmp_path, "pointmap")
    found = networks(tmp_path)
    normals = opened(found["sapiens2-normal-0.4b"], tmp_path)(images())
    point_estimator = opened(found["sapiens2-pointmap-0.4b"], tmp_path)
    assert (point_estimator.info.depth_kind, point_estimator.info.depth_direction) == ("metric", "farther")
    depths = point_estimator(images())
    for image, normal, depth in zip(images(), normals, depths, strict=True):
        scale = min(HEIGHT / image.shape[0], WIDTH / image.shape[1])
        tall, wide = (int(length * scale) for length in image.shape[:2])
        top, left = (HEIGHT - tall) // 2, (WIDTH - wide) // 2
        small = resized(torch.from_numpy(image).permute(2, 0, 1).float(), tall, wide).round()
        padded = torch.zeros(3, HEIGHT, WIDTH)
        padded[:, top : top + tall, left : left + wide] = small
        inputs = normalised(padded.permute(1, 2, 0).byte().numpy())[None]

        def back(values: torch.Tensor, box=(top, left, tall, wide), size=image.shape[:2]) -> np.ndarray:
            y, x, h, w = box
            return F.interpolate(values[..., y : y + h, x : x + w], size=size, mode="bilinear")[0].numpy()

        n = back(F.normalize(normal_model(inputs).normals, dim=1)).transpose(1, 2, 0)
        n /= np.linalg.norm(n, axis=-1, keepdims=True)
        assert np.median(np.abs(normal["normal"] - n)) < 0.02
        np.testing.assert_allclose(np.linalg.norm(normal["normal"], axis=-1), 1, atol=1e-4)
        out = point_model(inputs)
        z = back(out.pointmaps / out.scales[:, :, None, None])[2]
        assert np.median(np.abs(depth["depth"] - z)) < 0.02 * np.ptp(z)


@torch.no_grad()
def test_matting_gives_soft_masks(tmp_path: Path) -> None:
    save(tmp_path, "matting")
    (maps,) = opened(networks(tmp_path, "sapiens2-matting")["sapiens2-matting-1b"], tmp_path)(images()[:1])
    assert maps["mask"].shape == images()[0].shape[:2]
    assert 0 <= maps["mask"].min() < maps["mask"].max() <= 1


def test_another_task_is_named(tmp_path: Path) -> None:
    save(tmp_path, "normal")
    (tmp_path / "sapiens2-normal-0.4b").rename(tmp_path / "sapiens2-seg-0.4b")
    with pytest.raises(CheckpointError, match=r"sapiens2-seg-0\.4b: holds a Sapiens2ForNormalEstimation"):
        opened(networks(tmp_path)["sapiens2-seg-0.4b"], tmp_path)


def test_corruption_is_named(tmp_path: Path) -> None:
    save(tmp_path, "seg")
    folder = tmp_path / "sapiens2-seg-0.4b"
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for half in (whole[: len(whole) // 2], b""):
        weights.write_bytes(half)
        with pytest.raises(CheckpointError, match=r"sapiens2-seg-0\.4b: cannot be opened: half downloaded"):
            opened(networks(tmp_path)["sapiens2-seg-0.4b"], tmp_path)
    from safetensors.torch import load, save_file

    fewer = {name: value for name, value in load(whole).items() if "conv_seg" not in name}
    save_file(fewer, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 2 of the weights .*decode_head\.predictor"):
        opened(networks(tmp_path)["sapiens2-seg-0.4b"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config)[:-20])
    with pytest.raises(CheckpointError, match=r"config\.json .*cannot be read as JSON"):
        opened(networks(tmp_path)["sapiens2-seg-0.4b"], tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"no config\.json and preprocessor_config\.json and model\*\.safetensors"
    ):
        opened(networks(tmp_path)["sapiens2-seg-0.4b"], tmp_path)
