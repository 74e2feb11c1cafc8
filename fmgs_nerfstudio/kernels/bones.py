# pyright: standard
"""Rigid motions of a tree of joints on the CPU: `BodyModel.bones`, whose plain form is hundreds of operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.kernels.compiled import device_function
from fmgs_nerfstudio.kernels.rotations import rotation_gradient, turned


def bones_on_cpu(
    joints: Float[Tensor, "J 3"], pose: Float[Tensor, "P"], transl: Float[Tensor, "3"], parents: Sequence[int]
) -> Float[Tensor, "J 4 4"]:
    """Each joint turns about its place on its parent's bone by a rotation vector; joints get no gradient.

    Parents come before their children; the root's is below 0.
    """
    return _Bones.apply(joints, pose, transl, np.array(parents))


class _Bones(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, joints: Tensor, pose: Tensor, transl: Tensor, parents: Array) -> Tensor:
        joints, rotations, transl = (x.detach().contiguous() for x in (joints, pose.view(-1, 3), transl))
        ctx.parents, ctx.chain = parents, np.empty((len(joints) + 1, 3, 4))
        bones = pose.new_zeros(len(joints), 4, 4)
        _forward(joints.numpy(), rotations.numpy(), transl.numpy(), parents, ctx.chain, bones.numpy())
        ctx.save_for_backward(joints, rotations)
        return bones

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, *grad_outputs)


@once_differentiable
def _gradients(ctx: Any, grad_out: Float[Tensor, "J 4 4"]) -> tuple[Tensor | None, ...]:
    joints, rotations = (x.numpy() for x in ctx.saved_tensors)
    of_chain = np.zeros_like(ctx.chain)
    of_chain[1:] = grad_out[:, :3].numpy()
    of_pose = torch.empty(rotations.shape)
    _backward(joints, rotations, ctx.parents, ctx.chain, of_chain, of_pose.numpy())
    return None, of_pose.view(-1), torch.from_numpy(of_chain[0, :, 3].astype(np.float32)), None


@device_function
def _forward(joints, rotations, transl, parents, chain, bones):
    """`chain` holds [A | t] of the world, whose child is the root, and then of the bones: A_j = A_p R_j,
    t_j = t_p + (A_p - A_j) J_j, so that joint J_j is at the same place on both.
    """
    chain[0] = 0
    for i in range(3):
        chain[0, i, i], chain[0, i, 3] = 1, transl[i]
    for j in range(len(joints)):
        above, own = chain[max(parents[j] + 1, 0)], chain[j + 1]
        turned(above, rotations[j], own)
        for i in range(3):
            own[i, 3] = above[i, 3]
            for k in range(3):
                own[i, 3] += (above[i, k] - own[i, k]) * joints[j, k]
            for k in range(4):
                bones[j, i, k] = own[i, k]
        bones[j, 3, 3] = 1


@device_function
def _backward(joints, rotations, parents, chain, of_chain, of_pose):
    """Children first, so that of a bone all is known when its turn comes; `of_chain` begins with the bones' own."""
    back, own = np.empty(3), np.empty((3, 3))
    for j in range(len(joints) - 1, -1, -1):
        parent = max(parents[j] + 1, 0)
        of_bone, of_above = of_chain[j + 1], of_chain[parent]
        for i in range(3):
            of_above[i, 3] += of_bone[i, 3]
            for k in range(3):
                pull = of_bone[i, 3] * joints[j, k]
                of_above[i, k] += pull
                own[i, k] = of_bone[i, k] - pull
        of_pose[j, 0], of_pose[j, 1], of_pose[j, 2] = rotation_gradient(chain[parent], own, rotations[j])
        for k in range(3):
            back[k] = -rotations[j, k]
        turned(own, back, own)
        for i in range(3):
            for k in range(3):
                of_above[i, k] += own[i, k]
