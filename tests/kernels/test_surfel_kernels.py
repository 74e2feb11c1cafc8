"""What is done per surfel, as kernels: values and gradients are those of the plain forms, which autograd checks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fmgs_nerfstudio.fields.appearance import (
    canonical_direction,
    canonical_direction_reference,
    harmonics_in_few,
    spherical_harmonics,
    spherical_harmonics_reference,
)
from fmgs_nerfstudio.kernels.carrying import carry, carry_in_few, carry_reference
from fmgs_nerfstudio.kernels.closed_forms import adjugate_times, turned, unit
from fmgs_nerfstudio.kernels.isometry import covariances, covariances_reference
from fmgs_nerfstudio.rendering import Camera, facing_away
from fmgs_nerfstudio.rendering.normals import (
    facing_away_reference,
    outward,
    surfel_normals_along,
    surfel_normals_reference,
)
from fmgs_nerfstudio.surfels import Surfels, correct, correct_reference, rotation_exp

N = 60
Function = Callable[..., Tensor | Sequence[Tensor]]


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def rotations(seed: int = 0) -> Tensor:
    return torch.linalg.qr(draw(N, 3, 3, seed=seed)).Q


def outputs(function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
    made = function(*inputs)
    return [made] if isinstance(made, Tensor) else list(made)


def gradients(made: Sequence[Tensor], inputs: Sequence[Tensor], of: Sequence[int]) -> list[Tensor | None]:
    """Of a fixed random function of the outputs `of`."""
    total = sum(((made[i] * draw(*made[i].shape, seed=9 + i).to(made[i])).sum() for i in of), torch.zeros(()))
    return list(torch.autograd.grad(total, inputs, allow_unused=True))


def check(kernel: Function, reference: Function, inputs: Sequence[Tensor], of: Sequence[int] | None = None) -> None:
    """The kernel in float32 against the plain form in float64; `of`: outputs that have a gradient."""
    single = [x.float().requires_grad_() for x in inputs]
    double = [x.detach().double().requires_grad_() for x in single]
    made, expected = outputs(kernel, single), outputs(reference, double)
    for a, b in zip(made, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b.float(), rtol=1e-5, atol=1e-6 * b.abs().max().item())
    of = range(len(made)) if of is None else of
    for a, b in zip(gradients(made, single, of), gradients(expected, double, of), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-5 * b.abs().max().item())


def turns() -> Tensor:
    """Rotation vectors: none, hardly one, both sides of where the series of kernel and plain form end, and more."""
    lengths = torch.tensor([0.0, 1e-30, 1e-12, 1e-3, 0.0099, 0.0101, 0.4999, 0.5001, 1.0, 2.0, 3.1, 3.15, 6.0])
    directions = torch.nn.functional.normalize(draw(N, 3, seed=1), dim=1)
    return directions * lengths.double().repeat(N)[:N, None]


def corrections() -> tuple[Tensor, ...]:
    return draw(N, 2, seed=2, scale=0.01).abs() + 1e-3, draw(N, 1, seed=3), draw(N, 2, seed=4), turns()


def corrected(function: Callable[..., Surfels], surfels: Surfels) -> Function:
    """Of scales and corrections; centres and frames are the mesh's."""

    def call(scales: Tensor, *deltas: Tensor) -> Surfels:
        means, frames, _ = (x.to(scales) for x in surfels)
        return function(Surfels(means, frames, scales), *deltas)

    return call


MESH = Surfels(draw(N, 3).float(), rotations().float(), torch.zeros(N, 2))


@pytest.mark.parametrize("of", [of for n in (1, 2, 3) for of in itertools.combinations(range(3), n)])
def test_corrections(of: tuple[int, ...]) -> None:
    """Whatever of means, frames and scales has a gradient, the inputs without one get none."""
    check(corrected(correct, MESH), corrected(correct_reference, MESH), corrections(), of)


def test_corrections_by_autograd() -> None:
    """The plain form; at no rotation, its gradient is that of I + [r]_x."""
    scales, d, s, r = (x[:8].clone().requires_grad_() for x in corrections())
    part = Surfels(*(x[:8] for x in MESH))
    assert gradcheck(corrected(correct_reference, part), (scales, d, s, r), atol=1e-6)
    frames = corrected(correct, MESH)(*(x.float().requires_grad_() for x in corrections()))[1]
    assert torch.equal(frames[0], MESH.frames[0])


