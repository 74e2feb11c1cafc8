"""Parts of an avatar, hidden and in other colours."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from support.small_avatar import small_avatar
from torch import Tensor

from fmgs_nerfstudio.avatar import Avatar, Distilled
from fmgs_nerfstudio.modalities import MODALITIES
from fmgs_nerfstudio.motion.cameras import capture_camera
from fmgs_nerfstudio.viewer.parts import Parts, Tint, classes_of

HAIR, HAND = 3, 5


def keep(value: Any, kept: Tensor) -> Any:
    """Every value per surfel in a tree of tuples and dictionaries, for some surfels."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value[kept] if value.shape[:1] == kept.shape else value
    if isinstance(value, dict):
        return {name: keep(item, kept) for name, item in value.items()}
    items = [getattr(value, f.name) for f in dataclasses.fields(value)] if isinstance(value, Avatar) else value
    return type(value)(*(keep(item, kept) for item in items))


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    model = small_avatar()
    with torch.no_grad():
        avatar = model.pose_avatar(0)
    classes = torch.randint(0, 6, avatar.opacities.shape, generator=torch.Generator().manual_seed(0))
    features, values = avatar.distilled["semantics"]
    chosen = values + 1e3 * torch.nn.functional.one_hot(classes, values.shape[1])
    return dataclasses.replace(avatar, distilled=avatar.distilled | {"semantics": Distilled(features, chosen)})


def test_hidden_is_as_if_it_were_not_there(avatar: Avatar) -> None:
    model = small_avatar()
    view = capture_camera(model.kwargs["metadata"]["capture"], None)
    classes, rgb = classes_of(avatar), torch.rand(len(avatar.opacities), 3)
    parts = Parts().with_hidden(HAIR, True).with_hidden(HAND, True)
    kept = (classes != HAIR) & (classes != HAND)
    with torch.no_grad():
        hidden = model.render(avatar.with_opacities(parts.show(avatar.opacities, classes)), rgb, view, MODALITIES)
        without = model.render(keep(avatar, kept), rgb[kept], view, MODALITIES)
        whole = model.render(avatar, rgb, view, MODALITIES)
    for name, expected in without.items():
        torch.testing.assert_close(hidden[name], expected, atol=1e-5, rtol=1e-5)
    assert (whole["accumulation"] - hidden["accumulation"]).max() > 0.1


def test_only_one_part_is_left_and_comes_back() -> None:
    opacities, classes = torch.rand(28), torch.arange(28)
    only = Parts().only(HAIR)
    assert only.show(opacities, classes).nonzero().flatten().tolist() == [HAIR]
    assert only.with_hidden(HAND, False).show(opacities, classes).nonzero().flatten().tolist() == [HAIR, HAND]
    assert Parts().show(opacities, classes) is opacities


def test_a_tint_has_its_colour_and_the_shading_that_was_there() -> None:
    rgb = torch.tensor([[0.2, 0.2, 0.2], [0.4, 0.4, 0.4], [0.9, 0.1, 0.3]])
    classes = torch.tensor([HAIR, HAIR, HAND])
    painted = Parts().with_tint(HAIR, Tint((0, 102, 51), 1.0)).paint(rgb, classes)
    colour = torch.tensor([0.0, 0.4, 0.2])  # times 0.2 / 0.3 and 0.4 / 0.3
    torch.testing.assert_close(painted, torch.stack([colour * 2 / 3, colour * 4 / 3, rgb[2]]))
    half = Parts().with_tint(HAIR, Tint((0, 102, 51), 0.5)).paint(rgb, classes)
    torch.testing.assert_close(half, (painted + rgb) / 2)


def test_a_tint_without_strength_is_none() -> None:
    rgb, classes = torch.rand(5, 3), torch.arange(5)
    parts = Parts().with_tint(HAIR, Tint((255, 0, 0), 1.0)).with_tint(HAIR, Tint((255, 0, 0), 0.0))
    assert parts.paint(rgb, classes) is rgb
    assert Parts().with_tint(20, Tint((255, 0, 0), 1.0)).paint(rgb, classes) is rgb  # nobody is of this class
