"""What a run keeps of its capture comes back, and nothing of images or of the body model's directions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.kept import keep, read_kept
from fmgs_dataparsers.parser import open_capture
from support.zju_capture import SIZE, write_capture

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.canonical import CanonicalBody
from fmgs_nerfstudio.maps.maps import PriorsInfo, PriorsWriter


def test_it_comes_back(tmp_path: Path) -> None:
    root = tmp_path / "CoreView_1"
    write_capture(root, distortion=0.05)
    normals = np.zeros((SIZE, SIZE, 3), np.float32)
    normals[..., 2] = 1
    PriorsWriter(root, PriorsInfo("a test", "none")).write("normal", "Camera_B1", "000000", normals)
    capture = open_capture(root)
    capture = dataclasses.replace(capture, downscale=2, background=(1.0, 0.5, 0.0))
    keep(capture, tmp_path / "run" / "capture.npz")
    kept = read_kept(tmp_path / "run" / "capture.npz", "it is gone")
    for name in ("root", "layout", "protocol", "up", "downscale", "background", "pixel_centres"):
        assert getattr(kept, name) == getattr(capture, name), name
    for name in ("poses", "transl"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(capture, name))
        assert getattr(kept, name).dtype == getattr(capture, name).dtype
    assert kept.priors is not None
    assert kept.priors.kinds == {"normal"}
    assert kept.cameras.keys() == capture.cameras.keys()
    for name, camera in capture.cameras.items():
        for got, expected in zip(kept.intrinsics(name), capture.intrinsics(name), strict=True):
            np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(kept.cameras[name].world_to_camera, camera.world_to_camera)
        np.testing.assert_array_equal(np.array(kept.cameras[name].distortion), np.array(camera.distortion))
    for split, frames in capture.splits.items():
        got = [(frame.camera, frame.stem, frame.pose_id) for frame in kept.splits[split]]
        assert got == [(frame.camera, frame.stem, frame.pose_id) for frame in frames]
    frame = kept.splits["train"][0]
    for read in (kept.image, kept.mask, kept.truth, lambda frame: kept.prior("normal", frame)):
        with pytest.raises(CaptureError, match="it is gone"):
            read(frame)


def test_the_body_is_the_persons_alone(tmp_path: Path) -> None:
    """The same in every pose, and without the directions that make other people of it."""
    write_capture(tmp_path / "CoreView_1")
    capture = open_capture(tmp_path / "CoreView_1")
    keep(capture, tmp_path / "capture.npz")
    kept = read_kept(tmp_path / "capture.npz", "")
    bodies = [BodyModel.load(one.body_model) for one in (capture, kept)]
    assert not bodies[1].posedirs.any()
    assert bodies[1].shapedirs.numel() == 0
    first, second = (
        CanonicalBody(body, torch.from_numpy(one.betas).float())
        for body, one in zip(bodies, (capture, kept), strict=True)
    )
    assert torch.equal(first.vertices, second.vertices)
    pose, transl = torch.from_numpy(capture.poses[1]).float(), torch.from_numpy(capture.transl[1]).float()
    for got, expected in zip(second(pose, transl), first(pose, transl), strict=True):
        assert torch.equal(got, expected)
    assert (tmp_path / "capture.npz").stat().st_size < 500_000
