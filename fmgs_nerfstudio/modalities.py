"""The rendered modalities, one entry of `MODALITIES` each: what it composites over the surfels and along which route
its gradient flows, the maps that come out, how people see them; and for a distilled one its field and its losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from fmgs_nerfstudio import losses
from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.fields.semantics import SemanticsField
from fmgs_nerfstudio.kernels.normal_maps import unit_where
from fmgs_nerfstudio.maps.classes import NUM_CLASSES, PALETTE
from fmgs_nerfstudio.objective import TERMS, LossInputs, SurfelInputs, Term
from fmgs_nerfstudio.rendering import (
    Camera,
    Layer,
    depth_to_normal,
    facing_away,
    rasterize_finer,
    surfel_normals,
)
from fmgs_nerfstudio.routes import OPEN, ROUTES, PosedSurfels, Route, Strategy

BACKGROUND_LOGIT = 10.0
"""Logit of class 0 where no surfel is."""
_LEAST_ALPHA = 1 / 255  # below it, a map that divides by alpha says nothing

Maps = dict[str, Float[Tensor, "H W C"]]
Values = Callable[[PosedSurfels, Camera], Float[Tensor, "N C"]]


@dataclass(frozen=True)
class RenderingConfig:
    """How surfels become pixels.

    Where 2DGS draws all backs, the far side shines through the near one; those near an outline (0.3: 17 degrees behind
    it) round it off. `docs/ablation-and-tuning.md` has what was tried.

    Raises ValueError where supersampling is not at least 1.
    """

    backface_cutoff: float = 0.3
    """Draw surfels that face away up to this cosine between normal and line of sight. 0: none; 1: all, as in 2DGS."""
    supersampling: int = 2
    """Rendered pixels per image pixel along each axis. 1: as in 2DGS, with outlines about a pixel too wide."""

    def __post_init__(self) -> None:
        if self.supersampling < 1:
            raise ValueError(f"rendering.supersampling is {self.supersampling}; expected 1 or more")


@dataclass(frozen=True)
class Modality:
    """All that the method knows of one modality."""

    route: Route
    """What the gradient of its losses may reach (4.5)."""
    maps: Callable[[Float[Tensor, "H W C"], Float[Tensor, "H W 1"], Camera], Maps]
    """Output maps of the composited values and alpha, which is detached; for training and metrics."""
    values: Values | None = None
    """What is composited; none: what its decoder gives, or the colour. On a card this may be replayed for other poses
    and cameras, whose size in pixels it is not told."""
    decoder: Callable[[int], nn.Module] | None = None
    """Field on a feature volume of its own, made for so many features: a property distilled from a prior."""
    visualize: Callable[[Maps], Maps] = lambda maps: maps
    """The maps as people see them: nerfstudio shows and saves those of three channels as colours."""
    terms: Mapping[str, Term] = field(default_factory=dict)
    """Losses of its own, by name."""
    taught_by: str | None = None
    """The loss without which its maps say nothing of this person, and are not shown; none: it needs no prior."""


def render_modalities(
    avatar: Avatar,
    rgb: Float[Tensor, "N 3"],
    camera: Camera,
    names: Iterable[str],
    config: RenderingConfig,
    strategy: Strategy | None = None,
) -> Maps:
    """Composite modalities in one pass (Eq. 1), each with the gradient that its route admits in this
    `strategy`.

    Returns sums over surfels, not divided by alpha, by name; "colour" is rgb and alpha, "depth" z and alpha.
    """
    names = list(names)
    layers = layers_of(avatar, rgb, camera, names, config, strategy or Strategy())
    return dict(zip(names, rasterize_finer(layers, camera, config.supersampling), strict=True))


def layers_of(
    avatar: Avatar,
    rgb: Float[Tensor, "N 3"],
    camera: Camera,
    names: Iterable[str],
    config: RenderingConfig,
    strategy: Strategy,
) -> list[Layer]:
    """What `render_modalities` composites."""
    layers = list[Layer]()
    posed = avatar.posed.by(OPEN)
    with torch.no_grad():
        drawn = (facing_away(posed.means, posed.tangents, camera) <= config.backface_cutoff).float()
    for name in names:
        modality = MODALITIES[name]
        posed = avatar.posed.by(strategy.admits(modality.route))
        if modality.values is not None:
            values = modality.values(posed, camera)
        elif modality.decoder is not None:
            values = avatar.distilled[name].values
        else:
            values = _with_alpha(rgb)
        layers.append(Layer(posed.means, posed.tangents, posed.opacities * drawn, values))
    return layers


def compose_outputs(rendered: Maps, camera: Camera, background: Float[Tensor, "3"]) -> Maps:
    """Output maps of what was rendered.

    rgb [3] and accumulation [1]; depth [1]: expected z of the surfels' centres in metres (as gsplat 1.4 defines it;
    surfels are millimetres, so the intersection's depth differs little), 0 where nothing is; normal and surface_normal
    [3]: of the surfels and of the depth map, camera axes x right, y up, z toward the camera, unit length, 0 where
    nothing is; logits [28]: of the classes, background included.
    """
    alpha = rendered["colour"][..., 3:].detach()
    outputs: Maps = {}
    for name, composited in rendered.items():
        outputs |= MODALITIES[name].maps(composited, alpha, camera)
    return outputs | {"rgb": torch.addcmul(outputs["rgb"], 1 - outputs["accumulation"], background)}


class Pictures(dict[str, Float[Tensor, "H W C"]]):
    """Maps as people see them, and as nerfstudio shows and saves them. Metrics read what they were made of."""

    maps: Maps
    """The maps of `compose_outputs`."""

    def with_pictures(self, others: Maps) -> Pictures:
        """Some replaced."""
        made = Pictures(self | others)
        made.maps = self.maps
        return made


def visualize_outputs(outputs: Maps, names: Iterable[str] | None = None) -> Pictures:
    """Pictures of what `compose_outputs` made of these modalities; none named: of all."""
    seen = outputs
    for name in MODALITIES if names is None else names:
        seen = MODALITIES[name].visualize(seen)
    pictures = Pictures(seen)
    pictures.maps = outputs
    return pictures


def all_terms() -> dict[str, Term]:
    """Every loss term: the method's, and those that modalities bring."""
    brought = [modality.terms for modality in MODALITIES.values()]
    return {name: term for terms in (TERMS, *brought) for name, term in terms.items()}


