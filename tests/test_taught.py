"""What was not trained is not shown: in the viewer, in ns-eval's pictures and measures, in animations and exports; and
what was trained, the checkpoint knows, whatever capture lies beside it. (Reports: `evaluation/test_report.py`.)"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import trimesh
from fmgs_dataparsers.parser import open_capture
from nerfstudio.scripts.eval import ComputePSNR
from support.trainer_runs import config_for, train
from support.zju_capture import SIZE, write_capture

from fmgs_nerfstudio.cli import animate, export
from fmgs_nerfstudio.evaluation.pictures import held_out_sheet, turnaround
from fmgs_nerfstudio.evaluation.runs import Run, open_run
from fmgs_nerfstudio.maps.info import PriorsInfo
from fmgs_nerfstudio.maps.maps import PriorsWriter
from fmgs_nerfstudio.metrics.image import image_metrics
from fmgs_nerfstudio.objective import LossWeights
from fmgs_nerfstudio.taught import Taught
from fmgs_nerfstudio.viewer.parts import Parts

PLAIN, BARE = "CoreView_1", "CoreView_2"
"""Captures with prior maps and without, otherwise alike."""
ALWAYS = {"rgb", "accumulation", "depth", "surface_normal"}


def write_priors(root: Path) -> None:
    writer = PriorsWriter(root, PriorsInfo(estimator="test", licence="none"))
    normal = np.broadcast_to(np.array([0.6, 0.0, 0.8], np.float32), (SIZE, SIZE, 3))
    for stem in ("000000", "000001", "000002"):
        writer.write("normal", "Camera_B1", stem, normal)
        writer.write("semantics", "Camera_B1", stem, np.full((SIZE, SIZE), 4, np.uint8))


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures")
    for name in (PLAIN, BARE):
        write_capture(folder / name)
    write_priors(folder / PLAIN)
    open_capture.cache_clear()
    return folder


def trained_on(capture: Path, out: Path) -> Path:
    """The folder of a run of two steps."""
    made = config_for(capture, out, 2)
    made.save_config()
    train(made)
    return made.get_base_dir()


@pytest.fixture(scope="module")
def taught(captures: Path) -> Path:
    return trained_on(captures / PLAIN, captures / "taught")


@pytest.fixture(scope="module")
def untaught(captures: Path) -> Path:
    return trained_on(captures / BARE, captures / "untaught")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("fmgs_nerfstudio.taught.log", lines.append)
    return lines


@torch.no_grad()
def shown(run: Run) -> set[str]:
    """To ns-eval; the viewer shows the same."""
    camera = run.pipeline.datamanager.eval_dataset.cameras[0:1]
    found = set(run.model.get_outputs_for_camera(camera))
    camera.metadata = None
    assert set(run.model.get_outputs_for_camera(camera)) == found
    return found


def without_flags(run: Path, copy: Path) -> Path:
    """A copy of the run, as it was written before checkpoints knew what was trained."""
    shutil.copytree(run, copy)
    (path,) = (copy / "nerfstudio_models").iterdir()
    state = torch.load(path, weights_only=True)
    flags = [key for key in state["pipeline"] if key.startswith("_model.taught.")]
    assert len(flags) == 2
    for key in flags:
        del state["pipeline"][key]
    torch.save(state, path)
    return copy


def test_the_checkpoint_knows_what_was_trained(
    captures: Path, taught: Path, untaught: Path, tmp_path: Path, said: list[str]
) -> None:
    """Whatever lies beside it; before it knew, everything was shown."""
    for data in (PLAIN, BARE):
        assert shown(open_run(taught, captures / data)) == ALWAYS | {"normal", "semantics"}
    assert said == []
    for data in (PLAIN, BARE):
        assert shown(open_run(untaught, captures / data)) == ALWAYS
        (line,) = said
        assert "normal, semantics" in line
        assert "fmgs-priors" in line
        said.clear()
    assert shown(open_run(without_flags(untaught, tmp_path / "old"))) == ALWAYS | {"normal", "semantics"}
    assert said == []


@pytest.mark.parametrize(
    ("weight", "left_out"), [("lambda_n", "normal"), ("lambda_s", "semantics"), ("lambda_reg", None)]
)
def test_a_weight_of_0_teaches_nothing(captures: Path, weight: str, left_out: str | None) -> None:
    made = config_for(captures / PLAIN, captures / "out", 1).pipeline
    made.model.weights = LossWeights(**{weight: 0.0})
    model = made.setup(device="cpu").model
    assert model.taught.hidden == ([left_out] if left_out else [])


def test_training_says_it_once_and_goes_on_to_learn(
    captures: Path, untaught: Path, tmp_path: Path, said: list[str]
) -> None:
    bare = config_for(captures / BARE, tmp_path / "bare", 1)
    train(bare)
    assert bare.pipeline.model.pose_sigma == "none"  # of fits whose source states nothing
    assert len(said) == 1
    resumed = config_for(captures / PLAIN, tmp_path / "on", 1, load=untaught / "nerfstudio_models")
    resumed.save_config()
    train(resumed)
    assert shown(open_run(resumed.get_base_dir(), captures / BARE)) == ALWAYS | {"normal", "semantics"}


def test_pictures_and_measures_of_an_evaluation(taught: Path, untaught: Path, tmp_path: Path) -> None:
    """Three maps, or the one that was trained; LPIPS' backbones are not looked for."""
    for run, maps in ((taught, 3), (untaught, 1)):
        ComputePSNR(run / "config.yml", tmp_path / f"{maps}.json", tmp_path / str(maps)).main()
        drawn = sorted((tmp_path / str(maps)).glob("*_maps_*.png"))
        assert drawn
        assert all(cv2.imread(str(path)).shape[1] == maps * SIZE for path in drawn)
        assert "psnr" in json.loads((tmp_path / f"{maps}.json").read_text())["results"]
        opened = open_run(run)
        assert held_out_sheet(opened.pipeline).shape[1] == (3 + maps) * SIZE  # truth, rgb and depth before them
        assert next(iter(turnaround(opened.pipeline))).shape[1] == (3 if maps == 3 else 2) * SIZE


