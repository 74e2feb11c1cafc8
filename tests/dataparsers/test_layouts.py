"""One known person and camera in every layout: what leaves the readers is the same, to the half pixel and less."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from fmgs_dataparsers.capture import Capture
from fmgs_dataparsers.parser import FMGSDataParser, FMGSDataParserConfig, open_capture
from support.keypoint_capture import gem_smpl
from support.known_person import Person, intrinsics, mask, which
from support.layout_capture import LAYOUTS, Seen, humannerf, instant_avatar

from fmgs_nerfstudio.body import BodyModel

PERSON = Person()
SMPLX = ("gvhmr", "gem")
LAYOUTS = {**LAYOUTS, gem_smpl: "gem"}


def opened(root: Path, **options: object) -> Capture:
    inside = [path for path in root.iterdir() if path.is_dir()]
    folder = inside[0] if len(list(root.iterdir())) == 1 else root
    open_capture.cache_clear()
    return open_capture(folder, **options)  # pyright: ignore[reportArgumentType]


@cache
def loaded(path: Path) -> BodyModel:
    return BodyModel.load(path)


def world_vertices(capture: Capture, pose: int) -> np.ndarray:
    values = (capture.betas, capture.poses[pose], capture.transl[pose])
    return loaded(capture.body_model).vertices(*(torch.from_numpy(value).float() for value in values)).double().numpy()


@pytest.mark.parametrize(("build", "layout"), LAYOUTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_every_layout_says_the_same(tmp_path: Path, build: Callable[[Path, Person], Seen], layout: str) -> None:
    seen = build(tmp_path, PERSON)
    capture = opened(tmp_path)
    assert capture.layout == layout
    assert capture.left_out == ()
    frames = [frame for members in capture.splits.values() for frame in members]
    assert len({frame.pose_id for frame in frames}) == PERSON.n
    for frame in frames:
        i = which(capture.image(frame))  # the picture says which frame it is
        camera = capture.cameras[frame.camera]
        local = np.c_[world_vertices(capture, frame.pose_id), np.ones(6890)] @ camera.world_to_camera[:3].T
        ours = (local / local[:, 2:]) @ camera.K[:2].T - 0.5
        expected = seen(frame.camera, i).pixels(PERSON.vertices[i])
        # Of GVHMR and GEM, SMPL's shape is only the nearest to SMPL-X's.
        assert np.abs(ours - expected).max() < (0.5 if layout in SMPLX else 0.05), (frame, i)
        covered = capture.mask(frame)
        if camera.distortion is None:
            assert np.array_equal(covered, mask(i))
        else:  # a lens moves the edges by a pixel or two
            assert np.abs(covered - mask(i)).mean() < 0.05
            assert covered[40, 50] == 1
            assert covered[:10].max() == 0
    assert layout in SMPLX or np.allclose(capture.betas, PERSON.betas, atol=1e-3)
    head = world_vertices(capture, 0) @ np.array(capture.up)
    assert head.max() - head.min() > 1.4  # metres: a person stands along `up`


@pytest.mark.parametrize("name", ["zju", "arah"])
def test_stored_vertices_agree_to_a_millimetre(tmp_path: Path, name: str) -> None:
    build = next(build for build in LAYOUTS if build.__name__ == name)
    build(tmp_path, PERSON)
    capture = opened(tmp_path)
    for frame in capture.splits["train"]:
        if name == "zju":
            stored, ours = (
                np.load(capture.root / "new_vertices" / f"{frame.pose_id}.npy"),
                world_vertices(capture, frame.pose_id),
            )
        else:
            stored = np.load(capture.root / "models" / f"{frame.stem}.npz")["minimal_shape"]
            ours = loaded(capture.body_model).shape(torch.from_numpy(capture.betas).float())[0].numpy()
        assert np.abs(stored - ours).max() < 1e-3


def test_one_shape_for_all_and_each_pelvis_stays_where_its_own_fit_had_put_it(tmp_path: Path) -> None:
    """Fits of another shape in each frame; the mean of those of training is the person's."""
    person = Person(6)
    instant_avatar(tmp_path, person)
    path = tmp_path / "poses_optimized.npz"
    fits = dict(np.load(path))
    fits["betas"] = person.betas + 0.7 * np.arange(person.n)[:, None]
    np.savez(path, **fits)
    capture = opened(tmp_path)
    trained = sorted({frame.pose_id for frame in capture.splits["train"]})
    assert len(trained) < person.n
    assert np.allclose(capture.betas, fits["betas"][trained].mean(0))

    def pelvis(betas: np.ndarray) -> np.ndarray:
        return loaded(capture.body_model).shape(torch.from_numpy(betas).float())[1][0].numpy()

    for i in range(person.n):
        there, expected = capture.transl[i] + pelvis(capture.betas), fits["transl"][i] + pelvis(fits["betas"][i])
        assert np.abs(there - expected).max() < 1e-5


