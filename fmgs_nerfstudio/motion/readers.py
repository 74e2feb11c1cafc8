"""Motion files as `Motion`: AMASS (SMPL-H, SMPL-X), AIST++, PeopleSnapshot and InstantAvatar poses, any capture.

Files are told apart by their arrays' names and sizes, so that an `.npz` of one's own with the same names opens too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.parser import open_capture
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.gate import NUMBERS
from fmgs_nerfstudio.maps.maps import PriorsError
from fmgs_nerfstudio.motion.motion import Motion, MotionError, find_metres, find_up
from fmgs_nerfstudio.unpickle import read_npz, read_pickle

Up = Literal["auto", "x", "y", "z", "-x", "-y", "-z"]
Unit = Literal["auto", "m", "cm", "mm"]
_METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_DEFAULT_FPS = 30.0

# The last two of SMPL's joints are hands; SMPL-H and SMPL-X have 15 of each, of which the index finger's first stands
# for the hand. SMPL-X has jaw and eyes before them.
_SMPLH_JOINTS = (*range(22), 22, 37)
_SMPLX_JOINTS = (*range(22), 25, 40)
_LAYOUTS = {24: tuple(range(24)), 52: _SMPLH_JOINTS, 55: _SMPLX_JOINTS}

_POSES = ("poses", "thetas", "smpl_poses")
_ROOT, _BODY = ("root_orient", "global_orient"), ("pose_body", "body_pose")
_TRANSL = ("trans", "transl", "smpl_trans")
_FPS = ("mocap_framerate", "mocap_frame_rate", "fps")
FORMATS = """  AMASS .npz: poses [T, 156] or [T, 165] (or root_orient and pose_body), trans, mocap_framerate
  AIST++ .pkl: smpl_poses [T, 72], smpl_trans, smpl_scaling
  PeopleSnapshot / InstantAvatar .npz: thetas [T, 72], or global_orient [T, 3] and body_pose [T, 69]; transl
  the folder of a capture that fmgs-avatar trains on"""


@dataclass(frozen=True)
class Reading:
    """How to read what a motion file does not say, or says wrongly."""

    up: Up = "auto"
    """Upward axis of the motion's world. auto: from the direction of the heads, else the format's."""
    unit: Unit = "auto"
    """Unit of translations. auto: the format's, else guessed from their size."""
    fps: float | None = None
    """Poses per second. Default: the file's or the format's rate, or 30 where neither says."""


def read_motion(path: Path, reading: Reading | None = None) -> Motion:
    """The motion in a file or in a capture's folder.

    Raises:
        MotionError: nothing there, no known format, or values that are no motion.
    """
    reading = reading or Reading()
    if path.is_dir():
        try:
            capture = open_capture(path.resolve(), "auto", None, None)
        except (CaptureError, PriorsError, FileNotFoundError) as error:
            raise MotionError(str(error)) from error
        return of_capture(capture, reading.fps)
    if not path.is_file():
        raise MotionError(f"--motion {path} does not exist. Known are:\n{FORMATS}")
    return _of_arrays(_arrays(path), path, reading)


def of_capture(capture: Capture, fps: float | None = None) -> Motion:
    """The poses of a capture, in order of time."""
    return Motion(capture.poses, capture.transl, fps or _DEFAULT_FPS, capture.up, capture.root.name)


