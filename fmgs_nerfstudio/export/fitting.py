"""Splats that look in other programs as the avatar does here.

Those draw all surfels that face away, of which we draw those near an outline only
(`RenderingConfig.backface_cutoff`): there the far side shines through the near one. So opacities, scales and colours of
the file are fitted to our own pictures.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor
from torch.nn.functional import normalize

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.export.baking import look_around, spherical_harmonics_of
from fmgs_nerfstudio.export.splats import Splats
from fmgs_nerfstudio.modalities import render_modalities
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.motion.cameras import look_at
from fmgs_nerfstudio.rendering import Camera
from fmgs_nerfstudio.routes import OPEN, PosedSurfels

_CLOSED = 2.0  # logit by which opacities start higher: a picture from both sides is nearest to ours where fronts close
_RATES = {"opacity": 0.05, "scale": 0.01, "constant": 0.01, "harmonics": 0.005}  # of Adam; they fall to a tenth
_ALPHA = 0.1  # weight of alpha's error
_ZOOM = 2.0  # at most
_DISTANCE = 2.7  # of a camera, in radii of the person


def baked_splats(model: FMGSModel, posed: Avatar, coefficients: int = 16) -> Splats:
    """The avatar's surfels as they are, their colours as so many spherical harmonics."""
    # Copies: inference's tensors may not meet gradients.
    sh = spherical_harmonics_of(look_around(model, posed), coefficients).clone()
    surfels = posed.posed.by(OPEN)
    return Splats(PosedSurfels(*(value.detach().clone() for value in surfels)), sh)


def fit_splats(model: FMGSModel, posed: Avatar, splats: Splats, steps: int) -> Splats:
    """Fit opacities, scales and colours, so that drawn from both sides they give the model's own pictures.

    One random view a step, with the model's own supersampling, since the low-pass of 2DGS is a pixel wide whatever the
    image. Positions and orientations stay.
    """
    means, tangents, opacities = splats.surfels
    logit = (opacities.clamp(1e-4, 1 - 1e-4).logit() + _CLOSED).requires_grad_()
    log_scale = torch.zeros_like(tangents[:, 0]).requires_grad_()
    constant, harmonics = (part.clone().requires_grad_() for part in (splats.sh[:, :1], splats.sh[:, 1:]))
    parameters = zip((logit, log_scale, constant, harmonics), _RATES.values(), strict=True)
    adam = torch.optim.Adam([{"params": [value], "lr": lr} for value, lr in parameters], eps=1e-15)
    decay = torch.optim.lr_scheduler.ExponentialLR(adam, 0.1 ** (1 / steps))

    def fitted() -> Splats:
        surfels = PosedSurfels(means, tangents * log_scale.exp()[:, None], logit.sigmoid())
        return Splats(surfels, torch.cat([constant, harmonics], dim=1))

    generator = torch.Generator().manual_seed(0)
    for _ in track(range(steps), "Fitting splats"):
        camera = random_camera(model, means, generator)
        error = (fitted().draw(camera, model.config.rendering.supersampling) - own_picture(model, posed, camera)) ** 2
        (error[..., :3].mean() + _ALPHA * error[..., 3].mean()).backward()
        adam.step()
        adam.zero_grad()
        decay.step()
    with torch.no_grad():
        return fitted()


@torch.inference_mode()
def picture_psnr(model: FMGSModel, posed: Avatar, splats: Splats, views: int = 8) -> float:
    """Mean PSNR in dB of the whole picture on black against the model's own, in views that no fit has seen."""
    generator = torch.Generator().manual_seed(1)
    psnr = []
    for _ in range(views):
        camera = random_camera(model, splats.surfels.means, generator, most=1)
        error = splats.draw(camera, model.config.rendering.supersampling) - own_picture(model, posed, camera)
        psnr.append(-10 * error[..., :3].square().mean().log10())
    return float(torch.stack(psnr).mean())


@torch.no_grad()
def own_picture(model: FMGSModel, posed: Avatar, camera: Camera) -> Float[Tensor, "H W 4"]:
    """Colour and alpha on black as the model draws them."""
    rgb = model.shade(posed, camera.centre)
    return render_modalities(posed, rgb, camera, ["colour"], model.config.rendering)["colour"]


def random_camera(
    model: FMGSModel, means: Float[Tensor, "N 3"], generator: torch.Generator, most: float = _ZOOM
) -> Camera:
    """From anywhere around, as large as the capture's images: between all in the picture and `most` times enlarged."""
    capture = model.kwargs["metadata"]["capture"]
    _, width, height = capture.intrinsics(capture.splits["train"][0].camera)
    size = max(width, height)
    zoom = most ** float(torch.rand((), generator=generator))
    some = means[int(torch.randint(len(means), (), generator=generator))].cpu()
    centre = ((means.amax(0) + means.amin(0)) / 2).cpu()
    radius = (means.cpu() - centre).norm(dim=1).amax()
    toward, up = normalize(torch.randn(2, 3, generator=generator), dim=1)
    target = torch.lerp(centre, some, 1 - 1 / zoom)  # of what is enlarged, something else each time
    view = look_at(*(v.double().numpy() for v in (target + _DISTANCE * radius * toward, target, up)))
    focal = zoom * size / 2 * (_DISTANCE**2 - 1) ** 0.5
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return Camera(torch.from_numpy(view).to(means), K.to(means), size, size)
