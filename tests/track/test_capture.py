"""What tracking writes is what the reader of its layout reads."""

from pathlib import Path

import numpy as np
import pytest
from fmgs_dataparsers.capture import CaptureError, Uncertainty
from fmgs_dataparsers.parser import open_capture
from support.known_person import ASSET, HEIGHT, WIDTH, mask, picture, write

from fmgs_nerfstudio.track.capture import write_capture
from fmgs_nerfstudio.track.records import Fits, Sightings

N = 4
SURE = Uncertainty(rotation=0.1, position=(0.01, 0.02, 0.03), lean=0.04, distance=0.05, focal=0.06)


def _tracked(root: Path) -> Fits:
    draws = np.random.default_rng(0)
    K = np.array([[90.0, 0, 48], [0, 91, 40], [0, 0, 1]])
    before = np.eye(4)
    before[:3, :3], before[:3, 3] = np.diag([1.0, -1, -1]), (0.1, 0.9, 3)
    fits = Fits(
        draws.normal(size=10), draws.normal(size=(N, 72)) * 0.2, draws.normal(size=(N, 3)) * 0.1, K, before, SURE
    )
    for i in range(N):
        write(root / "images" / f"{7 * i:06d}.jpg", picture(i))
        write(root / "masks" / f"{7 * i:06d}.png", mask(i).astype(np.uint8) * 255)
    names = [f"{7 * i:06d}" for i in range(N)]
    write_capture(root, fits, names, np.arange(N) / 15, (WIDTH, HEIGHT), ASSET)
    return fits


def test_the_reader_reads_what_was_fitted(tmp_path: Path) -> None:
    fits = _tracked(tmp_path)
    capture = open_capture(tmp_path)
    assert capture.layout == "tracked"
    assert capture.up == (0, 1, 0)
    assert capture.uncertainty == SURE
    assert capture.body_model.read_bytes() == ASSET.read_bytes()
    assert np.allclose(capture.poses, fits.pose)
    assert np.allclose(capture.transl, fits.transl)
    assert np.allclose(capture.betas, fits.betas)
    (camera,) = capture.cameras.values()
    assert np.allclose(camera.K, fits.K)  # our pixel centres: nothing is moved
    assert np.allclose(camera.world_to_camera, fits.world_to_camera)
    frames = sorted((frame for split in capture.splits.values() for frame in split), key=lambda frame: frame.stem)
    assert [frame.pose_id for frame in frames] == list(range(N))


def test_an_image_without_a_fit_is_left_out_by_name(tmp_path: Path) -> None:
    _tracked(tmp_path)
    write(tmp_path / "images" / "000003.jpg", picture(1))
    write(tmp_path / "masks" / "000003.png", mask(1).astype(np.uint8) * 255)
    capture = open_capture(tmp_path)
    assert [item.name for item in capture.left_out] == ["camera/000003"]
    assert "track the video again" in capture.left_out[0].detail


def test_a_body_elsewhere_is_refused(tmp_path: Path) -> None:
    _tracked(tmp_path)
    content = dict(np.load(tmp_path / "fits.npz"))
    np.savez(tmp_path / "fits.npz", **{**content, "body": np.array("../SMPL_NEUTRAL.npz")})
    with pytest.raises(CaptureError, match="inside"):
        open_capture(tmp_path)


def test_sightings_come_back(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    parts = {name: draws.normal(size=(5, 33, *rest)) for name, rest in (("landmarks", (2,)), ("world", (3,)))}
    flat = {name: draws.normal(size=(5, 33)) for name in ("depth", "score")}
    sightings = Sightings(np.arange(5), np.arange(5) / 3, **parts, **flat, size=(WIDTH, HEIGHT))
    sightings.write(tmp_path / "sightings.npz")
    back = Sightings.read(tmp_path / "sightings.npz")
    assert back.size == (WIDTH, HEIGHT)
    for name, value in vars(sightings).items():
        assert np.array_equal(getattr(back, name), value), name
