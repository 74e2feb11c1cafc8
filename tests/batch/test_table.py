"""The tables: means, spreads, the paper's rows, and why a cell is missing."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fmgs_nerfstudio.batch.find import find_plan
from fmgs_nerfstudio.batch.plan import Plan, Source, Variant
from fmgs_nerfstudio.batch.steps import runs_of, tasks_of
from fmgs_nerfstudio.batch.table import write_tables
from fmgs_nerfstudio.batch.tasks import Record

VALUES: Mapping[tuple[str, int], float] = {
    ("a", 0): 20.0, ("a", 1): 22.0, ("b", 0): 30.0, ("b", 1): 31.0, ("c", 0): 25.5, ("c", 1): 25.25,
}  # fmt: skip
"""PSNR by capture and seed."""


def measured(plan: Plan, out: Path, **more: float) -> dict[str, Record]:
    """Metrics of every run, as ns-eval writes them, and the records of all tasks."""
    for at in runs_of(plan, out):
        at.folder.mkdir(parents=True, exist_ok=True)
        psnr = VALUES.get((at.source.name, at.seed), 28.0)
        results = {"psnr": psnr, "ssim": 0.9, "fps": 3.5, "train_seconds": 77.7, **more}
        (at.folder / "metrics.json").write_text(json.dumps({"results": results}))
    return {task.id: Record(task.id, "done", seconds=12.5) for task in tasks_of(plan, out)}


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]


@pytest.fixture
def plan() -> Plan:
    return Plan("p", tuple(Source(name, Path(name)) for name in "abc"), seeds=(0, 1))


def test_each_value_stands_where_it_belongs(plan: Plan, tmp_path: Path) -> None:
    """Means and standard deviations over seeds, then over captures; single values by capture and seed in the CSV."""
    rows = cells(write_tables(plan, tmp_path, measured(plan, tmp_path)))
    assert rows[0][:3] == ["capture", "variant", "PSNR ↑"]
    means = {name: statistics.fmean(VALUES[name, seed] for seed in (0, 1)) for name in "abc"}
    for row, name in zip(rows[2:5], "abc", strict=True):
        spread = statistics.stdev(VALUES[name, seed] for seed in (0, 1))
        assert row[:3] == [name, "fmgs-avatar", f"{means[name]:.2f} ± {spread:.2f}"]
    mean, spread = statistics.fmean(means.values()), statistics.stdev(means.values())
    assert rows[5][:3] == ["mean of 3", "fmgs-avatar", f"{mean:.2f} ± {spread:.2f}"]
    lines = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert {(line["capture"], int(line["seed"])): float(line["psnr"]) for line in lines} == VALUES


def test_times_are_kept_apart(plan: Plan, tmp_path: Path) -> None:
    records = measured(plan, tmp_path)
    write_tables(plan, tmp_path, records)
    before = [(tmp_path / name).read_bytes() for name in ("table.md", "table.csv", "index.html", "times.csv")]
    for text in before[:3]:
        assert not re.search(rb"fps|seconds|3\.5\b|77\.7|12\.5", text)
    slower = {id: replace(record, seconds=99.0, host="other", kept=True) for id, record in records.items()}
    write_tables(plan, tmp_path, slower)
    after = [(tmp_path / name).read_bytes() for name in ("table.md", "table.csv", "index.html", "times.csv")]
    assert after[:3] == before[:3]
    assert b"a-fmgs-avatar-0/train,done,12.50" in before[3]
    assert after[3] != before[3]


def test_missing_cells_say_why(plan: Plan, tmp_path: Path) -> None:
    records = measured(plan, tmp_path)
    records["a/check"] = Record("a/check", "failed", "fmgs-check ended with status 1\nNot ready: <blurred> | dark")
    for seed in (0, 1):  # what is on the disk is of another configuration
        records[f"a-fmgs-avatar-{seed}/eval"] = Record(f"a-fmgs-avatar-{seed}/eval", "not run", "a/check failed")
    (tmp_path / "runs/b-fmgs-avatar-1/metrics.json").write_text('{"results": ')
    text = write_tables(plan, tmp_path, records)
    rows = {row[0]: row for row in cells(text)}
    assert rows["a"][2:] == ["–", "–", "seed 0: a/check failed; seed 1: a/check failed"]
    assert rows["b"][2] == "30.00"
    assert "cannot be read" in rows["b"][-1]
    assert rows["mean of 2 of 3"][2] == f"{statistics.fmean([30.0, 25.375]):.2f} ± {statistics.stdev([30, 25.375]):.2f}"
    assert "- a/check: fmgs-check ended with status 1\n  Not ready" in text
    assert "&lt;blurred&gt;" in (tmp_path / "index.html").read_text()
    plain = replace(plan, run=("check",))
    assert "the plan does not run eval" in write_tables(plain, tmp_path, {})


def test_frames_that_were_trained_on_are_no_new_views(plan: Plan, tmp_path: Path) -> None:
    records = measured(plan, tmp_path)
    for seed in (0, 1):
        path = tmp_path / f"runs/b-fmgs-avatar-{seed}/metrics.json"
        path.write_text(json.dumps({"results": {**json.loads(path.read_text())["results"], "held_out": 0.0}}))
    text = write_tables(plan, tmp_path, records)
    new_views, trained = text.split("### Frames that were trained on")
    views = {row[0]: row[2:] for row in cells(new_views)}
    assert views["b"][0] == "–"
    assert views["b"][-1] == "seed 0: it has no such images; seed 1: it has no such images"
    assert (
        views["mean of 2 of 3"][0] == f"{statistics.fmean([21.0, 25.375]):.2f} ± {statistics.stdev([21, 25.375]):.2f}"
    )
    assert {row[0]: row[2] for row in cells(trained)}["b"].startswith("30.50")


@pytest.mark.parametrize(("name", "kind", "rows"), [
    ("zju", "", [["mean of 6", "FMGS-Avatar (paper)", "30.89", "0.972", "28.59", ""]]),
    ("people-snapshot", "novel_pose_", [["female-4-casual", "FMGS-Avatar (paper)", "30.95", "0.9873", "15.80", ""]]),
    ("ablation", "", [["377", "none (paper)", "29.98", "0.938", "29.53", ""],
                      ["377", "+ L_s: full method (paper)", "31.22", "0.978", "26.53", ""]]),
])  # fmt: skip
def test_the_papers_numbers_stand_in_their_columns(name: str, kind: str, rows: list[list[str]], tmp_path: Path) -> None:
    """As printed in the paper; LPIPS was not measured here, mask IoU was not there."""
    plan = find_plan(name, tmp_path)
    text = write_tables(plan, tmp_path, measured(plan, tmp_path, **{f"{kind}psnr": 28.0, f"{kind}mask_iou": 0.9}))
    made = cells(text)
    assert ["capture", "variant", "PSNR ↑", "SSIM ↑", "LPIPS x1000 ↓", "mask IoU ↑"] in made
    for row in rows:
        assert row in [[*line, ""][:6] for line in made], (row, made)
    assert f"Protocol {'instantavatar' if name == 'people-snapshot' else 'humannerf'}: psnr_" in text


def test_variants_stand_under_each_other(tmp_path: Path) -> None:
    plan = Plan("p", (Source("a", Path("a")), Source("b", Path("b"))), (Variant("full"), Variant("a|b")))
    rows = cells(write_tables(plan, tmp_path, measured(plan, tmp_path)))
    assert [row[:2] for row in rows[2:5]] == [["a", "full"], ["b", "full"], ["mean of 2", "full"]]
    assert "a\\|b" in (tmp_path / "table.md").read_text()
    page = (tmp_path / "index.html").read_text()
    assert page.count("<h3>") == 0  # no pictures were drawn
