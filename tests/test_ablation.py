"""The rows of scripts/ablation are flags that the method knows, and each changes what its name says."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ablation
import pytest
import torch
import tyro
from ablation_methods import OtherLatentConfig
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from support.trainer_runs import config_for
from support.zju_capture import write_capture

from fmgs_nerfstudio.batch.ablation import WEIGHTS
from fmgs_nerfstudio.batch.plan import Plan
from fmgs_nerfstudio.batch.steps import runs_of, tasks_of
from fmgs_nerfstudio.batch.tasks import Record
from fmgs_nerfstudio.method import FMGSTrainerConfig
from fmgs_nerfstudio.modalities import all_terms
from fmgs_nerfstudio.objective import Objective

METHODS = list(WEIGHTS)


def parse(method: str, row: str = ablation.FULL) -> FMGSTrainerConfig:
    union = tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[AnnotatedBaseConfigUnion]]
    arguments = [method, *ablation.ROWS[row].flags_of(method)]
    config = tyro.cli(union, args=arguments)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert isinstance(config, FMGSTrainerConfig)
    return config


@pytest.mark.parametrize("row", ablation.ROWS)
def test_every_row_is_a_configuration(row: str) -> None:
    changed = parse("fmgs-avatar", row)
    assert (changed == parse("fmgs-avatar") and row != ablation.OTHER_LATENT) == (row == ablation.FULL)


@pytest.mark.parametrize("method", METHODS)
def test_table_3_adds_one_prior_after_the_other(method: str) -> None:
    """And the weights of what stays are the method's own."""
    own = parse(method).pipeline.model.weights.at(0.5)

    def terms(row: str) -> set[str]:
        weights = parse(method, row).pipeline.model.weights
        left = set(Objective.of(all_terms(), weights, ["depth", "normal", "semantics"]).terms)
        assert {name: weights.at(0.5)[name] for name in left} == {name: own[name] for name in left}
        return left

    rows = ["none", "+ L_d", "+ L_sn", "+ L_n", ablation.FULL]
    added = [terms(b) - terms(a) for a, b in itertools.pairwise(rows)]
    assert added == [{"L_d"}, {"L_sn"}, {"L_n", "L_tv"}, {"L_s", "L_reg"}]
    assert terms("none") == {"L_c", "L_m", "L_skin", "L_iso", "L_iso_cov", "L_pose"}


@pytest.mark.parametrize("method", METHODS)
def test_strong_priors_weigh_ten_times_the_methods_own(method: str) -> None:
    own, strong = (parse(method, row).pipeline.model.weights.at(0.5) for row in (ablation.FULL, "priors x10"))
    tenfold = {"L_d", "L_sn", "L_n", "L_s"}
    assert strong == pytest.approx({name: value * (10 if name in tenfold else 1) for name, value in own.items()})


def test_seeds_are_averaged_and_their_spread_shown() -> None:
    cells = list(ablation._cells([{"psnr": 26.0}, {"psnr": 28.0}]))
    assert cells[0] == "27.00 ± 1.41"
    assert cells[1] == ""


def test_the_latent_of_another_pose(tmp_path: Path) -> None:
    """A method made from outside: its Z_p is another frame's, all else its own; nerfstudio finds it by its name."""
    write_capture(tmp_path / "CoreView_1")
    made: Any = config_for(tmp_path / "CoreView_1", tmp_path, 1)
    made.pipeline.model = OtherLatentConfig(latent_shift=1, schedule=made.pipeline.model.schedule)
    model = made.setup()
    model.setup()
    model = model.pipeline.model
    own = [model.pose_avatar_at(*model.poses(i)) for i in range(3)]
    shifted = model.pose_avatar(1)
    assert torch.equal(shifted.Z_p, own[2].Z_p)
    assert not torch.equal(shifted.Z_p, own[1].Z_p)
    assert torch.equal(shifted.T, own[1].T)
    methods = [ablation.method_of(method, ablation.OTHER_LATENT) for method in ("fmgs-avatar", "fmgs-avatar-paper")]
    known = f"from nerfstudio.configs.method_configs import all_methods as m; print([m[name] for name in {methods}])"
    found = subprocess.run(
        [sys.executable, "-c", known], env=os.environ | ablation.variants(), capture_output=True, check=False
    )
    assert found.stdout.count(b"OtherLatentConfig") >= 2, found.stderr


@pytest.mark.parametrize("cuda", [False, True])
def test_rows_that_need_cuda_are_left_out_without(
    cuda: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def run(plan: Plan, out: Path) -> dict[str, Record]:
        trained.extend(variant.name for variant in plan.variants)
        return {task.id: Record(task.id, "not run") for task in tasks_of(plan, out)}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(ablation, "_run", run)
    rows = ["3D Gaussians", "unguided"]
    ablation.main(ablation.Ablation(tmp_path, out=tmp_path / "out", steps=1, rows=rows))
    assert trained == (rows if cuda else ["unguided"])
    assert ("Leaving out 3D Gaussians" in capsys.readouterr().out) == (not cuda)


def test_the_table_is_made_of_metrics_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row's numbers in its line, the time of its training among them; a failed row is left out, and the status."""

    def run(plan: Plan, out: Path) -> dict[str, Record]:
        for at in runs_of(plan, out):
            at.folder.mkdir(parents=True)
            psnr = 20 + len(at.variant.name if at.variant else "") + at.seed
            (at.folder / "metrics.json").write_text(json.dumps({"results": {"psnr": psnr, "novel_pose_ssim": 0.5}}))
        records = {task.id: Record(task.id, "done", seconds=90.0) for task in tasks_of(plan, out)}
        lost = next(id for id in records if "no_light" in id and id.endswith("train"))
        return records | {
            lost: Record(lost, "failed", "no lamp"),
            lost.replace("train", "eval"): Record("", "not run"),
        }

    monkeypatch.setattr(ablation, "_run", run)
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="no_light-0/train failed: no lamp"):
        ablation.main(ablation.Ablation(tmp_path, out=out, steps=7, rows=["no light", "none"], seeds=[0, 2]))
    header, _, *rows = (out / "table.md").read_text().splitlines()
    cells = {row.split(" | ")[0]: dict(zip(header.split(" | "), row.split(" | "), strict=True)) for row in rows}
    assert cells["| none"]["PSNR"] == "25.00 ± 1.41"
    assert cells["| none"]["time [s] |"] == "90 ± 0 |"
    assert cells["| no light"]["PSNR"] == "30.00"
    assert "none,0,7,24," in (out / "table.csv").read_text()
