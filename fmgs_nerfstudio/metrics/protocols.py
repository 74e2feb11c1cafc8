"""What papers mean by PSNR, SSIM and LPIPS: numbers are comparable only inside one of these.

Each measure has a name that says how it is made, `<metric>_<view>[_<variant>]`, and means the same on any data:

view    what is compared
------  ----------------------------------------------------------------------------------------------------------------
black   the whole image, behind the person black
white8  the whole image, behind the person white, both rounded to 8 bits
bound   as black, the rendering blackened outside the box of the posed body (`BodyBounds`)
box     as black, both blackened outside that box: PSNR over its pixels, the others on the rectangle around it

SSIM `range2`, `range1`: the data range; `uniform7`, `gauss11`: the window, inside the image alone (`ssim_inside`);
`padded`: also over the edge, where zeros are added (`fmgs_nerfstudio.kernels.ssim`). LPIPS `vgg`, `alex`: the network;
`signed`: images are spread to -1..1, for which it was made; `unsigned`: it is fed 0..1; `x1000`: times 1000.
PSNR is that of the mean squared error; `channels`: the mean of the three channels' PSNRs.

`PROTOCOLS` says which of them make which paper's numbers; `docs/evaluation.md` says how that is known, and what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fmgs_nerfstudio.kernels.ssim import ssim
from fmgs_nerfstudio.metrics.lpips import Lpips, Net

ViewName = Literal["black", "white8", "bound", "box"]
Networks = Mapping[Net, Lpips]


@dataclass(frozen=True)
class View:
    """What of a rendering and of the truth is compared."""

    image: Float[Tensor, "h w 3"]
    truth: Float[Tensor, "h w 3"]
    inside: Bool[Tensor, "h w"]
    """The pixels that count for PSNR."""


def views(
    rgb: Float[Tensor, "H W 3"],
    alpha: Float[Tensor, "H W 1"],
    image: Float[Tensor, "H W 3"],
    mask: Float[Tensor, "H W 1"],
    background: tuple[float, float, float],
    bound: Bool[Tensor, "H W 1"] | None,
) -> dict[ViewName, View]:
    """The views of a rendering (`rgb`, `alpha`) and the truth (`image`, `mask`), both composed on `background`.

    `bound`: where the box of the posed body is seen; without it, or where that is nowhere, there are no views of it.
    """

    def on(colour: float) -> tuple[Tensor, Tensor]:
        other = colour - rgb.new_tensor(background)
        return (rgb + (1 - alpha) * other).clamp(0, 1), (image + (1 - mask) * other).clamp(0, 1)

    everywhere = torch.ones_like(mask[..., 0], dtype=torch.bool)
    (rendered, truth), (rendered8, truth8) = on(0.0), ((value * 255).round() / 255 for value in on(1.0))
    made: dict[ViewName, View] = {
        "black": View(rendered, truth, everywhere),
        "white8": View(rendered8, truth8, everywhere),
    }
    if bound is not None and bound.any():
        rows, columns = (bound[..., 0].any(dim).nonzero().flatten() for dim in (1, 0))
        cut = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        made["bound"] = View(rendered * bound, truth, everywhere)
        made["box"] = View((rendered * bound)[cut], (truth * bound)[cut], bound[..., 0][cut])
    return made


def psnr(image: Float[Tensor, "... 3"], truth: Float[Tensor, "... 3"]) -> float:
    """Peak signal-to-noise ratio of the mean squared error, in dB, for values in 0..1."""
    from torchmetrics.functional.image import peak_signal_noise_ratio  # a second to import, and ns-train imports us

    return float(peak_signal_noise_ratio(image, truth, data_range=1.0))


def psnr_of_channels(image: Float[Tensor, "P 3"], truth: Float[Tensor, "P 3"]) -> float:
    """Mean of the three channels' PSNRs, in dB: 3DGS's function on an image without a batch axis."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return float(peak_signal_noise_ratio(image, truth, data_range=1.0, dim=0))


Window = Literal["uniform7", "gauss11"]


