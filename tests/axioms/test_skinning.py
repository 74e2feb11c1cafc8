"""Linear blend skinning: identity, composition, rigid motion; and surfels posed by every route."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from support.draws import (
    apply,
    assert_close,
    axes,
    axiom,
    dtypes,
    rigid_motions,
    rotation_vectors,
    simplices,
    tensors,
    vectors,
)
from torch import Tensor
from torch.nn.functional import pad

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.canonical import CanonicalBody, star_pose
from fmgs_nerfstudio.fields.skinning import blend
from fmgs_nerfstudio.losses import isometry_loss
from fmgs_nerfstudio.routes import OPEN, PosedSurfels, Posing, Route, pose_surfels
from fmgs_nerfstudio.surfels import Surfels

N = 5
ROUTES = [Route(*flags) for flags in itertools.product((False, True), repeat=4)]
transls = vectors(1).map(lambda drawn: drawn[0])


def poses(size: float = 1.5) -> st.SearchStrategy[np.ndarray]:
    """[72]: a root of any angle, joints within `size` radians along each axis."""
    drawn = st.tuples(rotation_vectors(), vectors(23, low=-size, high=size))
    return drawn.map(lambda parts: np.concatenate(parts).ravel())


@pytest.fixture(scope="module")
def canonical(body: BodyModel) -> CanonicalBody:
    """In double precision, so that what is left is the arithmetic's."""
    made = CanonicalBody(body, torch.linspace(-1, 1, 10)).double()
    star = body.bones(made.joints, star_pose().double(), torch.zeros(3).double())
    made.from_canonical = torch.linalg.inv(star)
    return made


def bones_of(canonical: CanonicalBody, pose: np.ndarray, transl: np.ndarray, dtype: torch.dtype) -> Tensor:
    return canonical.body.bones(canonical.joints.to(dtype), *tensors(dtype, pose, transl))


