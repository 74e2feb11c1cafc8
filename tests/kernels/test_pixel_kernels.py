"""The fused forms of maps and of sums over pixels against their plain forms: values and gradients, at the edges too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fmgs_nerfstudio.kernels import classes, cross_entropy, normal_maps, pixel_sums, ssim
from fmgs_nerfstudio.rendering import Camera, depth_to_normal
from fmgs_nerfstudio.rendering.normals import depth_to_normal_reference

SHAPES = [(1, 1), (1, 7), (6, 1), (37, 43)]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.3


def planar(x: Tensor) -> Tensor:
    """The same values [H, W, C], plane by plane in memory, as composited images are."""
    return x.movedim(-1, 0).contiguous().movedim(0, -1)


def cropped(x: Tensor) -> Tensor:
    """The same values as a crop of something larger, as the maps of a frame are."""
    larger = torch.full((x.shape[0] + 3, x.shape[1] + 5, *x.shape[2:]), 7, dtype=x.dtype)
    larger[2:-1, 3:-2] = x
    return larger[2:-1, 3:-2]


def covered(height: int, width: int) -> Tensor:
    """A blob with a ragged edge, and background around it where there is room."""
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (i - height / 2) ** 2 + (j - width / 2) ** 2 < (min(height, width) / 3 + 1) ** 2
    return inside & (rand(height, width, seed=5) > -0.2)


VALID: dict[str, Callable[[int, int], Tensor]] = {
    "covered": covered,
    "nothing": lambda height, width: torch.zeros(height, width, dtype=torch.bool),
    "everything": lambda height, width: torch.ones(height, width, dtype=torch.bool),
}


def agree(fast: Tensor, plain: Tensor, x: Tensor, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """The same value and the same gradient to `x`, of the sum times something and of a map times random numbers."""
    torch.testing.assert_close(fast, plain, rtol=rtol, atol=atol)
    weights = rand(*fast.shape, seed=3) * 3 + 0.5
    grads = [torch.autograd.grad(y, x, weights.to(y), allow_unused=True)[0] for y in (fast, plain)]
    torch.testing.assert_close(*grads, rtol=rtol, atol=atol)


@pytest.mark.parametrize("layout", [planar, cropped, torch.Tensor.contiguous])
@pytest.mark.parametrize("valid", VALID.values(), ids=VALID.keys())
@pytest.mark.parametrize("shape", SHAPES)
def test_maps_and_sums_over_valid_pixels(shape, valid, layout):
    where = valid(*shape)
    a, b = layout(rand(*shape, 3)).requires_grad_(), layout(rand(*shape, 3, seed=1))
    b[~where] = torch.nan  # what a network leaves undefined
    agree(normal_maps.unit_where(where, a), normal_maps.unit_where_reference(where, a), a, atol=1e-4)
    agree(pixel_sums.dot_product(a, b, where), pixel_sums.dot_product_reference(a, b, where), a)
    found = pixel_sums.absolute_difference(a, b, where)
    agree(found, pixel_sums.absolute_difference_reference(a, b.nan_to_num(), where), a)
    (total, count), (expected, expected_count) = (
        f(a, where) for f in (pixel_sums.variation, pixel_sums.variation_reference)
    )
    agree(total, expected, a)
    assert int(count) == int(expected_count)
    assert torch.equal(normal_maps.long_where(where, b), where & (b.norm(dim=-1) > 0.5))
    if not where.any():
        assert found.item() == 0


def test_a_vector_of_no_length_stays():
    x = torch.zeros(2, 2, 3)
    x[0, 0, 0], x[1, 1] = 1e-14, torch.tensor([3.0, 0.0, 4.0])
    x.requires_grad_()
    where = torch.ones(2, 2, dtype=torch.bool)
    agree(normal_maps.unit_where(where, x), normal_maps.unit_where_reference(where, x), x)


def test_what_is_nan_and_counts_is_told():
    """So that training ends where a loss is not finite."""
    x = planar(torch.full((4, 4, 3), torch.nan)).requires_grad_()
    where = torch.ones(4, 4, dtype=torch.bool)
    assert pixel_sums.absolute_difference(x, torch.zeros(4, 4, 3), where).isnan()
    assert pixel_sums.dot_product(x, torch.ones(4, 4, 3), where).isnan()
    assert pixel_sums.variation(x, where)[0].isnan()
    assert pixel_sums.binary_cross_entropy(x, torch.ones(4, 4, 3), 1e-4).isnan()
    assert all(value.isnan() for value in ssim.l1_and_ssim(x, torch.zeros(4, 4, 3)))
    logits = torch.zeros(4, 4, 9)
    logits[2, 1, 3] = torch.nan
    for label in (0, 3):
        assert cross_entropy.cross_entropy(logits, torch.full((4, 4), label), where).isnan()


@pytest.mark.parametrize("shape", SHAPES)
def test_binary_cross_entropy(shape):
    where = covered(*shape)
    p = torch.where(where, rand(*shape).clamp(0, 1), 0)[..., None].requires_grad_()
    target = cropped(torch.where(where, rand(*shape, seed=1).clamp(0, 1), 0)[..., None])
    found = pixel_sums.binary_cross_entropy(p, target, 1e-4)
    agree(found.double(), pixel_sums.binary_cross_entropy_reference(p.double(), target.double(), 1e-4), p, rtol=1e-4)


@pytest.mark.parametrize("valid", VALID.values(), ids=VALID.keys())
@pytest.mark.parametrize("classes", [1, 3, 28])
@pytest.mark.parametrize("shape", [*SHAPES, (5, 64)])
def test_cross_entropy(shape, classes, valid):
    """Equal pixels side by side, logits far apart, and labels anywhere where nothing is valid."""
    where = covered(*shape)
    logits = torch.where(where[..., None], rand(*shape, classes) * 300, 0)
    logits[..., 0] += 10
    labels = torch.randint(classes, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    labels[~valid(*shape)] = 255
    for x in (planar(logits), logits.clone()):
        x.requires_grad_()
        found = cross_entropy.cross_entropy(x, cropped(labels), valid(*shape))
        agree(found, cross_entropy.cross_entropy_reference(x, labels, valid(*shape)), x)


@pytest.mark.parametrize("label", [28, 255, -1])
def test_a_label_that_is_no_class(label):
    labels = torch.zeros(3, 4, dtype=torch.int64)
    labels[1, 2] = label
    where = torch.ones(3, 4, dtype=torch.bool)
    for function in (cross_entropy.cross_entropy, cross_entropy.cross_entropy_reference):
        with pytest.raises(IndexError, match="out of bounds"):
            function(rand(3, 4, 28), labels, where)
    where[1, 2] = False
    assert cross_entropy.cross_entropy(rand(3, 4, 28), labels, where).isfinite()


def test_deviation_from_the_mean_of_a_class():
    features = rand(200, 32).requires_grad_()
    labels = torch.randint(20, (200,), generator=torch.Generator().manual_seed(0)) + 3
    found = classes.deviation_from_mean(features, labels, 28)
    agree(found, classes.deviation_from_mean_reference(features, labels, 28), features)
    with pytest.raises(IndexError, match="out of bounds"):
        classes.deviation_from_mean(features, labels, 10)


def test_normals_of_depth():
    height, width = 40, 31
    camera = Camera(torch.eye(4), torch.tensor([[70.0, 0, 15], [0, 65, 21], [0, 0, 1]]), width, height)
    depth = 2 + 0.1 * rand(height, width)
    depth[~covered(height, width)] = 0
    found, expected = depth_to_normal(depth, camera), depth_to_normal_reference(depth, camera)
    assert (expected.norm(dim=-1) > 0.5).sum() > 100
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(depth_to_normal(torch.ones(1, 1), camera), torch.zeros(1, 1, 3))
    for shape in ((2, 5), (3, 3)):
        small = Camera(camera.viewmat, camera.K, shape[1], shape[0])
        ones = torch.ones(shape)
        torch.testing.assert_close(depth_to_normal(ones, small), depth_to_normal_reference(ones, small))


@pytest.mark.parametrize("background", [0.0, 0.7])
@pytest.mark.parametrize("box", [(0, 1, 0, 1), (12, 20, 9, 30), (35, 37, 41, 43), (0, 37, 0, 43), None])
def test_similarity_in_the_box_of_what_differs(box, background):
    """On the whole image, by the plain form in double precision: where nothing differs, too, and up to each border."""
    image, target = torch.full((37, 43, 3), background), torch.full((37, 43, 3), background)
    if box is not None:
        part = slice(*box[:2]), slice(*box[2:])
        image[part], target[part] = (rand(37, 43, 3, seed=s)[part].abs() for s in (0, 1))
    image = planar(image).requires_grad_()
    found = torch.stack(ssim.l1_and_ssim(image, cropped(target)))
    x, y = image.double(), target.double()
    agree(found, torch.stack([(x - y).abs().mean(), ssim.ssim_reference(x, y)]).float(), image, rtol=1e-3, atol=1e-6)
