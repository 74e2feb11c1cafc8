"""From a video to what the networks see of one person in it: frames, soft masks, landmarks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fmgs_dataparsers.files import CaptureError
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.files import atomic_path, ensure_writable, write_image
from fmgs_nerfstudio.track.follow import Follower, check_person, upright_turn
from fmgs_nerfstudio.track.journal import Journal, Row
from fmgs_nerfstudio.track.masks import person_mask
from fmgs_nerfstudio.track.networks import LANDMARKS, Detector, LandmarkNetwork, Look
from fmgs_nerfstudio.track.records import Sightings
from fmgs_nerfstudio.track.scene import STILL, Scene
from fmgs_nerfstudio.track.video import Choice, Focal, Footage, Picture, open_footage, turned

Progress = Callable[[int, int], None]
"""progress(done, total), in frames."""
LEAST = 8
"""Frames that are worth a fit."""
_GLANCES = 5
_QUALITY = 95


@dataclass(frozen=True)
class Seen:
    """What `see` found and wrote."""

    sightings: Sightings
    focal: Focal | None
    """Where the video says it."""
    left_out: dict[str, str]
    """Frames that cannot be used, and why."""
    notes: list[str] = field(default_factory=list[str])
    """What a user should know of the footage, a line each."""
    shift: float | None = 0.0
    """How far the background moves at most, pixels; none where it shows nothing that could be followed."""

    @property
    def reasons(self) -> list[str]:
        """A line for each reason that frames were left out for, with the first of them by name."""
        lines = list[str]()
        for reason, count in Counter(self.left_out.values()).most_common():
            names = [name for name, its in self.left_out.items() if its == reason]
            shown = ", ".join(names[:3]) + (f" and {count - 3} more" if count > 3 else "")
            lines.append(f"left out, {reason}: {shown}")
        return lines


def see(
    video: Path,
    out: Path,
    choice: Choice | None = None,
    person: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Seen:
    """Follow one person; what was seen before, by a run that was interrupted too, is not seen again.

    Writes `out/images/NNNNNN.jpg` and `out/masks/NNNNNN.png` (8 bits, soft), named by the frame's number in the video,
    and `out/track/`: `sightings.npz`, and `seen.npz`, by which a run goes on.

    Args:
        video: a video file or a folder of images.
        out: folder, made if it is missing.
        choice: which frames, and how large.
        person: who, if there are several: 'left', 'right', or a number that counts from the left.

    Raises:
        CaptureError: the video cannot be used; or `out` holds what was seen of another, or something else.
        OSError: `out` cannot be written to.
    """
    choice = choice or Choice()
    check_person(person)
    footage = open_footage(video, choice)
    ensure_writable(out)
    journal = Journal(out / "track" / "seen.npz", _stamp(video, choice, person, footage))
    if not journal.read():
        _check_empty(out, journal.path)
        journal.turn = _turn(footage, choice, journal.notes)
    footage = turned(footage, journal.turn)
    if journal.whole and not _all_there(out, journal.rows):  # somebody has removed images
        journal.forget()
    if not journal.whole:
        _watch(footage, out, journal, person, progress)
    return _conclude(video, out, footage, journal)


def _turn(footage: Footage, choice: Choice, notes: list[str]) -> int:
    """How the pictures have to be turned, clockwise degrees: as told, or by some of them."""
    if choice.turn is not None:
        return choice.turn
    step = max(len(footage.wanted) // _GLANCES, 1)
    images = [picture.image for picture in footage.glances(footage.wanted[step // 2 :: step][:_GLANCES])]
    turn = upright_turn(Detector(), images)
    if turn:
        notes.append(
            f"people in it do not stand upright: the pictures are turned by {turn} degrees; --turn 0 leaves them"
        )
    return turn


def _stamp(video: Path, choice: Choice, person: str | None, footage: Footage) -> dict[str, Any]:
    return {
        "source": footage.stamp,
        "name": video.name,
        "choice": dataclasses.asdict(choice),
        "person": person,
        "network": LANDMARKS,
        "size": list(footage.size),
    }


def _check_empty(out: Path, journal: Path) -> None:
    if journal.is_file():
        raise CaptureError(
            f"{out} holds what was seen of another video, or with other options; name another folder, or remove it"
        )
    if out.is_dir() and any(out.iterdir()):
        raise CaptureError(f"{out} is not empty, and nothing that was seen of a video; name another folder")


def _paths(out: Path, index: int) -> tuple[Path, Path]:
    """Image and mask of a frame."""
    return out / "images" / f"{index:06d}.jpg", out / "masks" / f"{index:06d}.png"


def _all_there(out: Path, rows: list[Row]) -> bool:
    return all(path.is_file() for row in _kept(rows) for path in _paths(out, row.index))


def _watch(footage: Footage, out: Path, journal: Journal, person: str | None, progress: Progress) -> None:
    """See the frames that have not been seen yet."""
    follower, scene = Follower(Detector(), LandmarkNetwork(), person, notes=journal.notes), Scene()
    journal.restore(follower, scene)
    last = journal.rows[-1].index if journal.rows else -1
    left, total = [i for i in footage.wanted if i > last], len(footage.wanted)
    shot = journal.rows[-1].shot if journal.rows else 0
    waiting = iter(left)
    try:
        for picture in footage.pictures(left):
            for index in waiting:  # those that could not be read come before it
                if index == picture.index:
                    break
                journal.rows.append(_row(footage.name(index), index, picture.time, shot, "it cannot be read"))
            if scene.cuts(picture.image):
                shot += 1
                journal.shifts.append(_shift(scene))
                scene.begin()
                follower.forget()
            look = follower(picture.image, picture.time, picture.name)
            found = look if isinstance(look, Look) else None
            scene.add(picture.image, found)
            if found is not None:
                _write(out, picture, found)
            journal.add(_row(picture.name, picture.index, picture.time, shot, look), follower, scene)
            progress(len(journal.rows), total)
        for index in waiting:
            journal.rows.append(_row(footage.name(index), index, 0.0, shot, "it cannot be read"))
        journal.shifts.append(_shift(scene))
        journal.whole = True
    finally:
        journal.save(follower, scene)


def _shift(scene: Scene) -> float:
    return scene.shift if scene.told else float("nan")


def _row(name: str, index: int, time: float, shot: int, look: Look | str) -> Row:
    if isinstance(look, str):
        return Row(index, time, name, shot, look, np.zeros((33, 7)))
    seen = np.c_[look.landmarks, look.depth, look.world, look.score]
    return Row(index, time, name, shot, "", seen)


def _write(out: Path, picture: Picture, look: Look) -> None:
    image, mask = _paths(out, picture.index)
    with atomic_path(image) as path:
        write_image(path, picture.image, cv2.IMWRITE_JPEG_QUALITY, _QUALITY)
    with atomic_path(mask) as path:
        write_image(path, np.rint(255 * person_mask(picture.image, look)).astype(np.uint8))


def _kept(rows: list[Row]) -> list[Row]:
    """The usable rows of the shot that has most of them."""
    counts = Counter(row.shot for row in rows if not row.reason)
    if not counts:
        return []
    longest = max(counts, key=lambda shot: counts[shot])
    return [row for row in rows if not row.reason and row.shot == longest]


def _conclude(video: Path, out: Path, footage: Footage, journal: Journal) -> Seen:
    """What a whole journal comes to."""
    rows, kept = journal.rows, _kept(journal.rows)
    left_out = {row.name: row.reason for row in rows if row.reason}
    if len(kept) < LEAST:
        raise CaptureError(_too_few(video, rows, len(kept)))
    notes = [*footage.notes, *journal.notes]
    shots = len(journal.shifts)
    if shots > 1:
        cuts = [row.time for before, row in pairwise(rows) if row.shot > before.shot]
        at = ", ".join(f"{time:.1f} s" for time in cuts[:5]) + (" ..." if len(cuts) > 5 else "")
        first, last = kept[0].time, kept[-1].time
        notes.append(f"the video cuts at {at}; the longest piece is kept, {first:.1f} to {last:.1f} s")
        for row in rows:
            if not row.reason and row.shot != kept[0].shot:
                left_out[row.name] = "another piece of a video that was cut"
                for path in _paths(out, row.index):
                    path.unlink(missing_ok=True)
    shift = journal.shifts[kept[0].shot]
    pixels = None if np.isnan(shift) else shift * max(footage.size)
    if pixels is None:
        notes.append("the background shows nothing that would tell whether the camera moves; it is taken to be at rest")
    elif shift > STILL:
        notes.append(
            f"the camera moves: the background shifts by up to {pixels:.0f} pixels. The fit takes it to be at rest: "
            "put it on something, or take a piece where it rests (--start, --end)"
        )
    sightings = _sightings(kept, footage.size)
    sightings.write(out / "track" / "sightings.npz")
    return Seen(sightings, footage.focal, left_out, notes, pixels)


def _too_few(video: Path, rows: list[Row], count: int) -> str:
    reasons = Counter(row.reason for row in rows if row.reason)
    cuts = sum(before.shot != row.shot for before, row in pairwise(rows))
    if cuts:
        return (
            f"{video}: it cuts {cuts} times, and {count} frames of its longest piece can be used; expected at least "
            f"{LEAST}; film the person in one piece"
        )
    if not reasons:
        return f"{video} has {len(rows)} frames where it is seen; expected at least {LEAST} of a person who moves"
    reason, times = reasons.most_common(1)[0]
    advice = {
        "nobody is seen": "one person has to be seen from head to feet",
        "too dark": "film in more light",
        "too dark to see anybody": "film in more light",
        "the person is partly outside the picture": "the camera has to see them from head to feet",
    }.get(reason, "one person has to be seen from head to feet, all the time")
    return (
        f"{video}: {count} of {len(rows)} frames can be used, expected at least {LEAST}; {reason} in {times}: {advice}"
    )


def _sightings(rows: list[Row], size: tuple[int, int]) -> Sightings:
    seen: Float[Array, "F 33 7"] = np.array([row.seen for row in rows])
    return Sightings(
        index=np.array([row.index for row in rows]),
        time=np.array([row.time for row in rows]),
        landmarks=seen[..., :2],
        depth=seen[..., 2],
        world=seen[..., 3:6],
        score=seen[..., 6],
        size=size,
    )
