"""Held-out poses are refined on their own images: they come nearer the truth, nothing else moves, scores stay apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from support.small_avatar import small_avatar
from support.trainer_runs import config_for
from support.zju_capture import SIZE, write_capture
from torch import Tensor

from fmgs_nerfstudio import held_out_poses
from fmgs_nerfstudio.data import Batch
from fmgs_nerfstudio.held_out_poses import refine_pose
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.pipeline import FMGSPipeline, FMGSPipelineConfig
from fmgs_nerfstudio.rendering import Camera

POSE = 1
View = tuple[Cameras, Batch]
SmplPose = tuple[Tensor, Tensor]


@torch.no_grad()
def drawn(model: FMGSModel, camera: Cameras, pose: SmplPose) -> Batch:
    """Image and mask of the avatar itself."""
    view = Camera.from_nerfstudio(camera)
    avatar = model.pose_avatar_at(*pose)
    maps = model.render(avatar, model.shade(avatar, view.centre), view, ["colour"])
    return {"image": maps["rgb"], "mask": maps["accumulation"]}


def camera_at(position: list[list[float]]) -> Cameras:
    """Close enough that the person fills the image."""
    return Cameras(
        torch.tensor([position]), fx=90.0, fy=90.0, cx=SIZE / 2, cy=SIZE / 2, width=SIZE, height=SIZE,
        metadata={"pose_id": torch.tensor([[POSE]])},
    )  # fmt: skip


CAMERAS = (
    camera_at([[1.0, 0, 0, 0], [0, 0, -1, -2.0], [0, 1, 0, 0]]),  # from the front
    camera_at([[0.0, 0, 1, 2.0], [1, 0, 0, 0], [0, 1, 0, 0]]),  # and from the side
)


@torch.no_grad()
def fit_and_truth(model: FMGSModel) -> tuple[SmplPose, SmplPose]:
    """The pose of the table, and one that it is off from by 3 degrees in every large joint and 2 cm."""
    pose, transl = model.poses(POSE)
    error = torch.randn(72, generator=torch.Generator().manual_seed(3)) * 0.05 / 3**0.5
    error[60:] = 0  # hands and wrists
    return (pose, transl), (pose + error, transl + torch.tensor([0.015, -0.01, 0.01]))


@torch.no_grad()
def millimetres(model: FMGSModel, a: SmplPose, b: SmplPose) -> float:
    """Mean distance of the joints."""
    joints = [(model.canonical(*pose)[0] @ homogeneous(model.canonical.joints)[..., None])[:, :3, 0] for pose in (a, b)]
    return float((joints[0] - joints[1]).norm(dim=-1).mean() * 1000)


def homogeneous(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones_like(points[:, :1])], dim=-1)


def distance(model: FMGSModel, views: list[View], pose: SmplPose, name: str) -> float:
    return sum(float((drawn(model, camera, pose)[name] - batch[name]).abs().mean()) for camera, batch in views)


def test_a_pose_comes_nearer_the_truth_and_looks_like_it() -> None:
    model = small_avatar()
    fit, truth = fit_and_truth(model)
    views = [(camera, drawn(model, camera, truth)) for camera in CAMERAS]
    assert all(float(batch["mask"].mean()) > 0.05 for _, batch in views)
    refined = refine_pose(model, views, 60)
    before, after = (millimetres(model, pose, truth) for pose in (fit, refined))
    assert before > 15
    assert after < 0.45 * before, (before, after)
    for name in ("image", "mask"):
        before, after = (distance(model, views, pose, name) for pose in (fit, refined))
        assert after < 0.4 * before, (name, before, after)


def test_nothing_else_changes_and_nothing_is_random() -> None:
    """Not a bit of the avatar or its table of poses, no gradient, no switch; and twice the same."""
    model = small_avatar()
    _, truth = fit_and_truth(model)
    views = [(camera, drawn(model, camera, truth)) for camera in CAMERAS]
    model.zero_grad()
    state = {name: value.clone() for name, value in [*model.state_dict().items(), *model.named_buffers()]}
    closed = model.geometry.displacement.weight.requires_grad_(False)
    switches = {name: p.requires_grad for name, p in model.named_parameters()}
    assert sum(switches.values()) > 10
    model.train()
    try:
        with torch.no_grad():  # as evaluation may call it
            first = refine_pose(model, views, 3)
        assert model.training
        assert {name: p.requires_grad for name, p in model.named_parameters()} == switches
    finally:
        closed.requires_grad_(True)
        model.eval()
    torch.rand(5)
    second = refine_pose(model, views, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(value.requires_grad for value in second)
    after = dict([*model.state_dict().items(), *model.named_buffers()])
    assert [name for name, value in state.items() if not torch.equal(value, after[name])] == []
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["image", "mask"])
def test_image_and_mask_of_every_view_count(name: str) -> None:
    model = small_avatar()
    views = [(camera, drawn(model, camera, fit_and_truth(model)[1])) for camera in CAMERAS]
    dimmed = [views[0], (views[1][0], views[1][1] | {name: views[1][1][name] / 2})]
    assert not torch.equal(refine_pose(model, views, 2)[0], refine_pose(model, dimmed, 2)[0])


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> FMGSPipeline:
    """Untrained, of a capture with two held-out poses, which two cameras see."""
    root = tmp_path_factory.mktemp("captures") / "CoreView_1"
    write_capture(root, n_frames=4)
    names = ["Camera_B1", "Camera_B2"]
    protocol = {
        "train": {"cameras": names[:1], "frames": [0, 1]},
        "novel_view": {"cameras": names[1:], "frames": [1]},
        "novel_pose": {"cameras": names, "frames": [2, 3]},
    }
    (root / "protocol.json").write_text(json.dumps({"name": "test", **protocol}))
    made = config_for(root, tmp_path_factory.mktemp("out"), 1)
    made.resolve_defaults()
    torch.manual_seed(0)
    pipeline = made.pipeline.setup(device="cpu", test_mode="test")
    assert isinstance(pipeline, FMGSPipeline)
    return pipeline


def test_refined_scores_stand_beside_the_others(
    pipeline: FMGSPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each held-out pose is asked for once, with all of its images, and only its own images are drawn in the answer."""
    model = pipeline.model
    assert isinstance(model, FMGSModel)
    asked: list[tuple[list[int], int]] = []

    def answer(_: FMGSModel, views: list[View], steps: int) -> SmplPose:
        asked.append(([model.pose_id(camera) for camera, _ in views], steps))
        pose, transl = model.poses(asked[-1][0][0])
        return pose, transl + torch.tensor([0.0, 0.0, 1.0 if asked[-1][0][0] == 3 else 0.0])  # the second: moved

    monkeypatch.setattr(pipeline.config, "refine_test_poses", 7)
    monkeypatch.setattr(held_out_poses, "refine_pose", answer)
    state = {name: value.clone() for name, value in pipeline.state_dict().items()}
    metrics = pipeline.get_average_eval_image_metrics(output_path=tmp_path, get_std=True)
    assert asked == [([2, 2], 7), ([3, 3], 7)]
    assert all(torch.equal(value, state[name]) for name, value in pipeline.state_dict().items())
    named = [{n[len(p) :] for n in metrics if n.startswith(p)} for p in ("novel_pose_", "refined_pose_")]
    assert named[0] == named[1] > {"psnr", "mask_iou", "psnr_std"}
    pictures = [[(tmp_path / f"eval_{kind}_pose_img_{i:04d}.png").read_bytes() for i in range(4)]
                for kind in ("novel", "refined")]  # fmt: skip
    cameras = pipeline.datamanager.eval_loader("novel_pose").cameras
    assert cameras.metadata is not None
    assert set(cameras.metadata) == {"pose_id"}  # a later rendering sees the capture's own poses
    poses = [int(cameras.metadata["pose_id"][i]) for i in pipeline.datamanager.eval_loader("novel_pose").indices]
    assert [a == b for a, b in zip(*pictures, strict=True)] == [pose == 2 for pose in poses]


