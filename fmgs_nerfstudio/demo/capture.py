"""A synthetic monocular capture in the raw ZJU-MoCap layout, with priors and exact ground truth.

    <out>/annots.npy                     cameras K, R, T (mm), D and image names
    <out>/Camera_B1/000000.jpg ...       only the images that protocol.json names
    <out>/mask_cihp/Camera_B1/000000.png
    <out>/new_params/0.npy, new_vertices/0.npy    the (noisy) SMPL fit
    <out>/SMPL_NEUTRAL.npz               the demo body, in SMPL's schema
    <out>/priors/ or sapiens/            maps of the training camera
    <out>/protocol.json                  splits, and the options that made this capture
    <out>/ground_truth/                  what training must not read

World: z up, metres. The person turns at the origin; Camera_B1 looks along +y.

With `DemoOptions.video` all of this is in <out>/truth/, and <out>/video.mp4 is what Camera_B1 took (see `video`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import cv2

from fmgs_nerfstudio.demo.plan import PRESETS as PRESETS
from fmgs_nerfstudio.demo.plan import DemoError as DemoError
from fmgs_nerfstudio.demo.plan import DemoOptions as DemoOptions
from fmgs_nerfstudio.demo.plan import Preset as Preset
from fmgs_nerfstudio.demo.plan import studio_plan
from fmgs_nerfstudio.demo.video import VideoWriter, without_noise
from fmgs_nerfstudio.demo.writer import CaptureWriter
from fmgs_nerfstudio.files import ensure_writable, folder_beside
from fmgs_nerfstudio.gate import read_json

_RECORDS = ("protocol.json", "truth/protocol.json")


def make_capture(
    out: Path,
    options: DemoOptions,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Write a capture to `out`, all of it or nothing. Returns False where `out` already is this very capture.

    `progress(done, total)` is called with counts of images.

    Raises:
        DemoError: `out` is something else, or a capture made with other options, and `overwrite` is not set.
        OSError: nothing can be written there.
    """
    if options.video:
        options = without_noise(options)
    if _already_there(out, options, overwrite):
        return False
    if out.is_dir() and (Path.cwd().is_relative_to(out.resolve()) or out.is_mount()):
        raise DemoError(
            f"{out} is a folder that cannot be replaced while it is in use; name one in it: {out / 'capture'}"
        )
    ensure_writable(out.parent)
    with folder_beside(out) as scratch:
        folder = scratch / "capture"
        folder.mkdir()
        video = VideoWriter(folder, options) if options.video else None
        writer = video or CaptureWriter(folder, options, studio_plan(options))
        total, done = sum(len(views) for views in writer.views_of.values()), 0
        progress(done, total)
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # the frames are the parallel part
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                frames = [pool.submit(writer.write_frame, frame) for frame in range(len(writer.plan.exact))]
                try:
                    for written in as_completed(frames):
                        done += written.result()
                        progress(done, total)
                finally:  # after an error or Ctrl-C, do not render the rest first
                    pool.shutdown(cancel_futures=True)
        finally:
            cv2.setNumThreads(threads)
        writer.write_shared()
        if video is not None:
            video.write_video()
        if out.exists():
            out.rename(scratch / "old")
        folder.rename(out)
    return True


def _already_there(out: Path, options: DemoOptions, overwrite: bool) -> bool:
    """Whether `out` is the wanted capture; an error where it is something that may not be replaced."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise DemoError(f"{out} is a file; give a folder for the capture.")
    if not any(out.iterdir()):
        return False
    try:
        made_with = read_json(next(out / place for place in _RECORDS if (out / place).is_file()))["generator"]
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        made_with = {}
    if made_with.get("program") != "fmgs-demo":
        raise DemoError(
            f"{out} is not empty and no capture of fmgs-demo; give another folder or empty this one yourself."
        )
    if made_with == options.generator() and not overwrite:
        return True
    if not overwrite:
        wanted = options.generator()
        changed = ", ".join(
            f"{key} {made_with.get(key)} -> {wanted.get(key)}"
            for key in {**wanted, **made_with}
            if made_with.get(key) != wanted.get(key)
        )
        raise DemoError(f"{out} holds a capture made with other options ({changed}); add --overwrite to replace it.")
    return False