def _arrays(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".npz":
            return read_npz(path, (*_POSES, *_ROOT, *_BODY, *_TRANSL, *_FPS, "pose_hand"))
        content = read_pickle(path) if path.suffix in (".pkl", ".pickle") else None
    except ValueError as error:
        raise MotionError(str(error)) from error
    if isinstance(content, dict):
        return content
    raise MotionError(f"{path} is no motion file. Known are:\n{FORMATS}")


def _of_arrays(arrays: Mapping[str, Any], path: Path, reading: Reading) -> Motion:
    def first(names: tuple[str, ...]) -> Array | None:
        if (name := next((name for name in names if name in arrays), None)) is None:
            return None
        try:
            if np.size(arrays[name]) > NUMBERS:
                raise ValueError(f"{np.size(arrays[name]):,} of them; expected at most {NUMBERS:,}")
            values = np.atleast_1d(np.asarray(arrays[name], np.float64))
        except (TypeError, ValueError, OverflowError) as error:
            raise MotionError(f"{path}: {name} holds something else than numbers: {error}") from error
        if values.size == 0:
            raise MotionError(f"{path}: {name} is empty; expected one or more poses")
        return values

    poses = _poses(first, path)
    transl = first(_TRANSL)
    transl = np.zeros((len(poses), 3)) if transl is None else transl
    if transl.shape != (len(poses), 3):
        raise MotionError(
            f"{path}: {len(poses)} poses need translations of shape ({len(poses)}, 3), not {transl.shape}"
        )
    if not (np.isfinite(poses).all() and np.isfinite(transl).all()):
        raise MotionError(f"{path}: expected finite poses and translations")
    metres, up, fps = find_metres(transl), None, _DEFAULT_FPS
    if "smpl_scaling" in arrays:  # AIST++: centimetres, by the size of the dancer; y up
        scaling = first(("smpl_scaling",))
        assert scaling is not None
        if not scaling.flat[0] > 0:
            raise MotionError(f"{path}: smpl_scaling is {scaling.flat[0]}; expected a finite number above 0")
        metres, up, fps = 1 / float(scaling.flat[0]), (0.0, 1.0, 0.0), 60.0
    rate = first(_FPS)
    if rate is not None:
        fps = float(rate.ravel()[0])
    if any(name.startswith("mocap") for name in arrays):  # AMASS
        metres, up = 1.0, (0.0, 0.0, 1.0)
    up = _axis(reading.up) or find_up(poses) or up
    if up is None:
        raise MotionError(f"{path}: people in it stand along no axis of its world; name the upward one (--reading.up)")
    if not (fps := reading.fps or fps) > 0:
        raise MotionError(f"{path}: {fps} poses per second; name the rate (--reading.fps)")
    return Motion(poses, transl * _METRES.get(reading.unit, metres), fps, up, path.stem)


def _poses(first: Callable[[tuple[str, ...]], Array | None], path: Path) -> Float[Array, "T 72"]:
    poses = first(_POSES)
    if poses is None:
        parts = [first(names) for names in (_ROOT, _BODY, ("pose_hand",))]
        if parts[0] is None or parts[1] is None:
            raise MotionError(f"{path} holds no motion. Known are:\n{FORMATS}")
        root, body, hands = (None if part is None else part.reshape(len(part), -1) for part in parts)
        assert root is not None
        assert body is not None
        if any(len(part) != len(root) for part in (body, hands) if part is not None):
            raise MotionError(f"{path}: expected as many rows of body and hand poses as the {len(root)} of the root's")
        body = np.concatenate([root, body], axis=1)
        if body.shape[1] != 66:
            poses = body
        elif hands is None:
            poses = np.pad(body, ((0, 0), (0, 6)))  # SMPL-X's body has no hands
        else:
            poses = np.concatenate([body, hands], axis=1)  # SMPL-H's order
    poses = poses.reshape(len(poses), -1)
    if (joints := _LAYOUTS.get(poses.shape[1] // 3)) is None or poses.shape[1] % 3:
        raise MotionError(
            f"{path}: poses of {poses.shape[1]} numbers; expected 72 (SMPL), 156 (SMPL-H) or 165 (SMPL-X)"
        )
    return poses.reshape(len(poses), -1, 3)[:, joints].reshape(len(poses), 72)


def _axis(up: Up) -> tuple[float, float, float] | None:
    if up == "auto":
        return None
    x, y, z = (float(up[-1] == name) * (-1.0 if up.startswith("-") else 1.0) for name in "xyz")
    return x, y, z
