"""GEM's results beside a video: `smpl_params.pt` of GEM-SMPL, or `gem_joints.npz`, made of GEM-X's `hpe_results.pt`.

GEM-SMPL writes SMPL-X as GVHMR does, and is read like that. GEM-X's body is SOMA, whose rig we have not: where GEM-X is
installed, its own layer makes joints of its result (docs/trackers.md has the lines), `joints` [F, 77, 3] in metres in
the camera's axes (x right, y down, z forward) and `K` [3, 3], and SMPL is fitted to them (`keypoints`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fmgs_dataparsers import gvhmr
from fmgs_dataparsers.assemble import Calibration, ReadOptions, monocular
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.conventions import Fit, PixelCentres, checked
from fmgs_dataparsers.files import array, entries, read_npz, stack
from fmgs_dataparsers.keypoints import fit_points
from fmgs_dataparsers.own_video import masks_beside
from fmgs_dataparsers.video import source_frames

NAME = "gem"
SIGNATURE = "smpl_params.pt or gem_joints.npz beside a video or images/"
PIXEL_CENTRES: PixelCentres = "half"
"""Assumed: it looks at (width / 2, height / 2) (`estimate_K`), the middle if centres are at +0.5."""
_SMPL, _JOINTS = "smpl_params.pt", "gem_joints.npz"
_RAW = ("hpe_results.pt", "preprocess/hpe_results.pt")
_SOMA = 77
# Of SOMA's 77 joints, those that lie near one of SMPL's: LeftLeg is the left hip, LeftShin the left knee, and so on.
_POINTS = {
    "pelvis": 0, "neck": 4, "head": 6, "left_collar": 11, "left_shoulder": 12, "left_elbow": 13, "left_wrist": 14,
    "left_hand": 24, "right_collar": 39, "right_shoulder": 40, "right_elbow": 41, "right_wrist": 42, "right_hand": 52,
    "left_hip": 67, "left_knee": 68, "left_ankle": 69, "left_foot": 70, "right_hip": 72, "right_knee": 73,
    "right_ankle": 74, "right_foot": 75,
}  # fmt: skip
_LEFT_EYE, _RIGHT_EYE = 9, 10


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    return any((root / name).is_file() for name in (_SMPL, _JOINTS, *_RAW))


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    if (root / _SMPL).is_file():
        return gvhmr.read_smplx(root, options, NAME, root / _SMPL, "body_params_incam")
    path = root / _JOINTS
    if not path.is_file():
        raw = next(root / name for name in _RAW if (root / name).is_file())
        raise CaptureError(
            f"{raw} poses SOMA, whose rig is not part of this package. Where GEM-X is installed, write its joints to "
            f"{path} with the lines in docs/trackers.md: joints [F, {_SOMA}, 3] in the camera's axes, metres, and K"
        )
    joints, K = entries(path, read_npz(path, ("joints", "K")), "joints", "K")
    joints, K = stack(path, "joints", joints, _SOMA, 3), array(path, "K", K, 3, 3)
    good = np.flatnonzero(np.isfinite(joints).all((1, 2)))
    if not len(good):
        raise CaptureError(f"{path}: no frame's joints are finite; make it again")
    body, images = options.body(root), source_frames(root)
    points = {joint: joints[good, k] for joint, k in _POINTS.items()}
    clip = fit_points(body, points, good.astype(float), joints[good, _LEFT_EYE] - joints[good, _RIGHT_EYE])
    row = {int(frame): k for k, frame in enumerate(good)}

    def fit(i: int) -> Fit:
        if i not in row:
            raise CaptureError(f"{path} has no joints for {images[i].name}")
        return checked(path, clip.pose[row[i]], clip.pelvis[row[i]], clip.betas)

    return monocular(
        root, NAME, options,
        protocol="last-fifth", images=images, mask=masks_beside(root, images),
        calibration=lambda i: Calibration(K, np.eye(4), file=path), fit=fit, body=body,
    )  # fmt: skip
