"""Bones by our kernels against smplx's: values, and gradients to pose and translation."""

from __future__ import annotations

import pytest
import torch

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.kernels.bones import bones_in_few


def drawn(seed: int, still: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pose, transl = torch.randn(72, generator=generator) * 0.6, torch.randn(3, generator=generator)
    pose[6:9] = 0  # a joint that rests
    return (torch.zeros(72) if still else pose), transl


@pytest.mark.parametrize("on_card", [False, True])
@pytest.mark.parametrize(("seed", "still"), [(0, False), (1, False), (2, True)])
def test_values_and_gradients_are_smplxs(body: BodyModel, seed: int, still: bool, on_card: bool) -> None:
    """In float32 against smplx in float64. It adds 1e-8 to an angle, so that at rest its gradient is not quite ours."""
    joints = body.shape(torch.zeros(10))[1]
    single = [x.requires_grad_() for x in drawn(seed, still)]
    double = [x.detach().double().requires_grad_() for x in single]
    if on_card:
        (bones,) = bones_in_few(joints, single[0][None], single[1][None], body.parents)
    else:
        bones = body.bones(joints, *single)
    expected = body.bones_reference(joints.double(), *double)
    torch.testing.assert_close(bones, expected.float(), rtol=0, atol=1e-6)
    weight = torch.randn(24, 4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = torch.autograd.grad((bones * weight.float()).sum(), single)
    wanted = torch.autograd.grad((expected * weight).sum(), double)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=2e-5)


def test_many_poses_at_once_and_doubles_are_smplxs(body: BodyModel) -> None:
    joints = body.shape(torch.zeros(10))[1]
    pose, transl = drawn(0)
    many = body.bones(joints, pose.expand(5, 72), transl.expand(5, 3))
    assert torch.equal(many, body.bones_reference(joints, pose.expand(5, 72), transl.expand(5, 3)))
    torch.testing.assert_close(many[4], body.bones(joints, pose, transl), rtol=0, atol=2e-6)
    exact = body.bones(joints.double(), pose.double(), transl.double())
    assert torch.equal(exact, body.bones_reference(joints.double(), pose.double(), transl.double()))


def test_many_poses_in_few_launches(body: BodyModel) -> None:
    """Each gets its own gradient, which autograd's differences confirm."""
    joints = body.shape(torch.zeros(10))[1].double()
    each = drawn(0), drawn(1), drawn(2, still=True)
    pose, transl = (torch.stack(x).double().requires_grad_() for x in zip(*each, strict=True))
    found, expected = bones_in_few(joints, pose, transl, body.parents), body.bones_reference(joints, pose, transl)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    two = [x.detach()[:2].requires_grad_() for x in (pose, transl)]

    def bones(pose: torch.Tensor, transl: torch.Tensor) -> torch.Tensor:
        return bones_in_few(joints, pose, transl, body.parents)

    assert torch.autograd.gradcheck(bones, two, fast_mode=True)
