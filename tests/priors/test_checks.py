"""Wrong conventions and corrupt frames are found, and nothing else is."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from fmgs_dataparsers.capture import Capture
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from support.priors_capture import INFO, Perfect, network, opened

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.maps.files import write_labels, write_mask, write_normal
from fmgs_nerfstudio.maps.info import axes_matrix, axes_words, write_info
from fmgs_nerfstudio.priors.body_view import BodyView
from fmgs_nerfstudio.priors.checks import EMPTY, FLICKER, OFF_BODY, best_axes, check, flicker, rank_correlation
from fmgs_nerfstudio.priors.estimate import Job, estimate
from fmgs_nerfstudio.priors.sheet import TITLES, contact_sheet

SIGNED = [
    np.eye(3, dtype=np.float32)[list(order)] * np.array(signs, np.float32)[:, None]
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def with_priors(capture: Capture, stored: np.ndarray | None = None, depth: float = 1.0, **info: str) -> Capture:
    """The exact maps, normals turned by a matrix and depth multiplied, described as `info` says."""
    frames = capture.splits["train"]
    estimator = Perfect(capture, frames, info=dataclasses.replace(INFO, **info))  # pyright: ignore[reportArgumentType]
    for maps in estimator.known.values():
        maps["normal"] = maps["normal"] @ (np.eye(3) if stored is None else stored).T.astype(np.float32)
        maps["depth"] = maps["depth"] * depth
    estimate(capture, [network(estimator)], Job(frames), lambda weights: Path())
    return opened(capture.root)


def test_the_drawn_body_is_where_it_projects(capture: Capture) -> None:
    """Against a plain projection of the vertices; the exact fit lies inside of the exact picture of the person."""
    frame = capture.splits["train"][2]
    view = BodyView(capture).draw(frame)
    depth, normal = view.depth, view.normal
    body = BodyModel.load(capture.body_model)
    pose, transl = (torch.from_numpy(rows[frame.pose_id]).float() for rows in (capture.poses, capture.transl))
    vertices = body.vertices(torch.from_numpy(capture.betas).float(), pose, transl).numpy()
    E, K = capture.cameras[frame.camera].world_to_camera, capture.cameras[frame.camera].K
    points = vertices @ E[:3, :3].T + E[:3, 3]
    u, v = (points @ K.T)[:, :2].T / points[:, 2]
    rows, columns = np.nonzero(depth)
    assert abs(columns.min() + 0.5 - u.min()) < 1.5
    assert abs(rows.max() + 0.5 - v.max()) < 1.5
    assert points[:, 2].min() - 1e-3 <= depth[depth > 0].min()
    assert depth.max() <= points[:, 2].max() + 1e-3
    np.testing.assert_allclose(np.linalg.norm(normal[depth > 0], axis=-1), 1, atol=1e-5)
    assert (normal[depth > 0][:, 2] > 0).mean() > 0.98  # visible faces face the camera: z of OpenGL
    truth = capture.truth(frame)["depth"]
    both = (truth > 0) & (depth > 0)
    assert both.sum() > 0.9 * (depth > 0).sum()
    assert np.median(np.abs(truth - depth)[both]) < 0.03  # clothes lie centimetres over the body


def test_exact_maps_are_all_well(capture: Capture) -> None:
    report = check(with_priors(capture), capture.splits["train"])
    assert report.corrected() == report.info
    assert report.axes() == "x y z"
    assert (report.median("toward") or 0) > 0.99
    for name, least in (("across", 0.1), ("depth_rank", 0.8), ("iou", 0.7)):
        value = report.median(name)
        assert value is not None
        assert value > least, name
    assert all(not frame.warnings for frame in report.frames)


@pytest.mark.parametrize("described", ["opengl", "opencv"])
@pytest.mark.parametrize("stored", ["-x y z", "x -y z", "x -y -z", "z y x", "y -x z"])
def test_wrong_axes_are_found_and_corrected(capture: Capture, described: str, stored: str) -> None:
    turned = axes_matrix(stored)
    if described == "opencv":
        turned = turned @ np.diag([1, -1, -1]).astype(np.float32)
    wrong = with_priors(capture, stored=turned, normal_frame=described)
    report = check(wrong, wrong.splits["train"])
    corrected = report.corrected()
    assert wrong.priors is not None
    write_info(wrong.priors.root / "priors.json", corrected)
    right = opened(capture.root)
    assert right.priors is not None
    assert len(right.priors.info.corrections) == 1
    again = check(right, right.splits["train"])
    assert again.axes() == "x y z"
    assert again.corrected() == again.info
    frame = capture.splits["train"][1]
    truth, read = capture.truth(frame)["normal"], right.prior("normal", frame)
    assert read is not None
    assert (truth * read).sum(-1)[truth.any(-1)].min() > 0.999


def test_inverted_depth_is_found_and_corrected(capture: Capture) -> None:
    wrong = with_priors(capture, depth=-1)
    corrected = check(wrong, wrong.splits["train"]).corrected()
    assert corrected.depth_direction == "nearer"
    assert wrong.priors is not None
    write_info(wrong.priors.root / "priors.json", corrected)
    right = opened(capture.root)
    report = check(right, right.splits["train"])
    assert report.corrected() == report.info
    assert (report.median("depth_rank") or 0) > 0.8


def test_normals_of_nothing_conclude_nothing(capture: Capture) -> None:
    noise = with_priors(capture)
    assert noise.priors is not None
    rng = np.random.default_rng(0)
    for frame in noise.splits["train"]:
        path = noise.priors.path("normal", frame.camera, frame.stem)
        normal = rng.normal(size=(96, 96, 3)).astype(np.float32)
        write_normal(path, normal / np.linalg.norm(normal, axis=-1, keepdims=True), bits=8)
    report = check(noise, noise.splits["train"])
    assert report.axes() is None
    assert report.corrected() == report.info


def test_bad_frames_are_counted(capture: Capture) -> None:
    bad = with_priors(capture)
    frames = bad.splits["train"]
    assert bad.priors is not None
    path = [bad.priors.path("mask", frame.camera, frame.stem) for frame in frames]
    write_mask(path[0], np.zeros((96, 96), np.float32))
    elsewhere = np.zeros((96, 96), np.float32)
    elsewhere[:, :30] = 1
    write_mask(path[1], elsewhere)
    labels = bad.priors.read("semantics", frames[3].camera, frames[3].stem)
    write_labels(bad.priors.path("semantics", frames[3].camera, frames[3].stem), np.where(labels == 22, 12, labels))
    report = check(bad, frames)
    assert [frame.warnings for frame in report.frames] == [(EMPTY,), (OFF_BODY,), (), (FLICKER,), ()]
    assert report.share(EMPTY) == 0.2
    assert report.summary()["warnings"] == {
        "Camera_B1/000000": [EMPTY],
        "Camera_B1/000001": [OFF_BODY],
        "Camera_B1/000003": [FLICKER],
    }
    sheet = contact_sheet(bad, frames[:2], {frames[0]: (EMPTY,)})
    assert sheet.shape[1] == 240 * len(TITLES)
    row = sheet[24 : 24 + 320]
    assert (row[..., 0].astype(int) - row[..., 1] > 150).any()  # the warning is red


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SIGNED), st.integers(0, 2**31))
def test_best_axes_undoes_any_signed_permutation(turn: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    body = rng.normal([0.1, 0.2, 1.5], size=(400, 3))
    body /= np.linalg.norm(body, axis=1, keepdims=True)
    seen = body + 0.2 * rng.normal(size=body.shape)
    stored = seen @ turn.T
    found = best_axes(stored.T @ body / len(body))
    assert found is not None
    np.testing.assert_array_equal(found @ turn, np.eye(3))
    np.testing.assert_array_equal(axes_matrix(axes_words(found)), found)


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(1)
    a = rng.integers(0, 20, 300).astype(float)  # with ties
    b = a + rng.normal(0, 8, 300)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b)[0])
    assert rank_correlation(a, np.exp(b)) == pytest.approx(rank_correlation(a, b))
    assert rank_correlation(a, np.ones(300)) == 0


def test_flicker_is_what_comes_and_goes() -> None:
    areas = np.zeros((6, 28))
    areas[:, 0], areas[:, 22], areas[:, 12] = 500, 60, 40
    assert not flicker(areas).any()
    areas[3, [22, 12]] = 30, 70  # 30 % of the person in another class for one frame
    np.testing.assert_allclose(flicker(areas), [0, 0, 0, 0.3, 0, 0], atol=1e-12)
    turning = areas.copy()
    turning[:, 22], turning[:, 12] = np.linspace(80, 20, 6), np.linspace(20, 80, 6)
    assert not flicker(turning).any()
    assert not flicker(areas[:2]).any()
