"""Frames of a video or a folder of images, one after another: upright, square pixels, at the size that is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np
from av.error import FFmpegError
from fmgs_dataparsers.files import CaptureError, decode, images_in
from fmgs_dataparsers.video import HDR, open_video
from jaxtyping import UInt8

from fmgs_nerfstudio import gate
from fmgs_nerfstudio.arrays import Array

RATE, MOST = 15.0, 600
"""Frames a second that are kept at most unless told, and frames in all: neighbours show the same, and each costs time
here and memory in training."""
_FOLDER_RATE = 30.0
_PACKETS = 1_000_000
FILM_DIAGONAL = 43.27
"""Of a picture on 35 mm film, mm."""
_FOCAL_TAG = "focal_length.35mm_equivalent"  # com.apple.quicktime.camera. stands before it
_EXIF_IFD, _EXIF_FOCAL = 0x8769, 0xA405


@dataclass(frozen=True)
class Choice:
    """Which frames of a video are seen, and at what size."""

    start: float = 0.0
    """Seconds of the video that are left out at its start."""
    end: float | None = None
    """Second of the video at which to stop."""
    every: int | None = None
    """Keep every Nth frame; by default so many that at most 15 a second and 600 in all are kept."""
    size: int = 1280
    """Longer side of the frames that are written at most, pixels."""
    turn: int | None = None
    """Degrees (90, 180, 270) that the pictures are turned, clockwise; by default, as people in them stand upright."""


@dataclass(frozen=True)
class Picture:
    """A frame."""

    index: int
    """Its number in the video, or its place in the folder."""
    time: float
    """Seconds since the first frame."""
    name: str
    """For people."""
    image: UInt8[Array, "H W 3"]
    """In OpenCV's order: blue, green, red."""


@dataclass(frozen=True)
class Focal:
    """A focal length, and how it is known."""

    pixels: float
    """Of the frames as they are kept."""
    source: str


class Footage(Protocol):
    """A video or a folder of images."""

    path: Path
    size: tuple[int, int]
    """Width and height of the pictures, pixels."""
    wanted: list[int]
    """Numbers of the frames that are kept."""
    focal: Focal | None
    notes: list[str]
    """What a user should know."""

    def pictures(self, numbers: list[int]) -> Iterator[Picture]:
        """These frames (ascending), but for those that cannot be read."""
        ...


def open_footage(path: Path, choice: Choice) -> Footage:
    """A video file, or a folder of images in the order of their names.

    Raises:
        CaptureError: it cannot be read, or has no frames where they are wanted.
    """
    if choice.turn not in (None, 0, 90, 180, 270):
        raise CaptureError(f"--turn is {choice.turn}; expected 0, 90, 180 or 270 degrees")
    if choice.every is not None and choice.every < 1:
        raise CaptureError(f"--every is {choice.every}; expected 1 or more")
    if path.is_dir():
        return FolderFootage(path, choice)
    return VideoFootage(path, choice)


def _fitted(width: float, height: float, most: int) -> tuple[int, int]:
    """Whole pixels of a picture whose longer side is `most` at most."""
    scale = min(most / max(width, height), 1.0)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _chosen(path: Path, times: list[float], choice: Choice, notes: list[str], every: int | None) -> list[int]:
    """Numbers of the frames that are kept, of all frames' seconds."""
    end = float("inf") if choice.end is None else choice.end
    inside = [i for i, time in enumerate(times) if choice.start <= time <= end]
    if not inside:
        raise CaptureError(
            f"{path} has no frames between --start {choice.start:g} and --end {end:g}; it lasts {times[-1]:.1f} s"
        )
    step = choice.every or max(every or 1, ceil(len(inside) / MOST))
    if step > 1:
        gap = (times[inside[-1]] - times[inside[0]]) / max(len(inside) - 1, 1) * step
        notes.append(
            f"every {step}. frame is seen ({1 / gap:.1f} a second)" if gap > 0 else f"every {step}. frame is seen"
        )
    return inside[::step]


