"""Pictures and the turn-around."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from fmgs_nerfstudio.evaluation.pictures import VIDEO_SUFFIXES, orbit, picture, write_mp4


def test_orbit_keeps_distance_height_and_what_is_in_the_middle() -> None:
    centre, up = torch.tensor([0.3, -0.2, 1.0]), torch.tensor([0.0, 0.0, 1.0])
    c2w = torch.tensor([[1.0, 0, 0, 0.3], [0, 0, -1, -3.2], [0, 1, 0, 1.0]])  # looks along +y at the centre
    camera = Cameras(c2w[None], fx=100.0, fy=100.0, cx=32.0, cy=32.0, width=64, height=64)
    turned = orbit(camera, centre, up, np.pi / 2).camera_to_worlds[0]
    assert torch.allclose(turned[:, 3], torch.tensor([3.3, -0.2, 1.0]), atol=1e-5)
    forward = -turned[:, 2]
    assert torch.allclose(forward, torch.tensor([-1.0, 0, 0]), atol=1e-5)
    assert torch.allclose(orbit(camera, centre, up, 2 * np.pi).camera_to_worlds[0], c2w, atol=1e-5)


def test_near_is_bright_and_nothing_is_black() -> None:
    depth = torch.tensor([[0.0, 2.0], [3.0, 4.0]])[..., None]
    drawn = picture("depth", {"depth": depth})
    assert drawn[0, 0].tolist() == [0, 0, 0]
    assert drawn[0, 1, 0] > drawn[1, 0, 0] > drawn[1, 1, 0] > 0


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_every_video_that_is_offered_is_written(tmp_path: Path, suffix: str) -> None:
    write_mp4([np.full((32, 48, 3), 200, np.uint8)] * 3, tmp_path / f"video{suffix}", fps=10)
    with av.open(str(tmp_path / f"video{suffix}")) as container:
        means = [float(frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(video=0)]
    assert means == pytest.approx([200] * 3, abs=3)


def test_an_mp4_comes_back(tmp_path: Path) -> None:
    frames = [np.full((33, 48, 3), 40 * i, np.uint8) for i in range(5)]
    write_mp4(frames, tmp_path / "video.mp4", fps=10)
    with av.open(str(tmp_path / "video.mp4")) as container:
        read = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(read) == 5
    assert read[0].shape == (32, 48, 3)
    assert all(abs(int(image.mean()) - 40 * i) < 6 for i, image in enumerate(read))
