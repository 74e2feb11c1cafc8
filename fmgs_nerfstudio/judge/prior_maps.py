"""Which prior maps a capture has, and whether they can be read."""

from __future__ import annotations

from collections.abc import Iterator

from fmgs_dataparsers.capture import Capture, CaptureError, Frame
from fmgs_dataparsers.plausible import names_of

from fmgs_nerfstudio.maps.maps import Kind, PriorsError

LEARNT: tuple[Kind, ...] = ("depth", "normal", "semantics")
"""Kinds that losses need. Masks among the prior maps serve as the capture's own, where it has none."""
_DECODED = 8  # maps of a kind; headers do not show what their pixels hold


def priors_at_hand(capture: Capture) -> dict[Kind, int]:
    """Training frames that have a prior map, by its kind."""
    return {kind: len(_with_map(capture, kind)) for kind in LEARNT}


def share_of_priors(capture: Capture) -> str:
    """The same for people: "depth 40, normal 100, semantics 0 of 100 training frames"."""
    counts = ", ".join(f"{kind} {count}" for kind, count in priors_at_hand(capture).items())
    return f"{counts} of {len(capture.splits['train'])} training frames"


def prior_problems(capture: Capture) -> list[str]:
    """What is wrong with maps that are there: of all, the headers; of a few, the pixels."""
    problems = []
    for kind in LEARNT:
        frames = _with_map(capture, kind)
        broken = dict(_broken(capture, kind, frames))
        if broken:
            names = names_of([f"{frame.camera}/{frame.stem}" for frame in broken])
            problems.append(
                f"{len(broken)} of {len(frames)} prior maps of kind {kind} cannot be used: {names} "
                f"({next(iter(broken.values()))}). Delete them, and those frames train without; fmgs-priors makes "
                "them again"
            )
    return problems


def _with_map(capture: Capture, kind: Kind) -> list[Frame]:
    priors, frames = capture.priors, capture.splits["train"]
    return [] if priors is None else [frame for frame in frames if priors.exists(kind, frame.camera, frame.stem)]


def _broken(capture: Capture, kind: Kind, frames: list[Frame]) -> Iterator[tuple[Frame, str]]:
    assert capture.priors is not None or not frames
    decoded = set(frames[:: max(1, len(frames) // _DECODED)])
    for frame in frames:
        try:
            capture.check_prior(kind, frame)
            if frame in decoded:
                capture.prior(kind, frame)
        except (PriorsError, CaptureError) as error:
            yield frame, str(error).rstrip(".")
