"""Does the body lie on the person? Measured frame by frame, and if not, which known mistake explains it.

What counts as good: SMPL is naked and bald. A good fit and the mask of a dressed person with hair have an intersection
over union (IoU) of 0.7 to 0.9, under wide skirts and coats 0.6 to 0.7; a body that is put wrongly rarely reaches 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
from fmgs_dataparsers.capture import Capture, CaptureError, Frame, Split
from fmgs_dataparsers.plausible import names_of
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.judge.alternatives import ALTERNATIVES, Alternative
from fmgs_nerfstudio.judge.pixel_centres import pixel_centres_doubt, shift_of
from fmgs_nerfstudio.judge.prior_maps import prior_problems, priors_at_hand
from fmgs_nerfstudio.judge.silhouette import Silhouettes, View, overlap, view_of

FRAMES = 64
"""Frames that are looked at, about."""
GOOD = 0.7
"""Mean IoU from which on nothing needs a look."""
LEAST = 0.6
"""Mean IoU of a capture below which it is not ready, and which a mistake undone must reach."""
OFF = 0.5
"""IoU of a frame, and mean of a camera, below which the body is elsewhere."""
_SIZE = 256  # pixels on the longer side
_WORKING_SIZE = 1 << 20  # not reduced: half a pixel must show
_SEARCHED = 24  # frames that every alternative is tried on
_LEAST_FRAMES = 3  # fewer prove nothing
_AGREED = 0.8  # share of frames that must get better
_ALIKE = 0.01  # IoU; alternatives this close cannot be told apart
_LOST = 0.25  # share of frames that may be off; where nearly all are, it is no longer a matter of frames

_T = TypeVar("_T")


class FrameCheck(NamedTuple):
    """What one frame measures."""

    split: Split
    frame: Frame
    view: View
    iou: float
    coverage: float
    """Share of the image that is masked."""
    seen: bool
    """Whether the body is in the image at all."""
    shift: Float[Array, "2"]
    """Pixels of the file, right and down, by which the body misses the middle of the mask; 0 where nobody looks."""

    @property
    def name(self) -> str:
        return f"{self.frame.camera}/{self.frame.stem}"


@dataclass(frozen=True)
class Cause:
    """A mistake that explains what is seen."""

    alternative: Alternative
    before: float
    """Mean IoU as read."""
    after: float
    """Mean IoU with the mistake undone."""
    others: tuple[str, ...]
    """Mistakes that explain it as well, by their names."""


@dataclass(frozen=True, eq=False)
class FitReport:
    """What a capture is, and whether it can be trained on."""

    capture: Capture
    frames: tuple[FrameCheck, ...]
    cause: Cause | None
    broken: tuple[str, ...]
    """Files that cannot be read."""
    misfits: tuple[str, ...]
    """Why the body is not the person's, as far as can be told."""
    remarks: tuple[str, ...]
    """What a person should know."""
    silhouettes: Silhouettes = field(repr=False)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it is not ready."""
        return self.broken + self.misfits

    @property
    def ready(self) -> bool:
        return not self.problems

    @property
    def mean(self) -> float:
        """Mean IoU; 0 without frames."""
        return _mean(self.frames)

    def worst(self, count: int) -> list[FrameCheck]:
        return sorted(self.frames, key=lambda frame: frame.iou)[:count]

    def by_camera(self) -> dict[str, list[FrameCheck]]:
        return _by_camera(self.frames)


def check_capture(
    capture: Capture,
    count: int = FRAMES,
    progress: Callable[[int, int], None] = lambda done, total: None,
    doubts: bool = True,
) -> FitReport:
    """Measure about `count` frames spread over the capture, two of each camera at least, and judge.

    `progress` is told the steps done and their total. Without `doubts`, remarks on a good capture are left out.
    """
    silhouettes, damaged = Silhouettes(capture), list[str]()
    frames: list[FrameCheck] = []
    chosen = chosen_frames(capture, count)
    total = len(chosen) + min(_SEARCHED, len(chosen))
    for done, (split, frame) in enumerate(chosen, 1):
        try:
            view = view_of(capture, frame, _SIZE)
            capture.image(frame)  # damage inside a file shows only now
        except CaptureError as error:
            damaged.append(str(error))
        else:
            body, shift = silhouettes.draw(view), np.zeros(2)
            if doubts:
                shift = shift_of(silhouettes, view_of(capture, frame, _WORKING_SIZE)) * capture.downscale
            iou, covered = overlap(body, view.mask), float(view.mask.mean())
            frames.append(FrameCheck(split, frame, view, iou, covered, bool(body.any()), shift))
        progress(done, total)
    cameras = _cameras_off(frames)
    suspects = [frame for frame in frames if not cameras or frame.frame.camera in cameras]
    cause = find_cause(silhouettes, spread(suspects, _SEARCHED), lambda done: progress(len(chosen) + done, total))
    readable = [f"none of {len(chosen)} images that were looked at can be read: {damaged[0]}"] if not frames else []
    broken, misfits = (*readable, *prior_problems(capture)), _misfits(frames, cameras, cause)
    remarks = (
        *(f"{fault}; training leaves the frame out" for fault in damaged),
        *(_doubts(capture, frames) if doubts and frames and not misfits else []),
        *_left_out(capture),
        *_missing_priors(capture),
    )
    return FitReport(capture, tuple(frames), cause, broken, tuple(misfits), remarks, silhouettes)


def chosen_frames(capture: Capture, count: int) -> list[tuple[Split, Frame]]:
    """Half of `count` for training, half for the held-out, spread over time; of every camera and split two or more."""
    groups: dict[tuple[Split, str], list[Frame]] = {}
    for split, frames in capture.splits.items():
        for frame in frames:
            groups.setdefault((split, frame.camera), []).append(frame)
    training = sum(split == "train" for split, _ in groups)
    shares = {True: count // 2 // training, False: count // 2 // max(len(groups) - training, 1)}
    if training == len(groups):
        shares[True] = count // training
    return [
        (split, frame)
        for (split, _), frames in groups.items()
        for frame in spread(frames, max(2, shares[split == "train"]))
    ]


def find_cause(
    silhouettes: Silhouettes, frames: Sequence[FrameCheck], progress: Callable[[int], None] = lambda done: None
) -> Cause | None:
    """The mistake of the table that, undone, fits clearly better in nearly all frames; None where none does."""
    before, rows = np.array([frame.iou for frame in frames]), []
    for done, frame in enumerate(frames, 1):
        views = [alternative.undo(frame.view, silhouettes.fits) for alternative in ALTERNATIVES]
        rows.append([np.nan if view is None else silhouettes.overlap(view) for view in views])
        progress(done)
    found: list[Cause] = []
    for alternative, after in zip(ALTERNATIVES, np.array(rows).T, strict=bool(rows)):
        known = ~np.isnan(after)
        if known.sum() >= _LEAST_FRAMES:
            gains, mean = (after - before)[known], float(after[known].mean())
            if gains.mean() >= alternative.least_gain and (gains > 0).mean() >= _AGREED and mean >= LEAST:
                found.append(Cause(alternative, float(before[known].mean()), mean, ()))
    if not found:
        return None
    best = max(cause.after for cause in found)
    first, *others = (cause for cause in found if cause.after >= best - _ALIKE)
    return Cause(first.alternative, first.before, first.after, tuple(other.alternative.name for other in others))


def corrected(report: FitReport, frame: FrameCheck) -> View | None:
    """The frame with the cause undone, where the image itself stays as it is."""
    if report.cause is None:
        return None
    view = report.cause.alternative.undo(frame.view, report.silhouettes.fits)
    return view if view is not None and view.mask is frame.view.mask else None


def spread(items: Sequence[_T], count: int) -> list[_T]:
    """`count` of the items at most, evenly, the first and the last among them."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]


