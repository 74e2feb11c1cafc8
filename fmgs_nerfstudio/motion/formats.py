"""What a motion file says, by its format: poses, places, and, where the format fixes them, axes, unit and rate.

Files are told apart by their arrays' names and sizes, so that a file of one's own with the same names is read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.motion.motion import MotionError

KNOWN = """\
  AMASS .npz, MoSh++ .pkl: poses or fullpose [T, 156] (or 66, 165; or root_orient, pose_body), trans, mocap_framerate
  AIST++ .pkl: smpl_poses [T, 72], smpl_trans, smpl_scaling;  EDGE .pkl: smpl_poses, smpl_trans, full_pose
  WHAM wham_output.pkl;  GVHMR hmr4d_results.pt;  TRAM hps_track_*.npy;  MDM *_smpl_params.npy
  PeopleSnapshot / InstantAvatar .npz: thetas [T, 72], or global_orient [T, 3] and body_pose [T, 69]; transl
  the folder of a capture that fmgs-avatar trains on"""

# The last two of SMPL's joints are hands; SMPL-H and SMPL-X have 15 of each, of which the index finger's first stands
# for the hand. SMPL-X has jaw and eyes before them. 22 joints are a body without hands.
_SMPLH_JOINTS = (*range(22), 22, 37)
_SMPLX_JOINTS = (*range(22), 25, 40)
_LAYOUTS = {22: tuple(range(22)), 24: tuple(range(24)), 52: _SMPLH_JOINTS, 55: _SMPLX_JOINTS}

_POSES = ("poses", "fullpose", "thetas", "smpl_poses")
_ROOT, _BODY = ("root_orient", "global_orient"), ("pose_body", "body_pose")
_TRANSL = ("trans", "transl", "smpl_trans")
_FPS = ("mocap_framerate", "mocap_frame_rate", "fps")
KEYS = (*_POSES, *_ROOT, *_BODY, *_TRANSL, *_FPS, "pose_hand", "smpl_scaling", "full_pose")
"""Arrays that an `.npz` is asked for."""
Y_UP, Z_UP = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
CAMERA_UP = (0.0, -1.0, 0.0)
"""OpenCV's cameras have y down."""


@dataclass(frozen=True, eq=False)
class Found:
    """Poses and what is known about them; None: neither file nor format says."""

    format: str
    poses: Float[Array, "T 72"]
    transl: Float[Array, "T 3"]
    metres: float | None = None
    """Metres per unit of `transl`."""
    up: tuple[float, float, float] | None = None
    fps: float | None = None


def of_content(path: Path, content: Any) -> Found:
    """The motion in what was read from `path`.

    Raises:
        MotionError: it is of no known format, or its arrays are not what the format says.
    """
    if isinstance(content, np.ndarray) and content.dtype != object:
        content = {"poses": content}
    if not isinstance(content, Mapping) or not content:
        raise MotionError(f"{path} is no motion file. Known are:\n{KNOWN}")
    if "smpl_params_global" in content or "smpl_params_incam" in content:
        return _gvhmr(path, content)
    if "pred_rotmat" in content and "pred_trans" in content:
        return _tram(path, content)
    if "thetas" in content and "root_translation" in content:
        return _mdm(path, content)
    if "motion" in content and not any(name in content for name in _POSES):
        raise MotionError(
            f"{path} holds places of joints, from which a pose does not follow; let MDM fit SMPL to them "
            "(python -m visualize.render_mesh), and give the *_smpl_params.npy that it writes"
        )
    tracks = [track for track in content.values() if isinstance(track, Mapping)]
    if len(tracks) == len(content):
        return _wham(path, tracks)
    return _named(path, content)


def _wham(path: Path, tracks: list[Mapping[str, Any]]) -> Found:
    """Of several people, the one seen for the longest. Its world has y up, and metres."""
    tracks = [track for track in tracks if "pose" in track or "pose_world" in track]
    if not tracks:
        raise MotionError(
            f"{path} holds no motion by itself; if a tracker wrote it beside a video, give their folder. "
            f"Known are:\n{KNOWN}"
        )
    track = max(tracks, key=lambda track: np.shape(track.get("pose_world", track.get("pose"))))
    world = "pose_world" in track and "trans_world" in track
    names = ("pose_world", "trans_world") if world else ("pose", "trans")
    poses, transl = (_array(path, track, name) for name in names)
    return _checked(path, "WHAM", poses, transl, 1.0, Y_UP if world else CAMERA_UP)


def _gvhmr(path: Path, content: Mapping[str, Any]) -> Found:
    """SMPL-X, in a world with y up or else in the camera's; the video was brought to 30 frames a second."""
    name = next(name for name in ("smpl_params_global", "smpl_params_incam") if name in content)
    params = content[name]
    if not isinstance(params, Mapping):
        raise MotionError(f"{path}: expected {name} as a dictionary of arrays")
    orient, body = (_array(path, params, key) for key in ("global_orient", "body_pose"))
    transl = _array(path, params, "transl")
    poses = np.concatenate([orient.reshape(len(orient), -1), _alike(path, body, len(orient))], axis=1)
    return _checked(path, "GVHMR", poses, transl, 1.0, Y_UP if name.endswith("global") else CAMERA_UP, 30.0)


def _tram(path: Path, content: Mapping[str, Any]) -> Found:
    """Matrices, in the axes of the camera."""
    return _checked(
        path, "TRAM, in the camera's axes", _array(path, content, "pred_rotmat"), _array(path, content, "pred_trans"),
        1.0, CAMERA_UP,
    )  # fmt: skip


