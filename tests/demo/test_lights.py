"""Pictures under each light of the demo: what a known direction, colour or exposure does to them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from fmgs_nerfstudio.demo import capture
from fmgs_nerfstudio.demo.capture import DemoOptions, Preset, make_capture
from fmgs_nerfstudio.demo.render import LIGHTS
from fmgs_nerfstudio.demo.studio import changing_exposure
from fmgs_nerfstudio.maps.maps import read_mask, read_normal

SIZE = 64
FLIP = np.array([1, -1, -1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("lights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(capture.PRESETS, "ci", Preset(SIZE, 0, 4, 1, 0, ()))
        for light in LIGHTS:
            make_capture(root / light, DemoOptions(preset="ci", seed=4, light=light, priors="none"))
    return {light: root / light for light in LIGHTS}


def linear(folder: Path, camera: str, frame: int) -> np.ndarray:
    return (cv2.imread(str(folder / camera / f"{frame:06d}.jpg"))[..., ::-1] / 255.0) ** 2.2


def views(folder: Path) -> list[tuple[str, int]]:
    return sorted((path.parent.name, int(path.stem)) for path in folder.glob("Camera_B*/*.jpg"))


def against_studio(folders: dict[str, Path], light: str) -> tuple[np.ndarray, np.ndarray]:
    """World normals and the ratios of linear colours to those in the studio, of all pixels well inside the person."""
    annots = np.load(folders[light] / "annots.npy", allow_pickle=True).item()
    normals, ratios = [], []
    for camera, frame in views(folders[light]):
        R = annots["cams"]["R"][int(camera[-1]) - 1]
        truth = folders[light] / "ground_truth"
        inside = cv2.erode(read_mask(truth / f"mask/{camera}/{frame:06d}.png"), np.ones((5, 5))) > 0.99
        n = read_normal(truth / f"normal/{camera}/{frame:06d}.png")[inside] * FLIP @ R
        a, b = (linear(folders[name], camera, frame)[inside] for name in (light, "studio"))
        bright = (b > 0.03).all(1)
        normals.append(n[bright])
        ratios.append(a[bright] / b[bright])
    return np.concatenate(normals), np.concatenate(ratios)


@pytest.mark.parametrize(("light", "direction"), [("key", "key_direction"), ("window", "window_direction")])
def test_what_faces_the_lamp_is_brighter(folders: dict[str, Path], light: str, direction: str) -> None:
    n, ratio = against_studio(folders, light)
    toward = np.array(getattr(LIGHTS[light], direction))  # pyright: ignore[reportArgumentType]
    cosine = n @ toward / np.linalg.norm(toward)
    assert np.median(ratio[cosine > 0.8]) > 1.6 * np.median(ratio[cosine < -0.2])


def test_a_window_is_bluer_than_the_room(folders: dict[str, Path]) -> None:
    n, ratio = against_studio(folders, "window")
    cosine = n @ np.array(LIGHTS["window"].window_direction)
    blue = ratio[:, 2] / ratio[:, 0]
    assert np.median(blue[cosine > 0.8]) > 1.15 * np.median(blue[cosine < -0.2])


def test_a_sky_is_above(folders: dict[str, Path]) -> None:
    n, ratio = against_studio(folders, "sky")
    assert np.median(ratio[n[:, 2] > 0.5]) > 1.2 * np.median(ratio[n[:, 2] < -0.4])
    left, right = (np.median(ratio[(sign * n[:, 0] > 0.5) & (np.abs(n[:, 2]) < 0.3)]) for sign in (-1, 1))
    assert left == pytest.approx(right, rel=0.06)


def test_flicker_is_an_exposure_of_the_training_camera(folders: dict[str, Path]) -> None:
    exposures = json.loads((folders["flicker"] / "ground_truth/light.json").read_text())["exposures"]
    assert np.ptp(np.log(exposures)) > 0.2
    assert {camera for camera, _ in views(folders["flicker"])} > {"Camera_B1"}
    for camera, frame in views(folders["flicker"]):
        a, b = (linear(folders[name], camera, frame) for name in ("flicker", "studio"))
        middle = (b > 0.05).all(-1) & (a < 0.9).all(-1) & (b < 0.9).all(-1)
        expected = exposures[frame] if camera == "Camera_B1" else 1.0
        assert np.median(a[middle] / b[middle]) == pytest.approx(expected, rel=0.02)


def test_exposures_have_a_mean_and_a_spread() -> None:
    logs = np.log(changing_exposure(50, 0.25, seed=3))
    assert (logs.mean(), logs.std()) == (pytest.approx(0, abs=1e-9), pytest.approx(0.25))
    assert np.abs(np.diff(logs)).max() < 0.25  # it drifts
    assert changing_exposure(5, 0.0, seed=3) == [1.0] * 5
