"""Pose encoder, geometry, appearance, semantics and skinning fields."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
from nerfstudio.utils.math import components_from_spherical_harmonics
from support.fake_cuda import fake_cuda
from torch import nn

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.canonical import CanonicalBody
from fmgs_nerfstudio.fields.appearance import (
    AppearanceField,
    AppearanceFieldConfig,
    canonical_direction,
    spherical_harmonics,
)
from fmgs_nerfstudio.fields.geometry import GeometryField, GeometryFieldConfig
from fmgs_nerfstudio.fields.mlp import ConditionedMLP
from fmgs_nerfstudio.fields.pose_encoder import PoseEncoder, PoseEncoderConfig
from fmgs_nerfstudio.fields.semantics import SemanticsField
from fmgs_nerfstudio.fields.skinning import SkinningField, SkinningFieldConfig, SurfaceWeights, blend, fit_to_surface


def test_a_condition_is_the_same_as_concatenating_it() -> None:
    mlp = ConditionedMLP(in_dim=5, condition_dim=3, hidden_dim=8, hidden_layers=3, out_dim=2)
    x, condition = torch.randn(7, 5), torch.randn(3)
    assert mlp.condition is not None
    first = nn.Linear(8, 8)
    first.weight.data = torch.cat([mlp.first.weight, mlp.condition.weight], dim=1).detach()
    first.bias.data = mlp.first.bias.detach()
    plain = nn.Sequential(first, nn.ReLU(), mlp.hidden, mlp.out)
    assert torch.allclose(mlp(x, condition), plain(torch.cat([x, condition.expand(7, 3)], dim=1)), atol=1e-6)


def test_spherical_harmonics_are_orthonormal_and_scipys() -> None:
    """Each is a unit combination of scipy's complex harmonics Y_l^m and Y_l^-m of its degree and order."""
    d = nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64), dim=-1)
    ours = spherical_harmonics(d).numpy()
    polar, azimuth = np.arccos(d[:, 2].numpy()), np.arctan2(d[:, 1].numpy(), d[:, 0].numpy())
    column = 0
    for degree in (1, 2, 3):
        for m in range(-degree, degree + 1):
            if hasattr(scipy.special, "sph_harm_y"):
                y = scipy.special.sph_harm_y(degree, abs(m), polar, azimuth)
            else:  # before SciPy 1.15
                y = getattr(scipy.special, "sph_harm")(abs(m), degree, azimuth, polar)  # noqa: B009
            expected = y.real if m == 0 else 2**0.5 * (y.imag if m < 0 else y.real)
            sign = np.sign((expected * ours[:, column]).sum())
            assert np.allclose(sign * expected, ours[:, column], atol=1e-8), (degree, m)
            column += 1
    assert column == ours.shape[1]


def test_spherical_harmonics_on_a_card_are_the_same() -> None:
    """There they are one product; values, and the slope of a weighted sum."""
    d, weights = torch.randn(50, 3), torch.randn(15)
    results = []
    for device in ("cpu", "cuda"):
        with fake_cuda():
            x = d.to(device).detach().requires_grad_()
            values = spherical_harmonics(x)
            (values * weights.to(device)).sum().backward()
            assert x.grad is not None
            results.append((values.detach().cpu(), x.grad.cpu()))
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_spherical_harmonics_are_nerfstudios() -> None:
    d = nn.functional.normalize(torch.randn(200, 3), dim=-1)
    torch.testing.assert_close(spherical_harmonics(d), components_from_spherical_harmonics(4, d)[:, 1:])


def test_canonical_direction_is_the_inverse_applied() -> None:
    T = torch.linalg.matrix_exp(torch.randn(20, 3, 3, dtype=torch.float64) * 0.3)
    d = torch.randn(20, 3, dtype=torch.float64)
    expected = nn.functional.normalize(torch.linalg.solve(T, d[..., None])[..., 0], dim=-1)
    assert torch.allclose(canonical_direction(T, d), expected, atol=1e-10)


@pytest.mark.parametrize(("guided", "scales"), [(True, 2), (False, 2), (False, 3)])
def test_geometry_field_starts_as_the_template(guided: bool, scales: int) -> None:
    field = GeometryField(GeometryFieldConfig(), 32, 16, guided, scales)
    residual = field(torch.randn(9, 32), torch.randn(16))
    assert [tuple(part.shape) for part in residual] == [(9, 1 if guided else 3), (9, scales), (9, 3), (9, 16)]
    assert all(not part.any() for part in residual[:3])
    assert residual.z_g.any()