def _mdm(path: Path, content: Mapping[str, Any]) -> Found:
    """[24, 6, T] two rows of each matrix, [3, T] places; y up, 20 frames a second, as HumanML3D's."""
    rows, transl = _array(path, content, "thetas"), _array(path, content, "root_translation")
    if rows.ndim != 3 or rows.shape[:2] != (24, 6) or transl.shape != (3, rows.shape[2]):
        raise MotionError(f"{path}: expected thetas [24, 6, T] and root_translation [3, T], as MDM writes them")
    a, b = np.split(rows.transpose(2, 0, 1), 2, axis=-1)
    a = a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-12)
    b = b - (a * b).sum(-1, keepdims=True) * a
    length = np.linalg.norm(b, axis=-1, keepdims=True)
    if not (np.linalg.norm(a, axis=-1).min() > 0.5 and length.min() > 1e-6):
        raise MotionError(
            f"{path}: thetas hold numbers that are no rotations, such as 0 throughout; write the file again with MDM "
            "(python -m visualize.render_mesh)"
        )
    b = b / length
    return _checked(path, "MDM", np.stack([a, b, np.cross(a, b)], axis=-2), transl.T, 1.0, Y_UP, 20.0)


def _named(path: Path, content: Mapping[str, Any]) -> Found:
    """A dictionary with SMPL's arrays under names in use."""

    def first(names: tuple[str, ...]) -> Array | None:
        name = next((name for name in names if name in content), None)
        return None if name is None else _array(path, content, name)

    poses, transl, rate = (
        _poses(path, first(_POSES), *map(first, (_ROOT, _BODY, ("pose_hand",)))),
        first(_TRANSL),
        first(_FPS),
    )
    fps = None if rate is None else float(rate.flat[0])
    transl = np.zeros((len(poses), 3)) if transl is None else transl
    if any(str(name).startswith("mocap") for name in content):
        return _checked(path, "AMASS", poses, transl, 1.0, Z_UP, fps)
    if "smpl_scaling" in content:  # the API divides by the size of the dancer
        scaling = float(_array(path, content, "smpl_scaling").flat[0])
        if not scaling > 0:
            raise MotionError(f"{path}: smpl_scaling is {scaling}; expected a finite number above 0")
        return _checked(path, "AIST++", poses, transl, 1 / scaling, Y_UP, fps or 60.0)
    if "smpl_poses" in content and "full_pose" in content:
        return _checked(path, "EDGE", poses, transl, 1.0, Z_UP, fps or 30.0)
    return _checked(path, "poses of SMPL", poses, transl, fps=fps)


def _poses(path: Path, whole: Array | None, root: Array | None, body: Array | None, hands: Array | None) -> Array:
    if whole is not None:
        return whole
    if root is None or body is None:
        raise MotionError(f"{path} holds no motion. Known are:\n{KNOWN}")
    poses = np.concatenate([_rows(root), _alike(path, _rows(body), len(root))], axis=1)
    if poses.shape[1] == 66 and hands is not None:  # SMPL-H's order
        return np.concatenate([poses, _alike(path, _rows(hands), len(root))], axis=1)
    return poses


def _checked(
    path: Path,
    format: str,
    poses: Array,
    transl: Array,
    metres: float | None = None,
    up: tuple[float, float, float] | None = None,
    fps: float | None = None,
) -> Found:
    """With poses as SMPL's 24 joints, and places as rows."""
    poses = _rows(poses)
    joints = _LAYOUTS.get(poses.shape[1] // 3)
    if joints is None or poses.shape[1] % 3:
        raise MotionError(
            f"{path}: poses of {poses.shape[1]} numbers; expected 72 (SMPL), 66 (without "
            "hands), 156 (SMPL-H) or 165 (SMPL-X)"
        )
    poses = poses.reshape(len(poses), -1, 3)[:, joints].reshape(len(poses), -1)
    transl = transl.reshape(len(transl), -1)
    if transl.shape != (len(poses), 3):
        raise MotionError(
            f"{path}: {len(poses)} poses need translations of shape ({len(poses)}, 3), not {transl.shape}"
        )
    if not (np.isfinite(poses).all() and np.isfinite(transl).all()):
        raise MotionError(f"{path}: expected finite poses and translations")
    return Found(format, np.pad(poses, ((0, 0), (0, 72 - poses.shape[1]))), transl, metres, up, fps)


def _array(path: Path, content: Mapping[str, Any], name: str) -> Array:
    if name not in content:
        raise MotionError(f"{path} lacks {name}; found {', '.join(str(key) for key in list(content)[:12])}")
    try:
        values = np.atleast_1d(np.asarray(content[name], np.float64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise MotionError(f"{path}: {name} holds something else than numbers: {error}") from error
    if values.size == 0:
        raise MotionError(f"{path}: {name} is empty; expected one or more poses")
    return values


def _rows(rotations: Array) -> Float[Array, "T N"]:
    """One row per pose, of rotation vectors or of matrices."""
    if rotations.ndim > 2 and rotations.shape[-2:] == (3, 3):
        if not np.isfinite(rotations).all() or np.linalg.det(rotations).min() < 0.5:
            return np.full((len(rotations), 72), np.nan)
        return Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_rotvec().reshape(len(rotations), -1)
    return rotations.reshape(len(rotations), -1)


def _alike(path: Path, rows: Array, count: int) -> Array:
    if len(rows) != count:
        raise MotionError(f"{path}: expected as many rows of body and hand poses as the {count} of the root's")
    return rows.reshape(count, -1)
