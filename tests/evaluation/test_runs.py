"""Runs that were copied, moved, planted in, or whose capture is gone: opened from their own folder, or told."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import yaml
from fmgs_dataparsers import parser
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.viewer.viewer import Viewer
from support.trainer_runs import config_for, train
from support.zju_capture import write_capture

from fmgs_nerfstudio.cli import animate, check, export, report
from fmgs_nerfstudio.evaluation.config_file import line_of, read_config
from fmgs_nerfstudio.evaluation.run_check import is_run
from fmgs_nerfstudio.evaluation.runs import Run, RunError, open_run
from fmgs_nerfstudio.export.surface import learned_mesh
from fmgs_nerfstudio.frozen import FrozenAvatar
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.pipeline import FMGSPipeline
from fmgs_nerfstudio.rendering import Camera


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps; the folder of the run. Its capture is in `captures` beside `outputs`."""
    folder = tmp_path_factory.mktemp("runs")
    write_capture(folder / "captures" / "CoreView_1")
    made = config_for(folder / "captures" / "CoreView_1", folder / "outputs", 2)
    made.save_config()
    train(made)
    return made.get_base_dir()


@pytest.fixture(scope="module")
def whole(trained: Path) -> Run:
    """The run as it was trained, its capture beside it."""
    return open_run(trained)


@pytest.fixture
def moved(trained: Path, whole: Run) -> Iterator[Callable[[], Path]]:
    """Takes the capture away, and says where to."""
    capture = trained.parents[3] / "captures" / "CoreView_1"
    elsewhere = capture.with_name("elsewhere")

    def forget() -> None:
        parser.open_capture.cache_clear()
        parser._read_kept.cache_clear()

    def move() -> Path:
        capture.rename(elsewhere)
        forget()
        return elsewhere

    yield move
    if elsewhere.exists():
        elsewhere.rename(capture)
        forget()


def files_in(folder: Path) -> dict[str, float]:
    return {str(path.relative_to(folder)): path.stat().st_mtime for path in folder.rglob("*")}


def with_another_checkpoint(copy: Path) -> None:
    """Step 777 alone, in which all opacities are others."""
    (path,) = (copy / "nerfstudio_models").iterdir()
    state = torch.load(path, weights_only=True)
    state["pipeline"]["_model.surfels.opacity_logit"].fill_(0.25)
    state["step"] = 777
    torch.save(state, path.with_name("step-000000777.ckpt"))
    path.unlink()


def is_the_other(model: FMGSModel) -> bool:
    return model.step == 777 and bool((model.surfels.opacity_logit == 0.25).all())


@torch.no_grad()
def drawn(model: FMGSModel) -> dict[str, torch.Tensor]:
    """From a new camera, in the second pose of the capture."""
    viewmat = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 3], [0, 0, 0, 1]])
    camera = Camera(viewmat, torch.tensor([[90.0, 0, 32], [0, 90, 32], [0, 0, 1]]), 64, 64)
    avatar = model.pose_avatar(1)
    return dict(model.render(avatar, model.shade(avatar, camera.centre), camera, ["colour"]))


def test_the_configuration_is_what_nerfstudio_reads(trained: Path) -> None:
    """Of a real run: resolved defaults, absolute paths."""
    config = trained / "config.yml"
    expected = yaml.load(config.read_text(), Loader=yaml.Loader)
    assert asdict(read_config(config)) == asdict(expected)
    assert expected.pipeline.datamanager.dataparser.kept == trained / "capture.npz"


@pytest.mark.parametrize("name", ["copies/CoreView_1/fmgs-avatar/other", "my favourite"])
def test_a_copy_is_its_own_run(trained: Path, whole: Run, tmp_path: Path, name: str) -> None:
    """Whatever its folder is called: its checkpoint is opened, and results are written into it."""
    copy = tmp_path / name
    shutil.copytree(trained, copy)
    with_another_checkpoint(copy)
    before = files_in(trained.parents[3])
    opened = open_run(copy)
    assert opened.folder == copy
    assert is_the_other(opened.model)
    assert not is_the_other(whole.model)
    export.main([str(copy), "--formats", "obj", "--no-geometry"])
    assert (copy / "export" / "avatar.obj").is_file()
    assert files_in(trained.parents[3]) == before


