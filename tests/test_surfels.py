"""Binding to faces (Eq. 2) and corrections (Eq. 4-6) against closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from fmgs_nerfstudio.surfels import MeshSurfels, SurfelsConfig, bind_to_faces, correct, rotation_exp

TRIANGLES = torch.randn(50, 3, 3, generator=torch.Generator().manual_seed(1))
FACES = torch.arange(150).view(50, 3)


def test_centres_and_frames() -> None:
    surfels = bind_to_faces(TRIANGLES.view(-1, 3), FACES, size=1.0)
    assert torch.allclose(surfels.means, TRIANGLES.sum(1) / 3, atol=1e-6)
    identity = torch.eye(3).expand(50, 3, 3)
    assert torch.allclose(surfels.frames.transpose(1, 2) @ surfels.frames, identity, atol=1e-4)
    assert torch.allclose(torch.linalg.det(surfels.frames), torch.ones(50), atol=1e-4)
    normal = torch.linalg.cross(TRIANGLES[:, 1] - TRIANGLES[:, 0], TRIANGLES[:, 2] - TRIANGLES[:, 0])
    assert torch.allclose(surfels.frames[..., 2], torch.nn.functional.normalize(normal, dim=-1), atol=1e-3)


def test_corners_lie_on_the_steiner_circumellipse() -> None:
    """The defining property of the ellipse: with size 1, every corner has u^2 + v^2 = 1 in its surfel's coordinates."""
    surfels = bind_to_faces(TRIANGLES.view(-1, 3), FACES, size=1.0)
    local = torch.einsum("nki,nid->nkd", TRIANGLES - surfels.means[:, None], surfels.frames[..., :2])
    assert torch.allclose((local / surfels.scales[:, None]).norm(dim=-1), torch.ones(50, 3), atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=3, max_size=3), st.sampled_from([1.0, 1e-2, 1e-4, 0.0]))
def test_rotation_exp_is_the_matrix_exponential(r: list[float], scale: float) -> None:
    vector = torch.tensor([r], dtype=torch.float64) * scale
    x, y, z = vector[0]
    zero = torch.zeros((), dtype=torch.float64)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
    assert torch.allclose(rotation_exp(vector)[0], torch.linalg.matrix_exp(cross), atol=1e-9)


def test_rotation_exp_gradients_near_and_at_zero() -> None:
    for scale in (0.0, 1e-3, 9.9e-3, 1.01e-2, 1.0):
        r = (torch.randn(4, 3, dtype=torch.float64) * scale).requires_grad_()
        assert gradcheck(rotation_exp, (r,), atol=1e-7)


def test_corrections_are_equations_4_to_6() -> None:
    surfels = bind_to_faces(TRIANGLES.view(-1, 3), FACES, size=0.7)
    d, s, r = torch.randn(50, 1) * 0.01, torch.randn(50, 2) * 0.1, torch.randn(50, 3) * 0.1
    corrected = correct(surfels, d, s, r)
    assert torch.allclose(corrected.means - surfels.means, d * surfels.frames[..., 2], atol=1e-6)
    assert torch.allclose(corrected.scales / surfels.scales, s.exp(), atol=1e-5)
    assert torch.allclose(surfels.frames.transpose(1, 2) @ corrected.frames, rotation_exp(r), atol=1e-4)


@pytest.mark.parametrize("scales", [2, 3])
def test_corrections_without_a_mesh(scales: int) -> None:
    """[30]: mu' = mu + delta_x; scales and rotation as Eq. 5 and 6."""
    bound = bind_to_faces(TRIANGLES.view(-1, 3), FACES, size=0.7)
    surfels = bound._replace(scales=torch.rand(50, scales) + 0.1)
    x, s, r = torch.randn(50, 3), torch.randn(50, scales), torch.randn(50, 3)
    corrected = correct(surfels, x, s, r)
    assert torch.equal(corrected.means, surfels.means + x)
    assert torch.equal(corrected.scales, surfels.scales * s.exp())
    assert torch.allclose(corrected.frames, surfels.frames @ rotation_exp(r), atol=1e-5)


def test_learned_parts_start_neutral() -> None:
    surfels = MeshSurfels(SurfelsConfig(size=0.5, opacity=0.9), TRIANGLES.view(-1, 3), FACES)
    assert torch.allclose(surfels.opacities, torch.full((50,), 0.9))
    assert torch.equal(surfels().scales, bind_to_faces(TRIANGLES.view(-1, 3), FACES, 0.5).scales)
    assert {name for name, _ in surfels.named_parameters()} == {"log_scale", "opacity_logit"}


def test_3d_gaussians_are_free_and_have_three_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gaussians = MeshSurfels(SurfelsConfig(guided=False, kind="3d"), TRIANGLES.view(-1, 3), FACES)
    start, bound = gaussians(), bind_to_faces(TRIANGLES.view(-1, 3), FACES, 0.7)
    assert torch.equal(start.scales[:, :2], bound.scales)
    assert torch.equal(start.scales[:, 2], bound.scales.amin(1) / 2)
    assert start.axes.shape == (50, 3, 3)
    start.scales.sum().backward()
    assert gaussians.log_scale.grad is not None
    assert torch.allclose(gaussians.log_scale.grad, start.scales)


@pytest.mark.parametrize(("cuda", "guided", "said"), [(True, True, "guided False"), (False, False, "kind 2d")])
def test_3d_gaussians_where_there_can_be_none(
    cuda: bool, guided: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    with pytest.raises(ValueError, match=said):
        MeshSurfels(SurfelsConfig(guided=guided, kind="3d"), TRIANGLES.view(-1, 3), FACES)