def test_off_by_default_and_apart(pipeline: FMGSPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the option, the metrics of before; with it these are the same, to the bit, and others stand beside."""
    assert FMGSPipelineConfig().refine_test_poses == 0
    assert pipeline.config.refine_test_poses == 0
    without = pipeline.get_average_eval_image_metrics()
    assert not any(name.startswith("refined_pose_") for name in without)
    assert {"psnr", "novel_pose_psnr"} <= set(without)
    monkeypatch.setattr(pipeline.config, "refine_test_poses", 2)
    held = {name: value.clone() for name, value in pipeline.named_buffers()}  # the table of poses among them
    with_it = pipeline.get_average_eval_image_metrics()
    assert [name for name, value in pipeline.named_buffers() if not torch.equal(value, held[name])] == []
    assert "_model.poses.transl" in held
    beside = {name: value for name, value in with_it.items() if not name.startswith("refined_pose_")}
    assert beside | {"fps": 0} == without | {"fps": 0}
    assert with_it["refined_pose_psnr"] != with_it["novel_pose_psnr"]


def test_frames_that_were_trained_on_are_told_apart(pipeline: FMGSPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a capture that holds nothing out; where something is, nothing of the kind is said."""
    assert "held_out" not in pipeline.get_average_eval_image_metrics()
    monkeypatch.setattr(pipeline, "_held_out", lambda: iter(()))
    metrics = pipeline.get_average_eval_image_metrics()
    assert metrics["held_out"] == 0
    assert metrics["psnr"] > 0
