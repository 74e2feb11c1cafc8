"""What trackers write beside a video or a folder of images: 4D-Humans (PHALP), WHAM, ROMP (BEV).

Each gives SMPL in the camera's axes, and each assumes a focal length of its own. Of several people, the one seen for
the longest (ROMP, which does not track: the largest in each image). Masks are those in `masks/`, among the prior maps,
or, of 4D-Humans, its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmgs_dataparsers.assemble import ReadOptions, monocular
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.conventions import N_BETAS, BodyFile, Fit, PixelCentres, axis_angle
from fmgs_dataparsers.files import array, arrays, entries, natural, read_joblib, read_npz, stack
from fmgs_dataparsers.masks import MaskSource, RleMask
from fmgs_dataparsers.own_video import (
    centred_camera,
    humans4d_focal,
    longest_track,
    masks_beside,
    romp_focal,
    rows_by_frame,
    wham_focal,
)
from fmgs_dataparsers.video import source_frames

_Read = Callable[[Path, BodyFile, list[Path]], tuple[dict[int, Fit], dict[int, MaskSource]]]
"""Result file, body and images -> fits, and masks where the tracker has them, by place in the video."""


class Tracker:
    """A layout: the result file of one tracker, in the capture or in a folder of it."""

    PIXEL_CENTRES: PixelCentres = "half"
    """Assumed: they look at (width / 2, height / 2), the middle if centres are at +0.5."""

    def __init__(self, name: str, files: tuple[str, ...], focal: Callable[[int, int], float], read_file: _Read) -> None:
        self.NAME = name
        self.SIGNATURE = f"{' or '.join(files)} beside a video or images/"
        self._files, self._focal, self._read_file = files, focal, read_file

    def _result(self, root: Path) -> Path | None:
        """The file, or the folder of files."""
        for pattern in self._files:
            for found in (root.glob(pattern), root.glob(f"*/{pattern}")):
                if path := next(iter(sorted(found, key=natural)), None):
                    return path.parent if "/" in pattern else path  # a file for each image
        return None

    def matches(self, root: Path) -> bool:
        """Does `root` hold this layout?"""
        return self._result(root) is not None

    def read(self, root: Path, options: ReadOptions) -> Capture:
        """Read a capture folder.

        Raises:
            CaptureError: a file is missing, truncated, or not what the layout says; names it.
            FileNotFoundError: no body model.
        """
        path = self._result(root)
        assert path is not None
        body = options.body(root)
        images = source_frames(root)
        try:
            fits, own_masks = self._read_file(path, body, images)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise CaptureError(f"{path} is not what {self.NAME} writes: {error!r}") from error
        beside = masks_beside(root, images)

        def fit(i: int) -> Fit:
            if i not in fits:
                raise CaptureError(f"{path} has no fit of the person in frame {i} ({images[i].name})")
            return fits[i]

        return monocular(
            root,
            self.NAME,
            options,
            protocol="last-fifth",
            images=images,
            mask=lambda i: beside(i) or own_masks.get(i),
            calibration=centred_camera(images, self._focal),
            fit=fit,
            body=body,
        )


def _read_wham(path: Path, body: BodyFile, images: list[Path]) -> tuple[dict[int, Fit], dict[int, MaskSource]]:
    track = dict(longest_track(path, read_joblib(path)))
    pose, trans, betas, frames = entries(path, track, "pose", "trans", "betas", "frame_ids")
    pose = stack(path, "pose", pose, 72)
    trans = stack(path, "trans", trans, 3, counts=[len(pose)])
    betas = stack(path, "betas", betas, -1, counts=[len(pose)])
    return {
        int(f): body.fit(path, pose[i], trans[i], betas[i]) for i, f in enumerate(array(path, "frame_ids", frames, -1))
    }, {}


def _read_humans4d(path: Path, body: BodyFile, images: list[Path]) -> tuple[dict[int, Fit], dict[int, MaskSource]]:
    content = read_joblib(path)
    if not isinstance(content, dict) or not all(isinstance(frame, dict) for frame in content.values()):
        raise CaptureError(f"{path} is no result of 4D-Humans: expected {{frame: {{'tid', 'smpl', 'camera', ...}}}}")
    place = {name: i for i, name in rows_by_frame(path, [str(name) for name in content], images).items()}
    seen = Counter(person for frame in content.values() for person in _people(path, frame))
    if not seen:
        raise CaptureError(f"{path} tracks nobody")
    person = seen.most_common(1)[0][0]
    fits, masks = {}, {}
    for name, frame in content.items():
        tracks = _people(path, frame)
        if person not in tracks or str(name) not in place:
            continue
        smpl, camera = entries(path, frame, "smpl", "camera")
        i, row = place[str(name)], tracks.index(person)
        if stack(path, "tracked_time", frame.get("tracked_time", [0] * len(tracks)), counts=[len(tracks)])[row]:
            continue  # PHALP also lists whom it last saw some frames ago
        orient, local, betas = arrays(path, smpl[row], global_orient=(1, 3, 3), body_pose=(23, 3, 3), betas=(-1,))
        pose = np.r_[axis_angle(orient), axis_angle(local)]
        fits[i] = body.fit(path, pose, camera[row], betas)
        if mask := _rle(path, frame.get("mask", []), row):
            masks[i] = mask
    return fits, masks


def _people(path: Path, frame: Mapping[str, Any]) -> list[int]:
    tid = stack(path, "tid", frame.get("tid", []))
    return [int(person) for person in tid if np.isfinite(person)]


def _rle(path: Path, masks: Any, row: int) -> RleMask | None:
    mask = masks[row] if len(masks) > row else None
    mask = mask[0] if isinstance(mask, list) and mask else mask
    if not isinstance(mask, Mapping) or "counts" not in mask:
        return None
    height, width = array(path, "a mask's size", mask["size"], 2)
    counts = mask["counts"].encode("latin1") if isinstance(mask["counts"], str) else mask["counts"]
    if not isinstance(counts, bytes):
        raise CaptureError(f"{path}: expected a mask's counts as COCO's compressed run lengths")
    return RleMask(path, int(height), int(width), counts)


def _read_romp(path: Path, body: BodyFile, images: list[Path]) -> tuple[dict[int, Fit], dict[int, MaskSource]]:
    if path.is_file():
        (content,) = entries(path, read_npz(path, ["results"]), "results")
    else:
        content = {file.name: file for file in sorted(path.glob("*.npz"), key=natural)}
    if not isinstance(content, dict):
        raise CaptureError(f"{path} is no result of ROMP: expected {{frame: {{'smpl_thetas', 'cam_trans', ...}}}}")
    fits = {}
    for i, name in rows_by_frame(path, [str(name) for name in content], images).items():
        file = path
        frame = content[name]
        if isinstance(frame, Path):
            file, (frame,) = frame, entries(frame, read_npz(frame, ["results"]), "results")
        if not frame:
            continue  # nobody was found there
        thetas, betas, trans, cam = entries(file, frame, "smpl_thetas", "smpl_betas", "cam_trans", "cam")
        if n := len(thetas := stack(file, "smpl_thetas", thetas, 72)):
            betas = stack(file, "smpl_betas", betas, -1, counts=[n])
            trans, cam = (
                stack(file, name, value, 3, counts=[n]) for name, value in (("cam_trans", trans), ("cam", cam))
            )
            largest = int(np.argmax(cam[:, 0]))
            # BEV's eleventh is the share of a child's body, which SMPL has not.
            fits[i] = body.fit(file, thetas[largest], trans[largest], betas[largest][:N_BETAS])
    return fits, {}


WHAM = Tracker("wham", ("wham_output.pkl",), wham_focal, _read_wham)
HUMANS4D = Tracker("4d-humans", ("demo_*.pkl", "phalp*.pkl", "4d*humans*.pkl"), humans4d_focal, _read_humans4d)
ROMP = Tracker("romp", ("video_results.npz", "romp*/*.npz"), romp_focal, _read_romp)
