"""Held-out poses fitted to their own test images, with the avatar frozen: a score without the noise of the fits."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn.functional import l1_loss

from fmgs_nerfstudio.data import Batch, EvalLoader, crop_to_person
from fmgs_nerfstudio.kernels.precision import full_precision
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.rendering import Camera

# First steps, falling to 0: a fit is off by degrees and centimetres, and within 50 steps Adam walks about 25 of them.
_POSE_RATE, _TRANSL_RATE = 5e-3, 2e-3
_MARGIN = 0.25  # of the person's box, as in training: the rest is background


def refined_views(model: FMGSModel, loader: EvalLoader, steps: int) -> EvalLoader:
    """The images of `loader`, with cameras that carry the pose fitted to all of its images (`refine_pose`).

    The model and its table of poses stay as they are.
    """
    cameras = deepcopy(loader.cameras)
    assert cameras.metadata is not None
    pose_id = cameras.metadata["pose_id"].flatten().tolist()
    pose, transl = (torch.full((len(pose_id), size), torch.nan, device=model.device) for size in (72, 3))
    for moment in sorted({pose_id[index] for index in loader.indices}):
        images = [index for index in loader.indices if pose_id[index] == moment]
        views = list(EvalLoader(loader.cameras, loader.frames, images))
        if views:
            pose[images], transl[images] = refine_pose(model, views, steps)
    cameras.metadata |= {"pose": pose, "transl": transl}
    return EvalLoader(cameras, loader.frames, loader.indices)


@torch.enable_grad()
def refine_pose(
    model: FMGSModel, views: Sequence[tuple[Cameras, Batch]], steps: int
) -> tuple[Float[Tensor, "72"], Float[Tensor, "3"]]:
    """Pose (radians) and translation (metres) in which the avatar, as it is, looks most like `views` of one moment.

    From the capture's fit, Adam on the L1 distance of colours and mask, one view a step, in turn. Nothing is random.
    """
    pose, transl = (fit.detach().clone().requires_grad_() for fit in model.poses(model.pose_id(views[0][0])))
    groups = [{"params": [pose], "lr": _POSE_RATE}, {"params": [transl], "lr": _TRANSL_RATE}]
    optimizer = torch.optim.Adam(groups)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    cropped = [crop_to_person(camera, batch, _MARGIN) for camera, batch in views]
    with _frozen(model), full_precision():
        for step in range(steps):
            camera, batch = cropped[step % len(cropped)]
            view = Camera.from_nerfstudio(camera).to(model.device)
            avatar = model.pose_avatar_at(pose, transl)
            maps = model.render(avatar, model.shade(avatar, view.centre), view, ["colour"])
            image, mask = batch["image"].to(model.device), batch["mask"].to(model.device)
            loss = l1_loss(maps["rgb"], image) + l1_loss(maps["accumulation"], mask)
            pose.grad, transl.grad = torch.autograd.grad(loss, (pose, transl))
            optimizer.step()
            decay.step()
    return pose.detach(), transl.detach()


@contextmanager
def _frozen(model: FMGSModel) -> Generator[None]:
    """As in evaluation, and without gradients of its own."""
    training, trained = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval()
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        model.train(training)
