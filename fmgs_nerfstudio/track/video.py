"""Frames of a video or a folder of images, one after another: square pixels, at the size that is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Protocol

import av
import cv2
import numpy as np
from av.error import FFmpegError
from fmgs_dataparsers.files import IMAGE_SUFFIXES, CaptureError, decode, image_size, images_in
from fmgs_dataparsers.video import HDR, open_video
from jaxtyping import UInt8

from fmgs_nerfstudio import gate
from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.track.hdr import to_sdr

RATE, MOST = 15.0, 600
"""Frames a second that are kept at most unless told, and frames in all: neighbours show the same, and each costs time
here and memory in training."""
_FOLDER_RATE = 30.0
_PACKETS = 1_000_000
_DIAGONAL = 43.27  # of a 35 mm film's picture, mm
_FOCAL_TAG = "focal_length.35mm_equivalent"  # com.apple.quicktime.camera. stands before it
_EXIF_IFD, _EXIF_FOCAL = 0x8769, 0xA405
_MISSING = 0.1  # of the length that a video declares, beyond which it is said to be cut off


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
    """Degrees (0, 90, 180, 270) that the pictures are turned, clockwise; by default, so that people in them stand."""


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

    size: tuple[int, int]
    """Width and height of the pictures, pixels."""
    wanted: list[int]
    """Numbers of the frames that are kept."""
    focal: Focal | None
    notes: list[str]
    """What a user should know."""

    @property
    def stamp(self) -> list[Any]:
        """By which this very footage is known again."""
        ...

    def name(self, number: int) -> str:
        """Of a frame, for people."""
        ...

    def pictures(self, numbers: list[int]) -> Iterator[Picture]:
        """These frames (ascending), but for those that cannot be read."""
        ...

    def glances(self, numbers: list[int]) -> Iterator[Picture]:
        """Frames near these, quickly."""
        ...


def open_footage(path: Path, choice: Choice) -> Footage:
    """A video file, or a folder of images in the order of their names.

    Raises:
        CaptureError: it cannot be read, or has no frames where they are wanted.
    """
    if choice.turn not in (None, 0, 90, 180, 270):
        raise CaptureError(f"--turn is {choice.turn}; expected 0, 90, 180 or 270 degrees")
    for name, value, least in (("every", choice.every, 1), ("size", choice.size, 64)):
        if value is not None and value < least:
            raise CaptureError(f"--{name} is {value}; expected {least} or more")
    if path.is_dir():
        return FolderFootage(path, choice)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise CaptureError(f"{path} is a still image; expected a video, or a folder of images, of a person who moves")
    return VideoFootage(path, choice)


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
            frame = next(_decoded(container, stream), None)
            if frame is None:
                raise CaptureError(f"{self.path} has no frames that can be read; copy it again from its source")
            self._quarters = round(frame.rotation / 90) % 4
            self._curve = stream.codec_context.color_trc
            aspect = float(stream.sample_aspect_ratio or 0) or 1.0
            square = frame.width * max(aspect, 1.0), frame.height / min(aspect, 1.0)
            width, height = self._raw_size = _fitted(*square, self.choice.size)
            self.size = (height, width) if self._quarters % 2 else (width, height)
            self.focal = _tagged_focal({**container.metadata, **stream.metadata}, self.size)
            declared = float((stream.duration or 0) * (stream.time_base or 0)) or float(container.duration or 0) / 1e6
            whole = (frame.width, frame.height)
        self._stamps, self._base = self._read_stamps()
        self._times = [(stamp - self._stamps[0]) * self._base for stamp in self._stamps]
        self._say_form(whole, aspect, declared)
        rate = (len(self._times) - 1) / self._times[-1] if self._times[-1] > 0 else RATE
        every = max(ceil(rate / RATE - 0.01), 1)
        self.wanted = _chosen(self.path, self._times, self.choice, self.notes, every)

    @property
    def stamp(self) -> list[Any]:
        """By which this very footage is known again."""
        return [self.path.name, self.path.stat().st_size, len(self._stamps)]

    def name(self, number: int) -> str:
        """Of a frame, for people."""
        return f"frame {number} ({self._times[number]:.2f} s)"

    def _say_form(self, whole: tuple[int, int], aspect: float, declared: float) -> None:
        if max(self._raw_size) < max(whole):
            self.notes.append(_smaller(self._raw_size, whole))
        if aspect != 1:
            self.notes.append(f"its pixels are {aspect:.3g} times as wide as high; they are made square")
        if self._curve in HDR:
            self.notes.append(f"it is HDR ({HDR[self._curve]}); bright parts are pressed together")
        length = self._times[-1] if len(self._times) > 1 else 0.0
        if declared - length > max(_MISSING * declared, 1.0):
            self.notes.append(f"it says that it lasts {declared:.1f} s, but ends after {length:.1f} s: cut off?")

    def _read_stamps(self) -> tuple[list[int], float]:
        """Time stamps of all frames in order, without decoding them, and their unit in seconds."""
        stamps = list[int]()
        with open_video(self.path) as (container, stream):
            base = float(stream.time_base or 1)
            for packet in container.demux(stream):
                if packet.pts is not None and packet.size and not packet.is_discard:
                    stamps.append(packet.pts)
                if len(stamps) > _PACKETS:
                    raise CaptureError(f"{self.path} has more than {_PACKETS:,} frames; cut it")
        if not stamps:
            raise CaptureError(f"{self.path} has no time stamps; convert it: ffmpeg -i {self.path} new.mp4")
        return sorted(set(stamps)), base

    def pictures(self, numbers: list[int]) -> Iterator[Picture]:
        """These frames (ascending), but for those that cannot be read."""
        if not numbers:
            return
        left = {self._stamps[number]: number for number in numbers}
        with open_video(self.path) as (container, stream):
            container.seek(self._stamps[numbers[0]], stream=stream)
            for frame in _decoded(container, stream):
                number = None if frame.pts is None else left.pop(frame.pts, None)
                if number is not None:
                    yield self._picture(number, frame)
                if not left:
                    return

    def glances(self, numbers: list[int]) -> Iterator[Picture]:
        """Frames near these, quickly."""
        with open_video(self.path) as (container, stream):
            for number in numbers:
                container.seek(self._stamps[number], stream=stream)
                frame = next(_decoded(container, stream), None)
                if frame is not None:
                    yield self._picture(number, frame)

    def _picture(self, number: int, frame: av.VideoFrame) -> Picture:
        width, height = self._raw_size
        hdr = self._curve in HDR
        kind = "rgb48le" if hdr else "bgr24"
        values = frame.reformat(width=width, height=height, format=kind, interpolation="AREA").to_ndarray()
        image = to_sdr(values, self._curve) if hdr else values
        upright = np.ascontiguousarray(np.rot90(image, self._quarters))  # phones turn the picture
        return Picture(number, self._times[number], self.name(number), upright)


def _decoded(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """Frames, but for damaged ones: those around them may be whole."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except FFmpegError:
            continue


