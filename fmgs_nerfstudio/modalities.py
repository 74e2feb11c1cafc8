"""The rendered modalities: what each composites over the surfels, and the maps that people see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fmgs_nerfstudio.priors.classes import PALETTE
from fmgs_nerfstudio.rendering import Camera, Layer, depth_to_normal, rasterize, surfel_normals
from fmgs_nerfstudio.routes import ROUTES, PosedSurfels, Route, pose_surfels
from fmgs_nerfstudio.surfels import Surfels

BACKGROUND_LOGIT = 10.0
"""Logit of class 0 where no surfel is."""
_LEAST_ALPHA = 1 / 255  # below it, a map that divides by alpha says nothing


class Avatar(NamedTuple):
    """The avatar in one pose: everything that does not depend on the camera."""

    canonical: Surfels
    T: Float[Tensor, "N 3 4"]
    opacities: Float[Tensor, "N"]
    f_c: Float[Tensor, "N D"]
    f_s: Float[Tensor, "N D"]
    z_g: Float[Tensor, "N Z"]
    Z_p: Float[Tensor, "L"]
    logits: Float[Tensor, "N C"]


def render_modalities(
    avatar: Avatar,
    rgb: Float[Tensor, "N 3"],
    camera: Camera,
    names: Iterable[str],
    routes: Mapping[str, Route] = ROUTES,
) -> dict[str, Float[Tensor, "H W C"]]:
    """Composite modalities in one pass (Eq. 1), each with the gradient that its row of `routes` admits.

    Returns, per name: "colour" rgb and alpha, "depth" z of the surfels' centres and alpha, "normal" camera-space
    normals, "semantics" logits; sums over surfels, not divided by alpha.
    """
    names = list(names)
    layers = []
    for name in names:
        posed = pose_surfels(avatar.canonical, avatar.opacities, avatar.T, routes[name])
        layers.append(Layer(*posed, _values(name, avatar, rgb, posed, camera)))
    return dict(zip(names, rasterize(layers, camera), strict=True))


def _values(
    name: str, avatar: Avatar, rgb: Float[Tensor, "N 3"], posed: PosedSurfels, camera: Camera
) -> Float[Tensor, "N C"]:
    if name == "colour":
        return torch.cat([rgb, torch.ones_like(rgb[:, :1])], dim=-1)
    if name == "depth":  # with an alpha of its own: the colour's would carry the colour's gradient
        z = posed.means @ camera.viewmat[2:3, :3].T + camera.viewmat[2, 3]
        return torch.cat([z, torch.ones_like(z)], dim=-1)
    if name == "normal":
        return surfel_normals(posed.tangents, posed.means, camera)
    return avatar.logits


def compose_outputs(
    rendered: dict[str, Float[Tensor, "H W C"]], camera: Camera, background: tuple[float, float, float]
) -> dict[str, Float[Tensor, "H W C"]]:
    """Output maps of what was rendered.

    rgb [3] and accumulation [1]; depth [1]: expected z of the surfels' centres in metres (as gsplat 1.4 defines it;
    surfels are millimetres, so the intersection's depth differs little), 0 where nothing is; normal and surface_normal
    [3]: of the surfels and of the depth map, camera axes x right, y up, z toward the camera, unit length, 0 where
    nothing is; logits [28]: of the classes, background included.
    """
    colour = rendered["colour"]
    alpha = colour[..., 3:]
    outputs = {"rgb": colour[..., :3] + (1 - alpha) * colour.new_tensor(background), "accumulation": alpha}
    something = alpha > _LEAST_ALPHA
    if "depth" in rendered:
        z, depth_alpha = rendered["depth"].split(1, dim=-1)
        outputs["depth"] = torch.where(something, z / depth_alpha.clamp_min(_LEAST_ALPHA), 0)
        outputs["surface_normal"] = depth_to_normal(outputs["depth"][..., 0].detach(), camera)
    if "normal" in rendered:
        outputs["normal"] = torch.where(something, normalize(rendered["normal"], dim=-1), 0)
    if "semantics" in rendered:
        outputs["logits"] = semantic_logits(rendered["semantics"], alpha.detach())
    return outputs


def draw_normal(normal: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """(n + 1) / 2, black where nothing is: nerfstudio shows and saves maps of three channels as colours."""
    return torch.where(normal.norm(dim=-1, keepdim=True) > 0.5, normal / 2 + 0.5, 0)


def draw_semantics(logits: Float[Tensor, "H W C"]) -> Float[Tensor, "H W 3"]:
    """The palette's colour of the most likely class: argmax of softmax, and so of the logits (4.2.3)."""
    return (torch.from_numpy(PALETTE).to(logits) / 255)[logits.argmax(-1)]


def semantic_logits(composited: Float[Tensor, "H W C"], alpha: Float[Tensor, "H W 1"]) -> Float[Tensor, "H W C"]:
    """Pixel logits: the composited logits, and `BACKGROUND_LOGIT` on class 0 as far as nothing covers the pixel."""
    return torch.cat([composited[..., :1] + (1 - alpha) * BACKGROUND_LOGIT, composited[..., 1:]], dim=-1)
