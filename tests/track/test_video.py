"""Frames of videos and folders: upright, square, in time, at most so many; and what cannot be read is named."""

from __future__ import annotations

import weakref
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from fmgs_dataparsers.files import CaptureError
from PIL import Image
from support.footage import film, wall

from fmgs_nerfstudio.track.video import Choice, Focal, open_footage, turned

SHORT = [np.full((48, 64, 3), 8 * i, np.uint8) for i in range(12)]


def _all(path: Path, choice: Choice | None = None) -> list[np.ndarray]:
    footage = open_footage(path, choice or Choice(every=1))
    return [picture.image for picture in footage.pictures(footage.wanted)]


def _corner() -> np.ndarray:
    """Red in its upper left corner, blue to the right of it."""
    image = np.zeros((48, 96, 3), np.uint8)
    image[:24, :48], image[:24, 48:] = (0, 0, 250), (250, 0, 0)
    return image


def _where(image: np.ndarray) -> tuple[tuple[bool, bool], tuple[bool, bool]]:
    """Whether the red and the blue middle are right, and low."""
    places = []
    for channel in (2, 0):
        rows, columns = np.nonzero(image[..., channel] > 150)
        places.append((bool(columns.mean() > image.shape[1] / 2), bool(rows.mean() > image.shape[0] / 2)))
    return places[0], places[1]


@pytest.mark.parametrize(
    ("degrees", "size", "red", "blue"),
    [
        (0, (96, 48), (False, False), (True, False)),
        (90, (48, 96), (True, False), (True, True)),
        (180, (96, 48), (True, True), (False, True)),
        (270, (48, 96), (False, True), (False, False)),
    ],
)
def test_turned_by_option(tmp_path: Path, degrees: int, size: tuple[int, int], red: object, blue: object) -> None:
    """Clockwise, as the option says; seen by where its colours go."""
    footage = turned(open_footage(film(tmp_path / "a.mp4", [_corner()] * 3), Choice()), degrees)
    image = next(footage.pictures([1])).image
    assert footage.size == size == image.shape[1::-1]
    assert _where(image) == (red, blue)