# --- the entries ------------------------------------------------------------------------------------------------------


def _with_alpha(values: Float[Tensor, "N C"]) -> Float[Tensor, "N C+1"]:
    return torch.cat([values, torch.ones_like(values[:, :1])], dim=-1)


def _z(posed: PosedSurfels, camera: Camera) -> Float[Tensor, "N 2"]:
    """With an alpha of its own: the colour's would carry the colour's gradient."""
    return _with_alpha(posed.means @ camera.viewmat[2:3, :3].T + camera.viewmat[2, 3])


def _colour_maps(composited: Float[Tensor, "H W 4"], _alpha: Tensor, _camera: Camera) -> Maps:
    rgb, alpha = composited.movedim(-1, 0).split([3, 1])  # plane by plane, as they lie in memory
    return {"rgb": rgb.movedim(0, -1), "accumulation": alpha.movedim(0, -1)}


def _depth_maps(composited: Float[Tensor, "H W 2"], alpha: Float[Tensor, "H W 1"], camera: Camera) -> Maps:
    z, depth_alpha = composited.unbind(-1)
    depth = torch.where(alpha[..., 0] > _LEAST_ALPHA, z / depth_alpha.clamp_min(_LEAST_ALPHA), 0)
    return {"depth": depth[..., None], "surface_normal": depth_to_normal(depth.detach(), camera)}


def _normal_maps(composited: Float[Tensor, "H W 3"], alpha: Float[Tensor, "H W 1"], _camera: Camera) -> Maps:
    return {"normal": unit_where(alpha[..., 0] > _LEAST_ALPHA, composited)}


def _logit_maps(composited: Float[Tensor, "H W C"], alpha: Float[Tensor, "H W 1"], _camera: Camera) -> Maps:
    return {"logits": semantic_logits(composited, alpha)}


def semantic_logits(composited: Float[Tensor, "H W C"], alpha: Float[Tensor, "H W 1"]) -> Float[Tensor, "H W C"]:
    """Pixel logits: the composited logits, and `BACKGROUND_LOGIT` on class 0 as far as nothing covers the pixel."""
    background = pad(composited.new_full((1,), BACKGROUND_LOGIT), (0, composited.shape[-1] - 1))
    return torch.addcmul(composited, 1 - alpha, background)


def visualize_normal(normal: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """(n + 1) / 2, black where nothing is."""
    return torch.where(normal.norm(dim=-1, keepdim=True) > 0.5, normal / 2 + 0.5, 0)


def visualize_semantics(logits: Float[Tensor, "H W C"]) -> Float[Tensor, "H W 3"]:
    """The palette's colour of the most likely class: argmax of softmax, and so of the logits (4.2.3)."""
    return (torch.from_numpy(PALETTE).to(logits) / 255)[logits.argmax(-1)]


def _visualize_logits(maps: Maps) -> Maps:
    drawn = {name: value for name, value in maps.items() if name != "logits"}
    return drawn | {"semantics": visualize_semantics(maps["logits"])}


def _semantic_loss(inputs: LossInputs) -> Float[Tensor, ""]:
    labels = inputs.batch["prior_semantics"]
    return losses.semantic_loss(inputs.outputs["logits"], labels, torch.ones_like(labels, dtype=torch.bool))


def _semantic_regularization(inputs: SurfelInputs) -> Float[Tensor, ""]:
    features, logits = inputs.avatar.distilled["semantics"]
    return losses.semantic_regularization(features, logits.detach().argmax(-1), NUM_CLASSES)


MODALITIES: dict[str, Modality] = {
    "colour": Modality(ROUTES["colour"], _colour_maps),
    "depth": Modality(
        ROUTES["depth"],
        _depth_maps,
        values=_z,
        visualize=lambda maps: maps | {"surface_normal": visualize_normal(maps["surface_normal"])},
    ),
    "normal": Modality(
        ROUTES["normal"],
        _normal_maps,
        values=lambda posed, camera: surfel_normals(posed.tangents, camera),
        visualize=lambda maps: maps | {"normal": visualize_normal(maps["normal"])},
        taught_by="L_n",  # without it they stay the naked body's, where the depth's show the clothes
    ),
    "semantics": Modality(
        ROUTES["semantics"],
        _logit_maps,
        decoder=lambda width: SemanticsField(width, NUM_CLASSES),
        visualize=_visualize_logits,
        terms={
            "L_s": Term(_semantic_loss, ("semantics",), "semantics"),
            "L_reg": Term(_semantic_regularization, (), "semantics", of_surfels=True),
        },
        taught_by="L_s",
    ),
}
