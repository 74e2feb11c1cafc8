"""`fmgs-track`: a raw video of a person to a capture that can be trained on, with nothing but this package."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import hypot
from pathlib import Path
from typing import Annotated

import cv2
import tyro
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.parser import open_capture
from rich.console import Console
from rich.markup import escape

from fmgs_nerfstudio import demo
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.cli.bars import Tell, counting
from fmgs_nerfstudio.cli.errors import in_one_line
from fmgs_nerfstudio.evaluation.pictures import write_mp4
from fmgs_nerfstudio.evaluation.tiles import Picture
from fmgs_nerfstudio.evaluation.track.overlay import Overlays
from fmgs_nerfstudio.evaluation.track.page import chart, facts_of, html_page
from fmgs_nerfstudio.files import atomic_path, ensure_writable
from fmgs_nerfstudio.judge.fit_check import check_capture
from fmgs_nerfstudio.track.capture import write_capture
from fmgs_nerfstudio.track.fit import fit
from fmgs_nerfstudio.track.see import Seen, see
from fmgs_nerfstudio.track.video import FILM_DIAGONAL, Choice, Focal, open_footage

EMBEDDED = Path(demo.__file__).parent / "assets" / "body_demo.npz"
_FOCAL = re.compile(r"(\d+(?:\.\d+)?) ?(mm|px)", re.IGNORECASE)


@dataclass(frozen=True)
class Track:
    """Follow a person through a video of a camera at rest, and write a capture: frames, masks, camera, poses, shape.

    Needs no licence, no download and no GPU. What is done is not done again. See track/index.html in the capture.
    """

    video: Annotated[Path, tyro.conf.Positional]
    """Video, or a folder with its frames."""
    out: Path | None = None
    """Folder of the capture. Default: one with the video's name, where you are."""
    person: str | None = None
    """Whom to follow, if there are several: left, right, or a number that counts from the left. Default: the largest
    and most central."""
    focal: str | None = None
    """Focal length: 26mm (of 35 mm film, as phones tell it) or 1400px (of the video's own pixels). Default: from the
    video's metadata, else estimated."""
    height: float | None = None
    """Height of the person, metres: one camera cannot see how large and how far somebody is. Default: people's mean."""
    body: Path | None = None
    """SMPL model file to fit. Default: the embedded body, which needs no licence."""
    choice: Annotated[Choice, tyro.conf.OmitArgPrefixes] = field(default_factory=Choice)
    """Frames."""


def run(track: Track) -> Path:
    """Track, show, and say whether the capture is ready. Returns the capture's folder.

    Raises:
        CaptureError: the video, the body or an option cannot be used.
    """
    console = Console()
    video, out = track.video, (track.out or Path(track.video.resolve().stem)).resolve()
    if track.height is not None and not 0.4 < track.height < 2.6:
        raise CaptureError(f"--height is {track.height}; expected metres, for instance 1.75")
    body_file = track.body or EMBEDDED
    body = _body(body_file)
    if out.exists() and not out.is_dir():
        raise CaptureError(f"--out {out} is a file; expected a folder")
    ensure_writable(out)
    told = _relative_focal(track.focal, video)
    with counting("Looking") as tell:
        seen = see(video, out, track.choice, track.person, tell)
    focal = Focal(told * hypot(*seen.sightings.size), "--focal") if told else seen.focal
    with counting("Fitting", frames=False) as tell:
        fits = fit(seen.sightings, out / "masks", body, focal.pixels if focal else None, track.height, tell)
    names = [f"{index:06d}" for index in seen.sightings.index]
    write_capture(out, fits, names, seen.sightings.time, seen.sightings.size, body_file)
    capture = open_capture(out, layout="tracked")
    remarks = [*seen.notes, _how_known(focal)]
    facts = facts_of(fits, seen.sightings)
    page = _show(out, capture, facts, seen, remarks)
    for name, value in facts.items():
        console.print(f"{name:<13} {value}", highlight=False, soft_wrap=True)
    for remark in remarks:
        console.print(f"Note: {escape(remark)}", highlight=False, soft_wrap=True)
    for line in seen.reasons:
        console.print(f"Note: {escape(line)}", highlight=False, soft_wrap=True)
    console.print(f"See {escape(str(page))}", highlight=False, soft_wrap=True)
    _verdict(capture, console)
    return out


def _body(path: Path) -> BodyModel:
    try:
        return BodyModel.load(path)
    except ValueError as error:
        raise CaptureError(str(error)) from error


def _relative_focal(words: str | None, video: Path) -> float | None:
    """What the user says of the focal length, relative to the picture's diagonal."""
    if words is None:
        return None
    match = _FOCAL.fullmatch(words.strip())
    if match is None:
        raise CaptureError(f"--focal is {words}; expected for instance 26mm (of 35 mm film) or 1400px")
    millimetres = match[2].lower() == "mm"
    diagonal = FILM_DIAGONAL if millimetres else hypot(*open_footage(video, Choice(size=sys.maxsize)).size)
    relative = float(match[1]) / diagonal
    if not 0.1 < relative < 20:
        raise CaptureError(f"--focal is {words}: {relative:.2g} times the picture's diagonal, which no camera has")
    return relative


def _how_known(focal: Focal | None) -> str:
    if focal is not None:
        return f"focal length {focal.pixels:.0f} px, from {focal.source}"
    return "the video does not say its focal length: it was estimated, and distances with it; --focal 26mm says it"


def _show(out: Path, capture: Capture, facts: dict[str, str], seen: Seen, remarks: list[str]) -> Path:
    """Write `track/`: overlay video, contact sheet, page."""
    overlays, time = Overlays(capture, seen.sightings), seen.sightings.time
    sheet, _ = overlays.sheet()
    png = cv2.imencode(".png", sheet[..., ::-1])[1].tobytes()
    with atomic_path(out / "track" / "sheet.png") as path:
        path.write_bytes(png)
    rate = (len(time) - 1) / (time[-1] - time[0]) if len(time) > 1 else 1.0
    with counting("Drawing") as tell:
        write_mp4(_told(overlays, tell), out / "track" / "overlay.mp4", max(rate, 1.0))
    page = out / "track" / "index.html"
    with atomic_path(page) as path:
        text = html_page(out.name, facts, remarks, seen.reasons, png, chart(overlays))
        path.write_text(text, encoding="utf-8")
    return page


def _told(overlays: Overlays, tell: Tell) -> Iterator[Picture]:
    for i, picture in enumerate(overlays.pictures()):
        tell(i + 1, len(overlays.frames))
        yield picture


def _verdict(capture: Capture, console: Console) -> None:
    """What fmgs-check says, and the command that trains."""
    with counting("Checking", frames=False) as tell:
        report = check_capture(capture, progress=tell)
    for problem in report.problems:
        console.print(f"[bold red]Not ready[/]: {escape(problem)}", soft_wrap=True)
    for remark in report.remarks:
        console.print(f"Note: {escape(remark)}", soft_wrap=True)
    if report.ready:
        console.print(f"[bold green]ready[/]: ns-train fmgs-avatar --data {escape(str(capture.root))}", soft_wrap=True)


def main() -> None:
    """Entry point of `fmgs-track`."""
    track = tyro.cli(Track, prog="fmgs-track")
    with in_one_line("fmgs-track", CaptureError, interrupted="the same command goes on where it stopped"):
        run(track)


if __name__ == "__main__":
    main()
