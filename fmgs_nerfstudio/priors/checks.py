"""Are the maps what `priors.json` says? Measured on the maps as training reads them, against masks and the SMPL fit.

A convention that is wrong shows in every frame: normals with an axis flipped or swapped, depth the wrong way round.
Corruption shows in single frames: an empty mask, a mask that is elsewhere than the body, parsing that flickers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
from fmgs_dataparsers.capture import Capture, Frame
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.maps.classes import NUM_CLASSES
from fmgs_nerfstudio.maps.info import PriorsInfo, axes_matrix, axes_words, correct
from fmgs_nerfstudio.priors.body_view import BodyView

EMPTY, OFF_BODY, FLICKER = "empty mask", "mask is not on the body", "labels flicker"
WARNINGS = (EMPTY, OFF_BODY, FLICKER)
_EMPTY_SHARE = 0.1  # of the body's area
_LEAST_IOU = 0.5  # clothes and hair cost a good mask 0.15 to 0.3
_FLICKER_SHARE = 0.15  # of the person's area, in another class than in the frames before and after
_DECIDED = 0.2  # agreement or rank correlation below which nothing is concluded


@dataclass(frozen=True)
class FrameReport:
    """What one frame's maps measure; None where a map is missing or nothing overlaps."""

    frame: Frame
    iou: float | None = None
    """Of the mask and the projected body."""
    toward: float | None = None
    """Share of the person with n_z > 0."""
    across: float | None = None
    """Correlation of n_x with the column."""
    upward: float | None = None
    """Correlation of n_y with the row, negated."""
    agreement: Float[Array, "3 3"] | None = None
    """Mean product of the map's axis (row) with the body's (column)."""
    depth_rank: float | None = None
    """Rank correlation of depth with the body's z."""
    areas: Float[Array, "28"] | None = None
    """Pixels per class."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PriorsReport:
    """All frames, and what they say together."""

    info: PriorsInfo
    frames: tuple[FrameReport, ...]

    def median(self, name: str) -> float | None:
        """Median over frames of one of `FrameReport`'s numbers."""
        values = [value for frame in self.frames if (value := getattr(frame, name)) is not None]
        return float(np.median(values)) if values else None

    def share(self, warning: str) -> float:
        """Share of frames with this warning."""
        return sum(warning in frame.warnings for frame in self.frames) / max(len(self.frames), 1)

    def axes(self) -> str | None:
        """Where the body's x, y and z are found among the normals' axes as read; None where nothing is clear."""
        found = [frame.agreement for frame in self.frames if frame.agreement is not None]
        if not found:
            return None
        matrix = best_axes(np.mean(found, axis=0))
        return None if matrix is None else axes_words(matrix)

    def corrected(self) -> PriorsInfo:
        """The description that agrees with what was measured; `info` itself where all is well or nothing is clear."""
        info, axes, rank = self.info, self.axes(), self.median("depth_rank")
        if axes is not None and axes != "x y z":
            # read = F A stored, and the body is P read: the new A is F P F A, F being its own inverse.
            F = np.diag([1, -1, -1] if info.normal_frame == "opencv" else [1, 1, 1])
            words = axes_words(F @ axes_matrix(axes) @ F @ info.axes())
            info = correct(info, f"the fitted body's x y z are at {axes}", normal_axes=words)
        if rank is not None and rank < -_DECIDED:
            other = "nearer" if info.depth_direction == "farther" else "farther"
            info = correct(info, f"rank correlation {rank:+.2f} with the fitted body's depth", depth_direction=other)
        return info

    def summary(self) -> dict[str, Any]:
        """Numbers for a file."""
        names = ("iou", "toward", "across", "upward", "depth_rank")
        return {
            "frames": len(self.frames),
            "median": {name: self.median(name) for name in names},
            "normal_axes_of_body": self.axes(),
            "share_of_frames": {warning: self.share(warning) for warning in WARNINGS},
            "warnings": {f"{f.frame.camera}/{f.frame.stem}": list(f.warnings) for f in self.frames if f.warnings},
        }


def check(
    capture: Capture, frames: Sequence[Frame], progress: Callable[[int, int], None] = lambda done, total: None
) -> PriorsReport:
    """Read the maps of `frames` and compare them with the capture's masks and body.

    Raises:
        PriorsError: a map is corrupt; ValueError: the capture has no prior maps.
    """
    if capture.priors is None:
        raise ValueError(f"{capture.root} has no prior maps (priors/ or sapiens/)")
    body, reports = BodyView(capture), []
    for done, frame in enumerate(frames, 1):
        reports.append(_check_frame(capture, body, frame))
        progress(done, len(frames))
    return PriorsReport(capture.priors.info, tuple(_with_flicker(reports)))


