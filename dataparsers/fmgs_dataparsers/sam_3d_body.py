"""SAM 3D Body's keypoints, a file for each image beside a video or images: `sam_3d_body/000012.npz`.

Its body is MHR, whose rig we have not: SMPL is fitted to the 3D keypoints (`keypoints`). A file holds what
`process_one_image` returns, of everybody in the image: `pred_keypoints_3d` [P, 70, 3] in metres, `pred_cam_t` [P, 3],
which is added to them, `focal_length` [P] in pixels and `bbox` [P, 4]. Axes are the camera's (x right, y down, z
forward), and the camera looks at the middle of the image. It does not track: the largest person of each image counts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from fmgs_dataparsers.assemble import ReadOptions, monocular
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.conventions import Fit, PixelCentres, checked
from fmgs_dataparsers.files import entries, natural, read_npz, stack
from fmgs_dataparsers.keypoints import fit_points
from fmgs_dataparsers.own_video import centred_camera, masks_beside, rows_by_frame
from fmgs_dataparsers.video import source_frames
from fmgs_nerfstudio.arrays import Array

NAME = "sam-3d-body"
SIGNATURE = "sam_3d_body/*.npz beside a video or images/"
PIXEL_CENTRES: PixelCentres = "half"
"""Assumed: it looks at (width / 2, height / 2), the middle if centres are at +0.5."""
_FOLDERS = ("sam_3d_body", "sam3d_body", "sam3d")
_KEYPOINTS = 70
# Of its 70 keypoints (metadata/mhr70.py), those that lie near a joint of SMPL's.
_POINTS = {
    "left_hip": 9, "right_hip": 10, "left_knee": 11, "right_knee": 12, "left_ankle": 13, "right_ankle": 14,
    "left_shoulder": 5, "right_shoulder": 6, "left_elbow": 7, "right_elbow": 8, "left_wrist": 62, "right_wrist": 41,
    "neck": 69, "left_hand": 53, "right_hand": 32,
}  # fmt: skip
_TOES = {"left_foot": (13, 15, 16), "right_foot": (14, 18, 19)}
_TO_THE_TIPS = 0.65  # share of the way from the ankle to the tips of the toes at which SMPL's foot bends
_LEFT_EAR, _RIGHT_EAR = 3, 4


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    return _folder(root) is not None


def _folder(root: Path) -> Path | None:
    return next((root / name for name in _FOLDERS if any((root / name).glob("*.npz"))), None)


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    folder = _folder(root)
    assert folder is not None
    body, images = options.body(root), source_frames(root)
    files = {file.name: file for file in sorted(folder.glob("*.npz"), key=natural)}
    seen: dict[int, tuple[Array, float]] = {}
    broken: dict[int, CaptureError] = {}
    for i, name in rows_by_frame(folder, list(files), images).items():
        try:
            if (person := _largest(files[name])) is not None:
                seen[i] = person
        except CaptureError as error:
            broken[i] = error
    if not seen:
        raise next(iter(broken.values()), CaptureError(f"{folder}: its files hold nobody"))
    focal = float(np.median([own for _, own in seen.values()]))
    clip = fit_points(body, *_named(seen, focal))
    row = {i: k for k, i in enumerate(sorted(seen))}

    def fit(i: int) -> Fit:
        if i in broken:
            raise broken[i]
        if i not in row:
            raise CaptureError(f"{folder} has no person in frame {i} ({images[i].name})")
        return checked(folder, clip.pose[row[i]], clip.pelvis[row[i]], clip.betas)

    return monocular(
        root, NAME, options,
        protocol="last-fifth", images=images, mask=masks_beside(root, images),
        calibration=centred_camera(images, lambda width, height: focal), fit=fit, body=body,
    )  # fmt: skip


def _largest(file: Path) -> tuple[Float[Array, "70 3"], float] | None:
    """Keypoints in the camera's axes, metres, and the focal length that they were found with, pixels."""
    points, shift, focal, box = entries(file, read_npz(file), "pred_keypoints_3d", "pred_cam_t", "focal_length", "bbox")
    if not np.size(points):
        return None  # nobody was found there
    one = np.ndim(points) == 2
    points = stack(file, "pred_keypoints_3d", [points] if one else points, _KEYPOINTS, 3)
    n = [len(points)]
    shift = stack(file, "pred_cam_t", [shift] if one else shift, 3, counts=n)
    focal = stack(file, "focal_length", np.reshape(focal, -1), counts=n)
    box = stack(file, "bbox", [box] if one else box, 4, counts=n)
    largest = int(np.argmax((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])))
    found, own = points[largest] + shift[largest], float(focal[largest])
    if not (np.isfinite(found).all() and np.isfinite(box).all() and 0 < own < np.inf):
        raise CaptureError(f"{file}: its largest person is not finite")
    return found, own


def _named(
    seen: dict[int, tuple[Array, float]], focal: float
) -> tuple[dict[str, Float[Array, "F 3"]], Float[Array, "F"], Float[Array, "F 3"]]:
    """Points by joint, numbers of the frames, and the line across the head; all as one camera sees them.

    Each image may have a focal length of its own; the same picture by another one is of a person farther away.
    """
    frames = sorted(seen)
    points = np.stack([seen[i][0] for i in frames])
    middle = points[:, [9, 10], 2].mean(1)
    away = np.array([focal / seen[i][1] for i in frames])
    points[..., 2] += (middle * (away - 1))[:, None]
    named = {joint: points[:, k] for joint, k in _POINTS.items()}
    for joint, (ankle, *tips) in _TOES.items():
        named[joint] = points[:, ankle] + _TO_THE_TIPS * (points[:, tips].mean(1) - points[:, ankle])
    return named, np.array(frames, float), points[:, _LEFT_EAR] - points[:, _RIGHT_EAR]