def test_measures_of_maps_that_are_not_there_are_left_out() -> None:
    away = torch.tensor([[[0.0, 0.6, 0.8]]])
    outputs = {"rgb": torch.zeros(1, 1, 3), "accumulation": torch.ones(1, 1, 1), "depth": torch.ones(1, 1, 1)}
    truth = {"truth_depth": torch.ones(1, 1), "truth_normal": torch.tensor([[[0.0, 0.0, 1.0]]])}
    truth["truth_semantics"] = torch.ones(1, 1, dtype=torch.uint8)
    batch = {"image": torch.zeros(1, 1, 3), "mask": torch.ones(1, 1, 1), **truth}
    metrics = image_metrics(outputs | {"surface_normal": away}, batch)
    assert metrics["surface_normal_degrees"] == pytest.approx(np.degrees(np.arccos(0.8)), abs=1e-3)
    assert not {"normal_degrees", "miou"} & metrics.keys()


def test_an_untrained_map_is_refused_by_name(
    untaught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        animate.main([str(untaught), "--outputs", "rgb", "semantics", "--video", str(tmp_path / "new" / "a.mp4")])
    told = capsys.readouterr().err
    assert "--outputs semantics" in told
    assert "fmgs-priors" in told
    assert not (tmp_path / "new").exists()


def test_exports_carry_no_parts(taught: Path, untaught: Path, tmp_path: Path) -> None:
    for run, parts in ((taught, True), (untaught, False)):
        out = tmp_path / str(parts)
        export.main([str(run), "--out", str(out), "--formats", "glb", "ply"])
        raw = trimesh.load_mesh(out / "avatar.ply", process=False).metadata["_ply_raw"]
        assert ("part" in raw["vertex"]["data"].dtype.names) is parts
        content = (out / "avatar.glb").read_bytes()
        document = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
        (mesh,) = document["meshes"]
        assert ("_PART" in mesh["primitives"][0]["attributes"]) is parts
        assert ("extras" in mesh) is parts


def test_parts_that_were_not_learned_hide_nothing(untaught: Path) -> None:
    """A panel that was open while a checkpoint was loaded could still ask for them."""
    run = open_run(untaught)
    control = run.pipeline.viewer_control
    camera = run.pipeline.datamanager.eval_dataset.cameras[0:1]
    camera.metadata = None
    with torch.no_grad():
        before = control.render(camera)["rgb"]
        control.state.parts = Parts(hidden=frozenset(range(28)))
        assert not control.state.has_parts
        assert torch.equal(control.render(camera)["rgb"], before)
        run.model.taught.learn(["L_s"])
        assert not torch.equal(control.render(camera)["rgb"], before)


def test_what_was_learned_before_stays() -> None:
    taught = Taught(["L_s"])
    taught.learn(["L_n", "L_c"])
    assert taught.hidden == []
    assert Taught(["L_c"]).hidden == ["normal", "semantics"]