@dataclass
class FolderFootage:
    """Images of a folder in the order of their names, as if 30 of them were a second."""

    path: Path
    choice: Choice
    size: tuple[int, int] = field(init=False)
    wanted: list[int] = field(init=False)
    focal: Focal | None = field(init=False, default=None)
    notes: list[str] = field(init=False, default_factory=list[str])

    def __post_init__(self) -> None:
        self._files = images_in(self.path)
        if not self._files:
            raise CaptureError(f"{self.path} holds no images (.jpg, .png ...); put the frames of a video there")
        self.notes.append(f"images have no time stamps; {_FOLDER_RATE:g} of them are taken for a second")
        times = [i / _FOLDER_RATE for i in range(len(self._files))]
        self.wanted = _chosen(self.path, times, self.choice, self.notes, 1)
        first = self._files[self.wanted[0]]
        self._whole_size = image_size(first)
        self.size = _fitted(*self._whole_size, self.choice.size)
        if self.size != self._whole_size:
            self.notes.append(_smaller(self.size, self._whole_size))
        with gate.open_image(first) as image:
            film = image.getexif().get_ifd(_EXIF_IFD).get(_EXIF_FOCAL)
        if film is not None:
            self.focal = _from_film(str(film), self.size, f"Exif of {first.name}")

    @property
    def stamp(self) -> list[Any]:
        """By which this very footage is known again."""
        return [[file.name, file.stat().st_size] for file in self._files]

    def name(self, number: int) -> str:
        """Of a frame, for people."""
        return self._files[number].name

    def pictures(self, numbers: list[int]) -> Iterator[Picture]:
        """These images (ascending), but for those that cannot be read or are of another size."""
        for number in numbers:
            file = self._files[number]
            try:
                image = decode(file, cv2.IMREAD_COLOR)
            except CaptureError:
                continue
            if image.shape[1::-1] == self._whole_size:
                image = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
                yield Picture(number, number / _FOLDER_RATE, file.name, image)

    def glances(self, numbers: list[int]) -> Iterator[Picture]:
        """These images."""
        return self.pictures(numbers)


