"""How fast a trained avatar is drawn."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from fmgs_dataparsers.capture import Frame

from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.motion.frozen import FrozenAvatar
from fmgs_nerfstudio.rendering import Camera


def frames_per_second(model: FMGSModel, frames: Sequence[Frame], count: int = 12) -> float:
    """Frames a second from a pose to an RGB image in memory, at working size, on the model's device.

    What depends on neither pose nor view is computed before; neither metrics nor files are in it. As the FPS of the
    paper's Table 1: a speed of showing a trained avatar. `count` of the `frames`, spread over all, after a first one
    that is not counted.
    """
    capture, avatar = model.kwargs["metadata"]["capture"], FrozenAvatar(model)
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]

    def draw(frame: Frame) -> None:
        K, width, height = capture.intrinsics(frame.camera)
        viewmat = torch.from_numpy(capture.cameras[frame.camera].world_to_camera).float().to(model.device)
        camera = Camera(viewmat, torch.from_numpy(K).float().to(model.device), width, height)
        avatar.render(avatar.pose(*model.poses(frame.pose)), camera, ["colour"])
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    draw(chosen[0])
    start = time.perf_counter()
    for frame in chosen:
        draw(frame)
    return count / (time.perf_counter() - start)
