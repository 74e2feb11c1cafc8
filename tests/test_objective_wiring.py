"""Every term of Eq. 21 through `Objective`, on outputs and a batch made by hand, against values worked out by hand.

`test_losses.py` holds the formulas; here is what they are fed with: which map, whose sign, where valid, weighted how.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from support.small_avatar import small_avatar
from torch import Tensor

from fmgs_nerfstudio.avatar import Avatar, Distilled, Skinned
from fmgs_nerfstudio.losses import isometry_loss
from fmgs_nerfstudio.maps.maps import Kind
from fmgs_nerfstudio.modalities import BACKGROUND_LOGIT, all_terms, compose_outputs
from fmgs_nerfstudio.objective import LossInputs, LossWeights, Objective, SurfelInputs
from fmgs_nerfstudio.patches import Patch, Patches, neighbours_of
from fmgs_nerfstudio.rendering import Camera
from fmgs_nerfstudio.surfels import Surfels, rotation_exp

H, W = 3, 4
PRIORS: tuple[Kind, ...] = ("depth", "normal", "semantics")
UP, TOWARDS, RIGHT = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)
NOTHING = torch.zeros(0)


def constant(*channels: float) -> Tensor:
    return torch.tensor(channels).expand(H, W, len(channels)).clone()


def turned(angle: float) -> tuple[float, float, float]:
    """A normal turned from the camera to the right."""
    return math.sin(angle), 0.0, math.cos(angle)


def surfels(means: Tensor, turn: float = 0.0, scales: tuple[float, float] = (0.01, 0.02)) -> Surfels:
    """Surfels that lie in the xy plane, turned about y."""
    frames = rotation_exp(torch.tensor([[0.0, turn, 0.0]])).expand(len(means), 3, 3)
    return Surfels(means, frames, torch.tensor(scales).expand(len(means), 2))


def avatar_of(canonical: Surfels, T: Tensor, semantics: Distilled | None = None) -> Avatar:
    semantics = semantics or Distilled(torch.zeros(3, 2), torch.zeros(3, 28))
    return Avatar(canonical, T, torch.ones(len(T)), NOTHING, NOTHING, NOTHING, {"semantics": semantics})


POINTS = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
STILL = torch.eye(4)[:3].expand(3, 3, 4)


def terms(
    outputs: Mapping[str, Tensor] | None = None,
    batch: Mapping[str, Tensor] | None = None,
    avatar: Avatar | None = None,
    template: Surfels | None = None,
    patch: Patch | None = None,
    skinning: tuple[Tensor, Tensor] = (torch.zeros(1, 24), torch.zeros(1, 24)),
    weights: LossWeights | None = None,
    progress: float = 0.5,
) -> dict[str, float]:
    """The weighted terms of a step whose maps say that all is right, but for what a test puts in their place."""
    template = template or surfels(POINTS)
    inputs = LossInputs(
        outputs={
            "rgb": constant(0.9, 0.5, 0.1), "accumulation": constant(1.0), "depth": constant(2.0),
            "normal": constant(*TOWARDS), "surface_normal": constant(*TOWARDS), "logits": constant(*[0.0] * 28),
            "of_frame": torch.zeros(75), "of_clip": torch.zeros(2),
        } | dict(outputs or {}),
        batch={
            "image": constant(0.9, 0.5, 0.1), "mask": constant(1.0), "prior_depth": constant(1.0)[..., 0],
            "prior_normal": constant(*TOWARDS), "prior_semantics": torch.zeros(H, W, dtype=torch.uint8),
        } | dict(batch or {}),
        draws=torch.rand(8192, 2, generator=torch.Generator().manual_seed(0)),
        lambda_ssim=(weights or ONE).lambda_ssim,
    )  # fmt: skip
    surfels_of_step = SurfelInputs(
        avatar=replace(avatar or avatar_of(template, STILL), skinned=Skinned(*skinning)),
        template=template,
        patch=patch or patch_of(torch.arange(3), torch.tensor([[1], [0], [0]])),
    )
    objective = Objective.of(all_terms(), weights or ONE, PRIORS)
    found = objective.of_pixels(inputs) | objective.of_surfels(surfels_of_step)
    made = objective.weighted(found, inputs.batch, progress)
    return {name: float(value) for name, value in made.items()}


def patch_of(rows: Tensor, neighbours: Tensor) -> Patch:
    return Patch(rows, neighbours, torch.ones(()))


ONE = LossWeights(
    lambda_ssim=0.0, lambda_m=1, lambda_d=1, lambda_sn=1, lambda_n=1, lambda_tv=1, lambda_s=1, lambda_reg=1,
    lambda_skin=1, lambda_skin_late=1, lambda_iso=1, lambda_iso_cov=1, lambda_pose=1,
)  # fmt: skip
"""What a term is by itself."""


def at(pixels: Mapping[tuple[int, int], tuple[float, ...]], elsewhere: tuple[float, ...]) -> Tensor:
    """A map of one value with others at some pixels (row, column)."""
    made = constant(*elsewhere)
    for pixel, value in pixels.items():
        made[pixel] = torch.tensor(value)
    return made


# --- weights ----------------------------------------------------------------------------------------------------------


WRONG: dict[str, Tensor] = {
    "rgb": constant(0.5, 0.5, 0.5),
    "accumulation": constant(0.8),
    "depth": at({(0, 0): (2.3,)}, (2.0,)),
    "normal": at({(0, 0): UP}, turned(0.3)),
    "surface_normal": constant(*UP),
    "logits": constant(1.0, *[0.0] * 27),
    "of_frame": torch.ones(75),
    "of_clip": torch.zeros(2),
}
ALL_OFF = {
    "outputs": WRONG,
    "batch": {"prior_depth": at({(0, 0): (0.0,)}, (1.0,))[..., 0]},
    "avatar": avatar_of(
        surfels(POINTS, 0.2)._replace(scales=torch.tensor([[0.3, 0.2], [0.2, 0.3], [0.1, 0.1]])),
        1.5 * STILL,
        Distilled(torch.arange(6.0).view(3, 2), torch.zeros(3, 28)),
    ),
    "template": surfels(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]]), 0.0, (0.01, 0.05)),
    "skinning": (torch.eye(24)[:2], torch.eye(24)[1:3]),
}


def test_the_weighted_sum_is_equation_21() -> None:
    """Every term is off; each is its own value times its own weight, and no other's."""
    alone = terms(**ALL_OFF)
    assert set(alone) == set(all_terms())
    assert all(value > 0 for value in alone.values()), alone
    primes = dict(
        zip(
            ("m", "d", "sn", "n", "tv", "s", "reg", "iso", "iso_cov", "pose"),
            (2, 3, 5, 7, 11, 13, 17, 19, 23, 37),
            strict=True,
        )
    )
    weights = LossWeights(
        lambda_ssim=0.0, lambda_skin=29, lambda_skin_late=31, **{f"lambda_{name}": w for name, w in primes.items()}
    )
    for progress, skin in ((0.0, 29), (0.9, 31)):
        weighted = terms(**ALL_OFF, weights=weights, progress=progress)
        expected = {f"L_{name}": float(w) for name, w in primes.items()} | {"L_c": 1.0, "L_skin": float(skin)}
        assert {name: weighted[name] / alone[name] for name in alone} == pytest.approx(expected)


