"""The learned surface as a mesh: the template's vertices and its surfels, one in each face, displaced, coloured,
labelled and skinned by the fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.export.baking import look_around, mean_colours
from fmgs_nerfstudio.fields.skinning import blend
from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.model import FMGSModel


class LearnedMesh(NamedTuple):
    """The surface in canonical space with the displacements of one pose."""

    vertices: Float[Tensor, "V 3"]
    """Metres."""
    faces: Int[Tensor, "F 3"]
    weights: Float[Tensor, "V 24"]
    colours: Float[Tensor, "V 3"]
    """As in images (sRGB), 0..1."""
    parts: Int[Tensor, "V"] | None
    """Ids of the 28 classes, if they were trained."""

    def posed(self, B: Float[Tensor, "24 4 4"]) -> Float[Tensor, "V 3"]:
        """Vertices in the world, by bones from canonical space."""
        return deform(self.vertices, self.weights, B)


@torch.inference_mode()
def deform(
    vertices: Float[Tensor, "V 3"], weights: Float[Tensor, "V 24"], B: Float[Tensor, "24 4 4"]
) -> Float[Tensor, "V 3"]:
    """Linear blend skinning (Eq. 10, 11)."""
    T = blend(weights, B)
    return (T[:, :, :3] @ vertices[..., None])[..., 0] + T[:, :, 3]


@torch.inference_mode()
def displaced_surface(model: FMGSModel, avatar: Avatar) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]:
    """Canonical vertices and faces: the template's vertices, moved by the mean displacement of the faces around them,
    then the surfels' centres, each of which parts its face in three."""
    template, faces = (value.to(model.device) for value in (model.template.vertices, model.template.faces))
    centres = avatar.canonical.means
    corners = template + around(centres - model.surfels.means, faces, len(template))
    centre = len(template) + torch.arange(len(faces), device=faces.device)
    a, b, c = faces.unbind(-1)
    parted = [torch.stack([first, second, centre], dim=-1) for first, second in ((a, b), (b, c), (c, a))]
    return torch.cat([corners, centres]), torch.cat(parted)


@torch.inference_mode()
def learned_mesh(model: FMGSModel, avatar: Avatar) -> LearnedMesh:
    """The mesh of an avatar. Colours and class probabilities are the surfels' at their centres, and at the template's
    vertices the mean of those around."""
    vertices, faces = displaced_surface(model, avatar)

    def at_vertices(values: Float[Tensor, "N C"]) -> Float[Tensor, "V C"]:
        count = len(vertices) - len(values)
        return torch.cat([around(values, model.template.faces.to(model.device), count), values])

    colours = at_vertices(mean_colours(look_around(model, avatar)))
    parts = None
    if "semantics" in model.taught.shown:
        parts = at_vertices(avatar.distilled["semantics"].values.softmax(-1)).argmax(-1)
    return LearnedMesh(vertices, faces, model.skinning(vertices), colours.clamp(0, 1), parts)


def around(values: Float[Tensor, "F C"], faces: Int[Tensor, "F 3"], count: int) -> Float[Tensor, "V C"]:
    """Mean of the values of the faces around each of `count` vertices; zero where there is none."""
    corners = faces.flatten()
    total = values.new_zeros(count, values.shape[1]).index_add_(0, corners, values.repeat_interleave(3, dim=0))
    return total / torch.bincount(corners, minlength=count)[:, None].clamp_min(1)


def write_mesh(mesh: LearnedMesh, vertices: Float[Tensor, "V 3"], path: Path) -> None:
    """`.obj` with vertex colours, or `.ply` with colours and the class id, where trained, as the property `part`."""
    colours = (mesh.colours * 255).round().byte().numpy(force=True)
    labels: dict[str, Any] = {} if mesh.parts is None else {"part": mesh.parts.numpy(force=True).astype(np.int32)}
    made = trimesh.Trimesh(
        vertices.numpy(force=True),
        mesh.faces.numpy(force=True),
        vertex_colors=colours,
        vertex_attributes=labels,
        process=False,
    )
    with atomic_path(path) as temporary:
        made.export(temporary)
