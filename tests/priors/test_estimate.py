"""The whole path from images to maps and back, with an estimator that knows the truth."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fmgs_dataparsers.capture import Capture
from hypothesis import given, settings
from hypothesis import strategies as st
from support.priors_capture import Perfect, network, opened

from fmgs_nerfstudio.maps.info import KINDS, Kind, PriorsInfo
from fmgs_nerfstudio.maps.maps import PriorsError, open_priors
from fmgs_nerfstudio.priors.crop import paste, person_box
from fmgs_nerfstudio.priors.estimate import Job, estimate, raw_capture
from fmgs_nerfstudio.priors.estimators.base import EstimatorError, Image, Maps


def no_weights(weights: object) -> Path:
    raise AssertionError("nothing to find")


def run(capture: Capture, estimator: Perfect, **job: object) -> int:
    frames = capture.splits["train"]
    return estimate(capture, [network(estimator)], Job(frames, **job), no_weights)  # pyright: ignore[reportArgumentType]


def stamps(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (root / "priors").rglob("*.png")}


def angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=-1) / 2, 0, 1)))


@pytest.mark.parametrize("crop", [False, True])
def test_exact_maps_come_back_within_quantisation(capture: Capture, crop: bool) -> None:
    frames = capture.splits["train"]
    assert run(capture, Perfect(capture, frames, crop), batch_size=2, crop=crop) == 4 * len(frames)
    read = opened(capture.root)
    assert read.priors is not None
    assert read.priors.info.crop == ("person" if crop else "none")
    for frame in frames:
        truth = capture.truth(frame)
        found = {kind: value for kind in KINDS if (value := read.prior(kind, frame)) is not None}
        hit = truth["depth"] > 0
        np.testing.assert_array_equal(found["semantics"], truth["semantics"])
        np.testing.assert_allclose(found["mask"], truth["mask"], atol=0.51 / 255)
        np.testing.assert_allclose(found["depth"][hit], truth["depth"][hit], atol=1e-4 * np.ptp(truth["depth"][hit]))
        assert angle(found["normal"][hit], truth["normal"][hit]).max() < 0.5
        assert not found["normal"][~hit].any()


def test_a_distorted_large_capture_gets_maps_of_its_files(capture: Capture) -> None:
    """Networks see the image as the lens did; training reads the map undistorted and reduced."""
    camera = dataclasses.replace(capture.cameras["Camera_B1"], distortion=np.array([0.2, 0, 0, 0, 0]))
    bent = dataclasses.replace(capture, cameras={"Camera_B1": camera}, downscale=2)
    raw, frame = raw_capture(bent), capture.splits["train"][0]
    np.testing.assert_array_equal(raw.image(frame), capture.image(frame))
    frames = [frame]
    estimate(bent, [network(Perfect(capture, frames))], Job(frames), no_weights)
    reread = dataclasses.replace(bent, priors=open_priors(bent.root))
    assert reread.priors is not None
    assert reread.priors.read("mask", frame.camera, frame.stem).shape == (96, 96)
    labels = reread.prior("semantics", frame)
    assert labels is not None
    assert labels.shape == (48, 48)
    agree = (labels > 0) == (bent.mask(frame) > 0.5)
    assert agree.mean() > 0.97


class Interrupted(Perfect):
    """Ctrl-C in the third call."""

    def __call__(self, images: Sequence[Image]) -> list[Maps]:
        if self.calls >= 2:
            raise KeyboardInterrupt
        return super().__call__(images)


def test_an_interrupted_run_goes_on_where_it_stopped(capture: Capture) -> None:
    frames = capture.splits["train"]
    with pytest.raises(KeyboardInterrupt):
        run(capture, Interrupted(capture, frames), batch_size=1)
    before = stamps(capture.root)
    assert len(before) == 8  # two frames, whole
    assert not list((capture.root / "priors").rglob(".*"))
    second = Perfect(capture, frames)
    assert run(capture, second, batch_size=2) == 4 * (len(frames) - 2)
    assert second.calls == len(frames) - 2
    after = stamps(capture.root)
    assert {path: after[path] for path in before} == before
    third = Perfect(capture, frames)
    assert run(capture, third) == 0
    assert third.calls == 0


def test_only_what_is_missing_and_wanted(capture: Capture) -> None:
    frames = capture.splits["train"]
    run(capture, Perfect(capture, frames), kinds=frozenset(["depth", "mask"]))
    priors = open_priors(capture.root)
    assert priors is not None
    assert priors.kinds == {"depth", "mask"}
    lost = priors.path("mask", frames[1].camera, frames[1].stem)
    lost.unlink()
    before = stamps(capture.root)
    again = Perfect(capture, frames)
    assert run(capture, again, kinds=frozenset(["depth", "mask"])) == 1
    assert again.calls == 1
    assert {**stamps(capture.root), lost: 0} == {**before, lost: 0}


def test_maps_of_another_estimator_are_not_mixed_in(capture: Capture) -> None:
    frames = capture.splits["train"]
    run(capture, Perfect(capture, frames), kinds=frozenset(["depth"]))
    other = network(Perfect(capture, frames, info=PriorsInfo("other", "MIT", depth_kind="inverse")), "other")
    with pytest.raises(PriorsError, match=r"depth holds maps of perfect .*--overwrite"):
        estimate(capture, [other], Job(frames), no_weights)
    with pytest.raises(PriorsError, match=r"crop: person"):
        run(capture, Perfect(capture, frames, crop=True), crop=True)
    # beside each other is fine, and each keeps its own record
    estimate(capture, [other], Job(frames, kinds=frozenset(["mask"])), no_weights)
    info = json.loads((capture.root / "priors/priors.json").read_text())
    assert info["estimator"] == "perfect + other"
    assert info["depth_kind"] == "metric"
    assert info["sources"]["mask"]["estimator"] == "other"
    # and a replaced kind is described anew
    estimate(capture, [other], Job(frames, overwrite=True, kinds=frozenset(["depth"])), no_weights)
    info = json.loads((capture.root / "priors/priors.json").read_text())
    assert (info["estimator"], info["depth_kind"]) == ("other", "inverse")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("depth", lambda depth: np.where(depth > 0, np.nan, depth), "not finite"),
        ("normal", lambda normal: normal[1:], r"shape \(95, 96, 3\)"),
    ],
)
def test_what_is_no_map_is_not_written(capture: Capture, kind: Kind, change: object, message: str) -> None:
    frames = capture.splits["train"]
    estimator = Perfect(capture, frames)
    for maps in estimator.known.values():
        maps[kind] = change(maps[kind])  # pyright: ignore[reportCallIssue]
    with pytest.raises(EstimatorError, match=rf"perfect: {kind} of Camera_B1/000000.*{message}"):
        run(capture, estimator)
    assert not list((capture.root / "priors" / kind).rglob("*.png"))


def test_unknown_kinds_are_refused(capture: Capture) -> None:
    some = dataclasses.replace(network(Perfect(capture, [])), kinds=("mask",))
    with pytest.raises(EstimatorError, match="--kinds depth: this estimator gives mask"):
        estimate(capture, [some], Job(capture.splits["train"], kinds=frozenset(["depth"])), no_weights)


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 60), st.integers(4, 60), st.data())
def test_boxes_hold_the_person_and_maps_go_back(height: int, width: int, data: st.DataObject) -> None:
    top = data.draw(st.integers(0, height - 1))
    left = data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    mask = np.zeros((height, width), np.float32)
    mask[top:bottom, left:right] = 1
    rows, columns = box = person_box(mask)
    assert 0 <= rows.start <= top
    assert bottom <= rows.stop <= height
    assert 0 <= columns.start <= left
    assert right <= columns.stop <= width
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    if tall < height and wide < width:  # room on both sides: 3 : 4 to a pixel, and the margin
        assert math.isclose(wide, tall * 0.75, abs_tol=1.5)
        assert tall >= 1.2 * (bottom - top) - 1
    values = np.random.default_rng(0).normal(size=(height, width, 3)).astype(np.float32)
    np.testing.assert_array_equal(paste("normal", values[box], box, (height, width))[box], values[box])
    outside = np.ones((height, width), bool)
    outside[box] = False
    assert not paste("normal", values[box], box, (height, width))[outside].any()
    depth = paste("depth", values[box][..., 0], box, (height, width))
    assert depth.min() == values[box][..., 0].min()
    assert depth.max() == values[box][..., 0].max()
