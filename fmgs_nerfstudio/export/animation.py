"""A trained avatar performs a motion: pictures, one per pose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.evaluation.pictures import Image, picture
from fmgs_nerfstudio.evaluation.runs import RunError
from fmgs_nerfstudio.files import atomic_path, write_image
from fmgs_nerfstudio.frozen import FrozenAvatar
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.motion.motion import Motion
from fmgs_nerfstudio.rendering import Camera

OutputName = Literal["rgb", "depth", "normal", "surface_normal", "semantics", "accumulation"]
_MODALITY: dict[OutputName, str] = {
    "rgb": "colour",
    "accumulation": "colour",
    "depth": "depth",
    "surface_normal": "depth",
    "normal": "normal",
    "semantics": "semantics",
}


def refuse_untaught(model: FMGSModel, outputs: Sequence[OutputName]) -> None:
    """Raises a RunError where training did not teach what is asked for."""
    if untaught := [output for output in outputs if _MODALITY[output] in model.taught.hidden]:
        raise RunError(
            f"--outputs {' '.join(untaught)}: this avatar was trained without what teaches it (no prior maps, or "
            "weights of 0). Ask for rgb, depth or surface_normal; or make prior maps with fmgs-priors and train again"
        )


def perform(
    avatar: FrozenAvatar, motion: Motion, cameras: Sequence[Camera], outputs: Sequence[OutputName]
) -> Iterator[Image]:
    """The outputs side by side, for every pose of a motion in the capture's world; only what they need is rendered."""
    device = avatar.model.device
    poses, transl = (torch.from_numpy(value).float().to(device) for value in (motion.poses, motion.transl))
    names = {_MODALITY[output] for output in outputs}
    depths = _depths(poses, transl, cameras, avatar)
    for pose, at, camera in zip(poses, transl, cameras, strict=True):
        on_device = Camera(camera.viewmat.to(device), camera.K.to(device), camera.width, camera.height)
        maps = avatar.render(avatar.pose(pose, at), on_device, names)
        yield np.hstack([picture(output, maps, depths) for output in outputs])


def _depths(
    poses: Float[Tensor, "T 72"], transl: Float[Tensor, "T 3"], cameras: Sequence[Camera], avatar: FrozenAvatar
) -> tuple[float, float]:
    """Nearest and farthest depth of the person, metres: the joints' and a hand's breadth."""
    canonical = avatar.model.canonical
    bones = canonical.body.bones(canonical.joints, poses, transl)
    joints = (bones[..., :3, :3] @ canonical.joints[..., None])[..., 0] + bones[..., :3, 3]
    view = torch.stack([camera.viewmat for camera in cameras]).to(joints)
    z = torch.einsum("tj,tkj->tk", view[:, 2, :3], joints) + view[:, 2, 3:]
    return float(z.min()) - 0.15, float(z.max()) + 0.15


def write_pngs(frames: Iterator[Image], folder: Path) -> Iterator[Image]:
    """Write `000000.png` ... into a folder while the frames pass through."""
    for i, frame in enumerate(frames):
        with atomic_path(folder / f"{i:06d}.png") as path:
            write_image(path, frame[..., ::-1])
        yield frame
