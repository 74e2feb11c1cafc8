"""Each measure against the program that the papers used: skimage, torchmetrics, and their evaluations written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fmgs_dataparsers.parser import open_capture
from skimage import metrics as skimage_metrics
from support.zju_capture import write_capture
from torch import Tensor
from torch.nn.functional import pad as pad_zeros
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.kernels.ssim import ssim_reference
from fmgs_nerfstudio.metrics.bounds import BodyBounds
from fmgs_nerfstudio.metrics.image import image_metrics
from fmgs_nerfstudio.metrics.protocols import (
    MEASURES,
    PROTOCOLS,
    View,
    Window,
    measure,
    paper_protocol,
    psnr,
    ssim_inside,
    views,
)

H, W = 70, 83


def a_frame(background: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> dict[str, Tensor]:
    """A rendering and a truth that are alike, softly masked, on `background`, and the bound of a body."""
    generator = torch.Generator().manual_seed(1)

    def smooth(channels: int) -> Tensor:
        small = torch.rand(1, channels, 9, 9, generator=generator)
        return torch.nn.functional.interpolate(small, (H, W), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)

    truth, alpha = smooth(3), smooth(1)
    rendered = (truth + 0.1 * torch.randn(H, W, 3, generator=generator)).clamp(0, 1)
    mask = (alpha + 0.05).clamp(0, 1)
    behind = torch.tensor(background)
    bound = torch.zeros(H, W, 1, dtype=torch.bool)
    bound[12:60, 20:71] = True
    bound[12:30, 20:30] = False
    return {
        "rgb": rendered * alpha + behind * (1 - alpha),
        "alpha": alpha,
        "image": truth * mask + behind * (1 - mask),
        "mask": mask,
        "bound": bound,
    }


def views_of(frame: dict[str, Tensor], background: tuple[float, float, float] = (0.0, 0.0, 0.0)):
    return views(frame["rgb"], frame["alpha"], frame["image"], frame["mask"], background, frame["bound"])


SKIMAGE: dict[Window, dict[str, Any]] = {
    "uniform7": {},  # as it is
    "gauss11": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},  # Wang et al.'s, as it says
}


def skimage_ssim(image: np.ndarray, truth: np.ndarray, window: Window, data_range: float) -> float:
    options: Any = {"channel_axis": -1, "data_range": data_range, **SKIMAGE[window]}
    similarity: Any = skimage_metrics.structural_similarity(image, truth, **options)
    return float(similarity)


def skimage_psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return float(skimage_metrics.peak_signal_noise_ratio(truth, image, data_range=1))


@pytest.mark.parametrize("data_range", [1.0, 2.0])
@pytest.mark.parametrize("window", ["uniform7", "gauss11"])
def test_ssim_is_skimages(window: Window, data_range: float) -> None:
    frame = a_frame()
    rgb, image = frame["rgb"], frame["image"]
    expected = skimage_ssim(rgb.numpy(), image.numpy(), window, data_range)
    assert ssim_inside(rgb, image, window, data_range) == pytest.approx(expected, abs=2e-6)


def torchmetrics_psnr(view: View) -> float:
    return float(peak_signal_noise_ratio(view.image[view.inside], view.truth[view.inside], data_range=1.0))


def torchmetrics_psnr_of_channels(view: View) -> float:
    a, b = (value[view.inside] for value in (view.image, view.truth))
    return float(peak_signal_noise_ratio(a, b, data_range=1.0, dim=0))


def torchmetrics_ssim(view: View, pad: int = 0, **options: Any) -> float:
    """Its map of SSIM without the 5 pixels at the border, which versions up to 1.4.0 left out of the mean."""
    a, b = (pad_zeros(value.permute(2, 0, 1)[None], (pad,) * 4) for value in (view.image, view.truth))
    _, full = structural_similarity_index_measure(a, b, return_full_image=True, **options)
    return float(full[..., 5:-5, 5:-5].mean())


TORCHMETRICS: dict[str, Callable[[View], float]] = {
    "psnr_black": torchmetrics_psnr,
    "psnr_white8": torchmetrics_psnr,
    "psnr_box": torchmetrics_psnr,
    "psnr_bound_channels": torchmetrics_psnr_of_channels,
    "ssim_black_range1_gauss11": partial(torchmetrics_ssim, data_range=1.0),
    "ssim_white8_range1_gauss11": partial(torchmetrics_ssim, data_range=1.0),
}
"""Measures that are torchmetrics' own numbers (those of LPIPS are its network's: test_lpips.py)."""

_UNIFORM = "skimage's variance is unbiased; torchmetrics' is not"
NOT_TORCHMETRICS: Mapping[str, tuple[str, Callable[[View], float]]] = {
    f"ssim_{view}_range{data_range}_uniform7": (
        _UNIFORM,
        partial(torchmetrics_ssim, data_range=float(data_range), gaussian_kernel=False, kernel_size=7),
    )
    for view, data_range in (("black", 2), ("black", 1), ("box", 2))
} | {
    "ssim_bound_range1_gauss11_padded": (
        "3DGS adds zeros beyond the edge and counts it; torchmetrics reflects the image there",
        partial(torchmetrics_ssim, data_range=1.0),
    )
}
"""Measures that are not, why, and torchmetrics' nearest number."""