def test_nothing_is_wrong_where_all_is_right() -> None:
    right = terms()
    cross_entropy = math.log(28)  # of logits that know nothing
    assert right.pop("L_s") == pytest.approx(cross_entropy)
    assert right.pop("L_m") == pytest.approx(-math.log(1 - 1e-4), rel=1e-3)
    assert right == pytest.approx(dict.fromkeys(right, 0.0), abs=1e-6)


# --- colour and mask --------------------------------------------------------------------------------------------------


def test_colour_is_compared_channel_by_channel_over_the_whole_image() -> None:
    """The mean of |.8 - .9|, |.5 - .3|, |.1 - .5| in one pixel of twelve, masked or not."""
    image = at({(1, 2): (0.9, 0.3, 0.5)}, (0.8, 0.5, 0.1))
    outputs = {"rgb": constant(0.8, 0.5, 0.1)}
    for mask in (0.0, 1.0):
        assert terms(outputs, {"image": image, "mask": constant(mask)})["L_c"] == pytest.approx(0.7 / 3 / 12)


def test_colour_mixes_l1_and_structure() -> None:
    """(1 - lambda) L1 + lambda (1 - SSIM), and SSIM of an image with itself is 1."""
    torch.manual_seed(0)
    image, other = torch.rand(H, W, 3), torch.rand(H, W, 3)

    def value(share: float, rgb: Tensor) -> float:
        return terms({"rgb": rgb}, {"image": image}, weights=LossWeights(lambda_ssim=share))["L_c"]

    assert value(0.2, image) == pytest.approx(0, abs=1e-6)
    l1 = float((image - other).abs().mean())
    assert value(0, other) == pytest.approx(l1)
    assert 0 < value(1, other) <= 2
    assert value(0.2, other) == pytest.approx(0.8 * l1 + 0.2 * value(1, other))