@pytest.mark.parametrize("angle", [90, 180, -90])
def test_rotation_of_the_phone_is_honoured(tmp_path: Path, angle: int) -> None:
    """Counterclockwise to show, as the display matrix of PyAV says: so OpenCV shows it too."""
    path = film(tmp_path / "plain.mp4", [_corner()] * 3)
    phone = tmp_path / "phone.mp4"
    with av.open(str(path)) as source, av.open(str(phone), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(angle) if hasattr(stream, "set_display_rotation") else pytest.skip("PyAV is old")
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    shown = cv2.VideoCapture(str(phone)).read()[1]
    footage = open_footage(phone, Choice())
    image = next(footage.pictures([0])).image
    assert footage.size == shown.shape[1::-1]
    assert _where(image) == _where(shown)


def test_pixels_become_square(tmp_path: Path) -> None:
    film(tmp_path / "wide.mp4", [_corner()] * 3, aspect=Fraction(4, 3))
    film(tmp_path / "high.mp4", [_corner()] * 3, aspect=Fraction(1, 2))
    wide, high = (open_footage(tmp_path / name, Choice()) for name in ("wide.mp4", "high.mp4"))
    assert wide.size == (128, 48)
    assert high.size == (96, 96)
    assert any("made square" in note for note in wide.notes)
    assert next(high.pictures([0])).image.shape == (96, 96, 3)


def test_large_frames_are_made_smaller_and_it_is_said(tmp_path: Path) -> None:
    large = cv2.resize(wall(), (3840, 2160))
    footage = open_footage(film(tmp_path / "4k.mp4", [large] * 2), Choice(every=1))
    assert footage.size == (1280, 720)
    assert any("3840 x 2160" in note and "1280 x 720" in note for note in footage.notes)
    image = next(footage.pictures([1])).image.astype(float)
    assert np.abs(image - cv2.resize(large, (1280, 720), interpolation=cv2.INTER_AREA)).mean() < 3
    assert open_footage(tmp_path / "4k.mp4", Choice(size=640)).size == (640, 360)


@pytest.mark.parametrize(("rate", "every"), [(240, 16), (60, 4), (30, 2), (25, 2), (24, 2), (15, 1), (10, 1)])
def test_fifteen_a_second_are_kept(tmp_path: Path, rate: int, every: int) -> None:
    frames = [SHORT[i % 12] for i in range(40)]
    footage = open_footage(film(tmp_path / "a.mp4", frames, rate=rate), Choice())
    assert footage.wanted == list(range(0, 40, every))
    times = [picture.time for picture in footage.pictures(footage.wanted)]
    np.testing.assert_allclose(times, np.array(footage.wanted) / rate, atol=2e-4)


def test_long_videos_are_seen_in_at_most_600_frames(tmp_path: Path) -> None:
    tiny = [np.full((16, 16, 3), i % 200, np.uint8) for i in range(2000)]
    footage = open_footage(film(tmp_path / "a.mp4", tiny, rate=10), Choice())
    assert footage.wanted == list(range(0, 2000, 4))
    assert any("one frame of 4" in note and "2.5 a second" in note for note in footage.notes)


def test_start_end_and_every(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [SHORT[i % 12] for i in range(60)])
    footage = open_footage(path, Choice(start=0.5, end=1.0, every=3))
    assert footage.wanted == [15, 18, 21, 24, 27, 30]
    seen = list(footage.pictures(footage.wanted))
    assert [picture.index for picture in seen] == footage.wanted
    np.testing.assert_allclose(
        [picture.image.mean() for picture in seen], [8 * (i % 12) for i in footage.wanted], atol=3
    )
    with pytest.raises(CaptureError, match=r"a\.mp4 has no frames between --start 5 and --end inf; it lasts 2\.0 s"):
        open_footage(path, Choice(start=5))


def test_a_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [0.0, 0.03, 0.07, 0.2, 0.21, 0.5, 0.9, 1.0]
    footage = open_footage(film(tmp_path / "a.mp4", SHORT[:8], times=times), Choice(every=1))
    seen = list(footage.pictures(footage.wanted))
    np.testing.assert_allclose([picture.time for picture in seen], times, atol=1e-3)
    np.testing.assert_allclose([picture.image.mean() for picture in seen], 8 * np.arange(8), atol=5)


def test_ten_bits(tmp_path: Path) -> None:
    images = _all(film(tmp_path / "a.mp4", [_corner()] * 3, pixels="yuv420p10le"))
    assert np.abs(images[0][4:20, 4:44].mean((0, 1)) - [0, 0, 250]).max() < 6


@pytest.mark.parametrize(("curve", "code", "expected"), [(18, 0.75, 244), (18, 0.25, 62), (16, 0.5806, 244)])
def test_hdr_becomes_sdr(tmp_path: Path, curve: int, code: float, expected: int) -> None:
    """White paper (BT.2408: 75 % of HLG, 58 % of PQ) is just below white; grey is grey.

    25 % of HLG is 1/48 of the scene's peak: 1000 / 203 * (1/48) ** 1.2 = 0.0474 of white on its display, 62 in sRGB.
    """
    path = tmp_path / "a.mp4"
    level = round(64 + 876 * code)  # of 10 bits, limited range
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p10le"
        stream.codec_context.color_trc, stream.codec_context.color_primaries = curve, 9
        stream.codec_context.colorspace = 9
        stream.codec_context.color_range = 1
        for _ in range(3):
            frame = av.VideoFrame(32, 32, "yuv420p10le")
            for plane, value in zip(frame.planes, (level, 512, 512), strict=True):
                plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    footage = open_footage(path, Choice(every=1))
    assert any("HDR" in note for note in footage.notes)
    assert np.abs(next(footage.pictures([0])).image[8:24, 8:24].astype(int) - expected).max() <= 4


def test_focal_length_of_phones(tmp_path: Path) -> None:
    tag = "com.apple.quicktime.camera.focal_length.35mm_equivalent"
    footage = open_footage(film(tmp_path / "a.mov", [_corner()] * 3, tags={tag: "26"}), Choice())
    assert footage.focal is not None
    # 26 mm see a film of 36 x 24 mm by its diagonal.
    np.testing.assert_allclose(footage.focal.pixels, 26 * np.hypot(96, 48) / np.hypot(36, 24), rtol=1e-4)
    assert tag in footage.focal.source
    assert open_footage(film(tmp_path / "b.mov", [_corner()] * 3), Choice()).focal is None
    assert open_footage(film(tmp_path / "c.mov", [_corner()] * 3, tags={tag: "no"}), Choice()).focal is None


def test_a_folder_of_images(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    exif.get_ifd(0x8769)[0xA405] = 28
    for i in (2, 10, 1):
        image = np.full((48, 96, 3), 10 * i, np.uint8)
        Image.fromarray(image).save(tmp_path / f"frame_{i}.jpg", exif=exif)
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(tmp_path / "frame_3.png")  # of another size
    (tmp_path / "frame_4.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    footage = open_footage(tmp_path, Choice())
    seen = list(footage.pictures(footage.wanted))
    assert [picture.name for picture in seen] == ["frame_1.jpg", "frame_2.jpg", "frame_10.jpg"]
    assert [picture.index for picture in seen] == [0, 1, 4]
    np.testing.assert_allclose([picture.image.mean() for picture in seen], [10, 20, 100], atol=1)
    assert footage.size == (48, 96)
    assert isinstance(footage.focal, Focal)
    np.testing.assert_allclose(footage.focal.pixels, 28 * np.hypot(96, 48) / np.hypot(36, 24), rtol=1e-4)
    assert any("30 of them are taken for a second" in note for note in footage.notes)


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.mp4", [wall()] * 20).read_bytes()
    cases = {
        "empty.mp4": b"", "text.mp4": b"#EXTM3U\nhttp://example.org/a.ts\n", "half.mp4": whole[: len(whole) // 2],
        "still.png": cv2.imencode(".png", wall())[1].tobytes(),
    }  # fmt: skip
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CaptureError, match=rf"{name} (cannot be read as a video|is a still image)"):
            open_footage(tmp_path / name, Choice())
    with pytest.raises(CaptureError, match=r"gone\.mp4 is missing"):
        open_footage(tmp_path / "gone.mp4", Choice())
    (tmp_path / "folder").mkdir()
    with pytest.raises(CaptureError, match=r"folder holds no images"):
        open_footage(tmp_path / "folder", Choice())
    with pytest.raises(CaptureError, match=r"--every is 0"):
        open_footage(tmp_path / "whole.mp4", Choice(every=0))
    with pytest.raises(CaptureError, match=r"--turn is 45"):
        open_footage(tmp_path / "whole.mp4", Choice(turn=45))


def test_a_video_that_ends_too_early(tmp_path: Path) -> None:
    """Matroska is read to where it was cut; the rest is told."""
    path = film(tmp_path / "a.mkv", [np.roll(wall(), 5 * i, 1) for i in range(90)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    footage = open_footage(path, Choice(every=1))
    seen = [picture.index for picture in footage.pictures(footage.wanted)]
    assert seen == list(range(len(seen)))
    assert 20 < len(seen) < 40
    assert any("it says that it lasts 3.0 s, but ends after" in note for note in footage.notes)


def test_no_frame_is_held(tmp_path: Path) -> None:
    """A video of ten minutes takes no more memory than one of two seconds."""
    footage = open_footage(film(tmp_path / "a.mp4", [SHORT[i % 12] for i in range(60)]), Choice(every=1))
    held = [weakref.ref(picture.image) for picture in footage.pictures(footage.wanted)]
    assert len(held) == 60
    assert sum(image() is not None for image in held) <= 1
