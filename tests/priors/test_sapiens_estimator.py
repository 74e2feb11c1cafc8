"""Sapiens v1 with tiny TorchScript networks that have the released names and shapes, against a plain reading of the
demos' steps (lite/demo of facebookresearch/sapiens)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fmgs_nerfstudio.priors.checkpoints import CheckpointError, find_weights
from fmgs_nerfstudio.priors.estimators import ESTIMATORS
from fmgs_nerfstudio.priors.estimators.base import EstimatorError, EstimatorOptions, Network

NAMES = {
    "seg": "sapiens_0.3b_goliath_best_goliath_mIoU_7673_epoch_194_torchscript.pt2",
    "depth": "sapiens_0.3b_render_people_epoch_100_torchscript.pt2",
    "normal": "sapiens_0.3b_normal_render_people_epoch_66_torchscript.pt2",
    "seg-foreground": "sapiens_1b_seg_foreground_epoch_8_torchscript.pt2",
}


class Tiny(nn.Module):
    """Raw outputs of the released shapes, simple functions of the normalised input; other sizes fail as there."""

    def __init__(self, channels: int, pool: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(pool) if pool > 1 else nn.Identity()
        self.head = nn.Conv2d(3, channels, 1)
        self.position = nn.Parameter(torch.zeros(1, 3, 1024, 768))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(x + self.position))


SHAPES = {"seg": (28, 2), "depth": (1, 1), "normal": (3, 2), "seg-foreground": (2, 2)}


def save(folder: Path, task: str, as_task: str | None = None) -> Tiny:
    """A network of `task` under the name of another."""
    torch.manual_seed(sorted(NAMES).index(task))
    module = Tiny(*SHAPES[task]).eval()
    traced = torch.jit.trace(module, torch.zeros(1, 3, 1024, 768))
    path = folder / "torchscript" / task / "checkpoints" / "sapiens_0.3b" / NAMES[as_task or task]  # Sapiens' own tree
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.save(traced, str(path))
    return module


def refuse(what: str) -> bool:
    raise AssertionError(f"asked to download {what}")


def networks(folder: Path, name: str = "sapiens", size: str | None = "0.3b", **options: object) -> dict[str, Network]:
    made = ESTIMATORS[name](EstimatorOptions(size=size, checkpoint=str(folder), **options))  # pyright: ignore[reportArgumentType]
    return {network.kinds[0]: network for network in made}


def opened(network: Network, folder: Path):
    assert network.weights is not None
    return network.open(find_weights(network.weights, str(folder), refuse))


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = [cv2.resize(rng.integers(0, 255, (12, 9, 3), np.uint8), size) for size in ((150, 110), (90, 160))]
    return [np.ascontiguousarray(image) for image in smooth]


def released(module: Tiny, rgb: np.ndarray) -> Tensor:
    """The demos' steps from a file that OpenCV read to the raw output at the image's size [C, H, W]."""
    bgr = rgb[..., ::-1]
    chw = cv2.resize(np.ascontiguousarray(bgr), (768, 1024), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)
    pixels = torch.from_numpy(chw.copy())[[2, 1, 0]].float()
    mean, std = torch.tensor([123.5, 116.5, 103.5]), torch.tensor([58.5, 57.0, 57.5])
    raw = module(((pixels - mean[:, None, None]) / std[:, None, None])[None])
    return nn.functional.interpolate(raw, size=rgb.shape[:2], mode="bilinear")[0]


@torch.no_grad()
def test_maps_are_those_of_the_released_steps(tmp_path: Path) -> None:
    modules = {task: save(tmp_path, task) for task in NAMES}
    found = networks(tmp_path)
    assert list(found) == ["semantics", "depth", "normal"]
    labels = opened(found["semantics"], tmp_path)(images())  # a batch of images of different sizes
    depths = opened(found["depth"], tmp_path)(images())
    normals = opened(found["normal"], tmp_path)(images())
    for image, seg, depth, normal in zip(images(), labels, depths, normals, strict=True):
        expected = released(modules["seg"], image).argmax(0).numpy()
        assert len(np.unique(expected)) > 3
        assert (seg["semantics"] == expected).mean() > 0.9999  # but for ties
        assert seg["semantics"].dtype == np.uint8
        np.testing.assert_array_equal(seg["mask"], seg["semantics"] > 0)
        np.testing.assert_allclose(depth["depth"], released(modules["depth"], image)[0].numpy(), atol=1e-5)
        n = released(modules["normal"], image).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(normal["normal"], n / (np.linalg.norm(n, axis=-1, keepdims=True) + 1e-5), atol=1e-5)
    mask = opened(networks(tmp_path, "sapiens-foreground", None)["mask"], tmp_path)(images())[0]["mask"]
    expected = released(modules["seg-foreground"], images()[0]).argmax(0).numpy() > 0
    assert (mask == expected).mean() > 0.9999


def test_bfloat16_is_near(tmp_path: Path) -> None:
    save(tmp_path, "depth")
    exact = opened(networks(tmp_path)["depth"], tmp_path)(images()[:1])[0]["depth"]
    half = opened(networks(tmp_path, dtype=torch.bfloat16)["depth"], tmp_path)(images()[:1])[0]["depth"]
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, exact, atol=0.05)


def test_half_a_checkpoint_is_named(tmp_path: Path) -> None:
    save(tmp_path, "depth")
    path = next(tmp_path.rglob("*.pt2"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=rf"{path.name} \(.* MiB\): cannot be opened as TorchScript"):
        opened(networks(tmp_path)["depth"], tmp_path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="half downloaded"):
        opened(networks(tmp_path)["depth"], tmp_path)


def test_a_checkpoint_of_another_task_is_named(tmp_path: Path) -> None:
    save(tmp_path, "seg", as_task="depth")
    with pytest.raises(CheckpointError, match=r"render_people_epoch_100.*gives \[1, 28, 512, 384\].*depth has 1 chan"):
        opened(networks(tmp_path)["depth"], tmp_path)(images()[:1])


def test_a_checkpoint_of_another_input_size_is_named(tmp_path: Path) -> None:
    class Small(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], 3, 16, 16)

    torch.jit.save(torch.jit.trace(Small(), torch.zeros(1, 3, 16, 16)), str(tmp_path / NAMES["depth"]))
    with pytest.raises(CheckpointError, match=r"render_people.*fails on images of 1024 x 768"):
        opened(networks(tmp_path)["depth"], tmp_path)(images()[:1])


def test_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "sapiens_0.3b_render_people_epoch_100_bfloat16.pt2").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"no sapiens_0\.3b_render_people_\*_torchscript\.pt2") as error:
        opened(networks(tmp_path)["depth"], tmp_path)
    assert "https://huggingface.co/facebook/sapiens-depth-0.3b-torchscript" in str(error.value)
    assert "bfloat16" in str(error.value)  # what was found instead


def test_sizes() -> None:
    assert [n.name for n in ESTIMATORS["sapiens"](EstimatorOptions())] == [
        "sapiens-seg-1b",
        "sapiens-depth-1b",
        "sapiens-normal-1b",
    ]
    withdrawn = ESTIMATORS["sapiens"](EstimatorOptions(size="2b"))
    assert [n.name for n in withdrawn] == ["sapiens-seg-1b", "sapiens-depth-2b", "sapiens-normal-2b"]
    with pytest.raises(EstimatorError, match=r"--size 7b: released are 0\.3b, 0\.6b, 1b, 2b"):
        ESTIMATORS["sapiens"](EstimatorOptions(size="7b"))
