"""What albedo and light leave to direction and pose: how much the avatar's own colours change, light aside."""

from __future__ import annotations

import numpy as np
import torch
from fmgs_dataparsers.capture import Capture
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.fields.light import Light
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.rendering import Camera, facing_away
from fmgs_nerfstudio.routes import OPEN

_FRAMES = 32
"""Training frames that are looked at, at most, spread over the capture."""


@torch.no_grad()
def colour_rest(model: FMGSModel) -> float:
    """The rest of the colours, rms, of 0..1: what each surfel's colour (Eq. 7, unlit) is from frame to frame beside its
    mean over those training frames in which it faces the camera."""
    capture: Capture = model.kwargs["metadata"]["capture"]
    frames = capture.splits["train"]
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _FRAMES)).round().astype(int))
    seen, total, squares = 0.0, 0.0, 0.0
    for frame in (frames[i] for i in chosen):
        K, width, height = capture.intrinsics(frame.camera)
        viewmat = torch.from_numpy(capture.cameras[frame.camera].world_to_camera).float()
        camera = Camera(viewmat, torch.from_numpy(K).float(), width, height).to(model.device)
        avatar = model.pose_avatar(frame.pose_id)
        posed = avatar.posed.by(OPEN)
        faces = (facing_away(posed.means, posed.tangents, camera) < 0).double()[:, None]
        colour = model.shade(avatar, camera.centre, Light().to(model.device)).double()
        seen, total, squares = seen + faces, total + faces * colour, squares + faces * colour.square()
    return float(rms_about_means(*map(torch.as_tensor, (seen, total, squares))))


def rms_about_means(
    seen: Float[Tensor, "N 1"], total: Float[Tensor, "N 3"], squares: Float[Tensor, "N 3"]
) -> Float[Tensor, ""]:
    """The rms of values about their row's mean, of each row's number of values, their sum and their squares'."""
    about = squares - total.square() / seen.clamp_min(1)
    return (about.clamp_min(0).sum() / (3 * seen.sum()).clamp_min(1)).sqrt()
