"""Cuts and moving cameras, by backgrounds that are moved by known amounts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.footage import wall

from fmgs_nerfstudio.track.networks import SIDE, Look, Region
from fmgs_nerfstudio.track.scene import Scene

WALL = wall(4, 960, 600)


def _view(x: float = 0, y: float = 0, zoom: float = 1.0, turn: float = 0.0) -> np.ndarray:
    """640 x 360 of the wall."""
    matrix = cv2.getRotationMatrix2D((480, 300), turn, zoom)
    matrix[:, 2] += [-160 - x, -120 - y]
    return cv2.warpAffine(WALL, matrix, (640, 360), flags=cv2.INTER_LINEAR)


def _look(x: float) -> Look:
    """Somebody 100 pixels wide."""
    landmarks = np.tile([[x, 180.0]], (33, 1)) + np.linspace([-50, -120], [50, 120], 33)
    region = Region(np.array([x, 180.0]), 300.0)
    one = np.ones
    return Look(region, 1.0, landmarks, one(33), one((33, 3)), one(33), one((SIDE, SIDE)), region, True)


def _with_person(view: np.ndarray, x: int) -> np.ndarray:
    view = view.copy()
    texture = np.random.default_rng(0).integers(0, 255, (240, 100, 3), np.uint8)
    view[60:300, x - 50 : x + 50] = cv2.GaussianBlur(texture, (0, 0), 2)
    return view


def _watch(views: list[np.ndarray], people: list[Look | None] | None = None) -> Scene:
    scene = Scene()
    for view, look in zip(views, people or [None] * len(views), strict=True):
        assert not scene.cuts(view)
        scene.add(view, look)
    return scene


def test_a_camera_at_rest(tmp_path) -> None:
    rng = np.random.default_rng(0)
    noisy = [np.clip(_view() + rng.normal(0, 4, (360, 640, 3)), 0, 255).astype(np.uint8) for _ in range(15)]
    scene = _watch(noisy)
    assert scene.told == 14
    assert scene.shift * 640 < 2
    assert not scene.moves


def test_a_person_who_walks_is_no_moving_camera() -> None:
    xs = list(range(120, 520, 25))
    scene = _watch([_with_person(_view(), x) for x in xs], [_look(x) for x in xs])
    assert scene.shift * 640 < 2
    assert not scene.moves


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"x": 1.5}, 15.0),
        ({"y": -2.0}, 20.0),
        ({"zoom": 0.004}, 0.04 * np.hypot(320, 180)),
        ({"turn": 0.3}, np.radians(3.0) * np.hypot(320, 180)),
    ],
)
def test_a_moving_camera_is_measured(step: dict[str, float], expected: float) -> None:
    views = []
    for i in range(11):
        moved = {name: i * value for name, value in step.items()}
        views.append(_view(**{**moved, "zoom": 1 + moved.get("zoom", 0)}))
    scene = _watch(views)
    np.testing.assert_allclose(scene.shift * 640, expected, rtol=0.15)
    assert scene.moves


def test_a_bare_wall_tells_nothing() -> None:
    scene = _watch([np.full((360, 640, 3), 150, np.uint8)] * 4)
    assert scene.told == 0
    assert not scene.moves


def test_a_cut() -> None:
    scene = _watch([_view(), _view(x=4), (0.7 * _view(x=8)).astype(np.uint8)])  # an exposure that changes is none
    other = wall(9)
    assert scene.cuts(other)
    assert scene.cuts(np.full((360, 640, 3), 90, np.uint8))
    scene.begin()
    scene.add(other, None)
    assert not scene.cuts(other)
    assert scene.shift == 0
