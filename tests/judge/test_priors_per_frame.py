"""A frame without a prior map trains without that map's terms; the others as if nothing was missing."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fmgs_dataparsers.capture import Capture
from fmgs_dataparsers.parser import open_capture
from support.known_person import HEIGHT, WIDTH, Person
from support.layout_capture import zju
from support.priors_capture import network
from support.silhouette_capture import content, write_content
from support.trainer_runs import config_for, train
from torch import Tensor

from fmgs_nerfstudio.avatar import Avatar, Distilled
from fmgs_nerfstudio.cli.check import main
from fmgs_nerfstudio.data import AvatarDataset
from fmgs_nerfstudio.judge.prior_maps import prior_problems, priors_at_hand
from fmgs_nerfstudio.maps.maps import Kind, PriorsInfo, PriorsWriter, SapiensWriter
from fmgs_nerfstudio.modalities import all_terms
from fmgs_nerfstudio.objective import LossInputs, LossWeights, Objective, SurfelInputs
from fmgs_nerfstudio.patches import Patch
from fmgs_nerfstudio.priors.estimate import Job, estimate
from fmgs_nerfstudio.priors.estimators.base import Image, Maps
from fmgs_nerfstudio.surfels import Surfels

N = 4
TERMS: dict[Kind, set[str]] = {"depth": {"L_d"}, "normal": {"L_n"}, "semantics": {"L_s", "L_reg"}}
ALL = {name for terms in TERMS.values() for name in terms}


class UntilInterrupted:
    """An estimator; somebody presses Ctrl-C after some images."""

    info = PriorsInfo(estimator="test", licence="none")

    def __init__(self, images: int) -> None:
        self.left = images

    def __call__(self, images: Sequence[Image]) -> list[Maps]:
        self.left -= len(images)
        if self.left < 0:
            raise KeyboardInterrupt
        return [self._maps(*image.shape[:2]) for image in images]

    def _maps(self, height: int, width: int) -> Maps:
        normal = np.zeros((height, width, 3), np.float32)
        normal[..., 2] = 1
        depth = np.linspace(2, 3, height * width, dtype=np.float32).reshape(height, width)
        labels = np.full((height, width), 21, np.uint8)
        return {"depth": depth, "normal": normal, "semantics": labels, "mask": np.ones((height, width), np.float32)}


def interrupted(root: Path) -> Capture:
    """The capture after `fmgs-priors` was interrupted, half way."""
    capture = open_capture(write_content(root, content(N, 1)))
    frames = capture.splits["train"]
    with pytest.raises(KeyboardInterrupt):
        estimate(capture, [network(UntilInterrupted(2))], Job(frames, batch_size=1), lambda weights: Path())
    open_capture.cache_clear()
    return open_capture(root)


class Recorder(Objective):
    """Keeps the terms of each step, and the maps that its frame has."""

    def weighted(self, terms: Mapping[str, Tensor], batch: Container[str], progress: float) -> dict[str, Tensor]:
        made = super().weighted(terms, batch, progress)
        self.steps.append(({f"prior_{kind}" for kind in TERMS if f"prior_{kind}" in batch}, made, progress))
        return made

    steps: list[tuple[set[str], dict[str, Tensor], float]] = []  # noqa: RUF012 (frozen, and one is made)


def test_after_an_interrupted_run_of_fmgs_priors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = interrupted(tmp_path / "CoreView_1")
    assert 0 < priors_at_hand(capture)["depth"] < N
    (capture.root / "priors/normal/Camera_B1/000000.png").unlink()
    counts = priors_at_hand(capture)
    share = f"depth {counts['depth']}, normal {counts['normal']}, semantics {counts['semantics']} of 4 training frames"
    made = config_for(capture.root, tmp_path / "out", N)
    made.pipeline.datamanager.check_fit = True
    trainer = made.setup()
    trainer.setup()
    told = " ".join(re.sub(r"\w+\.py:\d+", "", capsys.readouterr().out).split())
    assert told.count(f"Prior maps: {share}") == 1
    assert "a frame without a map trains without its losses" in told
    model: Any = trainer.pipeline.model
    model.objective = Recorder(model.objective.terms, model.objective.weights)
    trainer.train()
    steps = Recorder.steps
    assert len(steps) == N  # every frame once
    for maps, terms, _ in steps:
        expected = {name for kind, names in TERMS.items() if f"prior_{kind}" in maps for name in names}
        assert terms.keys() & ALL == expected
        assert terms.keys() >= {"L_c", "L_m", "L_sn", "L_tv", "L_skin", "L_iso"}
        assert all(torch.isfinite(value) for value in terms.values())
    found = {kind: sum(f"prior_{kind}" in maps for maps, _, _ in steps) for kind in TERMS}
    assert found == counts
    with pytest.raises(SystemExit) as end:
        main([str(capture.root)])
    assert end.value.code == 0
    assert share in " ".join(capsys.readouterr().out.split())


def inputs(missing: frozenset[Kind]) -> tuple[LossInputs, SurfelInputs, dict[str, Tensor]]:
    """A step by hand whose maps disagree with all priors, and what gradients may reach."""
    H, W = 3, 4
    leaves = {
        "depth": torch.full((H, W, 1), 2.0), "normal": torch.tensor([0.0, 0.6, 0.8]).expand(H, W, 3).clone(),
        "logits": torch.zeros(H, W, 28), "features": torch.arange(6.0).view(3, 2),
    }  # fmt: skip
    for leaf in leaves.values():
        leaf.requires_grad_()
    none = torch.zeros(0)
    distilled = {"semantics": Distilled(leaves["features"], torch.zeros(3, 28))}
    surfels = Surfels(torch.zeros(3, 3), torch.eye(3).expand(3, 3, 3), torch.ones(3, 2))
    avatar = Avatar(surfels, torch.eye(4)[:3].expand(3, 3, 4), torch.ones(3), none, none, none, distilled)
    priors = {
        "depth": torch.arange(12.0).view(H, W), "normal": torch.tensor([0.0, 0.0, 1.0]).expand(H, W, 3),
        "semantics": torch.ones(H, W, dtype=torch.uint8),
    }  # fmt: skip
    batch = {f"prior_{kind}": value for kind, value in priors.items() if kind not in missing}
    outputs = {"accumulation": torch.ones(H, W, 1), **{name: leaves[name] for name in ("depth", "normal", "logits")}}
    patch = Patch(torch.arange(3), torch.zeros(3, 1, dtype=torch.long), torch.ones(()))
    step = LossInputs(
        outputs,
        {"mask": torch.ones(H, W, 1), **batch},
        torch.rand(8192, 2, generator=torch.Generator().manual_seed(0)),
        0.2,
    )
    return step, SurfelInputs(avatar, surfels, patch), leaves


WEIGHTS = LossWeights(lambda_d=0.3, lambda_n=0.5, lambda_sn=0, lambda_tv=0, lambda_s=0.7, lambda_reg=0.9)
MOVES: dict[Kind, set[str]] = {"depth": {"depth"}, "normal": {"normal"}, "semantics": {"logits", "features"}}


def gradients(missing: frozenset[Kind]) -> tuple[dict[str, float], dict[str, Tensor | None]]:
    step, surfels, leaves = inputs(missing)
    terms = {name: term for name, term in all_terms().items() if term.prior}
    objective = Objective.of(terms, WEIGHTS, TERMS)
    found = objective.of_pixels(step) | objective.of_surfels(surfels)
    values = objective.weighted(found, step.batch, 0.5)
    if values:
        torch.stack(list(values.values())).sum().backward()
    return {name: float(value) for name, value in values.items()}, {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("missing", [{"depth"}, {"normal"}, {"semantics"}, {"depth", "normal", "semantics"}])
def test_the_missing_term_has_no_gradient_and_the_others_keep_theirs(missing: set[Kind]) -> None:
    whole, full = gradients(frozenset())
    assert whole["L_n"] == pytest.approx(0.5 * 0.2)  # lambda_n (1 - N . N_)
    assert whole["L_s"] == pytest.approx(0.7 * np.log(28))
    assert whole["L_d"] == pytest.approx(0.3)  # flat depth, ordered prior: |0 - 1|
    left, some = gradients(frozenset(missing))
    gone = {name for kind in missing for name in TERMS[kind]}
    assert left == {name: value for name, value in whole.items() if name not in gone}
    still = {name for kind in missing for name in MOVES[kind]}
    for name, gradient in full.items():
        now = some[name]
        assert gradient is not None
        assert gradient.any()
        if name in still:
            assert now is None
        else:
            assert now is not None
            assert torch.equal(now, gradient)


def test_a_map_that_breaks_later_is_told_once_and_done_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What headers do not show, and what happens to a file after the start."""
    capture = interrupted(tmp_path / "CoreView_1")
    made = config_for(capture.root, tmp_path / "out", 2)
    dataset = AvatarDataset(made.pipeline.datamanager.dataparser.__class__(data=capture.root).setup()
                            .get_dataparser_outputs("train"))  # fmt: skip
    assert dataset.get_data(0).keys() >= {"prior_depth", "prior_normal", "prior_semantics"}
    path = capture.root / "priors/depth/Camera_B1/000000.png"
    path.write_bytes(path.read_bytes()[:60])
    capsys.readouterr()
    for _ in range(2):
        maps = dataset.get_data(0)
        assert "prior_depth" not in maps
        assert maps.keys() >= {"prior_normal", "prior_semantics"}
    told = re.sub(r"\w+\.py:\d+|\s", "", capsys.readouterr().out)
    assert told.count("Camera_B1/000000trainswithoutitsdepthmap") == 1
    assert str(path) in told


