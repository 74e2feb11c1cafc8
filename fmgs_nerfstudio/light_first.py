"""Light first: before the first step, what the training pictures show of the template tells the capture's light."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn.functional import max_pool2d

from fmgs_nerfstudio.console import log
from fmgs_nerfstudio.data import DECODERS, Batch, FMGSDataManager, at_full
from fmgs_nerfstudio.fields.light_fit import LightFit, Sightings, fit_light
from fmgs_nerfstudio.kernels.precision import full_precision
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.rendering import Camera, Layer, facing_away, outward, rasterize_finer
from fmgs_nerfstudio.routes import OPEN

_FRAMES = 100
"""Pictures that are looked at, at most, spread over the capture."""
_STEEPEST = 0.2
"""Least cosine between normal and line of sight at which a surfel counts as seen."""
_LEAST_PIXELS = 0.05
"""Pixels that a surfel covers, at least."""
_SURFELS = 5_000
"""That are asked, at most."""


def find_light(model: FMGSModel, data: FMGSDataManager) -> None:
    """Give the model the light of its capture and the exposures of its training pictures, as it will keep them; without
    frames to find them in, an even light."""
    assert model.light is not None
    seen = look(model, training_views(data))
    up = np.asarray(model.kwargs["metadata"]["capture"].up, dtype=float)
    try:
        fit = fit_light(seen, up / np.linalg.norm(up), exposures=model.exposure is not None)
    except ValueError as error:
        log(f"Light: even; {error}")
        return
    model.light.irradiance.copy_(torch.from_numpy(fit.irradiance)[:, None])
    if model.exposure is not None and fit.exposures:
        model.exposure.set(fit.exposures)
    log(told(fit))


def training_views(data: FMGSDataManager) -> Iterator[tuple[Cameras, Batch]]:
    """Training pictures, spread over the capture; without those that cannot be read."""
    chosen = _spread(len(data.train_dataset), _FRAMES).tolist()
    for i, index in enumerate(chosen):
        if (batch := data.cached_train.readable(index, chosen[i + 1 : i + 1 + DECODERS])) is not None:
            yield batch["camera"], at_full(batch)


def told(fit: LightFit) -> str:
    """The fit in a line."""
    where = "symmetric about the vertical"
    if fit.toward is not None:
        direction = " ".join(f"{x:+.2f}" for x in fit.toward)
        where = f"{fit.lamps:.0%} of it from lamps towards ({direction}) in the world"
    light = f"Light: {where}; explains {fit.explained:.0%} of what changes, and leaves {fit.rest:.3f} (rms) of a colour"
    if not fit.exposures:
        return light
    dimmest, brightest = np.quantile([factors.mean() for factors in fit.exposures.values()], [0.05, 0.95])
    return f"{light}; exposures change colours by factors of {dimmest:.2f} to {brightest:.2f}"


def look(model: FMGSModel, views: Iterable[tuple[Cameras, Batch]]) -> Sightings:
    """The colours at which the avatar, as it is, would have to be seen in these pictures.

    What a surfel contributes to pixels is the gradient of a rendering by its values: with the picture for the
    gradient of the pixels, it is the sum of their colours, each as far as it shows the surfel.
    """
    chosen = torch.zeros(len(model.surfels.means), dtype=torch.bool, device=model.device)
    chosen[torch.from_numpy(_spread(len(chosen), _SURFELS)).to(model.device)] = True
    found = [_look(model, camera, batch, chosen) for camera, batch in views]
    if not found:
        return Sightings(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))
    return Sightings(
        *(np.concatenate([value.numpy(force=True) for value in column]) for column in zip(*found, strict=True))
    )


@full_precision()
def _look(
    model: FMGSModel, camera: Cameras, batch: Batch, chosen: Bool[Tensor, "N"]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    view, rendering = Camera.from_nerfstudio(camera).to(model.device), model.config.rendering
    with torch.no_grad():
        avatar = model.pose_avatar(pose_id := model.pose_id(camera))
        posed = avatar.posed.by(OPEN)
        away = facing_away(posed.means, posed.tangents, view)
        opacities = posed.opacities * (away <= rendering.backface_cutoff)
    values = torch.zeros(len(away), 5, device=model.device).requires_grad_()
    with torch.enable_grad():
        layer = Layer(posed.means, posed.tangents, opacities, values)
        (image,) = rasterize_finer([layer], view, rendering.supersampling)
    inside = _inside(batch["mask"].to(model.device))
    pixels = torch.cat([batch["image"].to(model.device) * inside, inside, torch.ones_like(inside)], dim=-1)
    (sums,) = torch.autograd.grad(image, values, pixels)
    weight, whole = sums[:, 3], sums[:, 4]
    seen = chosen & (weight > _LEAST_PIXELS) & (weight > 0.9 * whole) & (away < -_STEEPEST)
    colour = sums[seen, :3] / weight[seen, None]
    surfel = seen.nonzero()[:, 0]
    picture = torch.full_like(surfel, pose_id)
    return picture, surfel, outward(posed.tangents[seen]), colour, -(weight * away)[seen]


def _inside(mask: Float[Tensor, "H W 1"]) -> Float[Tensor, "H W 1"]:
    """1 where neither a pixel nor its neighbours are background."""
    return 1 - max_pool2d((mask < 0.99).float().movedim(-1, 0), 3, 1, 1).movedim(0, -1)


def _spread(count: int, most: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