def _check_frame(capture: Capture, body: BodyView, frame: Frame) -> FrameReport:
    fitted = body.draw(frame)
    on_body = fitted.silhouette
    mask = capture.prior("mask", frame)
    mask = (capture.mask(frame) if mask is None else mask) > 0.5
    both, warnings, found = mask & on_body, [], {}
    if on_body.any():
        found["iou"] = float(both.sum() / (mask | on_body).sum())
        if mask.sum() < _EMPTY_SHARE * on_body.sum():
            warnings.append(EMPTY)
        elif found["iou"] < _LEAST_IOU:
            warnings.append(OFF_BODY)
    normal = capture.prior("normal", frame)
    if normal is not None and (known := mask & normal.any(-1)).any():
        found["toward"], found["across"], found["upward"] = sign_test(normal, known)
        if (known & on_body).any():
            found["agreement"] = normal[known & on_body].T @ fitted.normal[known & on_body] / (known & on_body).sum()
    depth = capture.prior("depth", frame)
    if depth is not None and both.any():
        found["depth_rank"] = rank_correlation(depth[both], fitted.depth[both])
    labels = capture.prior("semantics", frame)
    if labels is not None:
        found["areas"] = np.bincount(labels.ravel(), minlength=NUM_CLASSES).astype(float)
    return FrameReport(frame, **found, warnings=tuple(warnings))


def sign_test(normal: Float[Array, "H W 3"], person: Bool[Array, "H W"]) -> tuple[float, float, float]:
    """Share of n_z > 0; correlations of n_x with column and of n_y with -row: > 0 in OpenGL axes."""
    rows, columns = np.nonzero(person)
    n = normal[person]
    return float((n[:, 2] > 0).mean()), _correlation(n[:, 0], columns), _correlation(n[:, 1], -rows)


def best_axes(agreement: Float[Array, "3 3"]) -> Float[Array, "3 3"] | None:
    """The signed permutation P for which P n agrees best with the body's normals, of all 48.

    `agreement[i, j]` is the mean of n_i times the body's n_j. None where even the best agrees badly.
    """
    candidates = [
        np.eye(3)[list(order)] * np.array(signs)[:, None]
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]
    scores = [float(np.trace(candidate @ agreement)) for candidate in candidates]
    best = int(np.argmax(scores))
    return candidates[best] if scores[best] > _DECIDED else None


def rank_correlation(a: Float[Array, "N"], b: Float[Array, "N"]) -> float:
    """Spearman's, -1 to 1; 0 where one of them is constant."""
    return _correlation(rankdata(a), rankdata(b))


def flicker(areas: Float[Array, "T 28"]) -> Float[Array, "T"]:
    """Share of the person that changes its class in a frame and changes back in the next; 0 at both ends.

    A class that grows over several frames is a person who turns; one that comes and goes is the estimator's doing.
    """
    shares = areas[:, 1:] / np.maximum(areas[:, 1:].sum(1, keepdims=True), 1)
    out = np.zeros(len(areas))
    if len(areas) >= 3:
        jump_in, jump_out = shares[1:-1] - shares[:-2], shares[1:-1] - shares[2:]
        back = np.where(jump_in * jump_out > 0, np.minimum(np.abs(jump_in), np.abs(jump_out)), 0)
        out[1:-1] = back.sum(1) / 2
    return out


def _with_flicker(reports: Sequence[FrameReport]) -> list[FrameReport]:
    """The reports with the warning added, camera by camera in the order of the frames."""
    cameras: dict[str, list[tuple[int, Array]]] = {}
    for index, report in enumerate(reports):
        if report.areas is not None:
            cameras.setdefault(report.frame.camera, []).append((index, report.areas))
    reports = list(reports)
    for members in cameras.values():
        members.sort(key=lambda member: reports[member[0]].frame.pose_id)
        shares = flicker(np.stack([areas for _, areas in members]))
        for (index, _), share in zip(members, shares, strict=True):
            if share > _FLICKER_SHARE:
                reports[index] = dataclasses.replace(reports[index], warnings=(*reports[index].warnings, FLICKER))
    return reports


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / scale) if scale > 0 else 0.0