def test_means_over_an_enlarged_picture_are_those_over_the_persons_own() -> None:
    """Colours and masks; what else is a mean is one over the person's pixels."""
    wrong = {"rgb": constant(0.5, 0.5, 0.1), "accumulation": constant(0.9), "normal": constant(0.6, 0, 0.8)}
    own, twice = terms(wrong), terms(wrong, {"enlarged": torch.tensor(2.0)})
    assert {name: value / own[name] for name, value in twice.items() if own[name]} == pytest.approx(
        {"L_c": 2, "L_m": 2, "L_sn": 1, "L_n": 1, "L_s": 1}, rel=1e-5
    )


def test_the_mask_loss_wants_opacity_where_the_mask_is() -> None:
    """-log of what was given to the right answer, .9 or .25, mean over the pixels."""
    mask = at({(0, 0): (1.0,), (2, 3): (1.0,)}, (0.0,))
    right, wrong = {"accumulation": 0.9 * mask + 0.1 * (1 - mask)}, {"accumulation": 0.25 * mask + 0.75 * (1 - mask)}
    assert terms(right, {"mask": mask})["L_m"] == pytest.approx(-math.log(0.9), rel=1e-3)
    assert terms(wrong, {"mask": mask})["L_m"] == pytest.approx(-math.log(0.25), rel=1e-3)


# --- depth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("near", "far", "sign"), [(0.2, 0.7, -1), (0.7, 0.2, 1), (-5.0, 40.0, -1)])
def test_in_the_prior_larger_is_farther(near: float, far: float, sign: int) -> None:
    """Two pixels are valid, one 5 cm farther than the other. Each pair that the prior orders costs
    1 - tanh(10 x .05) if the order is the same, 1 + tanh(10 x .05) if it is not; pairs of a pixel with itself nothing.
    """
    seen = at({(0, 1): (1.0,), (2, 2): (1.0,)}, (0.0,))
    depth = at({(0, 1): (2.0,), (2, 2): (2.05,)}, (0.0,))
    prior = at({(0, 1): (near,), (2, 2): (far,)}, (9.0,))[..., 0]
    found = terms({"accumulation": seen, "depth": depth}, {"prior_depth": prior})["L_d"]
    assert found == pytest.approx(1 + sign * math.tanh(0.5), rel=1e-4)


# --- where normals and depth count ------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", ["accumulation", "mask"])
@pytest.mark.parametrize("cover", [0.0, 0.45])
def test_a_pixel_counts_where_both_mask_and_rendering_cover_it(short: str, cover: float) -> None:
    """Two of twelve pixels are covered by both; what is wrong elsewhere is not seen."""
    partly = at({(1, 1): (1.0,), (1, 2): (0.55,)}, (cover,))
    outputs = {"accumulation": partly if short == "accumulation" else constant(1.0)}
    batch = {"mask": partly if short == "mask" else constant(1.0)}
    elsewhere = {
        "depth": at({(1, 1): (2.0,), (1, 2): (2.0,)}, (7.0,)),
        "normal": at({(1, 1): TOWARDS, (1, 2): TOWARDS}, RIGHT),
    }
    off = {
        "prior_depth": torch.arange(12.0)
        .view(H, W)
        .index_put((torch.tensor([1, 1]), torch.tensor([1, 2])), torch.ones(())),
        "prior_normal": at({(1, 1): TOWARDS, (1, 2): TOWARDS}, UP),
    }
    found = terms(outputs | elsewhere, batch | off)
    assert [found[name] for name in ("L_d", "L_sn", "L_n", "L_tv")] == pytest.approx([0] * 4, abs=1e-6)
    one = {"normal": at({(1, 1): UP, (1, 2): TOWARDS}, RIGHT)}
    found = terms(outputs | elsewhere | one, batch | off)
    assert found["L_sn"] == pytest.approx((2 + 0) / 2)
    assert found["L_n"] == pytest.approx((1 + 0) / 2)
    assert found["L_tv"] == pytest.approx(2)  # of one pair


