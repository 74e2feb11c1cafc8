"""fmgs-track from a video to a capture that can be trained on, for real: networks, fit, files, page."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.parser import open_capture

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.cli.track import EMBEDDED, Track, run
from fmgs_nerfstudio.demo.capture import DemoOptions, make_capture
from fmgs_nerfstudio.track.video import Choice

SEED = 33
"""Of a clip that is upright, whose file is not."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("track")
    make_capture(folder / "made", DemoOptions(preset="ci", seed=SEED, video=True))
    return folder / "made"


@pytest.fixture(scope="module")
def tracked(made: Path) -> Path:
    with np.load(made / "truth" / "ground_truth" / "clip.npz") as truth:
        focal = float(truth["K"][0, 0])
    return run(Track(made / "video.mp4", made.parent / "dance", focal=f"{focal:.1f}px", choice=Choice(every=1)))


def test_the_capture_is_read_and_the_body_is_on_the_person(made: Path, tracked: Path) -> None:
    capture = open_capture(tracked)
    assert capture.layout == "tracked"
    with np.load(made / "truth" / "ground_truth" / "clip.npz") as truth:
        K, expected = truth["K"], _pelvis(EMBEDDED, truth["betas"], truth["transl"], truth["world_to_camera"])
    (camera,) = capture.cameras.values()
    assert camera.K[0, 0] == pytest.approx(K[0, 0], rel=0.02)
    ours = _pelvis(capture.body_model, capture.betas, capture.transl, camera.world_to_camera)
    assert len(ours) >= len(expected) - 2
    assert np.abs(ours[:, :2].mean(0) - expected[:, :2].mean(0)).max() < 0.06
    assert ours[:, 2].mean() == pytest.approx(expected[:, 2].mean(), rel=0.15)
    assert capture.uncertainty is not None
    assert 0.02 < capture.uncertainty.rotation < 0.5


def _pelvis(body: Path, betas: np.ndarray, transl: np.ndarray, extrinsic: np.ndarray) -> np.ndarray:
    """In the camera [F, 3]."""
    rest = BodyModel.load(body).shape(torch.from_numpy(betas).float())[1][0].numpy()
    return (transl + rest) @ extrinsic[:3, :3].T + extrinsic[:3, 3]


def test_the_world_stands_on_its_ground(tracked: Path) -> None:
    """y points up, a person is upright, their pelvis about a metre above the ground."""
    capture = open_capture(tracked)
    pelvis = _pelvis(capture.body_model, capture.betas, capture.transl, np.eye(4))
    assert 0.75 < np.median(pelvis[:, 1]) < 1.15


def test_what_it_saw_can_be_looked_at(tracked: Path) -> None:
    page = (tracked / "track" / "index.html").read_text()
    assert "from --focal" in page
    assert (tracked / "track" / "sheet.png").stat().st_size > 10_000
    with av.open(str(tracked / "track" / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(open_capture(tracked).poses)


def test_a_second_run_goes_on(made: Path, tracked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = min((tracked / "images").iterdir())
    before = image.stat().st_mtime_ns
    run(Track(made / "video.mp4", tracked, focal="1000px", choice=Choice(every=1)))
    assert image.stat().st_mtime_ns == before
    assert f"ns-train fmgs-avatar --data {tracked}" in capsys.readouterr().out


def test_a_height_that_is_given_is_the_body_s(made: Path, tracked: Path) -> None:
    """And what is seen of the person is not seen again: other options of the fit alone."""
    run(Track(made / "video.mp4", tracked, focal="26mm", height=1.9, choice=Choice(every=1)))
    open_capture.cache_clear()
    capture = open_capture(tracked)
    shaped = BodyModel.load(capture.body_model).shape(torch.from_numpy(capture.betas).float())[0]
    assert float(shaped[:, 1].max() - shaped[:, 1].min()) == pytest.approx(1.9, abs=0.03)
    (camera,) = capture.cameras.values()
    # 26 mm see as much as 43.27 mm do of a picture's diagonal.
    assert camera.K[0, 0] == pytest.approx(26 / 43.27 * np.hypot(camera.width, camera.height), rel=0.02)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"focal": "26"}, "--focal is 26; expected for instance 26mm"),
        ({"focal": "0.001mm"}, "no camera has"),
        ({"height": 175.0}, "--height is 175.0; expected metres"),
        ({"body": Path("nothing.pkl")}, "nothing.pkl"),
    ],
)
def test_options_that_cannot_be_are_told_before_the_work(
    made: Path, tmp_path: Path, change: dict[str, object], why: str
) -> None:
    with pytest.raises((CaptureError, OSError), match=why):
        run(Track(made / "video.mp4", tmp_path / "out", **change))  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "video.mp4", tmp_path / "out")
    with pytest.raises(CaptureError, match="is a file; expected a folder"):
        run(Track(made / "video.mp4", tmp_path / "out"))
