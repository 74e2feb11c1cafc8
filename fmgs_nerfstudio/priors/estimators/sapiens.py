"""Sapiens v1: the released TorchScript networks for parsing, depth, normals and the foreground.

Pre- and post-processing are those of facebookresearch/sapiens, lite/demo (vis_seg.py, vis_depth.py, vis_normal.py):
the image is squashed to 1024 x 768, means and deviations are those of the demos, and the raw maps are resampled to the
image bilinearly before the argmax or the normalisation. Conventions of the maps: normals in OpenGL camera axes (x
right, y up, z toward the camera), depth relative and larger = farther.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.maps.classes import NUM_CLASSES
from fmgs_nerfstudio.maps.info import Kind, PriorsInfo
from fmgs_nerfstudio.priors.checkpoints import CheckpointError, Weights
from fmgs_nerfstudio.priors.estimators.base import EstimatorOptions, Image, Maps, Network, wrong_checkpoint

LICENCE = "CC BY-NC 4.0 (non-commercial)"
HEIGHT, WIDTH = 1024, 768
_MEAN, _STD = (123.5, 116.5, 103.5), (58.5, 57.0, 57.5)  # RGB

# task: what it gives, channels of its output, name of its file
_TASKS: dict[str, tuple[tuple[Kind, ...], int, str]] = {
    "seg": (("semantics", "mask"), NUM_CLASSES, "sapiens_{}_goliath_*_torchscript.pt2"),
    "depth": (("depth",), 1, "sapiens_{}_render_people_*_torchscript.pt2"),
    "normal": (("normal",), 3, "sapiens_{}_normal_render_people_*_torchscript.pt2"),
    "seg-foreground": (("mask",), 2, "sapiens_{}_seg_foreground_*_torchscript.pt2"),
}
_BYTES = {"0.3b": "1.4 GB", "0.6b": "2.7 GB", "1b": "4.7 GB", "2b": "about 8.7 GB"}


def networks(options: EstimatorOptions) -> list[Network]:
    """Parsing (and the mask as its foreground), depth, normals."""
    size = options.size_among(tuple(_BYTES), "1b")
    parsing = "1b" if size == "2b" else size  # the 2b parsing checkpoint was withdrawn
    return [_network("seg", parsing, options), _network("depth", size, options), _network("normal", size, options)]


def foreground(options: EstimatorOptions) -> list[Network]:
    """The binary network that the authors recommend for masks."""
    return [_network("seg-foreground", options.size_among(("1b",), "1b"), options)]


def _network(task: str, size: str, options: EstimatorOptions) -> Network:
    kinds, _, pattern = _TASKS[task]
    repo = f"facebook/sapiens-{task}-{size}-torchscript"
    weights = Weights(repo, (pattern.format(size),), LICENCE, _BYTES[size])
    return Network(f"sapiens-{task}-{size}", kinds, weights, partial(Sapiens, task, size, options))


class Sapiens:
    """One TorchScript network of Sapiens v1."""

    def __init__(self, task: str, size: str, options: EstimatorOptions, path: Path) -> None:
        self.task, self.path, self.options = task, path, options
        self.info = PriorsInfo(estimator=f"sapiens-{task}-{size}", licence=LICENCE)
        _, self.channels, _ = _TASKS[task]
        try:
            self.module = torch.jit.load(str(path), map_location=options.device).eval().to(options.dtype)
        except (RuntimeError, ValueError, OSError) as error:
            raise wrong_checkpoint(
                path,
                "cannot be opened as TorchScript: half downloaded, or one of the bfloat16 exports, which open on "
                f"torch 2.3 only. Get it again from the -torchscript repository "
                f"({str(error).strip().splitlines()[0]}).",
            ) from error
        mean, std = (torch.tensor(v, device=options.device).view(3, 1, 1) for v in (_MEAN, _STD))
        self.mean, self.std = mean, std

    @torch.no_grad()
    def __call__(self, images: Sequence[Image]) -> list[Maps]:
        """Maps of each image.

        Raises:
            CheckpointError: the network is not the one that it is named.
        """
        try:
            raw = self.module(torch.stack([self._input(image) for image in images]))
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise wrong_checkpoint(self.path, f"fails on images of {HEIGHT} x {WIDTH}: {reason}") from error
        if not isinstance(raw, Tensor) or raw.ndim != 4 or raw.shape[:2] != (len(images), self.channels):
            shape = list(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
            raise self._not_the_task(shape)
        return [
            self._maps(logits.float(), (image.shape[0], image.shape[1]))
            for logits, image in zip(raw, images, strict=True)
        ]

    def _not_the_task(self, shape: object) -> CheckpointError:
        kinds = " ".join(_TASKS[self.task][0])
        return wrong_checkpoint(
            self.path,
            f"gives {shape}, but {self.task} has {self.channels} channels. If the file is of another task, "
            f"ask for the kinds that it gives (--kinds; {self.task} gives {kinds}).",
        )

    def _input(self, image: Image) -> Float[Tensor, "3 1024 768"]:
        squashed = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        pixels = torch.from_numpy(squashed).to(self.options.device).permute(2, 0, 1).float()
        return ((pixels - self.mean) / self.std).to(self.options.dtype)

    def _maps(self, raw: Float[Tensor, "C h w"], size: tuple[int, int]) -> Maps:
        raw = F.interpolate(raw[None], size=size, mode="bilinear", align_corners=False)[0]
        if self.task == "depth":
            return {"depth": raw[0].cpu().numpy()}
        if self.task == "normal":
            unit = raw / (raw.norm(dim=0, keepdim=True) + 1e-5)
            return {"normal": unit.permute(1, 2, 0).cpu().numpy()}
        labels = raw.argmax(0).byte().cpu().numpy()
        mask = (labels > 0).astype(np.float32)
        return {"semantics": labels, "mask": mask} if self.task == "seg" else {"mask": mask}