def test_normals_that_are_not_defined_do_not_count() -> None:
    """The prior is zero where it says nothing, the depth's normal on borders: there, only the other terms count."""
    prior, surface = at({(0, 0): (0.0, 0.0, 0.0)}, UP), at({(0, 1): (0.0, 0.0, 0.0)}, UP)
    found = terms({"surface_normal": surface}, {"prior_normal": prior})
    assert found["L_n"] == pytest.approx(1)  # of eleven pixels, a right angle each
    assert found["L_sn"] == pytest.approx(2)
    assert found["L_tv"] == 0


# --- normals ----------------------------------------------------------------------------------------------------------


def test_the_normal_prior_is_a_cosine_and_its_sign_counts() -> None:
    normal = {"normal": constant(*turned(0.4))}
    assert terms(normal)["L_n"] == pytest.approx(1 - math.cos(0.4), rel=1e-4)
    away = {"prior_normal": constant(0.0, 0.0, -1.0)}
    assert terms(normal, away)["L_n"] == pytest.approx(1 + math.cos(0.4), rel=1e-4)


def test_normals_are_held_to_those_of_the_depth_and_not_to_the_prior() -> None:
    """Summed over components: |sin| + |1 - cos|, whichever way it is turned."""
    for angle in (0.4, -0.4):
        found = terms({"normal": constant(*turned(angle))}, {"prior_normal": constant(*UP)})
        assert found["L_sn"] == pytest.approx(math.sin(0.4) + 1 - math.cos(0.4), rel=1e-4)
    assert terms({"surface_normal": constant(*UP)})["L_n"] == pytest.approx(0, abs=1e-6)


def test_variation_is_of_the_rendered_normal_along_rows_and_columns() -> None:
    """One pixel inside differs by 2 from its four neighbours: 4 x 2 over 17 neighbours (3 x 3 along, 2 x 4 down)."""
    assert terms({"normal": at({(1, 1): UP}, TOWARDS)})["L_tv"] == pytest.approx(4 * 2 / 17)
    assert terms({"normal": at({(0, 0): UP}, TOWARDS)})["L_tv"] == pytest.approx(2 * 2 / 17)
    assert terms({"surface_normal": at({(1, 1): UP}, TOWARDS)})["L_tv"] == 0


# --- semantics --------------------------------------------------------------------------------------------------------


def test_every_pixel_has_a_class_the_background_too() -> None:
    """Cross-entropy, mean over all pixels, whatever covers them: log(28) where all classes are alike, and
    log(e^3 + 27) - 3 or - 0 where class 5 has 3."""
    logits = at(
        {(0, 0): tuple(3.0 * (c == 5) for c in range(28)), (0, 1): tuple(3.0 * (c == 5) for c in range(28))},
        (0.0,) * 28,
    )
    labels = torch.zeros(H, W, dtype=torch.uint8)
    labels[0, 0] = 5
    expected = (10 * math.log(28) + 2 * math.log(math.exp(3) + 27) - 3) / 12
    for cover in (0.0, 1.0):
        outputs, batch = {"logits": logits, "accumulation": constant(cover)}, {"mask": constant(1 - cover)}
        assert terms(outputs, batch | {"prior_semantics": labels})["L_s"] == pytest.approx(expected)


