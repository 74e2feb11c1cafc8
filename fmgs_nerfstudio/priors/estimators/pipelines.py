"""Any depth-estimation or image-segmentation model of `transformers`, through its pipelines.

There is no pipeline for normals. Defaults are small and free: Depth Anything V2 Small, SegFormer B2 for clothes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from fmgs_nerfstudio.maps.info import DepthKind, Kind, PriorsInfo
from fmgs_nerfstudio.maps.labels import label_table
from fmgs_nerfstudio.priors.checkpoints import Weights
from fmgs_nerfstudio.priors.estimators.base import (
    Estimator,
    EstimatorError,
    EstimatorOptions,
    Image,
    Maps,
    Network,
    wrong_checkpoint,
)
from fmgs_nerfstudio.priors.estimators.pretrained import FILES, import_transformers, load_pretrained, read_config

_DEPTH = Weights("depth-anything/Depth-Anything-V2-Small-hf", FILES, "Apache 2.0", "99 MB")
_PARSING = Weights("mattmdjaga/segformer_b2_clothes", FILES, "MIT", "110 MB")
_DEPTH_KINDS: dict[str, DepthKind] = {"dpt": "inverse", "glpn": "metric", "zoedepth": "metric", "depth_pro": "metric"}


def networks(options: EstimatorOptions) -> list[Network]:
    """Depth, and parsing with the mask as its foreground.

    Raises:
        EstimatorError: one checkpoint for two models, or a size, which these models do not have.
    """
    if options.size is not None:
        raise EstimatorError("--size is of Sapiens; for --estimator transformers name a --checkpoint.")
    all_kinds: frozenset[Kind] = frozenset(("depth", "semantics", "mask"))
    wanted = all_kinds if options.kinds is None else options.kinds & all_kinds
    if options.checkpoint is not None and "depth" in wanted and len(wanted) > 1:
        raise EstimatorError(
            f"--checkpoint {options.checkpoint} is one model: add --kinds depth, or --kinds semantics mask."
        )
    return [_network(_DEPTH, ("depth",), Depth, options), _network(_PARSING, ("semantics", "mask"), Parsing, options)]


def _network(
    weights: Weights,
    kinds: tuple[Kind, ...],
    estimator: Callable[[PriorsInfo, EstimatorOptions, Path], Estimator],
    options: EstimatorOptions,
) -> Network:
    name, chosen = weights.repo, options.checkpoint
    if chosen is not None and chosen != weights.repo:
        name = Path(chosen).name if Path(chosen).exists() else chosen
        weights = replace(weights, licence=f"see {chosen}")
    info = PriorsInfo(estimator=name, licence=weights.licence)
    return Network(name, kinds, weights, partial(estimator, info, options))


def _pipeline(task: str, auto_class: str, folder: Path, options: EstimatorOptions) -> Any:
    transformers = import_transformers()
    model = load_pretrained(getattr(transformers, auto_class), folder, options)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    return transformers.pipeline(task, model=model, image_processor=processor, device=options.device)


def _pictures(images: Sequence[Image]) -> list[PIL.Image.Image]:
    return [PIL.Image.fromarray(image) for image in images]


class Depth:
    """A depth-estimation pipeline; relative models give inverse depth, and `info` says so."""

    def __init__(self, info: PriorsInfo, options: EstimatorOptions, folder: Path) -> None:
        config = read_config(folder)
        model_type = config.get("model_type", "unknown")
        kind = options.depth_kind or _DEPTH_KINDS.get(model_type)
        if kind is None and model_type in ("depth_anything", "prompt_depth_anything"):
            kind = "metric" if config.get("depth_estimation_type") == "metric" else "inverse"
        if kind is None:
            raise EstimatorError(
                f"{folder}: what depth a {model_type} gives is not known here; say --depth-kind inverse (as "
                "relative models give), metric (metres) or relative (affine, larger is farther)."
            )
        self.info = PriorsInfo(
            estimator=info.estimator, licence=info.licence, depth_kind=kind,
            depth_direction="nearer" if kind == "inverse" else "farther",
        )  # fmt: skip
        self.pipeline = _pipeline("depth-estimation", "AutoModelForDepthEstimation", folder, options)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image]) -> list[Maps]:
        found = self.pipeline(_pictures(images), batch_size=len(images))
        return [{"depth": maps["predicted_depth"].float().cpu().numpy().reshape(image.shape[:2])}
                for maps, image in zip(found, images, strict=True)]  # fmt: skip


class Parsing:
    """An image-segmentation pipeline whose class names are mapped to the 28."""

    def __init__(self, info: PriorsInfo, options: EstimatorOptions, folder: Path) -> None:
        self.info = info
        names = {int(index): name for index, name in read_config(folder).get("id2label", {}).items()}
        if not names:
            raise wrong_checkpoint(folder / "config.json", "names no classes (id2label), so it is no parsing model.")
        try:
            self.table = label_table(names, options.label_map)
        except ValueError as error:
            raise EstimatorError(f"{folder}: {error}") from error
        self.pipeline = _pipeline("image-segmentation", "AutoModelForSemanticSegmentation", folder, options)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image]) -> list[Maps]:
        found = self.pipeline(_pictures(images), batch_size=len(images), subtask="semantic")
        maps: list[Maps] = []
        for segments, image in zip(found, images, strict=True):
            labels = np.zeros(image.shape[:2], np.uint8)
            for segment in segments:
                labels[np.asarray(segment["mask"]) > 0] = self.table[segment["label"]]
            maps.append({"semantics": labels, "mask": (labels > 0).astype(np.float32)})
        return maps