def test_which_measures_are_torchmetrics() -> None:
    seen, without_network = views_of(a_frame()), {name for name, one in MEASURES.items() if one.net is None}
    measured = measure(seen, {})
    assert without_network == {*TORCHMETRICS, *NOT_TORCHMETRICS}
    for name, theirs in TORCHMETRICS.items():
        assert measured[name] == pytest.approx(theirs(seen[MEASURES[name].view]), abs=2e-6), name
    for name, (why, theirs) in NOT_TORCHMETRICS.items():
        assert abs(measured[name] - theirs(seen[MEASURES[name].view])) > 1e-4, (name, why)
    padded = torchmetrics_ssim(seen["bound"], pad=5, data_range=1.0)
    assert measured["ssim_bound_range1_gauss11_padded"] == pytest.approx(padded, abs=2e-6)


@pytest.mark.parametrize("window", ["uniform7", "gauss11"])
def test_ssim_of_an_image_with_itself_is_1_and_a_larger_range_gives_more(window: Window) -> None:
    frame = a_frame()
    assert ssim_inside(frame["image"], frame["image"], window, 1.0) == pytest.approx(1, abs=1e-6)
    narrow, wide = (ssim_inside(frame["rgb"], frame["image"], window, data_range) for data_range in (1.0, 2.0))
    assert narrow < wide < 1


def test_psnr_is_skimages() -> None:
    frame = a_frame()
    expected = skimage_psnr(frame["rgb"].numpy(), frame["image"].numpy())
    assert psnr(frame["rgb"], frame["image"]) == pytest.approx(expected, abs=1e-4)


def test_gauhuman() -> None:
    """Its evaluation: the rendering blackened outside the bound mask; per channel; 3DGS's SSIM; the whole image."""
    frame = a_frame()
    rgb, image = frame["rgb"].clone(), frame["image"]
    rgb[~frame["bound"][..., 0]] = 0
    per_channel = [-10 * np.log10(np.square((rgb - image)[..., c].numpy()).mean()) for c in range(3)]
    measured = measure(views_of(frame), {})
    assert measured["psnr_bound_channels"] == pytest.approx(float(np.mean(per_channel)), abs=1e-4)
    assert measured["ssim_bound_range1_gauss11_padded"] == pytest.approx(float(ssim_reference(rgb, image)), abs=1e-5)


def test_neuralbody() -> None:
    """Its evaluation: errors of the pixels in the bound mask; SSIM of the rectangle around it, black outside."""
    frame = a_frame()
    inside = frame["bound"][..., 0].numpy()
    rgb, image = (np.where(inside[..., None], frame[name].numpy(), 0).astype(np.float64) for name in ("rgb", "image"))
    expected = -10 * np.log10(np.square(rgb[inside] - image[inside]).mean())
    crops = rgb[12:60, 20:71], image[12:60, 20:71]
    measured = measure(views_of(frame), {})
    assert measured["psnr_box"] == pytest.approx(float(expected), abs=1e-4)
    assert measured["ssim_box_range2_uniform7"] == pytest.approx(skimage_ssim(*crops, "uniform7", 2.0), abs=5e-6)


