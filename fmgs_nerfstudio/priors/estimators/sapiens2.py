"""Sapiens2 through `transformers`: parsing, normals, the pointmap's z as depth, and matting for masks.

Conventions of the maps: normals in OpenGL camera axes as in v1 (measured on published pictures, not documented), depth
in metres, larger = farther; the 29 classes are read as the 28.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fmgs_nerfstudio.maps.info import Kind, PriorsInfo
from fmgs_nerfstudio.maps.labels import DOME29_TO_GOLIATH
from fmgs_nerfstudio.priors.checkpoints import Weights
from fmgs_nerfstudio.priors.estimators.base import EstimatorOptions, Image, Maps, Network, wrong_checkpoint
from fmgs_nerfstudio.priors.estimators.pretrained import FILES, import_transformers, load_pretrained, read_config

LICENCE = "Sapiens2 License (https://github.com/facebookresearch/sapiens2/blob/main/LICENSE.md)"
_SIZES = ("0.4b", "0.8b", "1b", "5b")
_TASKS: dict[str, tuple[tuple[Kind, ...], str]] = {
    "seg": (("semantics", "mask"), "Sapiens2ForSemanticSegmentation"),
    "normal": (("normal",), "Sapiens2ForNormalEstimation"),
    "pointmap": (("depth",), "Sapiens2ForPointmapEstimation"),
    "matting": (("mask",), "Sapiens2ForImageMatting"),
}


def networks(options: EstimatorOptions) -> list[Network]:
    """Parsing (and the mask as its foreground), depth, normals."""
    size = options.size_among(_SIZES, "1b")
    return [_network(task, size, options) for task in ("seg", "pointmap", "normal")]


def matting(options: EstimatorOptions) -> list[Network]:
    """Soft masks."""
    return [_network("matting", options.size_among(("1b",), "1b"), options)]


def _network(task: str, size: str, options: EstimatorOptions) -> Network:
    weights = Weights(f"facebook/sapiens2-{task}-{size}", FILES, LICENCE, f"{size} parameters, 4 bytes each")
    return Network(weights.folder, _TASKS[task][0], weights, partial(Sapiens2, task, weights.folder, options))


class Sapiens2:
    """One network of Sapiens2."""

    def __init__(self, task: str, name: str, options: EstimatorOptions, folder: Path) -> None:
        self.task, self.options = task, options
        kinds, class_name = _TASKS[task]
        transformers = import_transformers(class_name)
        if (found := read_config(folder).get("architectures")) and found[0] != class_name:
            raise wrong_checkpoint(
                folder, f"holds a {found[0]}; {' and '.join(kinds)} come from a {class_name}. Choose --kinds to fit."
            )
        self.model = load_pretrained(getattr(transformers, class_name), folder, options)
        self.processor = transformers.Sapiens2ImageProcessor.from_pretrained(folder, local_files_only=True)
        classes = self.model.config.num_labels
        if task == "seg" and classes != len(DOME29_TO_GOLIATH):
            raise wrong_checkpoint(folder, f"has {classes} classes, not the {len(DOME29_TO_GOLIATH)} of Sapiens2.")
        self.info = PriorsInfo(estimator=name, licence=LICENCE, depth_kind="metric")

    @torch.no_grad()
    def __call__(self, images: Sequence[Image]) -> list[Maps]:
        # Parsing was trained on squashed images, normals and pointmaps on padded ones.
        padding = {"normal": True, "pointmap": True, "seg": False}
        pad = {"do_pad": padding[self.task]} if self.task in padding else {}
        inputs = self.processor(images=list(images), return_tensors="pt", input_data_format="channels_last", **pad)
        outputs = self.model(inputs["pixel_values"].to(self.options.device, self.options.dtype))
        for name, value in outputs.items():
            outputs[name] = value.float()
        return self._maps(outputs, [(image.shape[0], image.shape[1]) for image in images])

    def _maps(self, outputs: Any, sizes: list[tuple[int, int]]) -> list[Maps]:
        processor = self.processor
        if self.task == "seg":
            found = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
            labels = [DOME29_TO_GOLIATH[ids.cpu().numpy()] for ids in found]
            return [{"semantics": ids, "mask": (ids > 0).astype(np.float32)} for ids in labels]
        if self.task == "normal":
            # Resampling shortens the unit vectors.
            found = processor.post_process_normal_estimation(outputs, source_sizes=sizes)
            return [{"normal": F.normalize(m["normals"], dim=0).permute(1, 2, 0).cpu().numpy()} for m in found]
        if self.task == "pointmap":
            found = processor.post_process_pointmap_estimation(outputs, source_sizes=sizes)
            return [{"depth": m["pointmap"][2].cpu().numpy()} for m in found]
        found = processor.post_process_image_matting(outputs, target_sizes=sizes)
        return [{"mask": m["alpha"][0].cpu().numpy()} for m in found]
