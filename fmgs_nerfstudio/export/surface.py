"""The learned surface as a mesh: the template's vertices, displaced, coloured, labelled and skinned by the fields."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

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
    parts: Int[Tensor, "V"]
    """Ids of the 28 classes."""

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
def displaced_vertices(model: FMGSModel, avatar: Avatar) -> Float[Tensor, "V 3"]:
    """The template's vertices, moved by the mean displacement of the faces around them."""
    template = model.template.vertices.to(model.device)
    displacement = avatar.canonical.means - model.surfels.means
    return template + around(displacement, model.template.faces.to(model.device), len(template))


@torch.inference_mode()
def learned_mesh(model: FMGSModel, avatar: Avatar) -> LearnedMesh:
    """The mesh of an avatar: vertices take the mean of the colours and of the class probabilities around them."""
    faces, vertices = model.template.faces.to(model.device), displaced_vertices(model, avatar)
    colours = around(mean_colours(look_around(model, avatar)), faces, len(vertices))
    shares = around(avatar.distilled["semantics"].values.softmax(-1), faces, len(vertices))
    return LearnedMesh(vertices, faces, model.skinning(vertices), colours.clamp(0, 1), shares.argmax(-1))


def around(values: Float[Tensor, "F C"], faces: Int[Tensor, "F 3"], count: int) -> Float[Tensor, "V C"]:
    """Mean of the values of the faces around each of `count` vertices; zero where there is none."""
    corners = faces.flatten()
    total = values.new_zeros(count, values.shape[1]).index_add_(0, corners, values.repeat_interleave(3, dim=0))
    return total / torch.bincount(corners, minlength=count)[:, None].clamp_min(1)


def write_mesh(mesh: LearnedMesh, vertices: Float[Tensor, "V 3"], path: Path) -> None:
    """`.obj` with vertex colours, or `.ply` with colours and the class id as the vertex property `part`."""
    colours = (mesh.colours * 255).round().byte().numpy(force=True)
    made = trimesh.Trimesh(
        vertices.numpy(force=True),
        mesh.faces.numpy(force=True),
        vertex_colors=colours,
        vertex_attributes={"part": mesh.parts.numpy(force=True).astype(np.int32)},
        process=False,
    )
    with atomic_path(path) as temporary:
        made.export(temporary)
