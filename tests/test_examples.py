"""The examples run as their docstrings say, and what they write is right."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from fmgs_dataparsers.parser import open_capture
from support.known_person import smpl
from support.trainer_runs import config_for, train
from support.zju_capture import SIZE, write_capture

from fmgs_nerfstudio.method import fmgs_avatar
from fmgs_nerfstudio.modalities import MODALITIES
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.pipeline import FMGSPipeline
from fmgs_nerfstudio.schedule import Schedule

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *(str(argument) for argument in arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_a_pose_is_rendered_as_nerfstudio_renders_it(tmp_path: Path) -> None:
    """The picture is the model's own, where the turned joint is written into its table of poses."""
    write_capture(tmp_path / "CoreView_1")
    config = config_for(tmp_path / "CoreView_1", tmp_path / "out", steps=2)
    config.pipeline.model.schedule = Schedule(skinning_fit_steps=60)  # so that the elbow bends
    config.save_config()
    pipeline = train(config).pipeline
    run_example("01_render_a_pose.py", tmp_path / "out", "--rotation", 0, -60, 30, "--out", tmp_path / "pose.png")
    drawn = cv2.imread(str(tmp_path / "pose.png"))[..., ::-1].astype(float)

    assert isinstance(pipeline, FMGSPipeline)
    assert isinstance(pipeline.model, FMGSModel)
    model, data = pipeline.model.eval(), pipeline.datamanager.train_dataset
    pose_id = data.frames[0].pose_id

    def expected() -> np.ndarray:
        return model.get_outputs_for_camera(data.cameras[0:1])["rgb"].clamp(0, 1).numpy() * 255

    before = expected()
    elbow = slice(18 * 3, 19 * 3)
    refined = model.poses(pose_id)[0][elbow].detach()
    model.poses.pose[pose_id, elbow] += torch.tensor([0, -60, 30]).deg2rad() - refined
    error, change = (np.abs(drawn - picture).mean() for picture in (expected(), before))
    assert change > 1  # of 255, over the whole image
    assert error < 0.2 * change  # FrozenAvatar interpolates the skinning weights


def test_a_capture_of_one_s_own_is_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And its vertices, posed by smplx and projected by OpenCV, fill the masks to their edges."""
    run_example("02_capture_of_your_own.py", tmp_path, "--frames", 6, "--size", 128)
    assert "\nready" in capsys.readouterr().out
    capture = open_capture(tmp_path)
    assert [len(frames) for frames in capture.splits.values()] == [5, 0, 1]
    camera = np.load(tmp_path / "cameras.npz")
    for frame in capture.splits["train"]:
        pose, transl = (torch.from_numpy(row[frame.pose_id])[None].float() for row in (capture.poses, capture.transl))
        betas = torch.from_numpy(capture.betas)[None].float()
        posed = smpl()(betas=betas, global_orient=pose[:, :3], body_pose=pose[:, 3:], transl=transl)
        vertices = posed.vertices[0].detach().double().numpy()
        pixels = cv2.projectPoints(vertices, np.zeros(3), np.zeros(3), camera["intrinsic"], np.zeros(5))[0][:, 0]
        column, row = np.round(pixels).astype(int).T
        mask = capture.mask(frame) > 0
        assert mask[row, column].mean() > 0.998  # a few are on the edge of a pixel
        rows, columns = np.nonzero(mask)
        seen = [columns.min(), columns.max(), rows.min(), rows.max()]
        np.testing.assert_allclose(seen, [column.min(), column.max(), row.min(), row.max()], atol=1)


def test_a_modality_is_added_and_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The capture is gray, so its chromaticity is white: from the sigmoid's middle the map goes there."""
    write_capture(tmp_path / "CoreView_1")
    monkeypatch.setattr(fmgs_avatar.config.pipeline.model, "schedule", Schedule(skinning_fit_steps=10))
    monkeypatch.setattr(fmgs_avatar.config.pipeline.datamanager, "check_fit", False)  # its masks are of nobody
    monkeypatch.setattr(fmgs_avatar.config.optimizers["distilled"]["optimizer"], "lr", 0.05)  # ten times as fast
    torch.manual_seed(0)
    with mock.patch.dict(MODALITIES):
        run_example("03_add_a_modality.py", tmp_path / "CoreView_1", "--steps", 20, "--out", tmp_path / "out")
    albedo = cv2.imread(str(tmp_path / "out" / "albedo.png"))
    assert albedo.shape == (SIZE, SIZE, 3)
    assert (albedo == 0).all(axis=-1).any()  # nothing is learned where nothing is
    assert np.percentile(albedo, 95) > 0.65 * 255