@dataclass
class VideoFootage:
    """Frames of a video file; time stamps are its own, so that a variable frame rate does no harm."""

    path: Path
    choice: Choice
    size: tuple[int, int] = field(init=False)
    wanted: list[int] = field(init=False)
    focal: Focal | None = field(init=False, default=None)
    notes: list[str] = field(init=False, default_factory=list[str])

    def __post_init__(self) -> None:
        with open_video(self.path) as (container, stream):
            frame = next(container.decode(stream), None)
            if frame is None:
                raise CaptureError(f"{self.path} has no frames; copy it again from its source")
            curve = HDR.get(stream.codec_context.color_trc)
            if curve is not None:
                raise CaptureError(f"{self.path} is HDR ({curve}); convert it to SDR")
            self._quarters = round(frame.rotation / 90) % 4
            aspect = float(stream.sample_aspect_ratio or 1) or 1.0
            square = (frame.width * max(aspect, 1.0), frame.height / min(aspect, 1.0))
            self._raw_size = _fitted(*square, self.choice.size)
            width, height = self._raw_size
            self.size = (height, width) if self._quarters % 2 else (width, height)
            tags = {**container.metadata, **stream.metadata}
            self._say_form(frame.width, frame.height, aspect)
        self._stamps = self._read_stamps()
        first = self._stamps[0]
        self._times = [float(stamp - first) for stamp in self._stamps]
        rate = (len(self._times) - 1) / self._times[-1] if self._times[-1] > 0 else RATE
        every = max(ceil(rate / RATE - 0.01), 1)
        self.wanted = _chosen(self.path, self._times, self.choice, self.notes, every)
        self.focal = _tagged_focal(tags, self.size)

    def _say_form(self, width: int, height: int, aspect: float) -> None:
        if max(self.size) < max(width, height):
            self.notes.append(f"frames are kept at {self.size[0]} x {self.size[1]} of {width} x {height} (--size)")
        if aspect != 1:
            self.notes.append(f"its pixels are {aspect:.3g} times as wide as high; they are made square")

    def _read_stamps(self) -> list[float]:
        """Seconds of all frames in order, without decoding them."""
        stamps: list[float] = []
        with open_video(self.path) as (container, stream):
            base = float(stream.time_base or 1)
            for packet in container.demux(stream):
                if packet.pts is not None and packet.size and not packet.is_discard:
                    stamps.append(packet.pts * base)
                if len(stamps) > _PACKETS:
                    raise CaptureError(f"{self.path} has more than {_PACKETS:,} frames; cut it")
        if not stamps:
            raise CaptureError(f"{self.path} has no time stamps; convert it: ffmpeg -i {self.path} new.mp4")
        return sorted(stamps)

    def pictures(self, numbers: list[int]) -> Iterator[Picture]:
        """These frames (ascending), but for those that cannot be read."""
        if not numbers:
            return
        with open_video(self.path) as (container, stream):
            base = float(stream.time_base or 1)
            number = {round(stamp / base): i for i, stamp in enumerate(self._stamps)}
            left = set(numbers)
            container.seek(round(self._stamps[numbers[0]] / base), stream=stream)
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except FFmpegError:  # one that is damaged; those around it may be whole
                    continue
                for frame in frames:
                    i = None if frame.pts is None else number.get(frame.pts)
                    if i in left:
                        left.remove(i)
                        yield Picture(i, self._times[i], f"frame {i} ({self._times[i]:.2f} s)", self._image(frame))
                if not left:
                    return

    def _image(self, frame: av.VideoFrame) -> UInt8[Array, "H W 3"]:
        width, height = self._raw_size
        small = frame.reformat(width=width, height=height, format="bgr24", interpolation="AREA")
        return np.ascontiguousarray(np.rot90(small.to_ndarray(), self._quarters))


def _tagged_focal(tags: dict[str, str], size: tuple[int, int]) -> Focal | None:
    """What phones write into a video."""
    for name, value in tags.items():
        if name.lower().endswith(_FOCAL_TAG):
            try:
                return _from_film(float(value), size, f"{name} of the video")
            except ValueError:
                return None
    return None


def _from_film(millimetres: float, size: tuple[int, int], source: str) -> Focal | None:
    """From the focal length that sees as much of a 35 mm film, by the diagonal."""
    if not 5 <= millimetres <= 800:
        return None
    return Focal(millimetres / FILM_DIAGONAL * float(np.hypot(*size)), f"{source}: {millimetres:g} mm on 35 mm film")


@dataclass
class FolderFootage:
    """Images of a folder, as if 30 of them were a second."""

    path: Path
    choice: Choice
    size: tuple[int, int] = field(init=False)
    wanted: list[int] = field(init=False)
    focal: Focal | None = field(init=False, default=None)
    notes: list[str] = field(init=False, default_factory=list[str])

    def __post_init__(self) -> None:
        self._files = images_in(self.path)
        if not self._files:
            raise CaptureError(f"{self.path} holds no images (.jpg, .png ...); put the video's frames there")
        times = [i / _FOLDER_RATE for i in range(len(self._files))]
        self.notes.append(f"images have no time stamps; {_FOLDER_RATE:g} of them are taken for a second")
        self.wanted = _chosen(self.path, times, self.choice, self.notes, None)
        first = self._files[self.wanted[0]]
        with gate.open_image(first) as image:
            film = image.getexif().get_ifd(_EXIF_IFD).get(_EXIF_FOCAL)
        self._whole_size = gate.image_size(first)
        self.size = _fitted(*self._whole_size, self.choice.size)
        if self.size != self._whole_size:
            width, height = self._whole_size
            self.notes.append(f"frames are kept at {self.size[0]} x {self.size[1]} of {width} x {height} (--size)")
        if isinstance(film, (int, float)) and film:
            self.focal = _from_film(float(film), self.size, f"Exif of {first.name}")

    def pictures(self, numbers: list[int]) -> Iterator[Picture]:
        """These images (ascending), but for those that cannot be read or are of another size."""
        for i in numbers:
            file = self._files[i]
            try:
                image = decode(file, cv2.IMREAD_COLOR)
            except CaptureError:
                continue
            if image.shape[1::-1] != self._whole_size:
                continue
            yield Picture(i, i / _FOLDER_RATE, file.name, cv2.resize(image, self.size, interpolation=cv2.INTER_AREA))