def test_turned_frames() -> None:
    """As a card gets them; the plain form has its series near zero."""
    inputs = rotations(), turns()
    check(turned, lambda frames, r: frames @ rotation_exp(r), inputs)
    assert gradcheck(turned, [x.clone().requires_grad_() for x in inputs], atol=1e-7)


def test_surfels_that_no_mesh_guides_are_corrected() -> None:
    """Their frames and means have gradients, and any number of scales."""
    base = draw(N, 3), rotations(), draw(N, 3, seed=2)

    def of_six(function: Callable[..., Surfels]) -> Function:
        return lambda *x: function(Surfels(*x[:3]), *x[3:])

    check(of_six(correct), of_six(correct_reference), [*base, draw(N, 3, seed=3), draw(N, 3, seed=4), turns()])


@pytest.mark.parametrize("scales", [2, 3])
@pytest.mark.parametrize("of", [of for n in (1, 2, 3, 4) for of in itertools.combinations(range(4), n)])
def test_carried_surfels(of: tuple[int, ...], scales: int) -> None:
    """Whatever of means and the three tangents has a gradient, it reaches what it may and nothing else."""
    inputs = draw(N, 3), rotations(), draw(N, scales, seed=1), draw(N, 3, 4, seed=2)
    check(carry, carry_reference, inputs, of)
    check(carry_in_few, carry_reference, inputs, of)


def test_carried_surfels_are_one_matrix_product() -> None:
    """T (mu, 1) and T R s."""
    means, frames, scales, T = draw(N, 3), rotations(), draw(N, 2, seed=1), draw(N, 3, 4, seed=2)
    made = carry(means.float(), frames.float(), scales.float(), T.float())
    one = torch.cat([means, torch.ones(N, 1)], dim=1)
    expected = torch.einsum("nij,nj->ni", T, one), torch.einsum("nij,njk,nk->nik", T[..., :3], frames[..., :2], scales)
    for found, index in zip(made, (0, 1, 1, 1), strict=True):
        torch.testing.assert_close(found, expected[index].float(), rtol=1e-4, atol=1e-5)


def test_gradients_of_carried_surfels_by_autograd() -> None:
    """The plain form: means and tangents; the two other tangents have of these gradients what they let through."""
    drawn = draw(5, 3), rotations()[:5], draw(5, 2, seed=1), draw(5, 3, 4, seed=2)
    leaves = [x.clone().requires_grad_() for x in drawn]
    assert gradcheck(lambda *x: carry_reference(*x)[:2], leaves)
    whole = gradients(carry_reference(*leaves), leaves, [1])
    for of, reached in ((2, (1, 2)), (3, (2,))):
        found = gradients([carry_reference(*leaves)[of]] * 2, leaves, [1])
        for i, gradient in enumerate(found):
            assert (gradient is not None) == (i in reached)
            torch.testing.assert_close(gradient, whole[i] if i in reached else None, rtol=0, atol=0)


def tangents(columns: int) -> Tensor:
    """Of millimetres, with some that are parallel, none, and as short as a surfel gets."""
    made = draw(N, 3, columns, scale=1e-3)
    made[0] = 0
    made[1, :, 1] = made[1, :, 0]
    made[2, :, 1] = 0
    made[3] *= 1e-3
    return made


@pytest.mark.parametrize("columns", [2, 3])
def test_normals(columns: int) -> None:
    axes = rotations()[0]

    def along(function: Function) -> Function:
        return lambda t: function(t, axes.to(t))

    regular = tangents(columns)[3:]
    check(along(surfel_normals_along), along(surfel_normals_reference), [regular])
    assert gradcheck(along(surfel_normals_reference), [draw(8, 3, columns).requires_grad_()])
    assert gradcheck(along(surfel_normals_along), [draw(8, 3, columns).requires_grad_()])


@pytest.mark.parametrize("least", [1e-12, 0.5])
def test_unit_vectors(least: float) -> None:
    """As a card gets them: of any length, none among them; below the least, a vector is only scaled."""
    vectors = draw(N, 3)
    vectors[0] = 0
    assert least < 0.1 or (vectors.norm(dim=1) < least).sum() > 1
    check(lambda v: unit(v, least), lambda v: torch.nn.functional.normalize(v, dim=1, eps=least), [vectors])


