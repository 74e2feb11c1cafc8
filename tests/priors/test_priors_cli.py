"""`fmgs-priors` as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fmgs_dataparsers.capture import Capture
from support.priors_capture import Perfect, network, opened
from torch import Tensor, nn

from fmgs_nerfstudio.cli import priors as cli
from fmgs_nerfstudio.maps.maps import SapiensWriter
from fmgs_nerfstudio.priors.estimate import Job, estimate
from fmgs_nerfstudio.priors.estimators import ESTIMATORS


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    from fmgs_dataparsers.parser import open_capture

    open_capture.cache_clear()
    monkeypatch.setattr("sys.argv", ["fmgs-priors", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


class Seg(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        darker = nn.functional.avg_pool2d(-x.mean(1, keepdim=True), 2)
        return torch.cat([torch.zeros_like(darker)] + 27 * [darker - 1], dim=1)


class Depth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


class Normal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 2)


def checkpoints(folder: Path) -> Path:
    """Released names and shapes, nonsense inside."""
    folder.mkdir()
    for module, name in (
        (Seg(), "sapiens_1b_goliath_best_goliath_mIoU_7994_epoch_151_torchscript.pt2"),
        (Depth(), "sapiens_1b_render_people_epoch_88_torchscript.pt2"),
        (Normal(), "sapiens_1b_normal_render_people_epoch_115_torchscript.pt2"),
    ):
        torch.jit.save(torch.jit.trace(module, torch.rand(1, 3, 1024, 768)), str(folder / name))
    return folder


def test_sapiens_from_a_folder(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = checkpoints(tmp_path / "weights")
    code = call(
        monkeypatch, capture.root, "--checkpoint", weights, "--batch-size", 2, "--crop", "--kinds", "depth", "mask"
    )
    assert code in (0, 2)  # nonsense may be upside down
    out = capsys.readouterr().out
    frames = len(capture.splits["train"])
    assert f"Wrote {2 * frames} maps" in out
    info = json.loads((capture.root / "priors/priors.json").read_text())
    assert info["sources"]["depth"] == {
        "estimator": "sapiens-depth-1b", "licence": "CC BY-NC 4.0 (non-commercial)", "crop": "person"
    }  # fmt: skip
    sheet = cv2.imread(str(capture.root / "priors/sheet.png"))
    assert sheet.shape[1] == 1200
    numbers = json.loads((capture.root / "priors/check.json").read_text())
    assert numbers["frames"] == frames
    call(monkeypatch, capture.root, "--checkpoint", weights, "--crop", "--kinds", "depth", "mask", "--sheet-every", 2)
    assert "nothing was missing" in capsys.readouterr().out
    assert len(opened(capture.root).priors.kinds) == 2  # pyright: ignore[reportOptionalMemberAccess]


def test_nothing_is_downloaded_unasked(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra 'priors' is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert call(monkeypatch, capture.root) == 1
    said = capsys.readouterr()
    for words in ("facebook/sapiens-seg-1b-torchscript", "CC BY-NC 4.0", "add --download", "--checkpoint FOLDER"):
        assert words in said.err
    assert not (capture.root / "priors").exists()


def test_folders_of_sapiens_own_demos_are_checked_and_corrected(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody's normals are mirrored and their depth is a disparity."""
    writer = SapiensWriter(capture.root)
    for frame in capture.splits["train"]:
        truth = capture.truth(frame)
        writer.write("semantics", frame.camera, frame.stem, truth["semantics"])
        writer.write("mask", frame.camera, frame.stem, truth["mask"])
        writer.write("depth", frame.camera, frame.stem, 1 / np.maximum(truth["depth"], 0.1))
        writer.write("normal", frame.camera, frame.stem, truth["normal"] * np.array([-1, 1, 1]))
    assert call(monkeypatch, capture.root, "--check-only") == 2
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert "normal_axes: x y z -> -x y z" in out
    assert "depth_direction: farther -> nearer" in out
    assert not (capture.root / "sapiens/priors.json").exists()  # nothing is corrected unasked
    assert call(monkeypatch, capture.root, "--check-only", "--accept-corrections") == 0
    assert call(monkeypatch, capture.root, "--check-only") == 0
    info = json.loads((capture.root / "sapiens/priors.json").read_text())
    assert info["normal_axes"] == "-x y z"
    assert info["depth_direction"] == "nearer"
    assert len(info["corrections"]) == 2
    right, frame = opened(capture.root), capture.splits["train"][0]
    normal = right.prior("normal", frame)
    assert normal is not None
    truth = capture.truth(frame)["normal"]
    assert (normal * truth).sum(-1)[truth.any(-1)].min() > 0.999


def test_resumed_runs_keep_what_was_corrected(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = capture.splits["train"]
    perfect = Perfect(capture, frames)
    for maps in perfect.known.values():
        maps["depth"] = -maps["depth"]
    known = network(perfect)
    monkeypatch.setitem(ESTIMATORS, "sapiens", lambda options: [known])  # pyright: ignore[reportArgumentType]
    assert call(monkeypatch, capture.root, "--accept-corrections") == 0
    (capture.root / "priors/depth/Camera_B1/000001.png").unlink()
    assert call(monkeypatch, capture.root) == 0
    info = json.loads((capture.root / "priors/priors.json").read_text())
    assert info["depth_direction"] == "nearer"
    assert len(info["corrections"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--size", "9b"], "--size 9b: released are"),
        (["--device", "cuda:7"], "--device cuda:7 is not there"),
        (["--check-only"], "has no prior maps"),
        (["--estimator", "transformers", "--size", "1b"], "--size is of Sapiens"),
        (["--estimator", "sapiens-foreground", "--kinds", "depth"], "this estimator gives mask"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    if "cuda:7" in arguments and torch.cuda.device_count() > 7:
        pytest.skip("this machine has that card")
    assert call(monkeypatch, made, *arguments) == 1
    assert message in capsys.readouterr().err
    assert not (made / "priors").exists()


def test_a_corrupt_map_is_named(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = capture.splits["train"]
    estimate(capture, [network(Perfect(capture, frames))], Job(frames), lambda weights: Path())
    path = capture.root / "priors/normal/Camera_B1/000002.png"
    path.write_bytes(path.read_bytes()[:200])
    assert call(monkeypatch, capture.root, "--check-only") == 1
    assert "000002.png cannot be read as an image: image file is truncated" in capsys.readouterr().err
