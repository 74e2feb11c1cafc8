"""The report of a short run: its numbers are ns-eval's, its page needs no other file; the paper's tables."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from nerfstudio.scripts.eval import ComputePSNR
from support.trainer_runs import config_for, train
from support.zju_capture import write_capture
from torch.utils.tensorboard.writer import SummaryWriter

from fmgs_nerfstudio.cli.report import MakeReport, main, run
from fmgs_nerfstudio.evaluation.report import paper, tables
from fmgs_nerfstudio.evaluation.report.curves import COLOURS, Curve, chart, read_curves, svg
from fmgs_nerfstudio.evaluation.report.page import html_page, markdown
from fmgs_nerfstudio.evaluation.report.results import RunResult, evaluate
from fmgs_nerfstudio.evaluation.runs import RunError, open_run
from fmgs_nerfstudio.metrics import lpips
from fmgs_nerfstudio.metrics.protocols import MEASURES, PROTOCOLS
from fmgs_nerfstudio.pipeline import FMGSPipeline


@pytest.fixture(scope="module", autouse=True)
def _no_backbones() -> Iterator[None]:
    """Whatever this machine has, so that the tests take as long everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lpips, "_candidates", lambda net, place: iter(()))
        lpips.available_lpips.cache_clear()
        yield
    lpips.available_lpips.cache_clear()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps on three frames; the folder of the run."""
    folder = tmp_path_factory.mktemp("report")
    write_capture(folder / "CoreView_1")
    made = config_for(folder / "CoreView_1", folder / "out", 3)
    made.logging.steps_per_log = 1
    made.save_config()
    pipeline = train(made).pipeline
    assert isinstance(pipeline, FMGSPipeline)
    assert pipeline.train_seconds > 0
    return made.get_base_dir()


@pytest.fixture(scope="module")
def result(trained: Path) -> RunResult:
    return evaluate(open_run(trained), 2, 1)


def test_the_numbers_are_ns_evals(trained: Path, result: RunResult, tmp_path: Path) -> None:
    ComputePSNR(trained / "config.yml", tmp_path / "metrics.json").main()
    metrics = json.loads((tmp_path / "metrics.json").read_text())["results"]
    means = result.means("novel_view")
    assert {"psnr", "ssim", "mask_iou"} <= means.keys()
    assert {name for name, one in MEASURES.items() if one.net is None} <= means.keys()
    for name, value in means.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name
        assert f"{name}_std" in metrics
    assert metrics["psnr"] == metrics[PROTOCOLS["humannerf"].psnr]
    assert metrics["ssim"] == metrics[PROTOCOLS["humannerf"].ssim]
    assert metrics["fps"] > 0
    assert metrics["train_seconds"] == result.speeds["train_seconds"] > 0
    assert not {"num_rays_per_sec", "fps_std"} & metrics.keys()
    assert not any("lpips" in name for name in metrics)


def test_the_clock_goes_on_after_a_resume(trained: Path, tmp_path: Path) -> None:
    before = open_run(trained).pipeline.train_seconds
    made = config_for(trained.parents[3] / "CoreView_1", tmp_path, 1, load=trained / "nerfstudio_models")
    pipeline = train(made).pipeline
    assert isinstance(pipeline, FMGSPipeline)
    assert pipeline.train_seconds > before


def test_the_page_needs_no_other_file_and_shows_the_pictures(trained: Path, tmp_path: Path) -> None:
    run(MakeReport((trained,), tmp_path, panels=1, worst=1))
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(?!["']|data:|#)""", page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 2 * 4 + 3  # truth, rendering and the two maps that need no prior, twice; canonical space
    assert "<dd>normal, semantics</dd>" in page
    for picture in pictures:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape[0] in (64, 400)
    for title in ("L_c", "PSNR of training images", "Configuration", "Worst frames"):
        assert title in page
    assert "!!python/object:fmgs_nerfstudio.method.FMGSTrainerConfig" in page
    text = (tmp_path / "report.md").read_text()
    assert "none of their numbers is comparable" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.replace(r"\|", "").count("|") for line in table.splitlines()}) == 1


def as_data(result: RunResult, folder: str, protocol: str) -> RunResult:
    """The result as if the capture had been another; its one held-out image is then of that protocol's split."""
    capture = dataclasses.replace(result.capture, root=Path(folder), protocol=protocol)
    split = "novel_pose" if protocol == "instantavatar" else "novel_view"
    views = [dataclasses.replace(view, split=split) for view in result.views]
    return dataclasses.replace(result, capture=capture, views=views, name=folder)


def test_the_papers_tables_stand_beside_runs_on_their_data_alone(result: RunResult) -> None:
    assert tables.paper_tables([result]) == []
    other_split = as_data(result, "CoreView_377", "gauhuman")
    assert tables.paper_tables([other_split]) == []
    zju = [as_data(result, f"CoreView_{subject}", "humannerf") for subject in ("377", "386")]
    snapshot = as_data(result, "male-3-casual", "instantavatar")
    first, second = tables.paper_tables([*zju, snapshot])
    assert "Table 1" in first.title
    assert PROTOCOLS["humannerf"].ssim in first.note
    assert first.ours == {0, 1, 2}  # two runs and their mean
    psnr = f"{result.means('novel_view')['psnr']:.2f}"
    assert [row[1] for row in first.rows[:3]] == [psnr] * 3
    assert ["FMGS-Avatar", "30.89", "0.972", "28.59", "10m", "55"] in first.rows
    assert any("Table 3" in row[0] for row in first.rows)
    assert "male-3-casual" in second.title
    assert len(second.rows) == 1 + len(paper.TABLE_2["male-3-casual"])
    assert "Table 1" in html_page(zju)


