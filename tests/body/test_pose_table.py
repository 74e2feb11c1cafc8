"""Refinement of poses: who is corrected, by whom, and what Adam moves."""

from __future__ import annotations

import torch

from fmgs_nerfstudio.body.pose_table import PoseTable


def table(radius: int, refine: bool = True) -> PoseTable:
    generator = torch.Generator().manual_seed(0)
    pose, transl = (torch.randn(6, n, generator=generator) for n in (72, 3))
    return PoseTable(pose, transl, trained=[0, 1, 2, 3], refine=refine, radius=radius)


def test_corrections_start_at_zero_and_stay_with_trained_poses() -> None:
    poses = table(radius=1)
    for pose_id in range(6):
        pose, transl = poses(pose_id)
        assert torch.equal(pose, poses.pose[pose_id])
        assert torch.equal(transl, poses.transl[pose_id])
    assert not poses(5)[0].requires_grad
    assert poses(2)[0].requires_grad
    assert not poses(2, refine=False)[0].requires_grad
    assert len(list(table(1, refine=False).parameters())) == 0


def test_neighbours_share_a_hat() -> None:
    """A correction is the weighted mean of the parameters around it; at the ends of what is there."""
    poses = table(radius=1)
    values = torch.randn(4, 75, generator=torch.Generator().manual_seed(1))
    for parameter, value in zip(poses.corrections, values, strict=True):
        parameter.data = value
    expected = (values[0] + 2 * values[1] + values[2]) / 4
    assert torch.allclose(poses(1)[0] - poses.pose[1], expected[:72], atol=1e-6)
    assert torch.allclose(poses(1)[1] - poses.transl[1], expected[72:], atol=1e-6)
    assert torch.allclose(poses(0)[0] - poses.pose[0], ((2 * values[0] + values[1]) / 3)[:72], atol=1e-6)


def test_what_all_have_in_common_waits_for_the_clip() -> None:
    """Without it, a pose's correction is what it has beside the mean of all; with it, all of it."""
    poses = table(radius=0)
    values = torch.randn(4, 75, generator=torch.Generator().manual_seed(1))
    for parameter, value in zip(poses.corrections, values, strict=True):
        parameter.data = value.clone()
    beside = values - values.mean(0)
    for row in range(4):
        assert torch.allclose(poses(row, whole=False)[0] - poses.pose[row], beside[row, :72], atol=1e-6)
        assert torch.allclose(poses(row, whole=False)[1] - poses.transl[row], beside[row, 72:], atol=1e-6)
        assert torch.allclose(poses(row)[1] - poses.transl[row], values[row, 72:], atol=1e-6)
    assert torch.equal(poses(5, whole=False)[0], poses.pose[5])  # not trained on
    before = [torch.cat(poses(row, whole=False)) for row in range(4)]
    poses.let_common()
    after = [torch.cat(poses(row)) for row in range(4)]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)  # it begins at zero


def test_adam_leaves_alone_what_is_not_in_the_batch() -> None:
    """With momentum built up, a step on pose 0 does not move pose 3."""
    poses = table(radius=0)
    optimizer = torch.optim.Adam(poses.parameters(), lr=0.1)
    for pose_id in (3, 0, 0):
        before = poses.corrections[3].clone()
        optimizer.zero_grad()
        poses(pose_id)[0].sum().backward()
        optimizer.step()
    assert torch.equal(poses.corrections[3], before)
    assert poses.corrections[0].any()