def test_instantavatar() -> None:
    """Its evaluation reads back PNGs of renderings on white."""
    frame = a_frame()
    pngs = [
        ((frame[name] + (1 - frame[cover])) * 255).round().byte()
        for name, cover in (("rgb", "alpha"), ("image", "mask"))
    ]
    rgb, image = (png.float() / 255 for png in pngs)
    measured = measure(views_of(frame), {})
    assert measured["psnr_white8"] == pytest.approx(skimage_psnr(rgb.numpy(), image.numpy()), abs=1e-4)
    expected = skimage_ssim(rgb.numpy(), image.numpy(), "gauss11", 1.0)
    assert measured["ssim_white8_range1_gauss11"] == pytest.approx(expected, abs=2e-5)


def test_a_measure_means_the_same_on_any_background() -> None:
    black, other = (0.0, 0.0, 0.0), (0.2, 0.5, 1.0)
    on_black, on_grey = (measure(views_of(a_frame(colour), colour), {}) for colour in (black, other))
    assert on_black.keys() == on_grey.keys()
    for name, value in on_black.items():
        tolerance = 2e-3 if name.endswith("white8") else 1e-4  # a value at the edge of a rounding
        assert on_grey[name] == pytest.approx(value, abs=tolerance), name


def test_the_papers_columns() -> None:
    frame = a_frame()
    outputs = {"rgb": frame["rgb"], "accumulation": frame["alpha"]}
    batch = {name: frame[name] for name in ("image", "mask", "bound")}
    zju, snapshot = (image_metrics(outputs, batch, split) for split in ("humannerf", "instantavatar"))
    assert zju["psnr"] == zju["psnr_black"]
    assert zju["ssim"] == zju["ssim_black_range2_uniform7"]
    assert snapshot["psnr"] == snapshot["psnr_white8"]
    assert snapshot["ssim"] == snapshot["ssim_white8_range1_gauss11"]
    assert not any("lpips" in name for name in zju)  # no network was given
    assert {name: zju[name] for name in MEASURES if name in zju} == {
        name: snapshot[name] for name in MEASURES if name in zju
    }
    assert paper_protocol("demo") == "humannerf"


def test_every_protocol_names_measures_of_its_columns() -> None:
    for protocol in PROTOCOLS.values():
        for column in ("psnr", "ssim", "lpips"):
            assert getattr(protocol, column).startswith(column)
            assert getattr(protocol, column) in MEASURES


def test_what_is_too_small_for_a_measure_is_not_a_number() -> None:
    small = View(torch.rand(8, 8, 3), torch.rand(8, 8, 3), torch.ones(8, 8, dtype=torch.bool))
    assert np.isnan(MEASURES["ssim_black_range1_gauss11"](small, {}))
    assert np.isfinite(MEASURES["psnr_black"](small, {}))


def test_a_body_that_is_nowhere_in_the_image_has_no_views() -> None:
    frame = a_frame()
    frame["bound"][:] = False
    assert set(views_of(frame)) == {"black", "white8"}


def test_the_bound_is_where_points_of_the_grown_box_are_seen(tmp_path: Path) -> None:
    vertices = write_capture(tmp_path / "CoreView_1")
    capture = open_capture(tmp_path / "CoreView_1")
    bounds = BodyBounds(capture)
    rng = np.random.default_rng(0)
    assert BodyModel.load(capture.body_model).weights.shape[1] == 24
    for frame in (*capture.splits["train"], *capture.splits["novel_view"]):
        mask = bounds.mask(frame)
        low, high = vertices[frame.pose_id].min(0) - 0.05, vertices[frame.pose_id].max(0) + 0.05
        points = rng.uniform(0, 1, (60_000, 3))
        points[np.arange(60_000), rng.integers(0, 3, 60_000)] = rng.integers(0, 2, 60_000)  # on the faces
        points = low + (high - low) * points
        camera = capture.cameras[frame.camera]
        K, width, height = capture.intrinsics(frame.camera)
        seen = (points @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]) @ K.T
        columns, rows = np.floor(seen[:, :2] / seen[:, 2:]).astype(int).T
        there = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        hit = np.zeros((height, width), bool)
        hit[rows[there], columns[there]] = True
        assert (hit & ~mask).sum() <= 0.01 * hit.sum()  # the polygon's edge is drawn between rounded corners
        assert (mask & ~hit).sum() <= 0.03 * hit.sum()
