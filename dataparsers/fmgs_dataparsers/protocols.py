"""Splits by name: which camera's which frames train and which are held out.

Ranges of frames are those of the papers' code; each function is a pure list of (camera, frame) indices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fmgs_dataparsers.capture import Split
from fmgs_dataparsers.files import CaptureError, read_json

Indices = dict[Split, list[tuple[int, int]]]
Name = Literal["auto", "humannerf", "gauhuman", "monohuman", "instantavatar", "last-fifth"]
Colour = tuple[float, float, float]
BLACK: Colour = (0.0, 0.0, 0.0)
WHITE: Colour = (1.0, 1.0, 1.0)

# Frames that HumanNeRF's preparation keeps (also 3DGS-Avatar's and GoMAvatar's); subjects not named keep all.
_HUMANNERF_FRAMES = {"377": 570, "386": 540, "387": 540, "394": 475}
# InstantAvatar's configurations: first and last frame of each part, both inclusive, and the stride.
INSTANT_AVATAR = {
    "female-3-casual": ({"train": (0, 445), "val": (446, 446), "test": (446, 647)}, 4),
    "female-4-casual": ({"train": (0, 335), "val": (335, 335), "test": (335, 523)}, 4),
    "male-3-casual": ({"train": (0, 455), "val": (456, 456), "test": (456, 675)}, 4),
    "male-4-casual": ({"train": (0, 659), "val": (660, 660), "test": (660, 872)}, 6),
}


def subject_of(root: Path) -> str:
    """`377` of CoreView_377, my_377 or 377; `male-3-casual` of PeopleSnapshot's folders; else the folder's name."""
    found = re.search(r"(?:fe)?male-\d+-\w+|(?<!\d)\d{3}(?!\d)", root.name)
    return found[0] if found else root.name


def humannerf(subject: str, n_frames: int, n_cameras: int) -> Indices:
    """The first camera trains; the others test on every 30th of the same frames (HumanNeRF's issue 8; 3DGS-Avatar)."""
    last = min(_HUMANNERF_FRAMES.get(subject, n_frames), n_frames)
    views = [(camera, i) for camera in range(1, n_cameras) for i in range(0, last, 30)]
    return {"train": [(0, i) for i in range(last)], "novel_view": views, "novel_pose": []}


def monohuman(subject: str, n_frames: int, n_cameras: int) -> Indices:
    """As HumanNeRF's, with the last fifth of the frames held out as new poses, every 30th of them."""
    last = min(_HUMANNERF_FRAMES.get(subject, n_frames), n_frames)
    seen = last - last // 5
    return {
        "train": [(0, i) for i in range(seen)],
        "novel_view": [(camera, i) for camera in range(1, n_cameras) for i in range(0, seen, 30)],
        "novel_pose": [(camera, i) for camera in range(n_cameras) for i in range(seen, last, 30)],
    }


def gauhuman(subject: str, n_frames: int, n_cameras: int) -> Indices:
    """The fifth camera trains on every 5th of 500 frames, the others test on every 30th (also GART, instant-nvr)."""
    if n_cameras < 5:
        raise CaptureError(f"the protocol gauhuman trains on the fifth camera; this capture has {n_cameras}")
    test = range(0, min(17 * 30, n_frames), 30)
    return {
        "train": [(4, i) for i in range(0, min(500, n_frames), 5)],
        "novel_view": [(camera, i) for camera in range(n_cameras) if camera != 4 for i in test],
        "novel_pose": [],
    }


def instantavatar(subject: str, n_frames: int, n_cameras: int) -> Indices:
    """PeopleSnapshot's one camera: the first turn trains, what follows it tests, every 4th or 6th frame."""
    if subject not in INSTANT_AVATAR:
        known = ", ".join(INSTANT_AVATAR)
        raise CaptureError(f"the protocol instantavatar has no frame ranges for {subject!r}; it has them for {known}")
    inside = {part: [(0, i) for i in frames_of(subject, part) if i < n_frames] for part in ("train", "test")}
    return {"train": inside["train"], "novel_view": [], "novel_pose": inside["test"]}


def frames_of(subject: str, part: str) -> range:
    """Frames of "train", "val" or "test" of a subject of `INSTANT_AVATAR`."""
    parts, stride = INSTANT_AVATAR[subject]
    first, last = parts[part]
    return range(first, last + 1, stride)


def last_fifth(subject: str, n_frames: int, n_cameras: int) -> Indices:
    """Own captures: the first camera trains on four fifths; of the last fifth and of other cameras, 50 or so test."""
    seen = n_frames - n_frames // 5
    later, views = max(1, (n_frames - seen) // 50), max(1, seen * (n_cameras - 1) // 50)
    return {
        "train": [(0, i) for i in range(seen)],
        "novel_view": [(camera, i) for camera in range(1, n_cameras) for i in range(0, seen, views)],
        "novel_pose": [(0, i) for i in range(seen, n_frames, later)],
    }


_PROTOCOLS: dict[str, Callable[[str, int, int], Indices]] = {
    "humannerf": humannerf,
    "gauhuman": gauhuman,
    "monohuman": monohuman,
    "instantavatar": instantavatar,
    "last-fifth": last_fifth,
}


@dataclass(frozen=True)
class ChosenSplit:
    """A protocol applied to a capture."""

    name: str
    indices: Indices
    background: Colour
    exact_poses: bool = False
    """The capture says that its poses are known, not fitted."""


def choose(wanted: str, default: str, root: Path, cameras: Sequence[str], n_frames: int) -> ChosenSplit:
    """The split of a capture of `n_frames` time steps by `cameras`.

    `auto` is the capture's own `protocol.json` where it has one, then the layout's `default`; and where that has no
    ranges for this subject, `last-fifth`.

    Raises:
        CaptureError: the protocol does not fit the capture.
    """
    subject = subject_of(root)
    if wanted == "auto" and (root / "protocol.json").is_file():
        return _own(root / "protocol.json", cameras, n_frames)
    name = default if wanted == "auto" else wanted
    if wanted == "auto" and name == "instantavatar" and subject not in INSTANT_AVATAR:
        name = "last-fifth"
    indices = _PROTOCOLS[name](subject, n_frames, len(cameras))
    # PeopleSnapshot's numbers are on white in InstantAvatar and GoMAvatar; ZJU-MoCap's on black everywhere.
    return ChosenSplit(name, indices, WHITE if name == "instantavatar" else BLACK)


def _own(path: Path, cameras: Sequence[str], n_frames: int) -> ChosenSplit:
    protocol = read_json(path)
    try:
        indices: Indices = {
            split: [(cameras.index(camera), range(n_frames)[i]) for camera in part["cameras"] for i in part["frames"]]
            for split in ("train", "novel_view", "novel_pose")
            for part in [protocol[split]]
        }
        if not isinstance(exact := protocol.get("exact_poses", False), bool):
            raise ValueError(f"exact_poses is {exact!r}; expected true or false")
        return ChosenSplit(str(protocol["name"]), indices, BLACK, exact)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise CaptureError(f"{path} does not describe this capture's splits: {error}") from error
