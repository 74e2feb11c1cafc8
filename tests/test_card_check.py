"""The check on a card, without one: every section that needs none runs, and says so where a number is off."""

from __future__ import annotations

import json
from pathlib import Path

import card_agreement
import pytest
import torch
from card_check import SECTIONS, check
from card_setup import CardCheck
from support.zju_capture import write_capture


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("captures") / "CoreView_1"
    write_capture(root)
    return root


def options(capture: Path, out: Path, *only: str) -> CardCheck:
    chosen = only or tuple(name for name in SECTIONS if name != "tests")  # pytest inside pytest
    return CardCheck(capture, out, "cpu", only=chosen, steps=2, repeats=1, vertices=6890, size=48)  # pyright: ignore[reportArgumentType]


def test_every_section_runs_on_a_cpu(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = check(options(capture, tmp_path))
    results = json.loads((tmp_path / "card_check.json").read_text())
    assert {name: result["error"] for name, result in results.items() if "error" in result} == {}
    assert set(results) == set(SECTIONS) - {"tests"}
    assert bench.failures == []
    assert "over a limit or failed: nothing" in capsys.readouterr().out
    assert results["step"]["card against itself"]["loss L_c"] == 0
    assert results["timing"]["stages"]["all"]["host ms"] > 0
    assert results["training"]["metrics"]["psnr"] > 0


def test_a_failure_is_written_down_and_the_next_section_runs(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no SSIM today")

    monkeypatch.setattr(card_agreement, "ssim", broken)
    monkeypatch.setattr(card_agreement, "VALUES", 0.0)
    bench = check(options(capture, tmp_path, "pieces", "machine", "step"))
    results = json.loads((tmp_path / "card_check.json").read_text())
    assert "no SSIM today" in results["pieces"]["error"]
    assert "torch" in results["machine"]
    assert any(failure.startswith("step, card/CPU, loss: L_c") for failure in bench.failures)
    assert (
        not torch.backends.cudnn.allow_tf32
        or torch.backends.cudnn.allow_tf32 == results["machine"]["TF32 in convolutions"]
    )


def test_what_does_not_fit_the_budget_is_left_out(capture: Path, tmp_path: Path) -> None:
    bench = check(CardCheck(capture, tmp_path, "cpu", budget=-1.0))
    assert bench.report.results == {}
    assert sum("LEFT OUT" in line for line in bench.report.lines) == len(SECTIONS)
