"""From a video to frames, masks and sightings, for real; and what a run that goes on, or cannot, does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from fmgs_dataparsers.files import CaptureError
from support.footage import JOINTS, film, place, turning, wall

from fmgs_nerfstudio.track.follow import Follower
from fmgs_nerfstudio.track.networks import Detector, LandmarkNetwork
from fmgs_nerfstudio.track.records import Sightings
from fmgs_nerfstudio.track.see import Seen, see
from fmgs_nerfstudio.track.video import Choice

TAG = "com.apple.quicktime.camera.focal_length.35mm_equivalent"


def _frames() -> list[np.ndarray]:
    return [place(wall(), shot, 150, 20) for shot in turning()]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole turn, 12 frames, and three of the bare wall before it, 15 a second."""
    return film(tmp_path_factory.mktemp("video") / "clip.mov", [wall()] * 3 + _frames(), rate=15, tags={TAG: "26"})


@pytest.fixture(scope="module")
def seen(video: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, Path]:
    out = tmp_path_factory.mktemp("seen") / "out"
    return see(video, out), out


def test_sightings_are_of_the_person(seen: tuple[Seen, Path]) -> None:
    result, out = seen
    sightings = result.sightings
    assert sightings.index.tolist() == list(range(3, 15))
    np.testing.assert_allclose(sightings.time, np.arange(3, 15) / 15, atol=1e-3)
    assert sightings.size == (640, 360)
    joints = np.array([shot.joints[list(JOINTS.values())] + [150, 20] for shot in turning()])
    apart = np.linalg.norm(sightings.landmarks[:, list(JOINTS)] - joints, axis=-1)
    assert apart.mean() < 5  # of 250 pixels that the person is high
    assert ((sightings.score >= 0) & (sightings.score <= 1)).all()
    np.testing.assert_allclose(sightings.world[:, [23, 24]].mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(sightings.depth[:, [23, 24]].mean(1), 0, atol=1e-6)
    written = Sightings.read(out / "track" / "sightings.npz")
    for name, value in vars(sightings).items():
        np.testing.assert_array_equal(getattr(written, name), value)


def test_what_is_written_is_what_was_seen(seen: tuple[Seen, Path]) -> None:
    result, out = seen
    names = [f"{index:06d}" for index in result.sightings.index]
    assert sorted(path.stem for path in (out / "images").iterdir()) == names
    assert sorted(path.stem for path in (out / "masks").iterdir()) == names
    overlaps = []
    for name, frame, shot in zip(names, _frames(), turning(), strict=True):
        image = cv2.imread(str(out / "images" / f"{name}.jpg"))
        assert np.abs(image.astype(int) - frame).mean() < 5
        mask = cv2.imread(str(out / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert mask.dtype == np.uint8
        assert mask.shape == (360, 640)
        assert len(np.unique(mask)) > 50  # soft
        truth = np.zeros((360, 640))
        truth[20:340, 150:470] = shot.mask
        overlaps.append(((mask > 127) & (truth > 0.5)).sum() / ((mask > 127) | (truth > 0.5)).sum())
    assert np.mean(overlaps) > 0.93
    assert min(overlaps) > 0.88


def test_what_a_user_is_told(seen: tuple[Seen, Path]) -> None:
    result, _ = seen
    assert result.left_out == {f"frame {i} ({i / 15:.2f} s)": "nobody is seen" for i in range(3)}
    assert result.reasons == ["left out, nobody is seen: frame 0 (0.00 s), frame 1 (0.07 s), frame 2 (0.13 s)"]
    assert result.focal is not None
    np.testing.assert_allclose(result.focal.pixels, 26 / 43.27 * np.hypot(640, 360), rtol=1e-3)
    assert 0 <= _shift(result) < 2
    assert not any("camera moves" in note for note in result.notes)


def test_nothing_is_seen_twice(video: Path, seen: tuple[Seen, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    result, out = seen
    monkeypatch.setattr(Follower, "__call__", _never)
    again = see(video, out)
    np.testing.assert_array_equal(again.sightings.landmarks, result.sightings.landmarks)
    assert dataclasses.replace(again, sightings=result.sightings) == result
    with pytest.raises(CaptureError, match="holds what was seen of another video, or with other options"):
        see(video, out, Choice(every=2))


def test_a_damaged_journal_is_named(video: Path, seen: tuple[Seen, Path], tmp_path: Path) -> None:
    journal = tmp_path / "track" / "seen.npz"
    journal.parent.mkdir()
    journal.write_bytes((seen[1] / "track" / "seen.npz").read_bytes()[:-900])
    with pytest.raises(CaptureError, match=r"seen\.npz is damaged .*; remove .* to see the video anew"):
        see(video, tmp_path)


def _shift(result: Seen) -> float:
    assert result.shift is not None
    return result.shift


def _never(*arguments: object) -> None:
    raise AssertionError("a frame was seen again")


def test_an_interrupted_run_goes_on(
    video: Path, seen: tuple[Seen, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after its eighth frame, it sees the others alone and comes to the same."""
    seen_now: list[int] = []

    def stop(done: int, total: int) -> None:
        seen_now.append(done)
        if done == 8 and len(seen_now) == 8:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        see(video, out, progress=stop)
    result = see(video, out, progress=stop)
    assert seen_now == list(range(1, 16))
    np.testing.assert_allclose(result.sightings.landmarks, seen[0].sightings.landmarks, atol=1e-6)
    np.testing.assert_allclose(_shift(result), _shift(seen[0]), atol=1e-9)
    assert result.left_out == seen[0].left_out
    masks = [sorted((folder / "masks").iterdir()) for folder in (out, seen[1])]
    assert [path.read_bytes() for path in masks[0]] == [path.read_bytes() for path in masks[1]]


def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The person is where a first look at the turn's front found them."""
    shot = place(wall(), turning()[0], 150, 20)
    follower = Follower(Detector(), LandmarkNetwork())
    look = follower(shot, 0.0, "")
    monkeypatch.setattr(Follower, "__call__", lambda self, image, time, name: look)


def test_the_longest_piece_of_a_video_that_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _quick(monkeypatch)
    shot = turning()[0]
    images = [place(wall(), shot, 150, 20)] * 4 + [place(wall(7), shot, 150, 20)] * 10
    result = see(film(tmp_path / "a.mp4", images, rate=15), tmp_path / "out")
    assert result.sightings.index.tolist() == list(range(4, 14))
    assert "the video cuts at 0.3 s; the longest piece is kept, 0.3 to 0.9 s" in result.notes
    assert set(result.left_out.values()) == {"another piece of a video that was cut"}
    assert len(list((tmp_path / "out" / "images").iterdir())) == 10
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 10


def test_a_camera_that_moves_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _quick(monkeypatch)
    wide, shot = wall(7, 800, 360), turning()[0]
    images = [place(np.ascontiguousarray(wide[:, 3 * i : 640 + 3 * i]), shot, 150, 20) for i in range(12)]
    result = see(film(tmp_path / "a.mp4", images, rate=15), tmp_path / "out")
    np.testing.assert_allclose(_shift(result), 33, rtol=0.15)
    assert any("the camera moves: the background shifts by up to 3" in note for note in result.notes)


def test_a_video_on_its_side_is_turned(tmp_path: Path) -> None:
    images = [np.ascontiguousarray(np.rot90(image)) for image in _frames()[:8]]
    result = see(film(tmp_path / "a.mp4", images, rate=15), tmp_path / "out")
    assert result.sightings.size == (640, 360)
    assert any("turned by 90 degrees; --turn 0 leaves them" in note for note in result.notes)
    joints = turning()[0].joints[[16, 17]] + np.array([150, 20])
    np.testing.assert_allclose(result.sightings.landmarks[0, [11, 12]], joints, atol=8)


def test_videos_that_cannot_be_used(tmp_path: Path) -> None:
    dark = [(0.05 * image[:, 140:500]).astype(np.uint8) for image in _frames()[:6]]
    cases = {
        "nobody": (
            [wall()[:, :360]] * 6,
            "0 of 6 frames can be used, expected at least 8; nobody is seen in 6: one",
        ),
        "dark": (dark, "0 of 6 frames can be used, expected at least 8; too dark to see anybody in 6: film in more"),
        "short": (_frames()[:2], "has 2 frames where it is seen; expected at least 8 of a person who moves"),
    }
    for name, (images, message) in cases.items():
        path = film(tmp_path / f"{name}.mp4", images, rate=15)
        with pytest.raises(CaptureError, match=rf"{name}\.mp4.* {message}"):
            see(path, tmp_path / name)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CaptureError, match="mine is not empty, and nothing that was seen of a video"):
        see(tmp_path / "short.mp4", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
