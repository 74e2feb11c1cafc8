"""Captures x variants x seeds, and which programs run: what a plan says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

METHODS = ("fmgs-avatar", "fmgs-avatar-paper")
Paper = Literal["", "zju", "people-snapshot", "ablation"]
DEFAULT_RUN = ("check", "train", "eval")


@dataclass(frozen=True)
class Source:
    """Where a capture comes from."""

    name: str
    path: Path | None = None
    """Folder of the capture, or the video that it is to be made of. None: `make` needs no files."""
    make: Literal["", "demo", "track"] = ""
    """What makes the capture, unless it is one already."""
    options: tuple[str, ...] = ()
    """Arguments of what makes it."""


@dataclass(frozen=True)
class Variant:
    """A method and what is changed of it."""

    name: str
    method: str = "fmgs-avatar"
    flags: tuple[str, ...] = ()
    """Further arguments of `ns-train`."""


@dataclass(frozen=True)
class Plan:
    """Every capture is trained on as every variant with every seed."""

    name: str
    captures: tuple[Source, ...]
    variants: tuple[Variant, ...] = (Variant("fmgs-avatar"),)
    seeds: tuple[int, ...] = (0,)
    run: tuple[str, ...] = DEFAULT_RUN
    """Programs, of those in `steps.STEPS`."""
    steps: int | None = None
    """Training steps. None: the method's own."""
    protocol: str = "auto"
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Further arguments, by program."""
    paper: Paper = ""
    """The paper's table that the results stand beside."""


def plain(name: str) -> str:
    """A name as a file can have it anywhere."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