def test_the_original_is_not_missed(trained: Path, whole: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    hidden = trained.with_name("hidden")
    trained.rename(hidden)
    try:
        opened = open_run(tmp_path / "run" / "config.yml")
    finally:
        hidden.rename(trained)
    expected, got = whole.model.state_dict(), opened.model.state_dict()
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_a_run_opens_without_its_capture(
    trained: Path, whole: Run, moved: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same pictures to the bit; animated in its own motion, and exported."""
    copy = tmp_path / "[" / "red] run"
    shutil.copytree(trained, copy)
    moved()
    opened = open_run(copy)
    assert f"the capture {trained.parents[3] / 'captures' / 'CoreView_1'} is not there" in capsys.readouterr().out
    assert opened.model.kwargs["metadata"]["capture"].body_model == copy / "capture.npz"
    expected, got = drawn(whole.model), drawn(opened.model)
    assert expected["accumulation"].max() > 0.5
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert opened.model.objective.terms.keys() == whole.model.objective.terms.keys()
    animate.main([str(copy), "--frames", str(tmp_path / "png"), "--size", "32", "--camera", "fixed"])
    assert len(list((tmp_path / "png").iterdir())) == 3
    export.main([str(copy), "--formats", "glb", "ply"])
    document = (copy / "export" / "avatar.glb").read_bytes()
    assert b'"name":"CoreView_1"' in document.replace(b'": "', b'":"')  # its own motion
    mesh = trimesh.load_mesh(copy / "export" / "avatar.ply", process=False)
    expected_mesh = learned_mesh(whole.model, FrozenAvatar(whole.model).at_rest())
    np.testing.assert_allclose(mesh.vertices, expected_mesh.vertices, atol=1e-6)


def test_nerfstudios_viewer_opens_without_the_capture(trained: Path, moved: Callable[[], Path], tmp_path: Path) -> None:
    """As ns-viewer does: no pictures of cameras in the scene, and the overlay says what is not there."""
    capture = trained.parents[3] / "captures" / "CoreView_1"
    moved()
    pipeline = eval_setup(trained / "config.yml")[1]
    assert isinstance(pipeline, FMGSPipeline)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings = ViewerConfig(websocket_port=free.getsockname()[1], websocket_host="127.0.0.1")
    viewer = Viewer(settings, tmp_path / "viewer.log", capture, pipeline, train_lock=threading.Lock())
    try:
        viewer.init_scene(pipeline.datamanager.train_dataset, "completed", pipeline.datamanager.eval_dataset)
        assert viewer.camera_handles == {}
        state, camera = pipeline.viewer_control.state, pipeline.datamanager.eval_dataset.cameras[:1]
        camera.metadata = {"cam_idx": 0}
        state.frame_overlay = replace(state.frame_overlay, amount=0.5)
        maps = pipeline.model.get_outputs_for_camera(camera)
        assert maps["accumulation"].max() > 0.5
        assert str(capture) in state.message
        assert str(trained / "config.yml") in state.message
    finally:
        viewer.viser_server.stop()


def test_what_needs_the_capture_says_where_to_name_it(
    trained: Path, moved: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, capture = trained / "config.yml", trained.parents[3] / "captures" / "CoreView_1"
    elsewhere = moved()
    line = line_of(config, "pipeline", "datamanager", "data")
    assert config.read_text().splitlines()[(line or 0) - 1].startswith("    data: ")
    for command in (report.main, lambda arguments: check.main(["--gradients", *arguments])):
        with pytest.raises(SystemExit, match="1"):
            command([str(trained)])
        error = capsys.readouterr().err
        assert f"{config}, line {line}" in error
        assert str(capture) in error
        assert "--data" in error
    with pytest.raises(SystemExit) as told:
        ComputePSNR(config, tmp_path / "metrics.json").main()
    assert f"{config}, at pipeline: datamanager: data" in str(told.value)
    assert not (tmp_path / "metrics.json").exists()

    opened = open_run(trained, elsewhere, with_images=True)
    assert opened.pipeline.datamanager.eval_dataset[0]["image"].shape == (64, 64, 3)
    with pytest.raises(RunError, match=r"--data .*nowhere: the capture .*nowhere is not there"):
        open_run(trained, tmp_path / "nowhere")

    # As people edit it, by the message of ns-eval.
    text = config.read_text()
    edited = re.sub(r"(\n    data:) .*\n(    - .*\n)+", rf"\1 {elsewhere}\n", text)
    assert edited != text
    (tmp_path / "edited.yml").write_text(edited)
    ComputePSNR(tmp_path / "edited.yml", tmp_path / "metrics.json").main()
    assert (tmp_path / "metrics.json").is_file()


def test_an_older_run_asks_for_its_capture(trained: Path, moved: Callable[[], Path], tmp_path: Path) -> None:
    """One that keeps nothing of it; written on Windows."""
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    (copy / "capture.npz").unlink()
    text = (copy / "config.yml").read_text()
    (copy / "config.yml").write_text(text.replace("PosixPath\n    - /\n", "WindowsPath\n    - 'D:\\'\n"))
    elsewhere = moved()
    with pytest.raises(RunError, match=r"config\.yml, line \d+ \(pipeline.*capture D:/.* not there.*--data"):
        open_run(copy)
    assert open_run(copy, elsewhere).model.step == 1


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_payloads_in_checkpoints_and_links_out_of_the_folder(trained: Path, tmp_path: Path) -> None:
    copy, canary = tmp_path / "run", tmp_path / "canary"
    shutil.copytree(trained, copy)
    torch.save({"pipeline": {}, "step": 9, "evil": Touch(canary)}, copy / "nerfstudio_models" / "step-000000009.ckpt")
    with pytest.raises(RunError, match=r"step-000000009\.ckpt cannot be used"):
        open_run(copy)
    torch.save({"pipeline": {}, "step": "9"}, copy / "nerfstudio_models" / "step-000000009.ckpt")
    with pytest.raises(RunError, match="its step is a str"):
        open_run(copy)
    text = (copy / "config.yml").read_text()
    for elsewhere in ("../other/nerfstudio_models", str(trained / "nerfstudio_models")):
        (copy / "config.yml").write_text(text.replace("- nerfstudio_models", f"- {elsewhere}"))
        with pytest.raises(RunError, match=r"config\.yml, line \d+: relative_model_dir is .* not in the run's folder"):
            open_run(copy)
    assert not canary.exists()


@pytest.mark.parametrize("said", ["{}", '{"root": 3}', "[" * 100_000, "null"])
def test_a_broken_record_of_the_capture(said: str, trained: Path, moved: Callable[[], Path], tmp_path: Path) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.yml", "nerfstudio_models"):
        (copy / name).symlink_to(trained / name)
    with np.load(trained / "capture.npz") as content:
        np.savez(copy / "capture.npz", **{**content, "capture": np.array(said)})
    moved()
    with pytest.raises(SystemExit, match=r"capture\.npz is not what a run keeps"):
        open_run(copy)


def judged(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        check.main([str(argument) for argument in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code, capsys.readouterr().out


def test_a_clean_run_is_called_clean(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (trained, trained / "config.yml", trained.parent, trained.parents[1], trained.parents[2]):
        code, said = judged(capsys, path)
        assert code == 0
        assert "clean: config.yml, step-000000001.ckpt, capture.npz hold data alone" in said
        assert "Note" not in said


def test_a_run_is_told_from_a_capture(trained: Path, tmp_path: Path) -> None:
    """Also where the runs lie in the capture's folder, or the capture has a config.yml of another program."""
    capture = trained.parents[3] / "captures" / "CoreView_1"
    assert not is_run(capture)
    assert not is_run(trained.parents[4] / "nowhere")
    (tmp_path / "config.yml").write_text("fps: 30\n")
    shutil.copytree(trained.parents[2], tmp_path / "outputs")
    assert not is_run(tmp_path)
    assert not is_run(tmp_path / "video.mp4")
    (tmp_path / "config.yml").write_text("!!python/object/apply:os.system [ls]\n")
    assert is_run(tmp_path)
    assert is_run(tmp_path / "outputs")


def test_a_strangers_run_is_judged(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each payload by its place; none runs."""
    copy, canary = tmp_path / "[/x] run", tmp_path / "canary"
    shutil.copytree(trained, copy)
    config = copy / "config.yml"
    evil = f"!!python/object/apply:os.system ['touch {canary}']"
    config.write_text(config.read_text().replace("\nprompt: null\n", f"\nprompt: {evil}\n"))
    torch.save({"pipeline": Touch(canary), "step": 9}, copy / "nerfstudio_models" / "step-000000009.ckpt")
    old = copy / "nerfstudio_models" / "step-000000008.ckpt"  # in torch's older format
    torch.save({"pipeline": Touch(canary), "step": 8}, old, _use_new_zipfile_serialization=False)
    os.mkfifo(copy / "nerfstudio_models" / "step-000000011.ckpt")
    torn = copy / "nerfstudio_models" / "step-000000010.ckpt"
    torn.write_bytes((copy / "nerfstudio_models" / "step-000000001.ckpt").read_bytes()[:9999])
    code, said = judged(capsys, copy)
    assert code == 1
    assert f"Would be run: {config}, line {line_of(config, 'prompt')}: !!python/object/apply:os.system touch" in said
    assert "step-000000009.ckpt: posix.system" in said
    assert "step-000000008.ckpt: posix.system" in said
    assert "step-000000011.ckpt is no file" in said
    assert f"Cannot be used: {torn}" in said
    assert "Not clean" in said
    assert "hold data alone" not in said
    assert not canary.exists()


def test_a_rewritten_configuration_is_nerfstudios(
    trained: Path, moved: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy with another checkpoint, and the capture elsewhere: the host's commands then open this one."""
    copy = tmp_path / "my run"
    shutil.copytree(trained, copy)
    with_another_checkpoint(copy)
    elsewhere = moved()
    code, said = judged(capsys, copy)
    assert code == 0
    assert f"take checkpoints from {trained / 'nerfstudio_models'}" in said
    assert "CoreView_1 is not there: animating" in said
    code, said = judged(capsys, copy, "--rewrite", copy / "here.yml", "--data", elsewhere)
    assert code == 0
    config, pipeline, checkpoint, _ = eval_setup(copy / "here.yml")
    assert checkpoint.parent == copy / "nerfstudio_models"
    assert isinstance(pipeline.model, FMGSModel)
    assert is_the_other(pipeline.model)
    assert isinstance(pipeline, FMGSPipeline)
    assert pipeline.datamanager.eval_dataset.capture.root == elsewhere
    assert config.get_base_dir().parent.is_dir()  # where ns-viewer makes a folder
    assert is_the_other(open_run(copy / "here.yml").model)
