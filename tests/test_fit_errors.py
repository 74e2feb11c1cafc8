"""Fits that are off: the directions in which training corrects them, their units, and that it finds its way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fmgs_dataparsers.capture import Capture, Uncertainty
from fmgs_dataparsers.parser import FMGSDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from scipy.spatial.transform import Rotation
from support.small_avatar import small_avatar
from support.trainer_runs import config_for, train
from support.zju_capture import write_capture

from fmgs_nerfstudio import losses
from fmgs_nerfstudio.body.pose_table import PoseTable
from fmgs_nerfstudio.evaluation.runs import open_run
from fmgs_nerfstudio.fit_errors import expected_errors, inverse_left_jacobian, settled_sigma, sigma_of
from fmgs_nerfstudio.model import FMGSModel, FMGSModelConfig
from fmgs_nerfstudio.rendering import Camera
from fmgs_nerfstudio.schedule import Schedule

SIGMA = Uncertainty(0.1, (0.01, 0.02, 0.03), 0.05, 0.04, 0.0)


def capture() -> Capture:
    return small_avatar().kwargs["metadata"]["capture"]


def table_of(sigma: Uncertainty | None, own: Capture | None = None) -> PoseTable:
    own = own or capture()
    errors = expected_errors(own, sigma, small_avatar().canonical.joints[0]) if sigma else None
    pose, transl = (torch.from_numpy(value).float() for value in (own.poses, own.transl))
    return PoseTable(pose, transl, [frame.pose_id for frame in own.splits["train"]], True, 0, errors)


@pytest.mark.parametrize("length", [0.0, 1e-3, 1.0, 3.1])
def test_what_a_small_turn_adds_to_a_rotation_vector(length: float) -> None:
    rng = np.random.default_rng(0)
    vector = rng.normal(size=3)
    vector *= length / np.linalg.norm(vector)
    small = rng.normal(size=3) * 1e-5
    exact = (Rotation.from_rotvec(small) * Rotation.from_rotvec(vector)).as_rotvec()
    np.testing.assert_allclose(vector + inverse_left_jacobian(vector) @ small, exact, atol=1e-9)


def test_a_unit_is_one_standard_deviation_of_each_kind() -> None:
    """Right and down are the camera's; along the ray the pelvis stays at its pixel. A parameter of a place stands for
    four of them."""
    poses, own = table_of(SIGMA), capture()
    frame = own.splits["train"][1]
    camera, row = own.cameras[frame.camera], 1
    view, pelvis = camera.world_to_camera, small_avatar().canonical.joints[0].numpy()

    def moved(parameter: torch.Tensor | None, index: int) -> tuple[np.ndarray, np.ndarray]:
        assert parameter is not None
        with torch.no_grad():
            parameter[index] = 1
            pose, transl = poses(frame.pose_id)
            parameter[index] = 0
        return (pose - poses.pose[frame.pose_id]).numpy(), (transl - poses.transl[frame.pose_id]).numpy()

    pose, transl = moved(poses.corrections[row], 40)
    assert pose[40] == pytest.approx(0.1)
    assert np.abs(pose).sum() == pytest.approx(0.1)
    assert not transl.any()
    for index, expected in ((72, [0.04, 0, 0]), (73, [0, 0.08, 0])):
        np.testing.assert_allclose(view[:3, :3] @ moved(poses.corrections[row], index)[1], expected, atol=1e-6)
    # a third of it is common to the three frames, and the clip's
    for step in (moved(poses.corrections[row], 74)[1] / 0.12 * 3 / 2, moved(poses.clip, 0)[1] / 0.04):
        assert np.linalg.norm(step) == pytest.approx(1, abs=1e-5)
        before = view[:3, :3] @ (own.transl[frame.pose_id] + pelvis) + view[:3, 3]
        after = before + view[:3, :3] @ step
        assert after[2] > before[2]  # farther
        np.testing.assert_allclose(after[:2] / after[2], before[:2] / before[2], atol=1e-6)


def test_frames_do_not_move_the_distance_of_the_clip() -> None:
    """What they have in common along the ray, which clothes would have them learn, moves none; the rest does."""
    poses = table_of(SIGMA)
    with torch.no_grad():
        for value, own in zip((0.5, 0.7, 0.9), poses.corrections, strict=True):
            own[74] = value
    moved = [(poses(row)[1] - poses.transl[row]) @ poses.one_position[row][:, 2] / 0.03**2 for row in range(3)]
    torch.testing.assert_close(torch.stack(moved), torch.tensor([-0.8, 0.0, 0.8]), atol=1e-5, rtol=0)
    poses(0)[1].sum().backward()
    assert poses.corrections[0].grad is not None
    assert poses.corrections[1].grad is None  # Adam would move what is not in the batch


def test_the_clip_waits_for_the_clothes() -> None:
    poses = table_of(SIGMA)
    assert poses.clip is not None
    with torch.no_grad():
        poses.clip.fill_(1)
        assert torch.equal(poses(0, whole=False)[1], poses.transl[0])
        assert not torch.equal(poses(0)[1], poses.transl[0])


def test_the_clip_leans_as_a_whole_about_the_cameras_horizontal_axis() -> None:
    poses, own = table_of(SIGMA), capture()
    right = own.cameras["Camera_B1"].world_to_camera[0, :3]
    assert poses.clip is not None
    with torch.no_grad():
        poses.clip[1] = 0.1  # 5 mrad
        for frame in own.splits["train"]:
            fit, leaning = (poses(frame.pose_id)[0][:3].numpy(), poses.pose[frame.pose_id][:3].numpy())
            turn = Rotation.from_rotvec(fit) * Rotation.from_rotvec(leaning).inv()
            np.testing.assert_allclose(turn.as_rotvec(), 0.005 * right, atol=3e-5)
            assert torch.equal(poses(frame.pose_id)[0][3:], poses.pose[frame.pose_id][3:])


def test_poses_of_other_cameras_are_of_another_source() -> None:
    """Held-out poses that the training camera filmed lean with the clip; those that it did not stay."""
    own = capture()
    first, second, third = own.splits["train"]
    elsewhere = dataclasses.replace(third, camera="Camera_B2")
    own = dataclasses.replace(own, splits={"train": (first,), "novel_view": (), "novel_pose": (second, elsewhere)})
    poses = table_of(SIGMA, own)
    assert poses.clip is not None
    with torch.no_grad():
        poses.clip.fill_(1)
        moved = [
            not torch.equal(poses(frame.pose_id)[1], poses.transl[frame.pose_id]) for frame in (first, second, third)
        ]
    assert moved == [True, True, False]


def test_nothing_stated_is_as_ever() -> None:
    """Radians and metres, no parameters of the clip, no term; an option states it where the capture does not."""
    poses = table_of(None)
    assert [name for name, _ in poses.named_parameters()] == [f"corrections.{i}" for i in range(3)]
    with torch.no_grad():
        poses.corrections[0].fill_(0.5)
    assert torch.equal(poses(0)[0], poses.pose[0] + 0.5)
    assert torch.equal(poses(0)[1], poses.transl[0] + 0.5)
    assert "L_pose" not in small_avatar().objective.terms
    assert "clip" not in small_avatar().get_param_groups()
    assert sigma_of("stated", capture()) is None
    assert settled_sigma("stated", capture()) == "none"


def test_an_option_states_it_or_denies_it() -> None:
    says, numbers = dataclasses.replace(capture(), uncertainty=SIGMA), (0.1, 0.01, 0.02, 0.03, 0.05, 0.04)
    assert sigma_of("stated", says) == SIGMA
    assert sigma_of("none", says) is None
    assert sigma_of(numbers, capture()) == SIGMA
    assert settled_sigma("stated", says) == numbers


def test_a_capture_that_states_it_is_trained_by_it(tmp_path: Path) -> None:
    write_capture(tmp_path / "CoreView_1")
    metadata = FMGSDataParserConfig(data=tmp_path / "CoreView_1").setup().get_dataparser_outputs("train").metadata
    metadata["capture"] = dataclasses.replace(metadata["capture"], uncertainty=SIGMA)
    config = FMGSModelConfig(n_vertices=6890)
    model = config.setup(scene_box=SceneBox(torch.eye(3)[:2]), num_train_data=3, metadata=metadata)
    groups = model.get_param_groups()
    assert len(groups["pose_errors"]) == 3
    assert [tuple(parameter.shape) for parameter in groups["clip"]] == [(2,)]
    assert "poses" not in groups
    assert "L_pose" in model.objective.terms
    assert model.pose_start == pytest.approx(0.4 * 0.015 / 0.1)
    assert small_avatar().pose_start == 0.1
    config.pose_sigma = "none"
    model = config.setup(scene_box=SceneBox(torch.eye(3)[:2]), num_train_data=3, metadata=metadata)
    assert model.poses.clip is None
    assert model.pose_start == 0.1


def test_the_further_fits_may_be_off_the_earlier_they_are_refined() -> None:
    schedule = Schedule(pose_start=0.2, pose_common_start=0.4)
    assert [schedule.pose_start_for(sigma) for sigma in (0.0, 0.01, 0.03)] == [0.2] * 3
    assert schedule.pose_start_for(0.15) == pytest.approx(0.04)
    assert [schedule.clip_start_for(sigma) for sigma in (0.0, 0.02, 0.035)] == [0.4] * 3
    assert schedule.clip_start_for(0.35) == pytest.approx(0.04)


def test_poses_begin_beside_their_mean(tmp_path: Path) -> None:
    """In a run of six steps: as they are, from the second beside their mean, from the fifth as they come; no jump."""
    write_capture(tmp_path / "CoreView_1")
    made = config_for(tmp_path / "CoreView_1", tmp_path / "run", 6)
    made.pipeline.model.schedule = Schedule(skinning_fit_steps=5, pose_start=1 / 6, pose_common_start=4 / 6)
    made.pipeline.model.pose_radius = 0
    trainer: Any = made.setup()
    trainer.setup()
    model: FMGSModel = trainer.pipeline.model
    means, offs, common = list[float](), list[float](), list[float]()

    def look(step: int) -> None:
        corrections = torch.stack([*model.poses.corrections]).detach()
        now = torch.stack([torch.cat(model.pose_now(pose_id)) for pose_id in model.poses.row]).detach()
        as_fitted = torch.cat([model.poses.pose, model.poses.transl], dim=1)[[*model.poses.row]]
        means.append(float(corrections.mean(0).norm()))
        offs.append(float((now - as_fitted).norm()))
        common.append(float((now - as_fitted).mean(0).norm()))

    before = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION
    trainer.callbacks.append(TrainingCallback([before], look, update_every_num_iters=1))
    trainer.train()
    look(6)
    assert [off > 0 for off in offs] == [False, False, True, True, True, True, True]
    assert [size > 1e-6 for size in common] == [False] * 5 + [True] * 2
    assert means[3] > 1e-6 > means[4]  # begins at zero


def test_poses_move_by_what_is_stated(tmp_path: Path) -> None:
    """Ten times the uncertainty moves poses further, by the method's own rates; and the run opens again as it was."""
    write_capture(tmp_path / "CoreView_1")
    moved = []
    for name, factor in (("sure", 1.0), ("unsure", 10.0)):
        made = config_for(tmp_path / "CoreView_1", tmp_path / name, 4)
        place = 0.004 * factor
        made.pipeline.model.pose_sigma = (0.01 * factor, place, place, place, 0.01 * factor, 0.01 * factor)
        made.pipeline.model.schedule = Schedule(skinning_fit_steps=10, pose_start=0.0)
        made.save_config()
        model: Any = train(made).pipeline.model
        moved.append([(fit - now).abs().max() for fit, now in zip(_fits(model), model.poses.all(), strict=True)])
        opened = open_run(made.get_base_dir()).model
        assert all(torch.equal(a, b) for a, b in zip(opened.poses.all(), model.poses.all(), strict=True))
        assert opened.poses.clip is not None
        assert opened.poses.clip.any()
    assert all(3 * sure < unsure for sure, unsure in zip(*moved, strict=True))