def ssim_inside(
    image: Float[Tensor, "H W C"], truth: Float[Tensor, "H W C"], window: Window, data_range: float
) -> float:
    """torchmetrics' SSIM: the mean over channels and over the pixels whose whole window lies inside the image.

    gauss11: its default, sigma 1.5, 11x11, with the border left out as its versions up to 1.4.0 do, which made the
    papers' numbers (1.4.3 to 1.9 count a reflected border, too). uniform7: skimage's default, 7x7 with the unbiased
    variance: to multiply variance and covariance by 49/48 is to divide the constant beside them by it.
    `data_range`: skimage up to 0.19 took 2 for float images that it was told nothing about, whatever their values;
    the larger range gives the larger SSIM.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    uniform = window == "uniform7"
    size = 7 if uniform else 11
    # Pixel by pixel in memory: torch filters planes of three channels 2 to 50 times more slowly on CPUs.
    pair = (value.contiguous()[None].permute(0, 3, 1, 2) for value in (image, truth))
    _, full = structural_similarity_index_measure(
        *pair,
        gaussian_kernel=not uniform,
        kernel_size=size,
        data_range=data_range,
        k2=0.03 * (48 / 49) ** 0.5 if uniform else 0.03,
        return_full_image=True,
    )
    border = (full.shape[-1] - image.shape[1] + size - 1) // 2  # how wide it is depends on the version
    return float(full[..., border:-border, border:-border].double().mean())


@dataclass(frozen=True)
class Measure:
    """One number of one view."""

    view: ViewName
    number: Callable[[View, Networks], float]
    net: Net | None = None
    """The network that it needs."""
    least: int = 1
    """Pixels that a side of the view has at least; the number of a smaller one is not defined."""

    def __call__(self, view: View, networks: Networks) -> float:
        return self.number(view, networks) if min(view.image.shape[:2]) >= self.least else float("nan")


def _psnr(view: ViewName, function: Callable[[Tensor, Tensor], float] = psnr) -> Measure:
    return Measure(view, lambda v, _: function(v.image[v.inside], v.truth[v.inside]))


def _ssim(view: ViewName, function: Callable[[Tensor, Tensor], Tensor | float]) -> Measure:
    return Measure(view, lambda v, _: float(function(v.image, v.truth)), least=11)


def _lpips(view: ViewName, net: Net, signed: bool) -> Measure:
    return Measure(view, lambda v, networks: 1000 * networks[net](v.image, v.truth, signed), net, least=64)


_skimage_019 = partial(ssim_inside, window="uniform7", data_range=2.0)
_torchmetrics = partial(ssim_inside, window="gauss11", data_range=1.0)
MEASURES: dict[str, Measure] = {
    "psnr_black": _psnr("black"),
    "ssim_black_range2_uniform7": _ssim("black", _skimage_019),
    "ssim_black_range1_uniform7": _ssim("black", partial(ssim_inside, window="uniform7", data_range=1.0)),
    "ssim_black_range1_gauss11": _ssim("black", _torchmetrics),
    "lpips_black_vgg_signed_x1000": _lpips("black", "vgg", signed=True),
    "lpips_black_alex_unsigned_x1000": _lpips("black", "alex", signed=False),
    "psnr_white8": _psnr("white8"),
    "ssim_white8_range1_gauss11": _ssim("white8", _torchmetrics),
    "lpips_white8_alex_unsigned_x1000": _lpips("white8", "alex", signed=False),
    "psnr_bound_channels": _psnr("bound", psnr_of_channels),
    "ssim_bound_range1_gauss11_padded": _ssim("bound", ssim),
    "lpips_bound_vgg_unsigned_x1000": _lpips("bound", "vgg", signed=False),
    "psnr_box": _psnr("box"),
    "ssim_box_range2_uniform7": _ssim("box", _skimage_019),
    "lpips_box_vgg_signed_x1000": _lpips("box", "vgg", signed=True),
}


@dataclass(frozen=True)
class Protocol:
    """The measures that a paper's three columns are."""

    papers: str
    psnr: str
    ssim: str
    lpips: str

    def columns(self, measured: Mapping[str, float]) -> dict[str, float]:
        """`psnr`, `ssim`, `lpips` of what was measured; what was not is left out."""
        named = {"psnr": self.psnr, "ssim": self.ssim, "lpips": self.lpips}
        return {column: measured[name] for column, name in named.items() if name in measured}


PROTOCOLS: dict[str, Protocol] = {
    "humannerf": Protocol(
        "FMGS-Avatar, HumanNeRF, MonoHuman, 3DGS-Avatar on ZJU-MoCap",
        "psnr_black",
        "ssim_black_range2_uniform7",
        "lpips_black_vgg_signed_x1000",
    ),
    "instantavatar": Protocol(
        "FMGS-Avatar, InstantAvatar, Anim-NeRF on PeopleSnapshot",
        "psnr_white8",
        "ssim_white8_range1_gauss11",
        "lpips_white8_alex_unsigned_x1000",
    ),
    "3dgs-avatar": Protocol(
        "3DGS-Avatar on PeopleSnapshot",
        "psnr_black",
        "ssim_black_range1_gauss11",
        "lpips_black_alex_unsigned_x1000",
    ),
    "gauhuman": Protocol(
        "GauHuman on ZJU-MoCap",
        "psnr_bound_channels",
        "ssim_bound_range1_gauss11_padded",
        "lpips_bound_vgg_unsigned_x1000",
    ),
    "neuralbody": Protocol(
        "NeuralBody, ARAH, instant-nvr on ZJU-MoCap",
        "psnr_box",
        "ssim_box_range2_uniform7",
        "lpips_box_vgg_signed_x1000",
    ),
}


def paper_protocol(split: str) -> str:
    """The key in `PROTOCOLS` of FMGS-Avatar's measures for data of this split (`Capture.protocol`)."""
    return "instantavatar" if split == "instantavatar" else "humannerf"


def measure(seen: Mapping[ViewName, View], networks: Networks) -> dict[str, float]:
    """All of `MEASURES` whose view and network there are."""
    return {
        name: one(seen[one.view], networks)
        for name, one in MEASURES.items()
        if one.view in seen and (one.net is None or one.net in networks)
    }
