"""Prior maps survive the disk, and corruption is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from PIL import Image

from fmgs_nerfstudio.maps.classes import CLASSES, CLOTH, HEAD, MIRROR_PAIRS, PALETTE, SKIN
from fmgs_nerfstudio.maps.info import Source, correct, merge, write_info
from fmgs_nerfstudio.maps.maps import (
    Kind,
    PriorsError,
    PriorsInfo,
    PriorsWriter,
    SapiensWriter,
    open_priors,
    read_normal,
    write_normal,
)

INFO = PriorsInfo(estimator="test", licence="none")
SHAPE = (37, 53)


def maps(seed: int = 0) -> dict[Kind, np.ndarray]:
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(*SHAPE, 3)).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    normal[:5] = 0
    return {
        "semantics": rng.integers(0, 28, SHAPE).astype(np.uint8),
        "depth": rng.normal(3, 1, SHAPE).astype(np.float32),
        "normal": normal,
        "mask": rng.random(SHAPE).astype(np.float32),
    }


def written(capture: Path, info: PriorsInfo = INFO) -> dict[Kind, np.ndarray]:
    writer = PriorsWriter(capture, info)
    for kind, values in maps().items():
        writer.write(kind, "Camera_B1", "000003", values)
    return maps()


def angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=-1) / 2, 0, 1)))


def test_round_trip_within_quantisation(tmp_path: Path) -> None:
    truth = written(tmp_path)
    priors = open_priors(tmp_path)
    assert priors is not None
    assert priors.info == INFO
    assert priors.kinds == {"semantics", "depth", "normal", "mask"}
    read = {kind: priors.read(kind, "Camera_B1", "000003") for kind in truth}
    np.testing.assert_array_equal(read["semantics"], truth["semantics"])
    assert read["semantics"].dtype == np.uint8
    np.testing.assert_allclose(read["depth"], truth["depth"], atol=1e-4 * np.ptp(truth["depth"]))
    np.testing.assert_allclose(read["mask"], truth["mask"], atol=0.51 / 255)
    assert np.all(read["normal"][:5] == 0)
    assert angle(read["normal"][5:], truth["normal"][5:]).max() < 0.5
    np.testing.assert_allclose(np.linalg.norm(read["normal"][5:], axis=-1), 1, atol=1e-6)
    assert all(read[kind].dtype == np.float32 for kind in ("depth", "normal", "mask"))


def test_existence_and_absence(tmp_path: Path) -> None:
    assert open_priors(tmp_path) is None
    PriorsWriter(tmp_path, INFO).write("mask", "Camera_B1", "000003", maps()["mask"])
    priors = open_priors(tmp_path)
    assert priors is not None
    assert priors.kinds == {"mask"}
    assert priors.exists("mask", "Camera_B1", "000003")
    assert not priors.exists("mask", "Camera_B1", "000004")
    assert not priors.exists("depth", "Camera_B1", "000003")
    with pytest.raises(PriorsError, match=r"000004\.png: no such prior map"):
        priors.read("mask", "Camera_B1", "000004")


@pytest.mark.parametrize("frame", ["opengl", "opencv"])
def test_normals_come_in_opengl_axes(tmp_path: Path, frame: Literal["opengl", "opencv"]) -> None:
    up_to_camera = np.array([0.0, 0.6, 0.8], np.float32)  # OpenGL: y up, z toward the camera
    stored = up_to_camera * (np.array([1, -1, -1], np.float32) if frame == "opencv" else 1)
    info = PriorsInfo(estimator="test", licence="none", normal_frame=frame)
    PriorsWriter(tmp_path, info).write("normal", "c", "0", np.broadcast_to(stored, (*SHAPE, 3)))
    priors = open_priors(tmp_path)
    assert priors is not None
    assert angle(priors.read("normal", "c", "0"), up_to_camera).max() < 0.5


def test_inverse_depth_becomes_larger_is_farther(tmp_path: Path) -> None:
    near_to_far = np.linspace(1, 4, SHAPE[1], dtype=np.float32) * np.ones((SHAPE[0], 1), np.float32)
    info = PriorsInfo(estimator="test", licence="none", depth_kind="inverse", depth_direction="nearer")
    PriorsWriter(tmp_path, info).write("depth", "c", "0", 1 / near_to_far)
    priors = open_priors(tmp_path)
    assert priors is not None
    assert np.all(np.diff(priors.read("depth", "c", "0"), axis=1) > 0)


@pytest.mark.parametrize(("bits", "degrees"), [(8, 0.5), (16, 0.005)])
def test_normal_picture_accuracy(tmp_path: Path, bits: int, degrees: float) -> None:
    normal = maps()["normal"]
    write_normal(tmp_path / "n.png", normal, bits=16 if bits == 16 else 8)
    assert angle(read_normal(tmp_path / "n.png"), normal).max() < degrees
    # red is x: an RGB viewer shows it so
    stored = cv2.imread(str(tmp_path / "n.png"), cv2.IMREAD_UNCHANGED)[10, 10, ::-1]
    np.testing.assert_allclose(stored / (2**bits - 1) * 2 - 1, normal[10, 10], atol=2 / 2**bits)


def test_labels_show_the_palette(tmp_path: Path) -> None:
    truth = written(tmp_path)
    picture = np.asarray(Image.open(tmp_path / "priors/semantics/Camera_B1/000003.png").convert("RGB"))
    np.testing.assert_array_equal(picture, PALETTE[truth["semantics"]])


@pytest.mark.parametrize("kind", ["semantics", "depth", "normal", "mask"])
@pytest.mark.parametrize("sapiens", [False, True])
def test_truncated_file_is_named(tmp_path: Path, kind: Kind, sapiens: bool) -> None:
    if sapiens:
        SapiensWriter(tmp_path).write(kind, "Camera_B1", "000003", maps()[kind])
    else:
        written(tmp_path)
    priors = open_priors(tmp_path)
    assert priors is not None
    path = priors.path(kind, "Camera_B1", "000003")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(PriorsError, match=path.name):
        priors.read(kind, "Camera_B1", "000003")
    path.write_bytes(b"")
    with pytest.raises(PriorsError, match=path.name):
        priors.read(kind, "Camera_B1", "000003")


def test_sapiens_folders(tmp_path: Path) -> None:
    truth = maps()
    writer = SapiensWriter(tmp_path)
    for kind, values in truth.items():
        writer.write(kind, "Camera_B1", "000003", values)
    folder = tmp_path / "sapiens"
    assert np.load(folder / "seg/Camera_B1/000003.npy").dtype == np.bool_
    assert np.load(folder / "seg/Camera_B1/000003_seg.npy").dtype == np.int64
    assert np.load(folder / "depth/Camera_B1/000003.npy").dtype == np.float32
    assert np.load(folder / "normal/Camera_B1/000003.npy").dtype == np.float32
    priors = open_priors(tmp_path)
    assert priors is not None
    assert priors.kinds == {"semantics", "depth", "normal", "mask"}
    np.testing.assert_array_equal(priors.read("semantics", "Camera_B1", "000003"), truth["semantics"])
    np.testing.assert_array_equal(priors.read("depth", "Camera_B1", "000003"), truth["depth"])
    np.testing.assert_allclose(priors.read("normal", "Camera_B1", "000003"), truth["normal"], atol=1e-6)
    np.testing.assert_array_equal(priors.read("mask", "Camera_B1", "000003"), truth["mask"] > 0.5)


def test_sapiens2_ids_are_refused(tmp_path: Path) -> None:
    SapiensWriter(tmp_path).write("semantics", "c", "0", np.full(SHAPE, 28))
    priors = open_priors(tmp_path)
    assert priors is not None
    with pytest.raises(PriorsError, match="Sapiens2"):
        priors.read("semantics", "c", "0")


def test_sapiens2_ids_are_read_where_priors_json_says_so(tmp_path: Path) -> None:
    stored = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 29
    SapiensWriter(tmp_path).write("semantics", "c", "0", stored)
    write_info(tmp_path / "sapiens" / "priors.json", PriorsInfo("sapiens2", "Sapiens2 License", label_set="dome29"))
    priors = open_priors(tmp_path)
    assert priors is not None
    expected = np.where(stored == 2, 1, np.where(stored > 2, stored - 1, stored))
    np.testing.assert_array_equal(priors.read("semantics", "c", "0"), expected)


@pytest.mark.parametrize("alpha", [False, True])
def test_normal_pictures_beside_arrays(tmp_path: Path, alpha: bool) -> None:
    """As ECON and AniGS keep them: RGB(A) of (n + 1) / 2, nothing is mid-gray, black or transparent."""
    normal = maps()["normal"]
    colour = np.rint((normal + 1) * 127.5).astype(np.uint8)
    if alpha:
        shown = np.any(normal, axis=-1)
        colour = np.dstack([np.where(shown[..., None], colour, [127, 127, 255]), shown * 255]).astype(np.uint8)
    (tmp_path / "sapiens/normal/c").mkdir(parents=True)
    Image.fromarray(colour).save(tmp_path / "sapiens/normal/c/0.png")
    priors = open_priors(tmp_path)
    assert priors is not None
    assert priors.kinds == {"normal"}
    read = priors.read("normal", "c", "0")
    assert angle(read[5:], normal[5:]).max() < 0.5
    assert not read[:5].any()
    SapiensWriter(tmp_path).write("normal", "c", "0", -normal)  # the array is the better of the two
    assert angle(priors.read("normal", "c", "0")[5:], -normal[5:]).max() < 0.1


@pytest.mark.parametrize("frame", ["opengl", "opencv"])
@pytest.mark.parametrize("axes", ["-x y z", "z y x", "y -z x"])
def test_axes_of_normals(tmp_path: Path, frame: Literal["opengl", "opencv"], axes: str) -> None:
    """Words say which stored channel is x, which y, which z of the frame."""
    n = np.array([0.36, 0.48, 0.8], np.float32)
    in_frame = n * ([1, -1, -1] if frame == "opencv" else [1, 1, 1])
    stored = np.zeros(3, np.float32)
    for value, word in zip(in_frame, axes.split(), strict=True):
        stored["xyz".index(word[-1])] = -value if word[0] == "-" else value
    info = PriorsInfo(estimator="test", licence="none", normal_frame=frame, normal_axes=axes)
    PriorsWriter(tmp_path, info).write("normal", "c", "0", np.broadcast_to(stored, (*SHAPE, 3)))
    priors = open_priors(tmp_path)
    assert priors is not None
    assert priors.info == info
    assert angle(priors.read("normal", "c", "0"), n).max() < 0.5


def test_descriptions_are_merged_kind_by_kind() -> None:
    old = correct(PriorsInfo("a", "CC0", depth_kind="metric"), "seen", normal_axes="-x y z", depth_direction="nearer")
    new = PriorsInfo("b", "MIT", depth_kind="inverse", depth_direction="nearer", normal_frame="opencv", crop="person")
    both = merge(old, ["depth", "normal"], new, ["depth"])
    assert (both.estimator, both.licence, both.crop) == ("b + a", "MIT + CC0", "person + none")
    assert (both.depth_kind, both.normal_frame, both.normal_axes) == ("inverse", "opengl", "-x y z")
    assert both.corrections == ("normal_axes: x y z -> -x y z (seen)",)  # depth's went with its maps
    assert both.source("depth") == Source("b", "MIT", "person")
    assert both.source("normal") == Source("a", "CC0")
    assert merge(both, ["depth", "normal"], old, ["depth"]).source("depth") == Source("a", "CC0")


def test_a_description_survives_the_disk(tmp_path: Path) -> None:
    info = merge(correct(INFO, "why", normal_axes="z y x"), ["normal"], PriorsInfo("b", "MIT"), ["mask"])
    write_info(tmp_path / "priors" / "priors.json", info)
    priors = open_priors(tmp_path)
    assert priors is not None
    assert priors.info == info


def test_a_run_that_was_cut_off_at_once_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "priors").mkdir()
    assert open_priors(tmp_path) is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"normal_axes": "x y y"}, "normal_axes, corrections or sources"),
        ({"sources": {"depth": {"colour": 1}}}, "normal_axes, corrections or sources"),
        ({"depth_kind": "disparity"}, "depth_kind is 'disparity'"),
        ({"label_set": "atr18"}, "label_set is 'atr18'"),
        ({"colour": 1}, "unknown fields"),
    ],
)
def test_bad_description_is_named(tmp_path: Path, edit: dict[str, object], message: str) -> None:
    written(tmp_path)
    path = tmp_path / "priors" / "priors.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(PriorsError, match=message):
        open_priors(tmp_path)
    path.unlink()
    with pytest.raises(PriorsError, match=r"priors\.json"):
        open_priors(tmp_path)


def test_class_groups() -> None:
    assert len(CLASSES) == 28
    assert MIRROR_PAIRS == ((4, 13), (5, 14), (6, 15), (7, 16), (8, 17), (9, 18), (10, 19), (11, 20))
    assert set(HEAD) == {2, 3, 23, 24, 25, 26, 27}
    assert set(SKIN) == {2, 4, 5, 6, 7, 10, 11, 13, 14, 15, 16, 19, 20, 21}
    assert set(CLOTH) == {1, 8, 9, 12, 17, 18, 22}