def test_features_are_drawn_together_by_the_class_of_their_own_logits() -> None:
    """Two surfels of class 3 at a distance of 5, one of class 7: the mean over pairs (i, j) is 25 / 2, over the two
    classes 25 / 4."""
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [100.0, 0.0]])
    values = torch.eye(28)[[3, 3, 7]]
    found = terms(avatar=avatar_of(surfels(POINTS), STILL, Distilled(features, values)))
    assert found["L_reg"] == pytest.approx(25 / 4)


# --- skinning and isometry --------------------------------------------------------------------------------------------


def test_predicted_skinning_is_held_to_the_bodys() -> None:
    """Summed over joints, mean over points: 2 x .25 and 0."""
    predicted = torch.eye(24)[:2]
    target = predicted.clone()
    target[0, 0], target[0, 1] = 0.5, 0.5
    assert terms(skinning=(predicted, target))["L_skin"] == pytest.approx(0.5 / 2)


def test_isometry_is_between_the_template_and_the_posed_surfels() -> None:
    """Neighbours at 1, 1 and 2 m in the template; posed, all along x is twice as far: 1, 1 and 0 m of change.

    The corrected surfels, which the fields have moved apart, are no reference; and as they are, nothing has changed.
    """
    stretched = (torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0]))[:3]).expand(3, 3, 4)
    assert terms(avatar=avatar_of(surfels(POINTS), stretched))["L_iso"] == pytest.approx(2 / 3)
    grown = avatar_of(surfels(3 * POINTS), STILL / 3)
    assert terms(avatar=grown)["L_iso"] == pytest.approx(0, abs=1e-6)
    assert terms(avatar=avatar_of(surfels(3 * POINTS), STILL))["L_iso"] == pytest.approx((2 + 2 + 4) / 3)


def test_isometry_looks_at_the_neighbours_it_is_given() -> None:
    """Only the third surfel moves; a list of neighbours without it sees nothing, nor does a patch without it."""
    moved = avatar_of(surfels(POINTS + torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 1, 0]])), STILL)
    everyone, without, with_it = torch.arange(3), torch.tensor([0, 1]), torch.tensor([2, 0])
    among_two, all_three, of_one = (torch.tensor(near) for near in ([[1], [0], [2]], [[1], [0], [0]], [[1]]))
    for patch, expected in (
        (patch_of(everyone, among_two), 0),
        (patch_of(everyone, all_three), 1 / 3),
        (patch_of(without, of_one), 0),
        (patch_of(with_it, of_one), 1),
    ):
        assert terms(avatar=moved, patch=patch)["L_iso"] == pytest.approx(expected), patch


def test_isometry_is_scaled_where_pairs_stand_in_for_none() -> None:
    moved = avatar_of(surfels(POINTS + torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 1, 0]])), STILL)
    patch = patch_of(torch.arange(3), torch.tensor([[1], [0], [0]]))
    assert terms(avatar=moved, patch=patch._replace(scale=torch.tensor(1.5)))["L_iso"] == pytest.approx(1 / 2)
    template = surfels(POINTS)
    wider = template._replace(scales=template.scales * torch.tensor([[1.5], [1], [1]]))
    once, twice = (
        terms(avatar=avatar_of(wider, STILL), template=template, patch=patch._replace(scale=torch.tensor(scale)))
        for scale in (1.0, 2.0)
    )
    assert twice["L_iso_cov"] == pytest.approx(2 * once["L_iso_cov"])
    assert once["L_iso_cov"] > 0


def test_isometry_of_covariances() -> None:
    """Scales .01 and .02; the first of three is made wider, to .03 along x: s^2 of its neighbours stays 8e-4 less.

    Pairs (0, 1), (1, 0) and (2, 0) each change by that; the template's scales are the reference, learned or not.
    """
    template = surfels(POINTS)
    scales = template.scales.clone()
    scales[0, 0] = 0.03
    wider = avatar_of(template._replace(scales=scales), STILL)
    assert terms(avatar=wider, template=template)["L_iso_cov"] == pytest.approx(8e-4, rel=1e-3)
    assert terms(avatar=wider, template=template._replace(scales=scales))["L_iso_cov"] == pytest.approx(0, abs=1e-9)
    assert terms(avatar=wider, template=template)["L_iso"] == 0


