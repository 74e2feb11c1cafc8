"""How good an avatar is that was trained on what fmgs-track made of a video of fmgs-demo: the suite `chain`.

The truth's cameras and poses are brought into the tracked capture's world by the camera of the video, which both share.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from benchmark_measure import Json
from benchmark_tracking import CAMERA
from fmgs_dataparsers.capture import Capture, Frame
from fmgs_dataparsers.conventions import BodyFile
from fmgs_dataparsers.parser import open_capture
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.evaluation.runs import open_run
from fmgs_nerfstudio.metrics.image import image_metrics
from fmgs_nerfstudio.model import FMGSModel

_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Shared:
    """The true world and the tracked one, joined at the video's camera."""

    truth: Capture
    tracked: Capture

    @property
    def to_tracked(self) -> Float[Array, "4 4"]:
        """True world -> tracked world."""
        cameras = self.tracked.cameras  # one, or those of the truth itself
        camera = cameras.get(CAMERA) or next(iter(cameras.values()))
        return np.linalg.inv(camera.world_to_camera) @ self.truth.cameras[CAMERA].world_to_camera

    def camera(self, name: str) -> Float[Array, "4 4"]:
        """Tracked world -> a camera of the truth."""
        return self.truth.cameras[name].world_to_camera @ np.linalg.inv(self.to_tracked)

    def exact(self, frame: Frame, pelvis: Float[Array, "3"]) -> tuple[Float[Array, "72"], Float[Array, "3"]]:
        """The true pose and translation in the tracked world, for a body whose rest pelvis is there."""
        move, body = self.to_tracked, BodyFile(self.truth.body_model)
        pose = self.truth.poses[frame.pose_id].copy()
        pose[:3] = (Rotation.from_matrix(move[:3, :3]) * Rotation.from_rotvec(pose[:3])).as_rotvec()
        true = self.truth.transl[frame.pose_id] + body.joints(self.truth.betas)[0]
        return pose, move[:3, :3] @ true + move[:3, 3] - pelvis

    def pose_id(self, frame: Frame) -> int | None:
        """The row of the tracked poses for a frame of the video, if it was not left out."""
        rows = {int(each.stem): each.pose_id for frames in self.tracked.splits.values() for each in frames}
        return rows.get(int(frame.stem))


def avatar_errors(run: Path, truth: Path, downscale: int = 2) -> Json:
    """Means of psnr (dB, behind the person black) and mask_iou over the truth's held-out images.

    `views`: other cameras of trained frames, the body where tracking has it; `views_in_place`: its pelvis where it is
    in truth; `poses`: other poses, as they are in truth. `left_out`: frames that were not tracked.
    """
    opened = open_run(run)
    model = opened.model.eval()
    shared = Shared(open_capture(truth, downscale=downscale), model.kwargs["metadata"]["capture"])
    pelvis = model.canonical.joints[0].numpy(force=True).astype(float)
    found: dict[str, list[dict[str, float]]] = {"views": [], "views_in_place": [], "poses": []}
    left_out = 0
    for frame in shared.truth.splits["novel_view"]:
        if (row := shared.pose_id(frame)) is None:
            left_out += 1
            continue
        pose, transl = (value.numpy(force=True).astype(float) for value in model.pose_now(row))
        found["views"].append(_measured(model, shared, frame, pose, transl))
        found["views_in_place"].append(_measured(model, shared, frame, pose, shared.exact(frame, pelvis)[1]))
    for frame in shared.truth.splits["novel_pose"]:
        found["poses"].append(_measured(model, shared, frame, *shared.exact(frame, pelvis)))
    means: Json = {
        f"{name}_{metric}": fmean(each[metric] for each in members)
        for name, members in found.items()
        for metric in (members[0] if members else ())
    }
    return means | {"left_out": left_out}


@torch.no_grad()
def _measured(
    model: FMGSModel, shared: Shared, frame: Frame, pose: Float[Array, "72"], transl: Float[Array, "3"]
) -> dict[str, float]:
    K, width, height = shared.truth.intrinsics(frame.camera)
    to_world = np.linalg.inv(shared.camera(frame.camera)) @ _FLIP_YZ
    body = {"pose": pose, "transl": transl}
    camera = Cameras(
        torch.from_numpy(to_world[None, :3]).float(), *(float(value) for value in (K[0, 0], K[1, 1], K[0, 2], K[1, 2])),
        width=width, height=height,
        metadata={"pose_id": torch.zeros(1, 1)} | {k: torch.from_numpy(v)[None].float() for k, v in body.items()},
    )  # fmt: skip
    maps = model.get_outputs_for_camera(camera)
    background = model.kwargs["metadata"]["background"]
    mask = torch.from_numpy(shared.truth.truth(frame)["mask"])[..., None]
    image = torch.from_numpy(shared.truth.image(frame)).float() / 255
    batch = {"image": image * mask + torch.tensor(background) * (1 - mask), "mask": mask}
    raw = getattr(maps, "maps", maps)
    measured = image_metrics(raw, batch, background=background)
    return {"psnr": measured["psnr"], "mask_iou": measured["mask_iou"]}
