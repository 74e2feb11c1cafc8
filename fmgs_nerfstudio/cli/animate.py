"""`fmgs-animate`: a trained avatar performs a motion."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.markup import escape
from rich.progress import track

from fmgs_nerfstudio.cli.errors import in_one_line
from fmgs_nerfstudio.evaluation.pictures import VIDEO_SUFFIXES, Image, write_mp4
from fmgs_nerfstudio.evaluation.runs import RunError, open_run
from fmgs_nerfstudio.export.animation import OutputName, perform, refuse_untaught, write_pngs
from fmgs_nerfstudio.files import ensure_writable
from fmgs_nerfstudio.frozen import FrozenAvatar
from fmgs_nerfstudio.motion.cameras import CameraName, capture_camera, watch
from fmgs_nerfstudio.motion.motion import MotionError, joints
from fmgs_nerfstudio.motion.readers import Reading, read_motion
from fmgs_nerfstudio.relighting import LightError, Relighting, relit


@dataclass(frozen=True)
class Animate:
    """Render a trained avatar in the poses of a motion file, as a video or as PNGs.

    Motions: AMASS, MoSh++, AIST++, EDGE, MDM, WHAM, GVHMR, TRAM, PeopleSnapshot, InstantAvatar, any capture's folder.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The run: its config.yml, its folder, or a folder above (the newest run in it)."""
    motion: Path | None = None
    """Motion file, or a capture's folder. Default: the run's own capture, with the poses that training refined."""
    data: Path | None = None
    """Folder of the run's capture, where it has moved. Default: as config.yml says; it need not be there."""
    video: Path | None = None
    """Video to write (mp4, m4v, mov, mkv). Default: animations/MOTION.mp4 in the run's folder, unless with --frames."""
    frames: Path | None = None
    """Folder to write PNGs to: 000000.png and so on."""
    outputs: tuple[OutputName, ...] = ("rgb",)
    """Maps to show side by side: rgb depth surface_normal accumulation, and if trained, normal semantics."""
    camera: CameraName = "follow"
    """fixed: the capture's camera. follow: it moves with the person. orbit: it circles the person."""
    seconds_per_turn: float = 8.0
    """Seconds in which the orbiting camera goes around once."""
    zoom: float | None = None
    """Focal length, in multiples of the capture's. Default: chosen so that the whole motion is in the image."""
    size: int | None = None
    """Longer side of one map, in pixels. Default: the size of the training images."""
    fps: float = 30.0
    """Frames per second of the animation; the motion is resampled."""
    start: float = 0.0
    """Second of the motion to start at."""
    stop: float | None = None
    """Second of the motion to end at. Default: its end."""
    place: bool = True
    """Start where the person stood in the capture, facing the same way. Off: keep the places of the motion file."""
    clamp_pose_input: bool = False
    """Limit what the pose-dependent fields see to the range of training: calmer clothes in unusual poses."""
    relight: Relighting = field(default_factory=Relighting)
    """The light, of an avatar that was trained with one."""
    reading: Reading = field(default_factory=Reading)
    """Axes, unit and rate of the motion file."""


def run(animate: Animate) -> None:
    """Render and say where the result is and how fast it went.

    Raises:
        MotionError, RunError, LightError: the motion, the run or the light cannot be used.
    """
    _check(animate)
    motion = None if animate.motion is None else read_motion(animate.motion, animate.reading)
    opened = open_run(animate.run, animate.data)
    refuse_untaught(opened.model, animate.outputs)
    avatar = FrozenAvatar(opened.model, animate.clamp_pose_input)
    body, capture = avatar.model.canonical, avatar.model.kwargs["metadata"]["capture"]
    avatar.model.light = relit(avatar.model.light, animate.relight, capture)
    own = avatar.own_motion(animate.reading.fps)
    if motion is None:
        motion = own
    elif animate.place:
        motion = motion.stand_in_for(own, body)
    else:
        motion = motion.upright(np.array(capture.up), body.joints[0].numpy(force=True).astype(float))
    motion = motion.clip(animate.start, animate.stop).resample(animate.fps)
    video = animate.video
    if video is None and animate.frames is None:
        video = opened.folder / "animations" / f"{motion.name}.mp4"
    for folder in (animate.frames, video.parent if video else None):
        if folder is not None:
            ensure_writable(folder)
    cameras = watch(
        animate.camera, capture_camera(capture, animate.size), joints(motion, body), np.array(capture.up),
        motion.fps, animate.seconds_per_turn, animate.zoom,
    )  # fmt: skip
    clock = Clock()
    frames = clock.measure(perform(avatar, motion, cameras, animate.outputs))
    frames = iter(track(frames, f"Animating {escape(motion.name)}", total=len(motion)))
    if animate.frames is not None:
        frames = write_pngs(frames, animate.frames)
    if video is None:
        for _ in frames:
            pass
    else:
        write_mp4(frames, video, animate.fps)
    written = " and ".join(str(path) for path in (video, animate.frames) if path is not None)
    print(f"Wrote {written}: {len(motion)} frames; posing and rendering took {clock.typical * 1000:.0f} ms a frame")


class Clock:
    """Measures an iterator's own time, not its consumer's."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @property
    def typical(self) -> float:
        """Median seconds of one item."""
        return float(np.median(self.seconds)) if self.seconds else 0.0

    def measure(self, items: Iterator[Image]) -> Iterator[Image]:
        while True:
            started = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            self.seconds.append(time.perf_counter() - started)
            yield item


def _check(animate: Animate) -> None:
    for name, value in (("fps", animate.fps), ("seconds-per-turn", animate.seconds_per_turn)):
        if not value > 0:
            raise MotionError(f"--{name} is {value}; expected more than 0")
    if animate.size is not None and not 16 <= animate.size <= 8192:
        raise MotionError(f"--size is {animate.size}; expected 16 to 8192 pixels")
    if animate.zoom is not None and not animate.zoom > 0:
        raise MotionError(f"--zoom is {animate.zoom}; expected more than 0")
    if animate.video is not None and (suffix := animate.video.suffix.lower()) not in VIDEO_SUFFIXES:
        mp4 = animate.video.with_suffix(".mp4")
        palette = '-vf "split[a][b];[a]palettegen[p];[b][p]paletteuse" ' if suffix == ".gif" else ""
        raise MotionError(
            f"--video {animate.video} is none of {', '.join(VIDEO_SUFFIXES)}; write {mp4}, and convert it: "
            f"ffmpeg -i {mp4} {palette}{animate.video}"
        )
    if not animate.outputs:
        raise MotionError("--outputs names no map; expected one or more, such as rgb")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `fmgs-animate`."""
    animate = tyro.cli(Animate, prog="fmgs-animate", args=arguments)
    with in_one_line("fmgs-animate", MotionError, RunError, LightError, interrupted="no video was written"):
        run(animate)


if __name__ == "__main__":
    main()
