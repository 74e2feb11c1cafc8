"""Frames of an animation: what is asked for, side by side, in the pose of each moment; and the same on disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from support.small_avatar import small_avatar

from fmgs_nerfstudio.export.animation import perform, write_pngs
from fmgs_nerfstudio.frozen import FrozenAvatar
from fmgs_nerfstudio.motion.cameras import capture_camera


def test_each_pose_is_drawn_by_its_camera_and_each_output_in_its_place() -> None:
    model = small_avatar()
    avatar = FrozenAvatar(model)
    motion = avatar.own_motion()
    camera = capture_camera(model.kwargs["metadata"]["capture"], None)
    frames = list(perform(avatar, motion, [camera] * len(motion), ["normal", "rgb"]))
    assert len(frames) == len(motion)
    assert not np.array_equal(frames[0], frames[1])
    for pose_id, frame in enumerate(frames):
        with torch.no_grad():
            posed = model.pose_avatar(pose_id)
            maps = model.render(posed, model.shade(posed, camera.centre), camera, ["colour", "normal"])
        covered = maps["accumulation"] > 0.5
        for part, expected in zip(np.hsplit(frame, 2), (maps["normal"] / 2 + 0.5, maps["rgb"]), strict=True):
            off = np.abs(part / 255 - expected.clamp(0, 1).numpy())[covered[..., 0].numpy()]
            assert off.mean() < 0.02


def test_pngs_have_the_frames_colours(tmp_path: Path) -> None:
    frames = [np.full((4, 6, 3), colour, np.uint8) for colour in ((250, 120, 10), (1, 2, 3))]
    assert len(list(write_pngs(iter(frames), tmp_path / "out"))) == 2
    for i, frame in enumerate(frames):
        written = cv2.imread(str(tmp_path / "out" / f"{i:06d}.png"))
        assert written is not None
        assert np.array_equal(written[..., ::-1], frame)