def test_refined_poses_stand_apart_and_are_ns_evals(tmp_path: Path) -> None:
    """Of a run whose configuration asks for them: a table by name, and nothing of it in the others."""
    write_capture(tmp_path / "CoreView_1", n_frames=3)
    names = ["Camera_B1", "Camera_B2"]
    protocol = {
        "name": "test",
        "train": {"cameras": names[:1], "frames": [0]},
        "novel_view": {"cameras": names[1:], "frames": [0]},
        "novel_pose": {"cameras": names, "frames": [1, 2]},
    }
    (tmp_path / "CoreView_1" / "protocol.json").write_text(json.dumps(protocol))
    made = config_for(tmp_path / "CoreView_1", tmp_path / "out", 1)
    made.pipeline.refine_test_poses = 2
    made.save_config()
    metrics = train(made).pipeline.get_average_eval_image_metrics()
    result = evaluate(open_run(made.get_base_dir()), 0, 0)
    assert [(view.name, view.split) for view in result.refined] == [
        (view.name, "novel_pose") for view in result.views if view.split == "novel_pose"
    ]
    means = {"novel_pose_": result.means("novel_pose"), "refined_pose_": result.refined_means}
    for prefix, found in means.items():
        expected = {name: metrics[f"{prefix}{name}"] for name in found}
        assert len(expected) > 5
        assert found == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert means["refined_pose_"]["psnr"] != means["novel_pose_"]["psnr"]
    (table,) = tables.refined_tables([result])
    assert [row[1:3] for row in table.rows] == [
        ["as given", f"{metrics['novel_pose_psnr']:.2f}"],
        ["refined, 2 steps", f"{metrics['refined_pose_psnr']:.2f}"],
    ]
    for text in (html_page([result]), markdown([result])):
        assert text.count(table.title) == 1
        assert "refined, 2 steps" in text
    plain = dataclasses.replace(result, refined=[], refine_steps=0)
    assert tables.refined_tables([plain]) == []
    assert table.title not in markdown([plain]) + html_page([plain])
    apart = [make([result]) == make([plain]) for make in (tables.summary, tables.protocol_table, tables.measures_table)]
    assert all(apart)


def test_curves_are_the_logged_values(trained: Path, tmp_path: Path) -> None:
    curves = read_curves(trained)
    assert curves["L_c"].steps[:3] == [0, 1, 2]
    assert all(value > 0 for value in curves["L_c"].values)
    assert read_curves(tmp_path) == {}
    writer = SummaryWriter(str(tmp_path))
    for step in range(1000):
        writer.add_scalar("Train Loss Dict/L_c", 1 / (step + 1), step)
    writer.close()
    kept = read_curves(tmp_path, most=50)["L_c"]
    assert len(kept.steps) == 50
    assert (kept.steps[0], kept.steps[-1]) == (0, 999)
    assert kept.values == pytest.approx([1 / (step + 1) for step in kept.steps])


def test_a_chart_has_a_line_for_each_run() -> None:
    curves = [Curve([0, 100], [10.0, 20.0]), None, Curve([0, 50], [15.0, float("nan")])]
    (axes,) = chart("PSNR", curves).axes
    first, third = axes.lines
    assert first.get_xydata().tolist() == [[0, 10], [100, 20]]  # pyright: ignore[reportAttributeAccessIssue]
    assert (first.get_color(), third.get_color()) == (COLOURS[0], COLOURS[2])
    assert axes.get_yscale() == "linear"
    assert chart("L_c", curves[:1]).axes[0].get_yscale() == "linear"
    assert chart("L_c", [Curve([0, 1], [1.0, 3.1])]).axes[0].get_yscale() == "log"
    assert chart("L_c", [Curve([0, 1], [-1.0, 3.1])]).axes[0].get_yscale() == "linear"


def test_charts_stand_on_one_page() -> None:
    pictures = [svg(title, [Curve([0, 100], [10.0, 20.0])]) for title in ("L_c", "L_d")]
    identifiers = [set(re.findall(r'"#(\w+)"|url\(#(\w+)\)', picture)) for picture in pictures]
    assert identifiers[0]
    assert not identifiers[0] & identifiers[1]
    assert all(ElementTree.fromstring(picture).tag.endswith("svg") for picture in pictures)


def test_text_is_escaped(result: RunResult) -> None:
    page = html_page([dataclasses.replace(result, name="<b>&", config="a: '</pre>'")])
    assert "<b>&<" not in page
    assert "&lt;b&gt;&amp;" in page
    assert page.count("</pre>") == 1


def test_no_run_and_no_such_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="name one run"):
        run(MakeReport(()))
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path)])
    assert "is no run of fmgs-avatar" in capsys.readouterr().err
