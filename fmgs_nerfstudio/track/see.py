"""From a video to what the networks see of one person in it: frames, soft masks, landmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from fmgs_dataparsers.files import CaptureError

from fmgs_nerfstudio.files import atomic_path, write_image
from fmgs_nerfstudio.track.follow import Follower
from fmgs_nerfstudio.track.masks import person_mask
from fmgs_nerfstudio.track.networks import Detector, LandmarkNetwork
from fmgs_nerfstudio.track.records import Sightings
from fmgs_nerfstudio.track.video import Choice, Focal, open_footage

Progress = Callable[[int, int], None]
"""progress(done, total), in frames."""


@dataclass(frozen=True)
class Seen:
    """What `see` found and wrote."""

    sightings: Sightings
    focal: Focal | None
    """Where the video says it."""
    left_out: dict[str, str]
    """Frames that cannot be used, and why."""
    notes: list[str]
    """What a user should know of the footage."""


def see(
    video: Path,
    out: Path,
    choice: Choice | None = None,
    progress: Progress = lambda done, total: None,
) -> Seen:
    """Write `out/images/NNNNNN.jpg`, `out/masks/NNNNNN.png` (soft, 8 bits) and `out/track/sightings.npz`.

    Raises:
        CaptureError: the video cannot be used.
    """
    footage = open_footage(video, choice or Choice())
    follower = Follower(Detector(), LandmarkNetwork())
    rows, left_out, total = [], dict[str, str](), len(footage.wanted)
    for done, picture in enumerate(footage.pictures(footage.wanted)):
        look = follower(picture.image)
        if isinstance(look, str):
            left_out[picture.name] = look
        else:
            stem = f"{picture.index:06d}"
            with atomic_path(out / "images" / f"{stem}.jpg") as path:
                write_image(path, picture.image, cv2.IMWRITE_JPEG_QUALITY, 95)
            with atomic_path(out / "masks" / f"{stem}.png") as path:
                write_image(path, np.rint(255 * person_mask(picture.image, look)).astype(np.uint8))
            rows.append((picture.index, picture.time, look.landmarks, look.depth, look.world, look.score))
        progress(done + 1, total)
    if not rows:
        raise CaptureError(f"nobody is seen in {video}")
    index, time, landmarks, depth, world, score = (np.array(column) for column in zip(*rows, strict=True))
    sightings = Sightings(index, time, landmarks, depth, world, score, footage.size)
    sightings.write(out / "track" / "sightings.npz")
    return Seen(sightings, footage.focal, left_out, footage.notes)