def test_patches_share_out_all_surfels_and_their_isometry() -> None:
    """Weighted by how often it is drawn, the patches' isometry is that of all pairs, and so is its gradient; a patch
    has few surfels beyond its own."""
    generator = torch.Generator().manual_seed(0)
    before = torch.nn.functional.normalize(torch.randn(2001, 3, generator=generator), dim=1)  # on a sphere
    after = (before + torch.randn(2001, 3, generator=generator)).requires_grad_()
    patches = Patches(before)
    own = torch.cat([patch.rows[: len(patch.neighbours)] for patch in patches])
    assert torch.equal(own.sort().values, torch.arange(2001))
    assert max(len(patch.rows) for patch in patches) < 0.45 * 2001
    drawn = [int(patches.draw(generator).rows[0]) for _ in range(200)]
    assert all(abs(drawn.count(int(patch.rows[0])) - 50) < 25 for patch in patches)

    def isometry(patch: Patch) -> Tensor:
        return isometry_loss(before[patch.rows], after[patch.rows], patch.neighbours)

    pick = {int(p.rows[0]): p for p in patches}
    for padded in (patches.draw(generator) for _ in range(20)):  # as large as the largest, and still the same mean
        exact = pick[int(padded.rows[0])]
        assert padded.neighbours.shape == patches.neighbours.shape[1:]
        torch.testing.assert_close(isometry(padded) * padded.scale, isometry(exact))
    total = isometry(patch_of(torch.arange(2001), torch.from_numpy(neighbours_of(before))))
    mean = torch.stack([len(patch.neighbours) / 2001 * isometry(patch) for patch in patches]).sum()
    torch.testing.assert_close(mean, total)
    gradients = (torch.autograd.grad(value, after)[0] for value in (mean, total))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-9)


def test_neighbours_are_the_four_nearest_others() -> None:
    """On a line with growing gaps: by hand."""
    points = torch.tensor([[x, 0.0, 0.0] for x in (0.0, 1.0, 3.0, 7.0, 15.0, 31.0)])
    found = [sorted(row) for row in neighbours_of(points).tolist()]
    assert found == [[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3], [1, 2, 3, 4]]


# --- the maps and the inputs that the terms get -----------------------------------------------------------------------


def test_maps_of_what_was_rendered() -> None:
    """Depth and normal are of the covered part; colour is on the background; background's logit where nothing is."""
    K = torch.tensor([[50.0, 0, W / 2], [0, 50.0, H / 2], [0, 0, 1]])
    rendered = {
        "colour": constant(0.2, 0.1, 0.05, 0.25),
        "depth": constant(0.75, 0.25),
        "normal": constant(0.0, 0.3, 0.4),
        "semantics": constant(*[0.5 * (c == 4) for c in range(28)]),
    }
    maps = compose_outputs(rendered, Camera(torch.eye(4), K, W, H), torch.tensor([1.0, 0.5, 0.0]))
    assert maps["rgb"][0, 0].tolist() == pytest.approx([0.95, 0.475, 0.05])
    assert maps["accumulation"][0, 0].item() == pytest.approx(0.25)
    assert maps["depth"][1, 1].item() == pytest.approx(3.0)
    assert maps["normal"][1, 1].tolist() == pytest.approx([0, 0.6, 0.8])
    assert maps["surface_normal"][1, 1].tolist() == pytest.approx([0, 0, 1], abs=1e-5)  # a wall faces the camera
    expected = [0.75 * BACKGROUND_LOGIT if c == 0 else 0.5 * (c == 4) for c in range(28)]
    assert maps["logits"][1, 1].tolist() == pytest.approx(expected)
    nothing = compose_outputs(
        {name: 0 * value for name, value in rendered.items()},
        Camera(torch.eye(4), K, W, H),
        torch.tensor([1.0, 0.5, 0.0]),
    )
    assert nothing["rgb"][0, 0].tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert not nothing["depth"].any()
    assert not nothing["normal"].any()
    assert nothing["logits"][0, 0].tolist() == [BACKGROUND_LOGIT, *[0.0] * 27]


