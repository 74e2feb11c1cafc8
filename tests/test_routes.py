"""Posing surfels (Eq. 10-12) against the equations written plainly, and the table of routes against autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmgs_nerfstudio.routes import OPEN, ROUTES, PosedSurfels, Strategy, pose_surfels
from fmgs_nerfstudio.surfels import Surfels, bind_to_faces, correct

N = 30


class Leaves:
    """One leaf per kind of parameter, and what the model makes of them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def leaf(*shape: int) -> Tensor:
            return (torch.randn(*shape, generator=generator) * 0.1).requires_grad_()

        self.delta_d, self.delta_s, self.delta_r = leaf(N, 1), leaf(N, 2), leaf(N, 3)
        self.opacity, self.T = leaf(N), leaf(N, 3, 4)
        base = bind_to_faces(torch.randn(3 * N, 3, generator=generator), torch.arange(3 * N).view(N, 3), 0.7)
        self.surfels: Surfels = correct(base, self.delta_d, self.delta_s, self.delta_r)

    def posed(self, name: str) -> PosedSurfels:
        return pose_surfels(self.surfels, self.opacity.sigmoid(), self.T, ROUTES[name])


def test_posing_is_equations_11_and_12_by_value_in_every_route() -> None:
    leaves = Leaves()
    s = leaves.surfels
    mu_o = torch.einsum("nij,nj->ni", leaves.T[..., :3], s.means) + leaves.T[..., 3]
    R_o = torch.einsum("nij,njk->nik", leaves.T[..., :3], s.frames)
    for name in ROUTES:
        posed = leaves.posed(name)
        assert torch.allclose(posed.means, mu_o, atol=1e-5)
        assert torch.allclose(posed.tangents, R_o[..., :2] * s.scales[:, None], atol=1e-5)
        assert torch.allclose(posed.opacities, leaves.opacity.sigmoid())


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("colour", {"delta_d", "delta_s", "delta_r", "opacity", "T"}),
        ("depth", {"delta_d", "delta_s", "opacity", "T"}),
        ("normal", {"delta_s", "delta_r", "opacity"}),
        ("semantics", set()),
    ],
)
def test_each_route_reaches_what_the_table_says(name: str, reached: set[str]) -> None:
    leaves = Leaves()
    total = sum(value.pow(2).sum() for value in leaves.posed(name))
    if isinstance(total, Tensor) and total.requires_grad:
        total.backward()
    got = {key for key in ("delta_d", "delta_s", "delta_r", "opacity", "T") if getattr(leaves, key).grad is not None}
    assert got == reached
    assert all(getattr(leaves, key).grad.abs().max() > 0 for key in reached)


def test_depth_moves_T_through_positions_alone() -> None:
    """T carries position and orientation: under depth its gradient is that of the centres."""
    leaves = Leaves()
    posed = leaves.posed("depth")
    (by_route,) = torch.autograd.grad(posed.means.sum() + posed.tangents.sum(), leaves.T)
    leaves = Leaves()
    (by_means,) = torch.autograd.grad(leaves.posed("colour").means.sum(), leaves.T)
    assert torch.equal(by_route, by_means)


def test_a_strategy_closes_opacity_to_the_priors_or_opens_everything() -> None:
    for name, route in ROUTES.items():
        assert Strategy().admits(route) == route
        assert Strategy(coordinated=False, priors_move_opacity=False).admits(route) == OPEN
        closed = Strategy(priors_move_opacity=False).admits(route)
        assert closed == (route if name == "colour" else replace(route, opacity=False))


def test_3d_gaussians_are_posed_with_all_three_axes() -> None:
    """T Sigma T^T, whatever the axes."""
    generator = torch.Generator().manual_seed(0)
    frames, _ = torch.linalg.qr(torch.randn(N, 3, 3, generator=generator))
    scales = torch.rand(N, 3, generator=generator)
    T = torch.randn(N, 3, 4, generator=generator)
    gaussians = Surfels(torch.zeros(N, 3), frames, scales)
    for route in ROUTES.values():
        tangents = pose_surfels(gaussians, torch.ones(N), T, route).tangents
        expected = T[..., :3] @ frames @ torch.diag_embed(scales**2) @ frames.mT @ T[..., :3].mT
        assert torch.allclose(tangents @ tangents.mT, expected, atol=1e-4)