def _cameras_off(frames: Sequence[FrameCheck]) -> list[str]:
    """Cameras that the body does not fit, where it fits others."""
    means = {camera: _mean(members) for camera, members in _by_camera(frames).items()}
    off = [camera for camera, mean in means.items() if mean < OFF]
    return off if any(mean >= LEAST for mean in means.values()) else []


def _misfits(frames: Sequence[FrameCheck], cameras: Sequence[str], cause: Cause | None) -> list[str]:
    if not frames:
        return []
    where = f"in {names_of(cameras)}: " if cameras else ""
    if cause is not None:
        also = f" (as good: {names_of(cause.others)})" if cause.others else ""
        return [
            f"{where}{cause.alternative.mistake}. With that undone the mean IoU is {cause.after:.2f}, not "
            f"{cause.before:.2f}{also}. What to do: {cause.alternative.advice}."
        ]
    if cameras:
        return [
            f"{where}the body is not on the person, in other cameras it is: the calibration is wrong, or these images "
            "are of another camera or another moment; none of the usual mistakes explains it"
        ]
    mean, off = _mean(frames), [frame.name for frame in frames if frame.iou < OFF]
    outside = [frame.name for frame in frames if not frame.seen]
    if len(outside) > len(frames) * _LOST:
        return [
            f"the body is outside the image or behind the camera in {len(outside)} of {len(frames)} frames: "
            f"{names_of(outside)}. Their poses' translations, or the calibration, are of something else"
        ]
    if _LOST < len(off) / len(frames) <= 1 - _LOST:
        return [
            f"the body is not on the person in {len(off)} of {len(frames)} frames, in others it is: {names_of(off)}. "
            "The fit is lost there, or parts of the capture belong to different takes"
        ]
    if mean < LEAST:
        return [
            f"the body is not on the person: mean IoU {mean:.2f}, expected {LEAST} or more. None of the usual mistakes "
            "explains it: look at the sheet for fits of another person, masks of something else, a wrong calibration"
        ]
    return []