class Recorder(Objective):
    """Keeps what the model hands to its objective."""

    seen: LossInputs
    surfels: SurfelInputs
    given: Mapping[str, Tensor]
    batch: Container[str]
    progress: float

    def of_surfels(self, inputs: SurfelInputs) -> dict[str, Tensor]:
        object.__setattr__(self, "surfels", inputs)
        return {"L_x": inputs.avatar.opacities.sum()}

    def of_pixels(self, inputs: LossInputs) -> dict[str, Tensor]:
        object.__setattr__(self, "seen", inputs)
        return {"L_y": inputs.outputs["rgb"].sum()}

    def weighted(self, terms: Mapping[str, Tensor], batch: Container[str], progress: float) -> dict[str, Tensor]:
        for name, value in {"given": terms, "batch": batch, "progress": progress}.items():
            object.__setattr__(self, name, value)
        return {}


def test_what_the_model_hands_to_its_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """The surfels before correction as template, their four neighbours, the fields' weights beside SMPL's at points of
    the surface, and this step's draws; what it made of them comes back with the pixels."""
    model = small_avatar()
    recorder = Recorder({}, LossWeights())
    monkeypatch.setattr(model, "objective", recorder)
    monkeypatch.setattr(model, "training", True)
    monkeypatch.setattr(model, "step", 30)
    monkeypatch.setattr(model.config, "weights", LossWeights(lambda_ssim=0.123))
    monkeypatch.setattr(model, "run_steps", 120)
    with torch.no_grad():
        batch: dict[str, Any] = {"image": constant(0.1, 0.2, 0.3), "image_idx": 4}
        view = Cameras(torch.eye(4)[None, :3], 30.0, 30.0, 8.0, 8.0, 16, 16, metadata={"pose_id": torch.tensor([0])})
        outputs = model.get_outputs(view)
        model.get_loss_dict(outputs, batch)
        seen, of_surfels, surfels = recorder.seen, recorder.surfels, model.surfels()
        avatar = of_surfels.avatar
        assert recorder.progress == 0.25
        assert recorder.given == {"L_x": avatar.opacities.sum(), "L_y": outputs["rgb"].sum()}
        assert recorder.batch is batch
        assert torch.equal(avatar.T, model.pose_avatar(0).T)
        assert torch.equal(of_surfels.template.means, surfels.means)
        assert (of_surfels.template.means - avatar.canonical.means).abs().max() > 1e-4  # the corrected are elsewhere
        assert torch.equal(seen.batch["image"], batch["image"])
        assert "image_idx" not in seen.batch
        assert torch.equal(seen.draws, torch.rand(8192, 2, generator=model._generator("pairs")))
        assert seen.lambda_ssim == 0.123
        rows, near, scale = of_surfels.patch
        own = rows[: round(len(near) / float(scale))][::97]
        nearest = torch.cdist(surfels.means[own], surfels.means).topk(5, largest=False).values[:, 1:]
        mine = (surfels.means[rows[near[: len(own) * 97 : 97]]] - surfels.means[own, None]).norm(dim=-1)
        assert torch.allclose(mine, nearest, atol=1e-4)

        assert avatar.skinned is not None
        predicted, target = avatar.skinned
        assert predicted.shape == target.shape == (1024, 24)  # [30]'s number of points
        points, weights = model.surface.sample(1024, model._generator("skin"))
        assert torch.equal(target, weights)
        assert torch.equal(predicted, model.skinning(points))

        assert torch.equal(rows, model.patches.draw(model._generator("patch")).rows)
        drawn = [model.patches.draw(model._generator("patch")).rows for model.step in range(30, 60)]
        assert len({int(each[0]) for each in drawn}) == 4


def test_every_step_has_draws_of_its_own_and_a_resumed_one_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_avatar()

    def draws(step: int, purpose: str, seed: int = 0) -> tuple[float, ...]:
        monkeypatch.setattr(model, "step", step)
        monkeypatch.setattr(model.config, "seed", seed)
        return tuple(torch.rand(4, generator=model._generator(purpose)).tolist())

    assert draws(7, "pairs") == draws(7, "pairs")
    others = [draws(step, purpose, seed) for step in (7, 8, 9) for purpose in ("pairs", "skin") for seed in (0, 1)]
    assert len(set(others)) == len(others)
