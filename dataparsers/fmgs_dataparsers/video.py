"""Frames of a capture that is a video: written beside it once."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from fmgs_dataparsers.files import CaptureError, check_solid, images_in
from fmgs_nerfstudio.console import log
from fmgs_nerfstudio.files import folder_beside, write_image
from fmgs_nerfstudio.gate import PIXELS

_IMAGE_FOLDERS = ("images", "image", "frames")
_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
# What the trackers draw beside the video they were given, and GVHMR's copy of that.
_DRAWN = ("output", "1_incam", "2_global", "phalp_", "romp_", "bev_", "wham_")
_COPY = "0_input_video"
_FORMATS = "mov,avi,matroska"
_FRAMES = 50_000
_CACHE = "video_frames"
HDR = {16: "PQ, smpte2084", 18: "HLG, arib-std-b67"}
"""Transfer curves of HDR, by their numbers in ITU-T H.273."""
_TO_SDR = (
    "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,"
    "zscale=t=bt709:m=bt709:r=tv,format=yuv420p"
)


def source_frames(root: Path) -> list[Path]:
    """The images of a capture in order: of `images/`, or else of its video, which are written to `video_frames/` once.

    Raises:
        CaptureError: there is neither, or more than one video, or the frames cannot be written.
    """
    for name in _IMAGE_FOLDERS:
        if images := images_in(root / name):
            return images
    videos = sorted(path for path in root.iterdir() if path.suffix.lower() in _SUFFIXES)
    own = [path for path in videos if not path.stem.lower().startswith((*_DRAWN, _COPY))]
    copies = [path for path in videos if path.stem.lower() == _COPY]
    candidates = copies or own
    if not candidates:
        raise CaptureError(f"{root} has no images/ and no video; put one of them there")
    if len(candidates) > 1:
        names = ", ".join(path.name for path in candidates)
        raise CaptureError(
            f"{root} has several videos ({names}); leave the one that was tracked, or put it into images/"
        )
    return extract_frames(candidates[0], root / _CACHE)


def extract_frames(video: Path, folder: Path) -> list[Path]:
    """The video's frames as `folder`/000000.jpg and on, all or nothing; kept while the video stays the same.

    Raises:
        CaptureError: the video cannot be read or the folder cannot be written.
    """
    check_solid(video)
    note = folder / "source.json"
    if note.is_file() and note.stat().st_size < 2**12 and note.read_bytes() == _stamp(video, folder):
        return images_in(folder)
    log(f"Writing the frames of {video.name} to {folder}, once")
    try:
        with folder_beside(folder) as aside:
            written = aside / "frames"
            written.mkdir()
            _write_frames(video, written)
            (written / note.name).write_bytes(_stamp(video, written))
            if folder.exists():
                os.replace(folder, aside / "old")
            os.replace(written, folder)
    except OSError as error:
        raise CaptureError(
            f"cannot write the frames of {video} to {folder}: {error}. Make {folder.parent} writable, "
            f"or put the frames into {folder.parent / _IMAGE_FOLDERS[0]} yourself"
        ) from error
    return images_in(folder)


def _stamp(video: Path, folder: Path) -> bytes:
    """What tells whether `folder` has all frames of `video`."""
    content = {"video": video.name, "bytes": video.stat().st_size, "frames": len(images_in(folder))}
    return json.dumps(content).encode()


@contextmanager
def open_video(video: Path) -> Generator[tuple[InputContainer, VideoStream]]:
    """A video and its pictures' stream, ready to be decoded.

    Raises:
        CaptureError: it cannot be read, here or inside the block.
    """
    check_solid(video)
    try:
        # FFmpeg takes a playlist of any name for a video, and opens what that names, on the network too.
        with av.open(
            str(video.absolute()),
            options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        ) as container:
            if not container.streams.video:
                raise CaptureError(f"{video} has no pictures in it; copy it again from its source")
            stream = container.streams.video[0]
            # None where FFmpeg knows no decoder, though its types do not say so.
            codec: av.VideoCodecContext | None = stream.codec_context
            if codec is None:
                raise CaptureError(f"{video} is in a form that FFmpeg does not decode; convert it to H.264")
            codec.options = {"max_pixels": str(PIXELS)}
            yield container, stream
    except FFmpegError as error:
        raise CaptureError(f"{video} cannot be read as a video: {error}") from error


def _write_frames(video: Path, folder: Path) -> None:
    with open_video(video) as (container, stream):
        curve = HDR.get(stream.codec_context.color_trc)
        if curve is not None:
            other = video.with_name(f"{video.stem}_sdr.mp4")
            raise CaptureError(
                f"{video} is HDR ({curve}); its colours would come out pale. Convert it, and take it out of the "
                f"folder: ffmpeg -i {video} -vf {_TO_SDR} -crf 16 {other}"
            )
        for i, frame in enumerate(container.decode(video=0)):
            if i == _FRAMES:
                raise CaptureError(f"{video} has more than {_FRAMES:,} frames; cut it")
            turned = np.rot90(frame.to_ndarray(format="bgr24"), frame.rotation // 90)  # phones turn the picture
            write_image(folder / f"{i:06d}.jpg", turned, cv2.IMWRITE_JPEG_QUALITY, 97)
