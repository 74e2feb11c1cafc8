"""How far fmgs-track is from the truth of `fmgs-demo --video`: the jobs of the suite `track`."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
import torch
from benchmark_measure import Json
from jaxtyping import Float, Int

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.maps.maps import read_mask
from fmgs_nerfstudio.metrics.tracking import CameraBodies, body_errors, mask_iou
from fmgs_nerfstudio.track.records import Fits

CAMERA = "Camera_B1"
"""The video's, in the capture that is its truth."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What a tracker should find in a video of fmgs-demo."""

    folder: Path
    """A capture with exact fits."""
    bodies: CameraBodies
    K: Float[Array, "3 3"]
    world_to_camera: Float[Array, "4 4"]
    size: tuple[int, int]
    height: float
    """Of the person, metres."""

    @staticmethod
    def read(video: Path) -> Truth:
        """Of the folder that fmgs-demo --video wrote."""
        folder = video / "truth"
        with np.load(folder / "ground_truth" / "clip.npz") as clip:
            body = BodyModel.load(folder / "SMPL_NEUTRAL.npz")
            bodies = CameraBodies.of(body, *(clip[name] for name in ("betas", "pose", "transl", "world_to_camera")))
            width, height = clip["size"].tolist()
            standing = body.shape(torch.from_numpy(clip["betas"]).float())[0][:, 1]
            tall = float(standing.max() - standing.min())
            return Truth(folder, bodies, clip["K"], clip["world_to_camera"], (width, height), tall)

    def mask(self, frame: int) -> Float[Array, "H W"]:
        """Share of each pixel that the person covers."""
        return read_mask(self.folder / "ground_truth" / "mask" / CAMERA / f"{frame:06d}.png")

    def focal(self, size: tuple[int, int]) -> float:
        """Pixels of images of this size."""
        return float(self.K[0, 0]) * max(size) / max(self.size)


def fit_errors(fits: Fits, index: Int[Array, "F"], truth: Truth, body: BodyModel) -> dict[str, float]:
    """Errors of a clip's fits, whose frames are those numbers of the video (`body_errors`), and of its focal length."""
    found = CameraBodies.of(body, fits.betas, fits.pose, fits.transl, fits.world_to_camera)
    true = CameraBodies(truth.bodies.joints[index], truth.bodies.root[index], truth.bodies.local[index])
    width = 2 * float(fits.K[0, 2])  # of the images that were tracked
    height = 2 * float(fits.K[1, 2])
    right = truth.focal((round(width), round(height)))
    return body_errors(found, true) | {"focal_percent": 100 * abs(float(fits.K[0, 0]) / right - 1)}


def masks_iou(folder: Path, index: Int[Array, "F"], truth: Truth) -> float:
    """Mean over the frames whose masks are in `folder`, `000012.png`; the truth is brought to their size."""
    found: list[float] = []
    for frame in index.tolist():
        mask = read_mask(folder / f"{frame:06d}.png")
        true = cv2.resize(truth.mask(frame), mask.shape[::-1], interpolation=cv2.INTER_AREA)
        found.append(mask_iou(mask, true))
    return fmean(found)


def track_errors(video: Path, out: Path) -> Json:
    """Errors of the tracker's fits with the focal length given, sought, and given with the person's height; and its
    processor seconds a frame."""
    from fmgs_nerfstudio.track.fit import fit
    from fmgs_nerfstudio.track.see import see

    truth = Truth.read(video)
    body = BodyModel.load(truth.folder / "SMPL_NEUTRAL.npz")
    start = _processor_seconds()
    seen = see(video / "video.mp4", out)
    sightings, see_seconds = seen.sightings, _processor_seconds() - start
    index, frames = sightings.index, len(sightings.index)
    alike = {"mask_iou": masks_iou(out / "masks", index, truth), "frames": frames}
    alike["left_out"] = len(truth.bodies.joints) - frames
    result: Json = {}
    known = truth.focal(sightings.size)
    for name, focal, height in (
        ("given", known, None),
        ("sought", None, None),
        ("and height given", known, truth.height),
    ):
        start = _processor_seconds()
        fits = fit(sightings, out / "masks", body, focal, height)
        seconds = (see_seconds + _processor_seconds() - start) / frames
        result[name] = fit_errors(fits, index, truth, body) | alike | {"seconds": seconds}
    return result


def known_focal(video: str) -> tuple[str, str]:
    """The option of fmgs-track that gives the true focal length."""
    return ("--focal", f"{Truth.read(Path(video)).K[0, 0]:.2f}px")


def known_height(video: str) -> tuple[str, str]:
    """The option of fmgs-track that gives the person's true height."""
    return ("--height", f"{Truth.read(Path(video)).height:.3f}")


def means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Over clips; of a lean, which has a sign, its size; of swapped and left out frames, their number."""
    counts = ("swapped", "left_out", "frames")
    return {
        name: sum(row[name] for row in rows) if name in counts else fmean(abs(row[name]) for row in rows)
        for name in rows[0]
    }


def _processor_seconds() -> float:
    """Of this process, all its threads, and its ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)