def test_a_layout_can_be_named(tmp_path: Path) -> None:
    """Results of two trackers in one folder: the first is read unless the other is named."""
    for name in ("wham", "romp"):
        next(build for build in LAYOUTS if build.__name__ == name)(tmp_path, PERSON)
    assert opened(tmp_path).layout == "wham"
    romp = opened(tmp_path, layout="romp")
    assert romp.layout == "romp"
    assert romp.intrinsics("camera")[0][0, 0] == pytest.approx(443.4 * 96 / 512, abs=0.1)


def test_humannerf_s_intrinsics_may_be_4_by_4(tmp_path: Path) -> None:
    humannerf(tmp_path, PERSON)
    plain = opened(tmp_path).cameras
    file = tmp_path / "377" / "cameras.pkl"
    cameras = pickle.loads(file.read_bytes())
    for entry in cameras.values():
        entry["intrinsics"] = np.block([[entry["intrinsics"], np.zeros((3, 1))], [np.zeros((1, 3)), np.eye(1)]])
    file.write_bytes(pickle.dumps(cameras))
    for name, camera in opened(tmp_path).cameras.items():
        assert np.array_equal(camera.K, plain[name].K)


# Where the documentation of each says its calibrations have the first pixel's centre.
AT_HALF = {"tracked", "neuman", "gvhmr", "gem", "wham", "4d-humans", "romp", "sam-3d-body"}


@pytest.mark.parametrize(("build", "layout"), LAYOUTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_the_option_overrides_a_layout_s_pixel_centres(
    tmp_path: Path, build: Callable[[Path, Person], Seen], layout: str
) -> None:
    seen = build(tmp_path, PERSON)
    opencv = opened(tmp_path).cameras  # what the images show, as `test_every_layout_says_the_same` has it
    in_file = 0.5 if layout in AT_HALF else 0.0
    for choice, added in (("auto", 0.5 - in_file), ("whole", 0.5), ("half", 0.0)):
        capture = opened(tmp_path, pixel_centres=choice)
        assert capture.cameras.keys() == opencv.keys()
        for frame in (frame for members in capture.splits.values() for frame in members):
            expected = seen(frame.camera, frame.pose_id).K[:2, 2] + in_file + added
            K = capture.cameras[frame.camera].K
            assert K[:2, 2] == pytest.approx(expected, abs=1e-4), (choice, frame)
            assert np.array_equal(np.delete(K, [2, 5]), np.delete(opencv[frame.camera].K, [2, 5]))


def test_pixel_centres_reach_the_data_parser_and_the_cache(tmp_path: Path) -> None:
    humannerf(tmp_path, PERSON)
    open_capture.cache_clear()
    found = {}
    for choice in ("auto", "whole", "half"):
        config = FMGSDataParserConfig(data=tmp_path / "377", pixel_centres=choice)
        outputs = FMGSDataParser(config).get_dataparser_outputs()
        found[choice] = np.array([float(outputs.cameras.cx[0]), float(outputs.cameras.cy[0])])
    middle = intrinsics()[:2, 2]
    assert found["whole"] == pytest.approx(middle + 0.5)
    assert found["auto"] == pytest.approx(middle + 0.5)
    assert found["half"] == pytest.approx(middle)
