"""Motion files as `Motion`: what the file and its format say, then what the user says, then guesses, which are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.parser import open_capture

from fmgs_nerfstudio.console import log
from fmgs_nerfstudio.maps.maps import PriorsError
from fmgs_nerfstudio.motion.formats import KEYS, KNOWN, Found, of_content
from fmgs_nerfstudio.motion.motion import Motion, MotionError, find_metres, find_up
from fmgs_nerfstudio.unpickle import read_joblib, read_npz, read_numpy_object, read_tensors

Up = Literal["auto", "x", "y", "z", "-x", "-y", "-z"]
Unit = Literal["auto", "m", "cm", "mm"]
_METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_DEFAULT_FPS = 30.0
_SAVE = "save poses [T, 72], trans [T, 3] (metres) and fps with numpy.savez, and give that .npz"
_OTHERS = {
    ".bvh": f"BVH turns bones of its own; retarget it onto SMPL's skeleton, for example in Blender, then {_SAVE}",
    ".fbx": f"FBX turns bones of its own; retarget it onto SMPL's skeleton, for example in Blender, then {_SAVE}",
    ".c3d": f"C3D holds markers; fit SMPL to them, for example with MoSh++, whose .pkl is read, or {_SAVE}",
    ".json": f"JSON has no one form for poses; {_SAVE}, or give the folder of the capture that it belongs to",
    ".csv": f"a table has no one form for poses; {_SAVE}",
}
"""Formats that are not read, and the step that makes one that is."""


@dataclass(frozen=True)
class Reading:
    """How to read what a motion file does not say, or says wrongly."""

    up: Up = "auto"
    """Upward axis of the motion's world. auto: the format's, else where heads point."""
    unit: Unit = "auto"
    """Unit of translations. auto: the format's, else metres, unless nobody is so fast."""
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
        raise MotionError(f"--motion {path} does not exist. Known are:\n{KNOWN}")
    return _motion(path, of_content(path, _content(path)), reading)


def of_capture(capture: Capture, fps: float | None = None) -> Motion:
    """The poses of a capture, in order of time."""
    return Motion(capture.poses, capture.transl, fps or _DEFAULT_FPS, capture.up, capture.root.name)


def _content(path: Path) -> Any:
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            return read_npz(path, KEYS)
        if suffix in (".pkl", ".pickle", ".joblib"):
            return read_joblib(path)  # plain ones too
        if suffix == ".npy":
            return read_numpy_object(path)
        if suffix in (".pt", ".pth"):
            return read_tensors(path)
    except ValueError as error:
        raise MotionError(str(error)) from error
    step = _OTHERS.get(suffix)
    raise MotionError(f"{path} cannot be read: {step}" if step else f"{path} is no motion file. Known are:\n{KNOWN}")


def _motion(path: Path, found: Found, reading: Reading) -> Motion:
    heads = find_up(found.poses)
    up = _axis(reading.up) or found.up or heads
    if up is None:
        raise MotionError(f"{path}: people in it stand along no axis of its world; name the upward one (--reading.up)")
    fps = reading.fps or found.fps or _DEFAULT_FPS
    if not (np.isfinite(fps) and fps > 0):
        raise MotionError(f"{path}: {fps} poses per second; name the rate (--reading.fps)")
    metres = _METRES.get(reading.unit) or found.metres or find_metres(found.transl, fps)
    motion = Motion(found.poses, found.transl * metres, fps, up, path.stem)
    guesses = []
    if reading.up == "auto" and found.up is None:
        guesses.append(f"{_name(up)} is up, where heads point (--reading.up)")
    elif reading.up == "auto" and heads not in (up, None):
        guesses.append(f"heads point to {_name(heads)}, so the person lies; if not, name the axis (--reading.up)")
    if reading.unit == "auto" and found.metres is None and np.any(found.transl):
        guesses.append(f"one unit is {metres:g} m, so that it spans {motion.span:.2f} m (--reading.unit)")
    if not (reading.fps or found.fps):
        guesses.append(f"{fps:g} poses a second (--reading.fps)")
    known = f"{found.format}, {_name(up)} up, {len(motion)} poses, {len(motion) / fps:.1f} s, spans {motion.span:.2f} m"
    log(f"{path.name}: {known}" + "".join(f"\n  guessed: {guess}" for guess in guesses))
    return motion


def _name(axis: tuple[float, float, float]) -> str:
    letter = "xyz"[int(np.abs(axis).argmax())]
    return f"-{letter}" if min(axis) < 0 else letter


def _axis(up: Up) -> tuple[float, float, float] | None:
    if up == "auto":
        return None
    x, y, z = (float(up[-1] == name) * (-1.0 if up.startswith("-") else 1.0) for name in "xyz")
    return x, y, z