def test_maps_of_other_frames_are_none_of_training(tmp_path: Path) -> None:
    """Kinds that only held-out frames have are no kinds of the run."""
    capture = interrupted(tmp_path / "CoreView_1")
    for path in (capture.root / "priors" / "semantics").rglob("*.png"):
        path.rename(path.with_name("999999.png"))
    open_capture.cache_clear()
    trainer = train(config_for(capture.root, tmp_path / "out", 1))
    model: Any = trainer.pipeline.model
    assert set(model.objective.terms) & ALL == {"L_d", "L_n"}


@pytest.mark.parametrize("sapiens", [False, True])
def test_headers_of_all_maps_and_pixels_of_some_are_looked_at(tmp_path: Path, sapiens: bool) -> None:
    person = Person(20)
    zju(tmp_path, person, cameras=1)
    root = tmp_path / "CoreView_377"
    writer = SapiensWriter(root) if sapiens else PriorsWriter(root, UntilInterrupted.info)
    for i in range(person.n):
        for kind, values in UntilInterrupted(1)([np.zeros((HEIGHT, WIDTH, 3), np.uint8)])[0].items():
            writer.write(kind, "Camera_B1", f"{i:06d}", values)
    capture = open_capture(root)
    assert prior_problems(capture) == []
    priors = capture.priors
    assert priors is not None
    odd, even = (priors.path("depth", "Camera_B1", f"{i:06d}") for i in (7, 8))
    odd.write_bytes(odd.read_bytes()[:-40])
    (problem,) = prior_problems(capture)
    assert re.match(r"1 of 20 prior maps of kind depth cannot be used: Camera_B1/000007 \(", problem)
    assert str(odd) in problem
    other = np.zeros((HEIGHT // 2, WIDTH), np.float32)
    np.save(even, other) if sapiens else writer.write("depth", "Camera_B1", even.stem, other)
    assert "2 of 20" in prior_problems(capture)[0]
    odd.unlink()
    (problem,) = prior_problems(capture)
    assert "1 of 19 prior maps" in problem
    assert f"has {WIDTH} x {HEIGHT // 2} pixels" in problem
