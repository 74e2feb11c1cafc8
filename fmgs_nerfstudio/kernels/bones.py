# pyright: standard
"""Rigid motions of a tree of joints: `BodyModel.bones`, whose plain form is hundreds of operations. Compiled for the
CPU, and in few launches for a card."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.linalg import cross
from torch.nn import functional

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.kernels.closed_forms import rodrigues, twisted
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


# --- on a card --------------------------------------------------------------------------------------------------------


def bones_in_few(
    joints: Float[Tensor, "J 3"], pose: Float[Tensor, "B P"], transl: Float[Tensor, "B 3"], parents: Sequence[int]
) -> Float[Tensor, "B J 4 4"]:
    """`bones_on_cpu` in plain torch, for any device and dtype and for many poses."""
    return _BonesInFew.apply(joints, pose.unflatten(1, (-1, 1, 3)), transl, tuple(parents))


class _BonesInFew(torch.autograd.Function):
    """A bone is the product of its ancestors' turns, each about its joint J in the T-pose: R x + J - R J."""

    @staticmethod
    def forward(ctx: Any, joints: Tensor, r: Tensor, transl: Tensor, parents: tuple[int, ...]) -> Tensor:
        ctx.tree = tree = _tree(parents, r.dtype, r.device)
        a, b, c = rodrigues(r)
        turns = twisted(tree.stays[None, -1:, :3, :3], r, a, b)
        places = torch.addcmul(joints, tree.root, transl[:, None])  # with the root, all are moved
        shifts = torch.baddbmm(*map(_each, (places[..., None], turns, _columns(joints, r))), alpha=-1)
        own = torch.cat([turns, shifts.view(*turns.shape[:3], 1)], dim=-1)
        bones = functional.pad(own, (0, 0, 0, 1, 0, 1)) + tree.stays
        for above in tree.above:
            bones = torch.bmm(_each(bones.index_select(1, above)), _each(bones)).view(bones.shape)
        bones = bones[:, :-1]
        ctx.save_for_backward(joints, r, b, c, bones)
        return bones

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_statics(ctx, *grad_outputs), None


@once_differentiable
def _statics(ctx: Any, grad_out: Float[Tensor, "B J 4 4"]) -> tuple[Tensor, Tensor]:
    """What pulls at a bone is a torque and a force. A joint feels those of all that is below it; and its rotation
    vector the torque about the joint, in the bone's own frame, by the right Jacobian."""
    joints, r, b, c, bones = ctx.saved_tensors
    bones, pull = bones[:, :, :3], grad_out[:, :, :3]
    pulls = torch.cat([cross(bones, pull, dim=2).sum(-1), pull[..., 3]], dim=-1)
    torque, force = torch.bmm(ctx.tree.below.expand(len(r), -1, -1), pulls).split(3, dim=-1)
    rotations, shifts = _each(bones).split([3, 1], dim=-1)
    places = torch.baddbmm(shifts, rotations, _each(_columns(joints, r))).view(force.shape)
    own = torch.bmm(_each((torque - cross(places, force))[:, :, None]), rotations).view(r.shape)
    return twisted(own, -r, b, c), force[:, 0]


class _Tree(NamedTuple):
    """A tree of J joints on a device."""

    above: list[Int[Tensor, "J+1"]]
    """Per power of two, of every joint and of none: the joint so many above it, or none."""
    below: Float[Tensor, "J J"]
    """1 where the column's joint is the row's or below it."""
    root: Float[Tensor, "J 1"]
    """1 at the root."""
    stays: Float[Tensor, "J+1 4 4"]
    """The last rows of motions, and the whole of none's."""


@cache
def _tree(parents: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> _Tree:
    none = len(parents)
    above: list[tuple[int, ...]] = [(*(parent if parent >= 0 else none for parent in parents), none)]
    while any(joint != none for joint in above[-1]):
        above.append(tuple(above[-1][joint] for joint in above[-1]))
    below, stays = torch.eye(none), torch.diag(torch.tensor([0.0, 0, 0, 1])).repeat(none + 1, 1, 1)
    for joint in range(none - 1, 0, -1):
        below[parents[joint]] += below[joint]
    stays[none] = torch.eye(4)
    root = torch.tensor([[float(parent < 0)] for parent in parents])
    with torch.inference_mode(False):  # kept for a training step that comes after
        ancestors = [torch.tensor(joints, device=device) for joints in above[:-1]]
        return _Tree(ancestors, *(x.to(device, dtype) for x in (below, root, stays)))


def _columns(joints: Float[Tensor, "J 3"], r: Float[Tensor, "B J 1 3"]) -> Float[Tensor, "B J 3 1"]:
    return joints.expand(len(r), -1, -1)[..., None]


def _each(x: Float[Tensor, "B J R C"]) -> Float[Tensor, "BJ R C"]:
    return x.flatten(0, 1)