@dataclass
class _Turned:
    """Footage whose pictures are turned, quarters of a circle, clockwise."""

    footage: Footage
    quarters: int

    def __post_init__(self) -> None:
        self.wanted, self.focal, self.notes = self.footage.wanted, self.footage.focal, self.footage.notes
        width, height = self.footage.size
        self.size = (height, width) if self.quarters % 2 else (width, height)

    @property
    def stamp(self) -> list[Any]:
        return [*self.footage.stamp, self.quarters]

    def name(self, number: int) -> str:
        return self.footage.name(number)

    def pictures(self, numbers: list[int]) -> Iterator[Picture]:
        for picture in self.footage.pictures(numbers):
            turned = np.ascontiguousarray(np.rot90(picture.image, -self.quarters))
            yield Picture(picture.index, picture.time, picture.name, turned)

    def glances(self, numbers: list[int]) -> Iterator[Picture]:
        return self.pictures(numbers)


def turned(footage: Footage, degrees: int) -> Footage:
    """The same footage, its pictures turned clockwise by a multiple of 90 degrees."""
    return _Turned(footage, degrees // 90 % 4) if degrees else footage


def _fitted(width: float, height: float, most: int) -> tuple[int, int]:
    """Whole pixels of a picture whose longer side is `most` at most."""
    scale = min(most / max(width, height), 1.0)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _smaller(size: tuple[int, int], whole: tuple[int, int]) -> str:
    return f"frames of {whole[0]} x {whole[1]} pixels are kept at {size[0]} x {size[1]}; --size changes that"


def _chosen(path: Path, times: list[float], choice: Choice, notes: list[str], every: int) -> list[int]:
    """Numbers of the frames that are kept, of all frames' seconds."""
    end = float("inf") if choice.end is None else choice.end
    inside = [i for i, time in enumerate(times) if choice.start <= time <= end]
    if not inside:
        raise CaptureError(
            f"{path} has no frames between --start {choice.start:g} and --end {end:g}; it lasts {times[-1]:.1f} s"
        )
    step = choice.every or max(every, ceil(len(inside) / MOST))
    length = times[inside[-1]] - times[inside[0]]
    if step > 1 and length > 0:
        rate = (len(inside) - 1) / length / step
        notes.append(f"one frame of {step} is seen, {rate:.1f} a second; --every changes that")
    return inside[::step]


def _tagged_focal(tags: dict[str, str], size: tuple[int, int]) -> Focal | None:
    """What phones write into a video."""
    for name, value in tags.items():
        if name.lower().endswith(_FOCAL_TAG):
            return _from_film(value, size, f"the video's {name}")
    return None


def _from_film(millimetres: str, size: tuple[int, int], source: str) -> Focal | None:
    """From the focal length that sees as much on a 35 mm film, by the diagonal; none where it is none."""
    try:
        length = float(millimetres)
    except ValueError:
        return None
    if not 5 <= length <= 800:
        return None
    return Focal(length / _DIAGONAL * float(np.hypot(*size)), f"{source}, {length:g} mm on 35 mm film")