def _fits(model: FMGSModel) -> tuple[torch.Tensor, torch.Tensor]:
    return model.poses.pose, model.poses.transl


def test_the_prior_of_corrections() -> None:
    assert losses.pose_prior_loss(torch.tensor([3.0, -1.0, 0.0, 0.0]), torch.tensor([1.0, 2.0])) == 5


def test_lean_and_distance_of_a_clip_are_recovered() -> None:
    """Of pictures that the avatar itself made, by fits that lean by 3 degrees and are 40 mm too far away."""
    model, own = small_avatar(), capture()
    view = own.cameras["Camera_B1"].world_to_camera
    viewmat, K = (torch.from_numpy(value).float() for value in (view, own.intrinsics("Camera_B1")[0]))
    camera = Camera(viewmat, K, 64, 64)
    exact = table_of(None)
    pictures = [drawn(model, exact, frame.pose_id, camera).detach() for frame in own.splits["train"]]
    off = {"poses": own.poses.copy(), "transl": own.transl.copy()}
    for row in range(len(own.poses)):
        root = Rotation.from_rotvec(np.radians(3) * view[0, :3]) * Rotation.from_rotvec(own.poses[row, :3])
        off["poses"][row, :3] = root.as_rotvec()
        ray = own.transl[row] + model.canonical.joints[0].numpy() + view[:3, :3].T @ view[:3, 3]
        off["transl"][row] += 0.04 * ray / np.linalg.norm(ray)
    table = table_of(SIGMA, dataclasses.replace(own, **off))
    assert table.clip is not None
    optimizer = torch.optim.Adam([table.clip], lr=0.1)
    for step in range(60):
        row = step % len(pictures)
        loss = (drawn(model, table, row, camera) - pictures[row]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.95
    distance, lean = table.clip.tolist()
    assert distance * SIGMA.distance == pytest.approx(-0.04, abs=0.008)
    assert np.degrees(lean * SIGMA.lean) == pytest.approx(-3, abs=0.6)


def drawn(model: FMGSModel, table: PoseTable, pose_id: int, camera: Camera) -> torch.Tensor:
    """Colour and alpha."""
    avatar = model.pose_avatar_at(*table(pose_id))
    maps = model.render(avatar, model.shade(avatar, camera.centre), camera, ["colour"])
    return torch.cat([maps["rgb"], maps["accumulation"]], dim=-1)
