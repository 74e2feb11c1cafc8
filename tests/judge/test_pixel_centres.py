"""fmgs-check sees a calibration whose pixel centres are elsewhere, and is silent where it cannot know."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fmgs_dataparsers.parser import PixelCentresChoice, open_capture
from support.silhouette_capture import Content, content, write_content

from fmgs_nerfstudio.judge.fit_check import FitReport, check_capture
from fmgs_nerfstudio.judge.pixel_centres import pixel_centres_doubt, shift_of
from fmgs_nerfstudio.judge.silhouette import Silhouettes, view_of

OFF = {"whole": -0.5, "half": 0.5}
"""What a wrong reading as `whole` or `half` moves masks by, against the body."""


@pytest.fixture(scope="module")
def dressed() -> Content:
    """Masks drawn by OpenCV, wider than the body by a pixel on all sides."""
    return content(8, cameras=2, dressed=1)


def checked(root: Path, made: Content, moved: float, read: PixelCentresChoice) -> FitReport:
    """A capture whose file has its principal point `moved` pixels right and down."""
    K = [K + moved * np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]]) for K in made.K]
    made = dataclasses.replace(made, K=K)
    return check_capture(open_capture(write_content(root / "CoreView_1", made), pixel_centres=read))


def remarks(report: FitReport) -> list[str]:
    assert report.ready
    return [remark for remark in report.remarks if "pixel-centres" in remark]


@pytest.mark.parametrize(
    ("moved", "read", "advice"),
    [
        (0.0, "auto", None),
        (0.0, "whole", None),
        (0.0, "half", "whole"),  # OpenCV's file, read as a renderer's
        (0.5, "auto", "half"),  # a renderer's file, read as OpenCV's
        (0.5, "half", None),
        (-0.5, "whole", None),  # off by half a pixel, and the other reading is further off
        (1.5, "auto", None),  # off, but not by half a pixel
    ],
)
def test_half_a_pixel_is_reported_with_the_right_option(
    tmp_path: Path, dressed: Content, moved: float, read: PixelCentresChoice, advice: str | None
) -> None:
    found = remarks(checked(tmp_path, dressed, moved, read))
    if advice is None:
        assert found == []
    else:
        (remark,) = found
        assert remark.endswith(f"pixel-centres {advice}")


@pytest.mark.parametrize("offset", [(0.5, 0.5), (-0.5, -0.5), (0.0, 0.0), (0.7, -0.3)])
def test_the_shift_of_a_dressed_body(tmp_path: Path, dressed: Content, offset: tuple[float, float]) -> None:
    capture = open_capture(write_content(tmp_path / "CoreView_1", dressed))
    silhouettes, shifts = Silhouettes(capture), []
    for frame in capture.splits["train"]:
        view = view_of(capture, frame, 4096)
        K = view.K.copy()
        K[:2, 2] -= offset
        shifts.append(shift_of(silhouettes, view._replace(K=K)))
    assert np.mean(shifts, 0) == pytest.approx(offset, abs=0.1)


def test_a_shift_is_counted_in_pixels_of_the_file(tmp_path: Path, dressed: Content) -> None:
    root = write_content(tmp_path / "CoreView_1", dressed)
    for frame in check_capture(open_capture(root, downscale=2, pixel_centres="half")).frames[:4]:
        assert frame.shift == pytest.approx([0.5, 0.5], abs=0.25)


def test_nothing_to_see_is_no_shift(tmp_path: Path, dressed: Content) -> None:
    capture = open_capture(write_content(tmp_path / "CoreView_1", dressed))
    view = view_of(capture, capture.splits["train"][0], 4096)
    behind = view.world_to_camera.copy()
    behind[2, 3] -= 8
    assert np.array_equal(shift_of(Silhouettes(capture), view._replace(world_to_camera=behind)), [0, 0])


def noisy(mean: tuple[float, float], spread: float, n: int) -> list[np.ndarray]:
    """`n` values of exactly this mean."""
    values = np.random.default_rng(0).normal(size=(n, 2)) * spread
    return list(values - values.mean(0) + mean)


@pytest.mark.parametrize("read", ["whole", "half"])
def test_only_a_shift_that_is_sure_and_near_half_a_pixel_is_reported(read: str) -> None:
    s = OFF[read] / 0.5
    seen = {
        "half a pixel": ({"a": noisy((0.5 * s, 0.5 * s), 0.2, 30)}, True),
        "shoes lower the mask": ({"a": noisy((0.5 * s, 0.25 * s), 0.2, 30)}, True),
        "two cameras": ({c: noisy((0.5 * s, 0.5 * s), 0.2, 30) for c in "ab"}, True),
        "few frames": ({"a": noisy((0.5 * s, 0.5 * s), 0.02, 7)}, False),
        "the other way": ({"a": noisy((-0.5 * s, -0.5 * s), 0.2, 30)}, False),
        "only across": ({"a": noisy((0.5 * s, 0.0), 0.2, 30)}, False),
        "only down": ({"a": noisy((0.0, 0.5 * s), 0.2, 30)}, False),
        "against each other": ({"a": noisy((0.5 * s, -0.5 * s), 0.2, 30)}, False),
        "more than a pixel": ({"a": noisy((1.1 * s, 1.1 * s), 0.2, 30)}, False),
        "uncertain": ({"a": noisy((0.5 * s, 0.5 * s), 1.5, 30)}, False),
        "cameras disagree": (
            {"a": noisy((0.6 * s, 0.6 * s), 0.1, 60), "b": noisy((-0.2 * s, 0.4 * s), 0.1, 8)},
            False,
        ),
        "nothing": ({}, False),
    }
    for case, (shifts, expected) in seen.items():
        said = pixel_centres_doubt(shifts, read)  # pyright: ignore[reportArgumentType]
        assert (said is not None) == expected, case
