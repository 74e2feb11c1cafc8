"""The avatar for showing does what the model does, and performs motions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
import pytest
import torch
from fmgs_dataparsers.parser import FMGSDataParserConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from support.small_avatar import small_avatar
from support.zju_capture import SIZE, write_capture

from fmgs_nerfstudio.cli import animate
from fmgs_nerfstudio.cli.export import posed_splats
from fmgs_nerfstudio.evaluation.runs import Run, RunError, find_config
from fmgs_nerfstudio.export.splats import write_splats
from fmgs_nerfstudio.export.surface import learned_mesh
from fmgs_nerfstudio.frozen import FrozenAvatar
from fmgs_nerfstudio.model import FMGSModel, FMGSModelConfig
from fmgs_nerfstudio.rendering import Camera
from fmgs_nerfstudio.routes import OPEN, pose_surfels
from fmgs_nerfstudio.surfels import SurfelsConfig
from fmgs_nerfstudio.viewer.state import ViewerState


@pytest.fixture(scope="module")
def frozen() -> FrozenAvatar:
    return FrozenAvatar(small_avatar())


def far_pose(scale: float = 0.8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(72, generator=generator) * scale, torch.tensor([0.1, 0.2, 0.3])


@torch.no_grad()
def test_poses_as_the_model_does(frozen: FrozenAvatar) -> None:
    """Tabulated skinning weights: within hundredths of a millimetre, within one where the field has a kink."""
    model = small_avatar()
    for pose, transl in (model.poses(1), far_pose(0.3)):
        fast, slow = frozen.pose(pose, transl), model.pose_avatar_at(pose, transl)
        surfels = [pose_surfels(avatar.canonical, avatar.opacities, avatar.T, OPEN) for avatar in (fast, slow)]
        error = (surfels[0].means - surfels[1].means).norm(dim=-1)
        assert error.mean() < 1e-5
        assert error.max() < 1e-3
        assert torch.equal(fast.Z_p, slow.Z_p)
        assert torch.allclose(fast.canonical.means, slow.canonical.means)
        # They were learned displacements, not none.
        assert (slow.canonical.means - model.surfels.means).norm(dim=-1).mean() > 5e-4


def test_of_a_run_that_has_begun_to_refine() -> None:
    """The poses of training so far, which do not have yet what their corrections have in common."""
    model = small_avatar()
    model.step, model.run_steps = 2, 10
    try:
        expected = torch.stack([model.poses(pose_id, whole=False)[1] for pose_id in range(len(model.poses.pose))])
        assert (expected - model.poses.all()[1]).norm(dim=1).max() > 1e-3
        torch.testing.assert_close(model.poses_now()[1], expected)
        motion = FrozenAvatar(model).own_motion()
        torch.testing.assert_close(torch.from_numpy(motion.transl), expected.detach().double())
        shown = ViewerState(model).captured(1)
        torch.testing.assert_close(torch.from_numpy(shown.transl), expected[1].detach())
        model.step = 0
        assert torch.equal(model.pose_now(1)[1], model.poses.transl[1])
    finally:
        model.step = model.run_steps = 0


def test_renders_as_the_model_does(frozen: FrozenAvatar) -> None:
    model = small_avatar()
    position = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, -3.0], [0, 1, 0, 0]])
    cameras = Cameras(
        position[None], fx=90.0, fy=90.0, cx=SIZE / 2, cy=SIZE / 2, width=SIZE, height=SIZE,
        metadata={"pose_id": torch.tensor([[2]])},
    )  # fmt: skip
    expected = model.get_outputs_for_camera(cameras)
    view = Camera.from_opengl(position, 90.0, 90.0, SIZE / 2, SIZE / 2, SIZE, SIZE)
    maps = frozen.render(frozen.pose(*model.poses(2)), view, ("semantics", "normal", "depth"))
    assert expected["accumulation"].max() > 0.9
    for name in ("rgb", "accumulation", "depth", "normal"):
        assert (maps[name] - expected[name]).abs().mean() < 2e-3, name
    assert (maps["semantics"] == expected["semantics"]).float().mean() > 0.98
    assert set(frozen.render(frozen.pose(*model.poses(2)), view, ())) == {"rgb", "accumulation"}


def free_avatar(folder: Path, kind: Literal["2d", "3d"]) -> FMGSModel:
    """Surfels that no mesh guides, moved by the geometry field."""
    write_capture(folder)
    metadata = FMGSDataParserConfig(data=folder).setup().get_dataparser_outputs("train").metadata
    config = FMGSModelConfig(n_vertices=6890, surfels=SurfelsConfig(guided=False, kind=kind))
    model = config.setup(scene_box=SceneBox(torch.eye(3)[:2]), num_train_data=3, metadata=metadata).eval()
    for head in (model.geometry.displacement, model.geometry.scale, model.geometry.rotation):
        torch.nn.init.normal_(head.weight, std=0.1)
    torch.nn.init.uniform_(model.V_g.table, -1, 1)
    return model


@torch.no_grad()
@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_free_surfels_are_posed_as_the_model_does(
    kind: Literal["2d", "3d"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved in three axes, so that no table of skinning weights would do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "3d")
    model = free_avatar(tmp_path / "CoreView_1", kind)
    frozen = FrozenAvatar(model)
    for pose in (model.poses(1), far_pose(0.3)):
        fast, slow = frozen.pose(*pose), model.pose_avatar_at(*pose)
        moved = slow.canonical.means - model.surfels.means
        along = (moved * model.surfels.frames[..., 2]).sum(-1)
        assert (moved.square().sum(-1) - along.square()).mean().sqrt() > 2e-4  # metres, beside the normal
        surfels = [pose_surfels(avatar.canonical, avatar.opacities, avatar.T, OPEN) for avatar in (fast, slow)]
        for got, expected in zip(*surfels, strict=True):
            assert torch.allclose(got, expected, atol=1e-6)


@torch.no_grad()
def test_free_3d_gaussians_are_posed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They need a card to be rendered, but none to be posed or exported."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = free_avatar(tmp_path / "CoreView_1", "3d")
    frozen = FrozenAvatar(model)
    fast = frozen.pose(*model.poses(1))
    gaussians = pose_surfels(fast.canonical, fast.opacities, fast.T, OPEN)
    assert gaussians.tangents.shape[1:] == (3, 3)
    write_splats(*posed_splats(frozen, fast), tmp_path / "gaussians.ply")
    template = model.template
    assert len(learned_mesh(model, frozen.at_rest()).vertices) == len(template.vertices) + len(template.faces)
    camera = Camera(torch.eye(4), torch.eye(3), SIZE, SIZE)
    with pytest.raises(ValueError, match="on CUDA only"):
        frozen.render(fast, camera, ())


def test_clamped_fields_see_nothing_beyond_training(frozen: FrozenAvatar) -> None:
    clamped = FrozenAvatar(small_avatar(), clamp_pose=True)
    far = clamped.latent(*far_pose())
    assert (far >= clamped.Z_low).all()
    assert (far <= clamped.Z_high).all()
    assert not torch.allclose(far, frozen.latent(*far_pose()))
    for pose_id in range(3):
        known = small_avatar().poses(pose_id)
        assert torch.allclose(clamped.latent(*known), frozen.latent(*known))


def test_an_animation_is_written(tmp_path: Path, frozen: FrozenAvatar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the command: a motion of another world, three maps side by side, video and PNGs alike."""
    monkeypatch.setattr(animate, "open_run", lambda run, data: Run(None, small_avatar(), tmp_path))  # pyright: ignore[reportArgumentType]
    poses = np.zeros((13, 72))
    poses[:, 50] = np.linspace(0, 1, 13)  # an arm comes down; y is up
    np.savez(tmp_path / "arm.npz", poses=poses, trans=np.zeros((13, 3)), fps=12.0)
    size = ("--size", "48", "--fps", "6", "--outputs", "rgb", "depth", "semantics")
    animate.main([str(tmp_path), "--motion", str(tmp_path / "arm.npz"), "--frames", str(tmp_path / "png"), *size])
    animate.main([str(tmp_path), "--motion", str(tmp_path / "arm.npz"), *size])
    images = [cv2.imread(str(path)) for path in sorted((tmp_path / "png").iterdir())]
    assert len(images) == 7
    assert all(image.shape == (48, 3 * 48, 3) for image in images)
    assert all(image[:, :48].max() > 0 and image[:, 48:96].max() > 0 for image in images)
    assert np.abs(images[0].astype(int) - images[-1]).mean() > 1  # the arm moved
    with av.open(str(tmp_path / "animations" / "arm.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (144, 48, 6)
        assert sum(1 for _ in video.decode(stream)) == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--motion", "nowhere.npz"), "does not exist"),
        (("--fps", "0"), "more than 0"),
        (("--size", "3"), "16 to 8192"),
        (("--video", "out.gif"), "ffmpeg -i out.mp4 -vf"),
        (("--video", "out"), "is none of .mp4"),
    ],
)
def test_mistakes_are_told(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        animate.main([str(tmp_path), *arguments])
    assert said in capsys.readouterr().err


def test_runs_are_found(tmp_path: Path) -> None:
    for name in ("old", "new"):
        path = tmp_path / "outputs" / "capture" / "fmgs-avatar" / name / "config.yml"
        path.parent.mkdir(parents=True)
        path.write_text("")
    assert find_config(tmp_path) == path
    assert find_config(path) == find_config(path.parent) == path
    with pytest.raises(RunError, match=r"config\.yml"):
        find_config(tmp_path / "elsewhere")
