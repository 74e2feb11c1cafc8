"""What fmgs-track shows: the fitted body over its frames, left and right, what was left out."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import pytest
from fmgs_dataparsers.parser import open_capture
from support.silhouette_capture import content, write_content
from support.tracked_capture import tracked_capture

from fmgs_nerfstudio.evaluation.track.overlay import LEFT, RIGHT, Overlays
from fmgs_nerfstudio.evaluation.track.page import chart, facts_of, html_page
from fmgs_nerfstudio.judge.fit_check import check_capture
from fmgs_nerfstudio.track.records import Fits

LEFT_WRIST, RIGHT_WRIST = 15, 16


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Overlays, Fits, np.ndarray]:
    """Also: where the camera stands in the world of the truth (z up)."""
    folder = tmp_path_factory.mktemp("tracked")
    truth = open_capture(write_content(folder / "CoreView_1", copy.deepcopy(content())))
    fits, sightings = tracked_capture(truth, folder / "mine")
    extrinsic = truth.cameras[truth.splits["train"][0].camera].world_to_camera
    place = -extrinsic[:3, :3].T @ extrinsic[:3, 3]
    return Overlays(open_capture(folder / "mine"), sightings), fits, place


def test_body_and_mask_overlap_as_the_judge_says(tracked: tuple[Overlays, Fits, np.ndarray]) -> None:
    overlays, _, _ = tracked
    sheet, found = overlays.sheet()
    assert list(found) == [frame.stem for frame in overlays.frames]
    judged = {frame.frame.stem: frame.iou for frame in check_capture(overlays.capture).frames}
    assert found == pytest.approx(judged, abs=0.02)
    assert sheet.shape[1] == 6 * 240


def test_frames_come_in_the_order_of_time(tracked: tuple[Overlays, Fits, np.ndarray]) -> None:
    stems = [frame.stem for frame in tracked[0].frames]
    assert stems == sorted(stems)
    assert len(stems) == len(tracked[0].sightings.time)


def test_left_and_right_have_their_colours(tracked: tuple[Overlays, Fits, np.ndarray]) -> None:
    overlays, _, _ = tracked
    picture, landmarks = next(overlays.pictures()), overlays.sightings.landmarks[0]
    for landmark, colour in ((LEFT_WRIST, LEFT), (RIGHT_WRIST, RIGHT)):
        x, y = landmarks[landmark].astype(int)
        assert tuple(picture[y, x]) == colour


def test_the_facts_are_the_camera_s(tracked: tuple[Overlays, Fits, np.ndarray]) -> None:
    overlays, fits, place = tracked
    facts = facts_of(fits, overlays.sightings)
    assert facts["camera"].startswith(f"{place[2]:.2f} m above")
    lowered = fits.world_to_camera.copy()
    angle = np.radians(10)  # the camera looks down: what is in front moves up in the image
    c, s = np.cos(angle), np.sin(angle)
    lowered[:3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag([1, -1, -1]) @ np.eye(3, 4)
    down = Fits(fits.betas, fits.pose, fits.transl, fits.K, lowered, fits.uncertainty)
    assert "looks 10.0 degrees down" in facts_of(down, overlays.sightings)["camera"]


def test_a_page_says_what_was_left_out(tracked: tuple[Overlays, Fits, np.ndarray]) -> None:
    overlays, fits, _ = tracked
    png = cv2.imencode(".png", overlays.sheet()[0])[1].tobytes()
    facts = facts_of(fits, overlays.sightings)
    page = html_page("a <clip>", facts, ["the camera moves"], ["too dark: frames 3, 4"], png, chart(overlays))
    for words in ("a &lt;clip&gt;", "the camera moves", "too dark: frames 3, 4", "overlay.mp4", *facts):
        assert words in page
