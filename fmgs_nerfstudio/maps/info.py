"""`priors.json`: what the maps of a capture are, who made them, and under which licence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.gate import FileError, read_json
from fmgs_nerfstudio.maps.files import PriorsError

Kind = Literal["semantics", "depth", "normal", "mask"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LabelSet = Literal["goliath28", "dome29"]
DepthKind = Literal["relative", "inverse", "metric"]
DepthDirection = Literal["farther", "nearer"]
NormalFrame = Literal["opengl", "opencv"]
AS_STORED = "x y z"


@dataclass(frozen=True)
class Source:
    """Who made the maps of one kind, and how."""

    estimator: str
    licence: str
    crop: str = "none"


@dataclass(frozen=True)
class PriorsInfo:
    """What the maps of one capture are: the content of `priors.json`."""

    estimator: str
    """Who made the maps, e.g. "sapiens-1b" or "fmgs-demo"."""
    licence: str
    """Licence of the estimator's weights, which usually binds the maps."""
    label_set: LabelSet = "goliath28"
    """Classes as stored: Sapiens v1's 28, or the 29 of Sapiens2, which are read as the 28."""
    depth_kind: DepthKind = "relative"
    """Relative: depth up to an unknown scale and shift. Inverse: 1 / depth up to scale and shift. Metric: metres."""
    depth_direction: DepthDirection = "farther"
    """What a larger stored value means."""
    normal_frame: NormalFrame = "opengl"
    """Camera axes: OpenGL = x right, y up, z toward the camera; OpenCV = x right, y down, z forward."""
    crop: str = "none"
    """How the estimator cropped the image; for the record, the maps cover the whole image."""
    normal_axes: str = AS_STORED
    """Where x, y, z of `normal_frame` are found among the stored channels, e.g. "-x y z" for a mirrored x."""
    corrections: tuple[str, ...] = ()
    """Conventions that a check found wrong and a person corrected; for the record."""
    sources: Mapping[Kind, Source] = field(default_factory=dict)
    """Who made each kind, where that differs from kind to kind."""

    def source(self, kind: Kind) -> Source:
        """Who made the maps of this kind."""
        return self.sources.get(kind, Source(self.estimator, self.licence, self.crop))

    def axes(self) -> Float[Array, "3 3"]:
        """`normal_axes` as a matrix A: n = A @ stored."""
        return axes_matrix(self.normal_axes)


_FIELDS_OF: dict[Kind, tuple[str, ...]] = {
    "semantics": ("label_set",),
    "depth": ("depth_kind", "depth_direction"),
    "normal": ("normal_frame", "normal_axes"),
    "mask": (),
}


def merge(old: PriorsInfo, present: Iterable[Kind], new: PriorsInfo, kinds: Iterable[Kind]) -> PriorsInfo:
    """The description after maps of `kinds` came in as `new` says, beside those `present` as `old` says."""
    kinds = set(kinds)
    sources = {
        kind: new.source(kind) if kind in kinds else old.source(kind) for kind in KINDS if kind in {*present, *kinds}
    }
    changed = {name: getattr(new, name) for kind in kinds for name in _FIELDS_OF[kind]}

    def joined(values: Iterable[str]) -> str:
        return " + ".join(dict.fromkeys(values))

    return dataclasses.replace(
        old,
        **changed,
        estimator=joined(source.estimator for source in sources.values()),
        licence=joined(source.licence for source in sources.values()),
        crop=joined(source.crop for source in sources.values()),
        corrections=tuple(note for note in old.corrections if note.split(":")[0] not in changed),
        sources=sources,
    )


def correct(info: PriorsInfo, why: str, **changed: str) -> PriorsInfo:
    """`info` with conventions changed, and a note of what they were."""
    notes = (f"{name}: {getattr(info, name)} -> {value} ({why})" for name, value in changed.items())
    return dataclasses.replace(info, corrections=(*info.corrections, *notes), **changed)  # pyright: ignore[reportArgumentType]


def axes_matrix(axes: str) -> Float[Array, "3 3"]:
    """The signed permutation that words such as "-x y z" name; its rows pick the channels.

    Raises:
        ValueError: not three words that name x, y and z once each.
    """
    words = axes.split()
    if sorted(word.lstrip("-") for word in words) != ["x", "y", "z"]:
        raise ValueError(f"{axes!r} is no order of x, y and z")
    matrix = np.zeros((3, 3), np.float32)
    for row, word in enumerate(words):
        matrix[row, "xyz".index(word[-1])] = -1 if word.startswith("-") else 1
    return matrix


def axes_words(matrix: Float[Array, "3 3"]) -> str:
    """The words of `axes_matrix`."""
    return " ".join(("-" if row.sum() < 0 else "") + "xyz"[int(np.abs(row).argmax())] for row in matrix)


def write_info(path: Path, info: PriorsInfo) -> None:
    """Write `priors.json`; what is at its default and only for the record is left out."""
    content = dataclasses.asdict(info)
    for name in _OPTIONAL:
        if not content[name] or content[name] == AS_STORED:
            del content[name]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_info(path: Path) -> PriorsInfo:
    """Read `priors.json`.

    Raises:
        PriorsError: it is missing, unreadable, or says something this version does not know.
    """
    try:
        fields = read_json(path)
    except FileNotFoundError as error:
        raise PriorsError(f"{path}: missing, so nobody knows what the maps beside it are.") from error
    except (FileError, OSError) as error:
        raise PriorsError(f"{error}; correct it, or delete the maps and make them again.") from error
    if not isinstance(fields, dict):
        raise PriorsError(f"{path}: expected a JSON object.")
    known = {field.name for field in dataclasses.fields(PriorsInfo)}
    missing, unknown = known - _OPTIONAL - fields.keys(), fields.keys() - known
    if missing or unknown:
        raise PriorsError(f"{path}: missing fields {sorted(missing)}, unknown fields {sorted(unknown)}.")
    for name, values in _ALLOWED.items():
        if fields[name] not in values:
            raise PriorsError(f"{path}: {name} is {fields[name]!r}, expected one of {', '.join(values)}.")
    try:
        axes_matrix(fields.setdefault("normal_axes", AS_STORED))
        fields["corrections"] = tuple(fields.get("corrections", ()))
        fields["sources"] = {kind: Source(**source) for kind, source in fields.get("sources", {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise PriorsError(f"{path}: normal_axes, corrections or sources are malformed: {error}.") from error
    return PriorsInfo(**fields)


_OPTIONAL = {"normal_axes", "corrections", "sources"}
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "label_set": get_args(LabelSet),
    "depth_kind": get_args(DepthKind),
    "depth_direction": get_args(DepthDirection),
    "normal_frame": get_args(NormalFrame),
}
