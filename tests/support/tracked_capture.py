"""A capture as `fmgs-track` leaves it, made of the demo's exact truth."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from fmgs_dataparsers.capture import Capture, Uncertainty
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.track.capture import write_capture
from fmgs_nerfstudio.track.records import Fits, Sightings

SURE = Uncertainty(rotation=0.12, position=(0.01, 0.01, 0.03), lean=0.03, distance=0.04, focal=0.01)
_JOINTS = {11: 16, 12: 17, 13: 18, 14: 19, 15: 20, 16: 21, 23: 1, 24: 2, 25: 4, 26: 5, 27: 7, 28: 8, 31: 10, 32: 11}
"""BlazePose's landmarks, and the joints of SMPL nearest to them."""


def tracked_capture(demo: Capture, root: Path) -> tuple[Fits, Sightings]:
    """The training frames of a demo capture (z up), written to `root`; landmarks are SMPL's joints, others unseen."""
    frames = sorted(demo.splits["train"], key=lambda frame: frame.pose_id)
    camera = demo.cameras[frames[0].camera]
    for frame in frames:
        for name, source in (("images", frame.image), ("masks", frame.mask.file)):
            target = root / name / f"{frame.pose_id:06d}{source.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    body = BodyModel.load(demo.body_model)
    pelvis = body.shape(torch.from_numpy(demo.betas).float())[1][0].double().numpy()
    turn = Rotation.from_euler("x", -90, degrees=True)  # z up -> y up
    rows = [frame.pose_id for frame in frames]
    pose, transl = demo.poses[rows].copy(), turn.apply(demo.transl[rows] + pelvis) - pelvis
    pose[:, :3] = (turn * Rotation.from_rotvec(pose[:, :3])).as_rotvec()
    extrinsic = camera.world_to_camera.copy()
    extrinsic[:3, :3] = extrinsic[:3, :3] @ turn.as_matrix().T
    fits = Fits(demo.betas, pose, transl, camera.K, extrinsic, SURE)
    landmarks, score = np.zeros((len(frames), 33, 2)), np.zeros((len(frames), 33))
    for i, (one, place) in enumerate(zip(pose, transl, strict=True)):
        values = (torch.from_numpy(value).float() for value in (demo.betas, one, place))
        joints = body.J_regressor.double().numpy() @ body.vertices(*values).double().numpy()
        local = joints @ extrinsic[:3, :3].T + extrinsic[:3, 3]
        pixels = (local / local[:, 2:]) @ camera.K[:2].T
        landmarks[i, list(_JOINTS)], score[i, list(_JOINTS)] = pixels[list(_JOINTS.values())], 1
    time, size = np.array(rows) / 25, (camera.width, camera.height)
    nothing = np.zeros((len(frames), 33))
    sightings = Sightings(np.array(rows), time, landmarks, nothing, np.zeros((len(frames), 33, 3)), score, size)
    write_capture(root, fits, [f"{row:06d}" for row in rows], time, size, demo.body_model)
    return fits, sightings
