"""Each loss against its equation written out, and the empty cases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmgs_nerfstudio import losses
from fmgs_nerfstudio.kernels.isometry import covariances, distance_change, distance_change_reference
from fmgs_nerfstudio.kernels.ssim import ssim_reference


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=dtype)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(rand(*shape, seed=seed) - 0.5, dim=-1)


def some_valid(height: int, width: int) -> torch.Tensor:
    return rand(height, width, seed=9) > 0.4


def test_photometric():
    image, target = rand(20, 15, 3), rand(20, 15, 3, seed=1)
    expected = 0.7 * (image - target).abs().mean() + 0.3 * (1 - ssim_reference(image, target))
    torch.testing.assert_close(losses.photometric_loss(image, target, lambda_ssim=0.3), expected)
    fast = losses.photometric_loss(image.float(), target.float(), lambda_ssim=0.3)
    torch.testing.assert_close(fast, expected.float(), rtol=1e-5, atol=1e-6)
    assert losses.photometric_loss(image, image).item() == pytest.approx(0, abs=1e-12)


def test_mask():
    alpha, mask = rand(6, 5) * 0.98 + 0.01, rand(6, 5, seed=1)
    expected = -(mask * alpha.log() + (1 - mask) * (1 - alpha).log()).mean()
    torch.testing.assert_close(losses.mask_loss(alpha, mask), expected, rtol=1e-2, atol=0)


def test_saturated_mask_is_finite_and_keeps_its_gradient():
    alpha = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    loss = losses.mask_loss(alpha, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert loss.item() == pytest.approx(-math.log(1e-4) / 2, rel=1e-3)
    (grad,) = torch.autograd.grad(loss, alpha)
    assert grad[0] < -1000
    assert grad[1] > 1000
    assert grad[2:].abs().max() < 1


def test_a_draw_takes_the_kth_valid_pixel():
    """Each as often as any other: n draws in the middles of n equal parts are all n valid pixels, in their order."""
    valid = some_valid(9, 7)
    pixels = valid.flatten().nonzero()[:, 0]
    middles = (torch.arange(len(pixels)) + 0.5) / len(pixels)
    pairs = losses.sample_pairs(valid, torch.stack([middles, middles.flip(0)], dim=1))
    assert torch.equal(pairs, torch.stack([pixels, pixels.flip(0)], dim=1))
    ends = losses.sample_pairs(valid, torch.tensor([[0.0, 1 - 2**-24]]))
    assert ends.tolist() == [[int(pixels[0]), int(pixels[-1])]]


def test_depth_ranking_pair_by_pair():
    depth, prior = rand(5, 4) * 0.2, rand(5, 4, seed=1)
    prior[0] = prior[1]  # ties
    prior[2, 0], prior[2, 1], prior[2, 2] = torch.nan, torch.inf, -torch.inf
    pairs = torch.randint(20, (60, 2), generator=generator())
    terms = []
    for first, second in pairs.tolist():
        d1, d2 = depth.flatten()[first].item(), depth.flatten()[second].item()
        p1, p2 = prior.flatten()[first].item(), prior.flatten()[second].item()
        if math.isfinite(p1) and math.isfinite(p2) and p1 != p2:
            terms.append(abs(math.tanh(4 * (d1 - d2)) - (1 if p1 > p2 else -1)))
    assert 20 < len(terms) < 60
    depth.requires_grad_()
    loss = losses.depth_ranking_loss(depth, prior, pairs, alpha=4.0)
    assert loss.item() == pytest.approx(np.mean(terms))
    assert torch.autograd.grad(loss, depth)[0].isfinite().all()


def test_depth_ranking_pulls_the_farther_pixel_back():
    depth = torch.tensor([[2.0, 2.0]], requires_grad=True)
    loss = losses.depth_ranking_loss(depth, torch.tensor([[0.9, 0.1]]), torch.tensor([[0, 1]]))
    (grad,) = torch.autograd.grad(loss, depth)
    assert loss.item() == 1
    assert grad.tolist() == [[-10.0, 10.0]]


def test_normal_consistency():
    normal, surface, valid = unit(6, 5, 3), unit(6, 5, 3, seed=1), some_valid(6, 5)
    expected = np.mean([(normal[i, j] - surface[i, j]).abs().sum().item() for i, j in valid.nonzero().tolist()])
    assert losses.normal_consistency_loss(normal, surface, valid).item() == pytest.approx(expected)


def test_normal_prior():
    normal, prior, valid = unit(6, 5, 3), unit(6, 5, 3, seed=1), some_valid(6, 5)
    expected = np.mean([1 - (normal[i, j] @ prior[i, j]).item() for i, j in valid.nonzero().tolist()])
    prior[~valid] = torch.nan
    normal.requires_grad_()
    loss = losses.normal_prior_loss(normal, prior, valid)
    assert loss.item() == pytest.approx(expected)
    (grad,) = torch.autograd.grad(loss, normal)
    torch.testing.assert_close(grad, torch.where(valid[..., None], -prior, 0) / valid.sum())


def test_total_variation():
    normal, valid = unit(6, 5, 3), some_valid(6, 5)
    terms = []
    for i, j in valid.nonzero().tolist():
        for row, column in ((i + 1, j), (i, j + 1)):
            if row < 6 and column < 5 and valid[row, column]:
                terms.append((normal[row, column] - normal[i, j]).abs().sum().item())
    assert losses.total_variation_loss(normal, valid).item() == pytest.approx(np.mean(terms))
    everywhere = torch.ones_like(valid)
    total = normal.diff(dim=0).abs().sum() + normal.diff(dim=1).abs().sum()
    torch.testing.assert_close(losses.total_variation_loss(normal, everywhere), total / (5 * 5 + 6 * 4))


def test_semantic():
    logits, valid = rand(6, 5, 28) * 4, some_valid(6, 5)
    labels = torch.randint(28, (6, 5), generator=generator(), dtype=torch.uint8)
    labels[~valid] = 255
    terms = []
    for i, j in valid.nonzero().tolist():
        terms.append(torch.logsumexp(logits[i, j], 0).item() - logits[i, j, int(labels[i, j])].item())
    assert losses.semantic_loss(logits, labels, valid).item() == pytest.approx(np.mean(terms))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(0, 1000))
def test_semantic_regularization_is_the_mean_over_pairs(labels, seed):
    features = rand(len(labels), 3, seed=seed).requires_grad_()
    per_class = []
    for c in set(labels):
        group = [i for i, label in enumerate(labels) if label == c]
        pairs = [(features[i] - features[j]).square().sum() for i in group for j in group]
        per_class.append(torch.stack(pairs).mean())
    expected = torch.stack(per_class).mean()
    loss = losses.semantic_regularization(features, torch.tensor(labels), classes=6)
    torch.testing.assert_close(loss, expected)
    grad, expected_grad = (torch.autograd.grad(value, features)[0] for value in (loss, expected))
    torch.testing.assert_close(grad, expected_grad)


def test_skinning():
    predicted, target = rand(7, 24), rand(7, 24, seed=1)
    expected = np.mean([sum((predicted[p, j] - target[p, j]).item() ** 2 for j in range(24)) for p in range(7)])
    assert losses.skinning_loss(predicted, target).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_isometry(dtype):
    canonical, posed = rand(9, 3, dtype=dtype), rand(9, 3, seed=1, dtype=dtype)
    neighbours = torch.randint(9, (9, 4), generator=generator())
    terms = [
        abs(math.dist(canonical[i].tolist(), canonical[j].tolist()) - math.dist(posed[i].tolist(), posed[j].tolist()))
        for i in range(9)
        for j in neighbours[i].tolist()
    ]
    assert losses.isometry_loss(canonical, posed, neighbours).item() == pytest.approx(np.mean(terms), rel=1e-6)


def test_rigid_motion_is_an_isometry():
    points, neighbours = rand(9, 3), torch.randint(9, (9, 4), generator=generator())
    rotation = torch.linalg.qr(rand(3, 3, seed=2)).Q
    assert losses.isometry_loss(points, points @ rotation.T + 0.3, neighbours).item() == pytest.approx(0, abs=1e-12)


def test_isometry_gradients():
    neighbours = torch.tensor([[1, 2], [0, 3], [4, 5], [0, 5], [1, 2], [3, 4]])
    points = (rand(6, 3).requires_grad_(), rand(6, 3, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: losses.isometry_loss(x, y, neighbours), points)


@pytest.mark.parametrize("count", [500, 130])
@pytest.mark.parametrize("dimensions", [3, 6])
def test_isometry_kernel_equals_the_plain_form(dimensions, count):
    """Of all points, and of the first of them."""
    points = rand(2, 500, dimensions, dtype=torch.float32).requires_grad_()
    neighbours = torch.randint(500, (count, 4), generator=generator())
    before, after = points.unbind()
    value, expected = (f(before, after, neighbours) for f in (distance_change, distance_change_reference))
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    (grad,) = torch.autograd.grad(2 * value, points)
    (expected_grad,) = torch.autograd.grad(2 * expected, points)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_isometry_of_coinciding_points_has_no_gradient(dtype):
    together = torch.zeros(3, 3, dtype=dtype, requires_grad=True)
    apart = rand(3, 3, dtype=dtype).requires_grad_()
    loss = losses.isometry_loss(together, apart, torch.tensor([[1], [2], [0]]))
    grads = torch.autograd.grad(loss, (together, apart))
    assert torch.equal(grads[0], torch.zeros_like(together))
    assert grads[1].isfinite().all()


def test_covariance_isometry():
    canonical, posed = rand(5, 3, 3), rand(5, 3, 3, seed=1)
    neighbours = torch.randint(5, (5, 2), generator=generator())

    def six(tangents: torch.Tensor) -> list[float]:
        c = tangents @ tangents.T
        return [c[0, 0].item(), c[0, 1].item(), c[0, 2].item(), c[1, 1].item(), c[1, 2].item(), c[2, 2].item()]

    terms = [
        abs(math.dist(six(canonical[i]), six(canonical[j])) - math.dist(six(posed[i]), six(posed[j])))
        for i in range(5)
        for j in neighbours[i].tolist()
    ]
    assert losses.isometry_loss(covariances(canonical), covariances(posed), neighbours).item() == pytest.approx(
        np.mean(terms)
    )


NOTHING = torch.zeros(4, 5, dtype=torch.bool)
EMPTY = {
    "depth": lambda x: losses.depth_ranking_loss(x[..., 0], x[..., 1], losses.sample_pairs(NOTHING, torch.rand(10, 2))),
    "ties": lambda x: losses.depth_ranking_loss(x[..., 0], torch.ones(4, 5), torch.tensor([[1, 2], [3, 3]])),
    "no prior": lambda x: losses.depth_ranking_loss(x[..., 0], torch.full((4, 5), torch.nan), torch.tensor([[1, 2]])),
    "consistency": lambda x: losses.normal_consistency_loss(x, x.detach() + 1, NOTHING),
    "prior": lambda x: losses.normal_prior_loss(x, torch.full_like(x, torch.nan), NOTHING),
    "variation": lambda x: losses.total_variation_loss(x, NOTHING),
    "semantic": lambda x: losses.semantic_loss(x, torch.full((4, 5), 255), NOTHING),
    "regularization": lambda x: losses.semantic_regularization(x[:, 0][:0], torch.zeros(0).long(), classes=3),
    "skinning": lambda x: losses.skinning_loss(x[0][:0], torch.zeros(0, 3)),
    "isometry": lambda x: losses.isometry_loss(x[0], x[1], torch.zeros(5, 0).long()),
}


@pytest.mark.parametrize("loss", EMPTY.values(), ids=EMPTY.keys())
def test_nothing_valid_gives_exactly_zero(loss):
    x = rand(4, 5, 3, dtype=torch.float32).requires_grad_()
    value = loss(x)
    assert value.shape == ()
    assert value.item() == 0
    (grad,) = torch.autograd.grad(value, x)
    assert torch.equal(grad, torch.zeros_like(x))