def moved_fit(
    canonical: CanonicalBody, G: np.ndarray, pose: np.ndarray, transl: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The fit of the person carried by the rigid motion G of the world; smplx turns about the pelvis J."""
    J = canonical.joints[0].numpy()
    root = (Rotation.from_matrix(G[:3, :3]) * Rotation.from_rotvec(pose[:3])).as_rotvec()
    return np.r_[root, pose[3:]], G[:3, :3] @ (transl + J) + G[:3, 3] - J


# --- bones ------------------------------------------------------------------------------------------------------------


@axiom
@given(transls, dtypes)
def test_the_zero_pose_moves_nothing_but_by_its_translation(
    canonical: CanonicalBody, transl: np.ndarray, dtype: torch.dtype
) -> None:
    expected = torch.eye(4, dtype=dtype).repeat(24, 1, 1)
    expected[:, :3, 3] = torch.from_numpy(transl)
    assert_close(bones_of(canonical, np.zeros(72), transl, dtype), expected, single=2e-6, double=1e-7)


@axiom
@given(poses(), transls, dtypes)
def test_bones_are_rigid(canonical: CanonicalBody, pose: np.ndarray, transl: np.ndarray, dtype: torch.dtype) -> None:
    bones = bones_of(canonical, pose, transl, dtype)
    R = bones[:, :3, :3]
    assert_close(R.mT @ R, torch.eye(3, dtype=dtype).expand(24, 3, 3), single=1e-5, double=1e-6)
    assert_close(torch.linalg.det(R), torch.ones(24, dtype=dtype), single=1e-5, double=1e-6)
    torch.testing.assert_close(bones[:, 3], torch.tensor([0, 0, 0, 1], dtype=dtype).expand(24, 4))


@axiom
@given(poses(), transls, rigid_motions(), dtypes)
def test_a_rigid_motion_of_the_world_comes_after_all_bones(
    canonical: CanonicalBody, pose: np.ndarray, transl: np.ndarray, G: np.ndarray, dtype: torch.dtype
) -> None:
    """B(G . fit) = G B(fit), from the T-pose and from canonical space."""
    fit, carried = (pose, transl), moved_fit(canonical, G, pose, transl)
    (motion,) = tensors(dtype, G)
    bones, moved = (bones_of(canonical, *values, dtype) for values in (fit, carried))
    assert_close(moved, motion @ bones, single=2e-5, double=1e-6)
    before, after = (canonical(*tensors(torch.float64, *values))[1] for values in (fit, carried))
    assert_close(after, motion.double() @ before, double=1e-6)


@axiom
@given(rotation_vectors(), transls, dtypes)
def test_a_root_alone_moves_the_body_as_one_piece_about_its_pelvis(
    canonical: CanonicalBody, root: np.ndarray, transl: np.ndarray, dtype: torch.dtype
) -> None:
    bones = bones_of(canonical, np.r_[root[0], np.zeros(69)], transl, dtype)
    R, J = Rotation.from_rotvec(root[0]).as_matrix(), canonical.joints[0].numpy()
    expected = np.eye(4)
    expected[:3, :3], expected[:3, 3] = R, J - R @ J + transl
    assert_close(bones, torch.from_numpy(expected).to(dtype).expand(24, 4, 4), single=1e-5, double=1e-6)


@axiom
@given(poses(), transls)
def test_bones_meet_at_their_joints(canonical: CanonicalBody, pose: np.ndarray, transl: np.ndarray) -> None:
    """A joint is on the bone that it turns and on that bone's parent: both take it to the same place."""
    bones, joints = bones_of(canonical, pose, transl, torch.float64), canonical.joints
    for joint, parent in enumerate(canonical.body.parents):
        if parent >= 0:
            own, others = (apply(bones[b], joints[joint : joint + 1]) for b in (joint, parent))
            assert_close(own, others, double=1e-9)


@axiom
@given(poses(), st.integers(1, 23), axes())
def test_a_joint_moves_what_hangs_on_it_and_nothing_else(
    canonical: CanonicalBody, pose: np.ndarray, joint: int, axis: np.ndarray
) -> None:
    bent = pose.copy()
    bent[3 * joint : 3 * joint + 3] += 0.5 * axis[0]
    before, after = (bones_of(canonical, values, np.zeros(3), torch.float64) for values in (pose, bent))
    moved = (after - before).abs().amax((1, 2)) > 1e-9
    hanging = [joint]
    for child, parent in enumerate(canonical.body.parents):
        hanging += [child] if parent in hanging else []
    assert set(moved.nonzero().flatten().tolist()) <= set(hanging)
    assert moved[joint]


@axiom
@given(poses(), transls)
def test_the_star_pose_is_where_canonical_space_is(
    canonical: CanonicalBody, pose: np.ndarray, transl: np.ndarray
) -> None:
    """From canonical space by the star pose nothing moves; any other pose is B(pose) B(star)^-1."""
    identity = torch.eye(4, dtype=torch.float64).expand(24, 4, 4)
    still = canonical(star_pose().double(), torch.zeros(3).double())[1]
    assert_close(still, identity, double=1e-7)
    bones, B = canonical(*tensors(torch.float64, pose, transl))
    assert_close(B @ bones_of(canonical, star_pose().numpy(), np.zeros(3), torch.float64), bones)


# --- blending ---------------------------------------------------------------------------------------------------------


@axiom
@given(simplices(2), rigid_motions(), dtypes)
def test_bones_that_move_alike_move_everything_alike(weights: np.ndarray, G: np.ndarray, dtype: torch.dtype) -> None:
    """Whatever the weights; with the identity, nothing moves."""
    W, motion = tensors(dtype, weights, G)
    for one in (motion, torch.eye(4, dtype=dtype)):
        assert_close(blend(W, one.expand(24, 4, 4)), one[:3].expand(2, 3, 4), single=3e-6)


@axiom
@given(st.lists(st.integers(0, 23), min_size=N, max_size=N), poses(), dtypes)
def test_a_weight_of_one_picks_its_bone(
    canonical: CanonicalBody, picked: list[int], pose: np.ndarray, dtype: torch.dtype
) -> None:
    bones = bones_of(canonical, pose, np.ones(3), dtype)
    torch.testing.assert_close(blend(torch.eye(24, dtype=dtype)[picked], bones), bones[picked, :3])


@axiom
@given(simplices(2), simplices(2), st.floats(0, 1), poses())
def test_blending_is_linear_in_the_weights(
    canonical: CanonicalBody, a: np.ndarray, b: np.ndarray, share: float, pose: np.ndarray
) -> None:
    bones = bones_of(canonical, pose, np.zeros(3), torch.float64)
    one, other, mixed = (blend(weights, bones) for weights in tensors(torch.float64, a, b, share * a + (1 - share) * b))
    assert_close(mixed, share * one + (1 - share) * other)


@axiom
@given(simplices(2), poses(), transls, rigid_motions(), dtypes)
def test_blending_commutes_with_motions_of_the_world(
    canonical: CanonicalBody,
    weights: np.ndarray,
    pose: np.ndarray,
    transl: np.ndarray,
    G: np.ndarray,
    dtype: torch.dtype,
) -> None:
    """blend(W, G B) = G blend(W, B); a translation of the fit shifts T's last column and nothing else."""
    W, motion = tensors(dtype, weights, G)
    bones = bones_of(canonical, pose, np.zeros(3), dtype)
    T = blend(W, bones)
    carried = (motion @ squared(T))[:, :3]
    assert_close(blend(W, motion @ bones), carried, single=1e-5)
    shifted = blend(W, bones_of(canonical, pose, transl, dtype)) - T
    expected = pad(torch.from_numpy(transl).to(dtype)[:, None], (3, 0)).expand(len(T), 3, 4)
    assert_close(shifted, expected, single=5e-6)


def squared(T: Tensor) -> Tensor:
    """[N, 3, 4] with the last row of a matrix of motion."""
    return torch.cat([T, T.new_tensor([0.0, 0, 0, 1]).expand(len(T), 1, 4)], dim=1)


# --- surfels by their routes ------------------------------------------------------------------------------------------


@st.composite
def drawn_surfels(draw: st.DrawFn) -> dict[str, np.ndarray]:
    return {
        "means": draw(vectors(N)),
        "frames": Rotation.from_rotvec(draw(rotation_vectors(N))).as_matrix(),
        "scales": draw(vectors(N, 2, 1e-3, 0.1)),
        "opacities": draw(vectors(N, 1, 0.01, 0.99))[:, 0],
        "T": draw(vectors(N, 12)).reshape(N, 3, 4),
    }


def leaves(drawn: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensors(dtype, value)[0].requires_grad_() for name, value in drawn.items()}


def inputs(leaf: dict[str, Tensor]) -> tuple[Surfels, Tensor, Tensor]:
    return Surfels(leaf["means"], leaf["frames"], leaf["scales"]), leaf["opacities"], leaf["T"]


def gradients(posed: PosedSurfels, leaf: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Of a fixed random function of all that was posed; None where nothing arrives."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value) for value in posed]
    total = sum(((value * weight).sum() for value, weight in zip(posed, weights, strict=True)), torch.zeros(()))
    if not total.requires_grad:
        return dict.fromkeys(leaf)
    found = torch.autograd.grad(total, list(leaf.values()), allow_unused=True, retain_graph=True)
    return dict(zip(leaf, found, strict=True))


@pytest.mark.parametrize("route", ROUTES, ids=str)
@axiom
@given(drawn_surfels(), dtypes)
def test_posed_once_is_posed_by_each_route(route: Route, drawn: dict[str, np.ndarray], dtype: torch.dtype) -> None:
    """`Posing.by` shares products between routes; values, and gradients to every input, are `pose_surfels`'s.

    All other routes are asked for first: what they share must not leak.
    """
    leaf = leaves(drawn, dtype)
    posing = Posing(*inputs(leaf))
    for other in ROUTES:
        posing.by(other)
    shared, plain = posing.by(route), pose_surfels(*inputs(leaf), route)
    for a, b in zip(shared, plain, strict=True):
        assert_close(a, b, single=4e-6)  # numbers up to 14
    ours, expected = gradients(shared, leaf), gradients(plain, leaf)
    for name in leaf:
        found, wanted = (g if g is not None else torch.zeros_like(leaf[name]) for g in (ours[name], expected[name]))
        assert_close(found, wanted, single=1e-5)


@pytest.mark.parametrize("route", ROUTES, ids=str)
@axiom
@given(drawn_surfels())
def test_a_route_is_the_open_one_with_gradients_taken_out(route: Route, drawn: dict[str, np.ndarray]) -> None:
    """By the chain rule, written out for derivatives m of the means, t of the tangents, o of the opacities."""
    leaf = leaves(drawn, torch.float64)
    posed = pose_surfels(*inputs(leaf), route)
    for value, expected in zip(posed, pose_surfels(*inputs(leaf), OPEN), strict=True):
        assert torch.equal(value, expected)
    generator = torch.Generator().manual_seed(0)
    m, t, o = (torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in posed)
    T, mu, R, s = (leaf[name].detach() for name in ("T", "means", "frames", "scales"))
    A, axis = T[..., :3], R[..., :2]
    of_axes = (A.mT @ t) * s[:, None]
    of_T = m[..., None] @ torch.nn.functional.pad(mu, (0, 1), value=1.0)[:, None]
    if route.orientation:
        of_T = of_T + pad((t * s[:, None]) @ axis.mT, (0, 1))
    wanted = {
        "means": (A.mT @ m[..., None])[..., 0] if route.position else None,
        "frames": pad(of_axes, (0, 1)) if route.orientation else None,
        "scales": ((A @ axis) * t).sum(1) if route.shape else None,
        "opacities": o if route.opacity else None,
        "T": of_T if route.position else None,
    }
    for name, found in gradients(posed, leaf).items():
        expected = wanted[name] if wanted[name] is not None else torch.zeros_like(leaf[name])
        assert expected is not None
        assert_close(found if found is not None else torch.zeros_like(leaf[name]), expected)


@axiom
@given(drawn_surfels(), rigid_motions(), dtypes)
def test_rigid_bones_give_rigid_motion(drawn: dict[str, np.ndarray], G: np.ndarray, dtype: torch.dtype) -> None:
    """Centres and tangents move with it, no surfel changes size, and distances between centres stay."""
    leaf = leaves(drawn, dtype)
    (motion,) = tensors(dtype, G)
    surfels, opacities, _ = inputs(leaf)
    posed = pose_surfels(surfels, opacities, motion[:3].expand(N, 3, 4), OPEN)
    tangents = surfels.axes * surfels.scales[:, None]
    assert_close(posed.means, apply(motion, surfels.means), single=5e-6)
    assert_close(posed.tangents, motion[:3, :3] @ tangents, single=1e-6)
    assert_close(posed.tangents.norm(dim=1), surfels.scales, single=1e-6)
    neighbours = torch.arange(N).roll(1)[:, None]
    assert isometry_loss(surfels.means, posed.means, neighbours) < (5e-6 if dtype == torch.float32 else 1e-12)
    still = pose_surfels(surfels, opacities, torch.eye(4, dtype=dtype)[:3].expand(N, 3, 4), OPEN)
    assert torch.equal(still.means, surfels.means)
    assert torch.equal(still.tangents, tangents)


@axiom
@given(drawn_surfels(), transls, dtypes)
def test_a_shift_moves_centres_alone(drawn: dict[str, np.ndarray], shift: np.ndarray, dtype: torch.dtype) -> None:
    leaf = leaves(drawn, dtype)
    surfels, opacities, T = inputs(leaf)
    (by,) = tensors(dtype, shift)
    before = pose_surfels(surfels, opacities, T, OPEN)
    after = pose_surfels(surfels, opacities, T + pad(by[:, None], (3, 0)), OPEN)
    assert_close(after.means - before.means, by.expand(N, 3), single=1e-5)
    assert torch.equal(after.tangents, before.tangents)


@axiom
@given(drawn_surfels(), rigid_motions())
def test_motions_one_after_the_other(drawn: dict[str, np.ndarray], G: np.ndarray) -> None:
    """Posed by T, then carried by G, is posed by G T."""
    leaf = leaves(drawn, torch.float64)
    surfels, opacities, T = inputs(leaf)
    (motion,) = tensors(torch.float64, G)
    at_once = pose_surfels(surfels, opacities, (motion @ squared(T))[:, :3], OPEN)
    first = pose_surfels(surfels, opacities, T, OPEN)
    assert_close(at_once.means, apply(motion, first.means))
    assert_close(at_once.tangents, motion[:3, :3] @ first.tangents)
