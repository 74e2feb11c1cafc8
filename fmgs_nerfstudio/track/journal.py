"""What has been seen of a video so far, on disk, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fmgs_dataparsers.files import CaptureError, read_npz
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.track.follow import Follower
from fmgs_nerfstudio.track.networks import Region
from fmgs_nerfstudio.track.scene import Scene

_SAVED = 25  # frames from one save to the next


@dataclass(frozen=True)
class Row:
    """A frame."""

    index: int
    time: float
    name: str
    shot: int
    """Counts the cuts before it."""
    reason: str
    """Why it cannot be used; '' where it can."""
    seen: Float[Array, "33 7"]
    """x, y, depth, world, score; 0 where it cannot be used."""


@dataclass
class Journal:
    """Rows of the frames that were seen, and where the person and the background were last."""

    path: Path
    stamp: dict[str, Any]
    """What was seen, and how: rows of another are of no use."""
    rows: list[Row] = field(default_factory=list[Row])
    notes: list[str] = field(default_factory=list[str])
    shifts: list[float] = field(default_factory=list[float])
    """Of the camera in each shot, see `Scene`; NaN where the background tells nothing."""
    turn: int = 0
    """Degrees by which the pictures are turned, clockwise."""
    whole: bool = False
    """All wanted frames were seen."""
    state: dict[str, Array] = field(default_factory=dict[str, Array])
    """Of follower and scene, as they were on disk."""

    def read(self) -> bool:
        """Take up what is on disk, if it is of the same footage; returns whether it is."""
        if not self.path.is_file():
            return False
        try:
            content = read_npz(self.path)
            if json.loads(str(content["stamp"])) != self.stamp:
                return False
            columns = (content[name].tolist() for name in ("index", "time", "name", "shot", "reason"))
            self.rows[:] = [Row(*row) for row in zip(*columns, content["seen"], strict=True)]
        except (ValueError, KeyError) as error:
            raise CaptureError(
                f"{self.path} is damaged ({error}); remove {self.path.parent.parent} to see the video anew"
            ) from error
        self.notes[:], self.whole = content["notes"].tolist(), bool(content["whole"])
        self.shifts[:], self.turn = content["shifts"].tolist(), int(content["turn"])
        self.state = content
        return True

    def restore(self, follower: Follower, scene: Scene) -> None:
        """Bring both to where they were when the last row on disk was seen."""
        if self.state:
            _restore(self.state, follower, scene)

    def forget(self) -> None:
        """All rows: they have to be seen again."""
        self.rows.clear()
        self.notes.clear()
        self.shifts.clear()
        self.state, self.whole = {}, False

    def add(self, row: Row, follower: Follower, scene: Scene) -> None:
        """Take a row in; now and then all go to disk."""
        self.rows.append(row)
        if len(self.rows) % _SAVED == 0:
            self.save(follower, scene)

    def save(self, follower: Follower, scene: Scene) -> None:
        """All rows, whole or not at all."""
        rows = self.rows
        content = {
            "stamp": np.array(json.dumps(self.stamp)),
            "index": np.array([row.index for row in rows], int),
            "time": np.array([row.time for row in rows], float),
            "name": np.array([row.name for row in rows], str),
            "shot": np.array([row.shot for row in rows], int),
            "reason": np.array([row.reason for row in rows], str),
            "seen": np.array([row.seen for row in rows]).reshape(-1, 33, 7),
            "notes": np.array(self.notes, str),
            "shifts": np.array(self.shifts, float),
            "turn": np.array(self.turn),
            "whole": np.array(self.whole),
        }
        stream = io.BytesIO()  # numpy tells of a full disk without a cause
        np.savez(stream, **content, **_state(follower, scene))
        with atomic_path(self.path) as temporary:
            temporary.write_bytes(stream.getbuffer())


def _state(follower: Follower, scene: Scene) -> dict[str, Array]:
    state: dict[str, Array] = {
        "follower": np.array([follower.time, follower.misses, follower.blocked], float),
        "scene": np.array([scene.shift, scene.told], float),
        "path": scene.path,
    }
    if follower.last is not None:
        state["last"] = np.array([*follower.last.centre, follower.last.side, follower.last.angle])
    if follower.colours is not None:
        state["colours"] = follower.colours
    if follower.recent is not None:
        state["recent"] = follower.recent
    if scene.grey is not None and scene.clear is not None:
        state |= {"grey": scene.grey, "clear": scene.clear}
    return state


def _restore(content: dict[str, Array], follower: Follower, scene: Scene) -> None:
    time, misses, blocked = content["follower"].tolist()
    follower.time, follower.misses, follower.blocked = time, int(misses), blocked
    follower.colours, follower.recent = content.get("colours"), content.get("recent")
    scene.shift, scene.told = float(content["scene"][0]), int(content["scene"][1])
    scene.path, scene.grey, scene.clear = content["path"], content.get("grey"), content.get("clear")
    if "last" in content:
        x, y, side, angle = content["last"].tolist()
        follower.last = Region(np.array([x, y]), side, angle)