def _doubts(capture: Capture, frames: Sequence[FrameCheck]) -> list[str]:
    doubts: list[str] = []
    if off := [frame.name for frame in frames if frame.iou < OFF]:
        doubts.append(f"look at the frames where the body is elsewhere: {names_of(off)}")
    if (mean := _mean(frames)) < GOOD:
        doubts.append(f"mean IoU {mean:.2f} is low: wide clothes, or a fit that is not exact; look at the sheet")
    shifts = {
        camera: [frame.shift for frame in members if frame.iou >= OFF] for camera, members in _by_camera(frames).items()
    }
    if doubt := pixel_centres_doubt(shifts, capture.pixel_centres):
        doubts.append(doubt)
    return doubts


def _left_out(capture: Capture) -> list[str]:
    reasons = [item.reason for item in capture.left_out]
    return [
        f"left out, {reasons.count(reason)} {reason}: "
        f"{names_of([item.name for item in capture.left_out if item.reason == reason])}"
        for reason in dict.fromkeys(reasons)
    ]


def _missing_priors(capture: Capture) -> list[str]:
    total = len(capture.splits["train"])
    missing = {kind: total - there for kind, there in priors_at_hand(capture).items() if there < total}
    if not missing:
        return []
    listed = ", ".join(kind if count == total else f"{kind} of {count} frames" for kind, count in missing.items())
    return [f"missing priors: {listed}; fmgs-priors makes them; frames without one train without its losses"]


def _by_camera(frames: Sequence[FrameCheck]) -> dict[str, list[FrameCheck]]:
    cameras: dict[str, list[FrameCheck]] = {}
    for frame in frames:
        cameras.setdefault(frame.frame.camera, []).append(frame)
    return cameras


def _mean(frames: Sequence[FrameCheck]) -> float:
    return float(np.mean([frame.iou for frame in frames])) if frames else 0.0