def test_tangents_that_span_nothing_have_no_normal_and_finite_gradients() -> None:
    leaf = tangents(2)[:3].float().requires_grad_()
    assert not surfel_normals_along(leaf, torch.eye(3)).any()
    assert not outward(leaf.double()).any()
    for function in (surfel_normals_along, surfel_normals_reference, lambda t, _: outward(t.double())):
        (gradient,) = torch.autograd.grad(function(leaf, torch.eye(3)).sum(), leaf)
        assert gradient.isfinite().all()
        assert not gradient[0].any()


def test_facing_away() -> None:
    """In front of a camera and behind it, degenerate tangents among them; one stands in the camera's centre."""
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3], viewmat[:3, 3] = rotations()[0], draw(3, seed=1)
    double = Camera(viewmat, torch.eye(3, dtype=torch.float64), 8, 8)
    single = Camera(viewmat.float(), torch.eye(3), 8, 8)
    means, spread = draw(N, 3, seed=2, scale=3), tangents(2)
    means[-1] = single.centre.double()
    with torch.no_grad():
        found = facing_away(means.float(), spread.float(), single)
    expected = facing_away_reference(means.float().double(), spread.float().double(), double)
    torch.testing.assert_close(found[3:-1], expected[3:-1].float(), rtol=0, atol=1e-5)
    assert not found[[0, 1, 2, -1]].any()


@pytest.mark.parametrize("columns", [3, 4])
def test_canonical_directions(columns: int) -> None:
    T = torch.eye(3, columns, dtype=torch.float64) + draw(N, 3, columns, scale=0.3)
    check(canonical_direction, canonical_direction_reference, [T, draw(N, 3, seed=1)])
    check(lambda *x: unit(adjugate_times(*x)), canonical_direction_reference, [T, draw(N, 3, seed=1)])
    leaves = [T[:8].clone().requires_grad_(), draw(8, 3, seed=1).requires_grad_()]
    assert gradcheck(canonical_direction_reference, leaves)


def test_no_line_of_sight_has_no_direction() -> None:
    leaves = [torch.eye(3, 4).expand(2, 3, 4).clone().requires_grad_(), torch.zeros(2, 3, requires_grad=True)]
    for function in (canonical_direction, canonical_direction_reference):
        d_hat = function(*leaves)
        assert not d_hat.any()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(d_hat.sum(), leaves))


def test_spherical_harmonics() -> None:
    d = torch.nn.functional.normalize(draw(N, 3), dim=1)
    check(spherical_harmonics, spherical_harmonics_reference, [d])
    check(harmonics_in_few, spherical_harmonics_reference, [d])
    assert gradcheck(spherical_harmonics_reference, [d[:8].clone().requires_grad_()])


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (3, 3)])
def test_covariances(shape: tuple[int, int]) -> None:
    inputs = draw(N, 3, shape[0]), draw(N, shape[1], seed=1)
    check(covariances, covariances_reference, inputs)
    assert gradcheck(covariances_reference, [x[:8].clone().requires_grad_() for x in inputs])
    axes, scales = inputs
    scaled = (axes[:, :, : shape[1]] * scales[:, None]).float()
    torch.testing.assert_close(covariances(scaled), covariances_reference(axes, scales).float(), rtol=1e-4, atol=1e-5)


def test_views_are_taken() -> None:
    """Inputs and gradients that lie otherwise in memory."""
    wide, turned = draw(N, 7).float(), draw(4, 3, N).float()
    d, T = wide[:, 2:5], turned.permute(2, 1, 0)
    for function, inputs in (
        (spherical_harmonics, [d]),
        (canonical_direction, [T, d]),
        (lambda *x: carry(*x).tangents, [d, T[:, :, :3], wide[:, 5:], T]),
        (covariances, [T, wide[:, :3]]),
    ):
        leaves = [x.detach().requires_grad_() for x in inputs]
        straight = [x.detach().contiguous().requires_grad_() for x in inputs]
        found, expected = function(*leaves), function(*straight)
        assert torch.equal(found, expected)
        weight = draw(found.shape[-1], *found.shape[:-1]).float().movedim(0, -1)
        pairs = ((found, leaves), (expected, straight))
        found, expected = (torch.autograd.grad((y * weight).sum(), x, allow_unused=True) for y, x in pairs)
        for a, b in zip(found, expected, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
