"""Upsampling keeps the surface, closes it, hits the count, and carries the weights along."""

from __future__ import annotations

import pytest
import torch
import trimesh

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.canonical import CanonicalBody
from fmgs_nerfstudio.body.template import TemplateMesh, upsample


def _upsampled(body: BodyModel, n_vertices: int) -> TemplateMesh:
    return upsample(CanonicalBody(body, torch.zeros(10)).vertices, body.faces, body.weights, n_vertices)


@pytest.mark.parametrize("n_vertices", [6_890, 7_001, 27_554, 30_000])
def test_count_closedness_and_area(body: BodyModel, n_vertices: int) -> None:
    template = _upsampled(body, n_vertices)
    mesh = trimesh.Trimesh(template.vertices.numpy(), template.faces.numpy(), process=False)
    assert template.vertices.shape == (n_vertices, 3)
    assert template.faces.shape == (2 * n_vertices - 4, 3)  # Euler: a closed surface of genus 0
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    base = _upsampled(body, 6_890)
    area = trimesh.Trimesh(base.vertices.numpy(), base.faces.numpy(), process=False).area
    assert mesh.area == pytest.approx(area, rel=1e-5)  # new vertices lie on the old faces
    assert torch.allclose(template.weights.sum(1), torch.ones(n_vertices), atol=1e-5)


def test_attributes_are_interpolated_like_positions(body: BodyModel) -> None:
    """An attribute that is linear in the position stays so: here the position itself, in place of weights."""
    vertices = CanonicalBody(body, torch.zeros(10)).vertices
    template = upsample(vertices, body.faces, vertices.repeat(1, 8), 30_000)
    assert torch.allclose(template.weights, template.vertices.repeat(1, 8), atol=1e-6)


def test_the_longest_edges_are_split(body: BodyModel) -> None:
    def longest(template: TemplateMesh) -> float:
        corners = template.vertices[template.faces]
        return float((corners - corners.roll(1, dims=1)).norm(dim=-1).max())

    assert longest(_upsampled(body, 7_500)) < 0.75 * longest(_upsampled(body, 6_890))


def test_fewer_vertices_than_the_body_are_refused(body: BodyModel) -> None:
    with pytest.raises(ValueError, match=r"6890 vertices; 100"):
        _upsampled(body, 100)