@pytest.mark.parametrize("unit", [0.01, 0.03])
def test_a_displacement_is_counted_in_its_unit(unit: float) -> None:
    """What the head says is in units of `displacement_unit`; the other heads' outputs are what they are."""
    field = GeometryField(GeometryFieldConfig(displacement_unit=unit), feature_dim=32, latent_dim=16)
    for head, value in ((field.displacement, 2.0), (field.scale, 3.0), (field.rotation, 4.0)):
        nn.init.constant_(head.bias, value)
    residual = field(torch.randn(9, 32), torch.randn(16))
    assert [part.unique().tolist() for part in residual[:3]] == [pytest.approx([v]) for v in (2 * unit, 3.0, 4.0)]


def test_appearance_and_semantics_shapes() -> None:
    appearance = AppearanceField(AppearanceFieldConfig(), feature_dim=32, z_dim=16, latent_dim=16)
    rgb = appearance(torch.randn(5, 32), torch.randn(5, 16), torch.randn(16), torch.randn(5, 3))
    assert rgb.shape == (5, 3)
    assert ((rgb > 0) & (rgb < 1)).all()
    assert SemanticsField(32, 28)(torch.randn(5, 32)).shape == (5, 28)


class TestPoseEncoder:
    @pytest.fixture
    def canonical(self, body: BodyModel) -> CanonicalBody:
        return CanonicalBody(body, torch.zeros(10))

    def encode(self, canonical: CanonicalBody, encoder: PoseEncoder, pose: torch.Tensor) -> torch.Tensor:
        return encoder(canonical.body.bones(canonical.joints, pose, torch.randn(3)), canonical.joints)

    def test_depends_on_the_pose_and_not_on_place_or_facing(self, canonical: CanonicalBody) -> None:
        encoder = PoseEncoder(PoseEncoderConfig(), canonical.body.parents, canonical.joints)
        pose = torch.randn(72) * 0.3
        turned, bent = pose.clone(), pose.clone()
        turned[:3] = torch.tensor([0.3, -1.0, 2.0])
        bent[4 * 3] += 0.5  # left knee
        Z_p = self.encode(canonical, encoder, pose)
        assert Z_p.shape == (16,)
        assert torch.allclose(self.encode(canonical, encoder, turned), Z_p, atol=1e-5)
        assert (self.encode(canonical, encoder, bent) - Z_p).abs().max() > 1e-3

    def test_a_joint_reaches_its_children_only(self, canonical: CanonicalBody) -> None:
        """With the root's global features cut, bending the left wrist leaves the features of other limbs alone."""
        encoder = PoseEncoder(PoseEncoderConfig(), canonical.body.parents, canonical.joints)
        nn.init.zeros_(encoder.root.weight)
        encoder.out = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        pose = torch.randn(72) * 0.3
        bent = pose.clone()
        bent[20 * 3] += 0.5
        difference = self.encode(canonical, encoder, bent) - self.encode(canonical, encoder, pose)
        moved = difference.view(24, -1).abs().amax(1) > 1e-6
        assert set(moved.nonzero().flatten().tolist()) <= {20, 22}
        assert moved.any()

    def test_a_hand_hears_of_every_joint_above_it(self, canonical: CanonicalBody) -> None:
        """Through the features that each passes on: pelvis, spine, collar, shoulder, elbow, wrist."""
        encoder = PoseEncoder(PoseEncoderConfig(), canonical.body.parents, canonical.joints)
        encoder.out = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        features = self.encode(canonical, encoder, torch.randn(72) * 0.3).view(24, -1)
        (gradient,) = torch.autograd.grad(features[22].sum(), encoder.w1)
        assert set(gradient.flatten(1).any(1).nonzero().flatten().tolist()) == {0, 3, 6, 9, 13, 16, 18, 20, 22}

    def test_is_leaps_joint_by_joint(self, canonical: CanonicalBody) -> None:
        """Each has a perceptron, on its rotation, position, bone length and its parent's features."""
        parents, J = canonical.body.parents, canonical.joints
        encoder = PoseEncoder(PoseEncoderConfig(), parents, J)
        bones = canonical.body.bones(J, torch.randn(72) * 0.3, torch.randn(3))
        R, posed = bones[:, :3, :3], (bones[:, :3, :3] @ J[..., None])[..., 0] + bones[:, :3, 3]
        local = [R[max(parents[j], 0)].T @ R[j] for j in range(24)]
        place = [R[0].T @ (posed[j] - posed[0]) / (J - J[0]).norm(dim=-1).max() for j in range(24)]
        whole = encoder.root(torch.cat([x.flatten() for x in (*local, *place)]))
        features: list[torch.Tensor] = []
        for j, parent in enumerate(parents):
            length = (J[j] - J[max(parent, 0)]).norm()[None]
            own = torch.cat([local[j].flatten(), place[j], length, whole if parent < 0 else features[parent]])
            features.append((own @ encoder.w1[j] + encoder.b1[j, 0]).relu() @ encoder.w2[j] + encoder.b2[j, 0])
        expected, found = encoder.out(torch.cat(features)), encoder(bones, J)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        weights = torch.randn(16)
        wanted, slopes = (torch.autograd.grad((Z @ weights), list(encoder.parameters())) for Z in (expected, found))
        for a, b in zip(slopes, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    def test_gradient_reaches_the_pose(self, canonical: CanonicalBody) -> None:
        encoder = PoseEncoder(PoseEncoderConfig(), canonical.body.parents, canonical.joints)
        pose = torch.zeros(72, requires_grad=True)
        self.encode(canonical, encoder, pose).sum().backward()
        assert pose.grad is not None
        assert pose.grad.isfinite().all()
        assert pose.grad[3:].abs().max() > 0


def test_blend_is_equation_10() -> None:
    weights, bones = torch.rand(6, 24).softmax(-1), torch.randn(24, 4, 4)
    assert torch.allclose(blend(weights, bones), torch.einsum("nb,bij->nij", weights, bones)[:, :3], atol=1e-5)


class TestSkinning:
    @pytest.fixture(scope="class")
    def surface(self, body: BodyModel) -> SurfaceWeights:
        return SurfaceWeights(CanonicalBody(body, torch.zeros(10)).vertices, body.faces, body.weights)

    def test_samples_lie_on_the_surface_with_its_weights(self, surface: SurfaceWeights) -> None:
        points, weights = surface.sample(2000, torch.Generator().manual_seed(0))
        assert torch.allclose(weights.sum(1), torch.ones(2000), atol=1e-4)
        centres = surface.corners.mean(1)
        nearest = torch.cdist(points, centres).argmin(1)
        normal = torch.linalg.cross(*(surface.corners[:, i] - surface.corners[:, 0] for i in (1, 2)))
        distance = ((points - centres[nearest]) * nn.functional.normalize(normal[nearest], dim=-1)).sum(-1)
        assert distance.abs().median() < 1e-3
        area = normal.norm(dim=-1)
        upper = centres[:, 1] > 0
        share = (area * upper).sum() / area.sum()
        assert float((points[:, 1] > 0).float().mean()) == pytest.approx(float(share), abs=0.05)

    def test_samples_are_spread_evenly_over_a_face(self) -> None:
        """A quarter in each of the four triangles that the middles of its edges part it into."""
        corners = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 2, 0]])
        face = SurfaceWeights(corners, torch.tensor([[0, 1, 2]]), torch.eye(3))
        points, weights = face.sample(4000, torch.Generator().manual_seed(0))
        assert torch.allclose(weights[:, 1:], points[:, :2] / 2, atol=1e-6)
        at_corners = (weights > 0.5).float().mean(0)
        assert at_corners.tolist() == pytest.approx([0.25] * 3, abs=0.03)

    def test_points_outside_the_box_are_taken_to_its_side(self) -> None:
        skinning = SkinningField(SkinningFieldConfig(), torch.tensor([[-1.0, -1, -1], [1, 1, 1]]), 24)
        outside = torch.tensor([[3.0, 0.2, -0.4], [0.1, -1.5, 9.0]])
        assert torch.equal(skinning(outside), skinning(outside.clamp(-1, 1)))

    def test_the_field_starts_at_the_bodys_weights(self, surface: SurfaceWeights) -> None:
        corners = surface.corners.flatten(0, 1)
        aabb = torch.stack([corners.amin(0) - 0.1, corners.amax(0) + 0.1])
        skinning = SkinningField(SkinningFieldConfig(), aabb, 24)
        fit_to_surface(skinning, surface, 150, torch.Generator().manual_seed(0))
        points, target = surface.sample(5000, torch.Generator().manual_seed(1))
        weights = skinning(points)
        assert torch.allclose(weights.sum(1), torch.ones(5000), atol=1e-5)
        assert (weights - target).square().mean().sqrt() < 0.03

    def test_no_joint_is_left_out_of_it(self, surface: SurfaceWeights) -> None:
        """Squares have no gradient for a joint that the field takes for 0 everywhere: collar bones, half of the weight
        where they have most."""
        corners = surface.corners.flatten(0, 1)
        aabb = torch.stack([corners.amin(0) - 0.1, corners.amax(0) + 0.1])
        points, target = surface.sample(5000, torch.Generator().manual_seed(1))
        for seed in (0, 1):
            torch.manual_seed(seed)
            skinning = SkinningField(SkinningFieldConfig(), aabb, 24)
            fit_to_surface(skinning, surface, 200, torch.Generator().manual_seed(1))
            assert (skinning(points) - target).abs().max() < 0.3
