"""Every file of every layout, corrupted in every way: what is wrong is told by the file's name, or nothing has changed.

A capture is written once; then each kind of file in it is corrupted, the capture is opened and all of it is read.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fmgs_dataparsers import assemble
from fmgs_dataparsers.capture import Capture, CaptureError, Frame
from fmgs_dataparsers.parser import open_capture
from nerfstudio.utils.rich_utils import CONSOLE
from support.corruption import corruptions
from support.keypoint_capture import gem_smpl
from support.known_person import ASSET, HEIGHT, WIDTH, Person, mask, write
from support.layout_capture import (
    LAYOUTS,
    gvhmr,
    humannerf,
    humans4d,
    instant_avatar,
    neuman,
    neuman_hugs,
    romp_images,
    snapshot_arah,
    zju,
)

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.maps.maps import KINDS, Kind, PriorsError, PriorsInfo, PriorsWriter, SapiensWriter
from fmgs_nerfstudio.motion.motion import MotionError
from fmgs_nerfstudio.motion.readers import read_motion

PERSON = Person(3)


# Layouts with what `LAYOUTS` has not -----------------------------------------


def _one_camera(root: Path, person: Person) -> Path:
    zju(root, person, cameras=1)
    return root / "CoreView_377"


def _maps(i: int) -> dict[Kind, np.ndarray]:
    normal = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    normal[..., 2] = 1
    depth = np.linspace(2, 3, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    covered = mask(i)
    return {"semantics": covered * np.uint8(21), "depth": depth, "normal": normal, "mask": covered.astype(np.float32)}


def zju_priors(root: Path, person: Person, sapiens: bool = False) -> None:
    root = _one_camera(root, person)
    writer = SapiensWriter(root) if sapiens else PriorsWriter(root, PriorsInfo(estimator="test", licence="none"))
    for i in range(person.n):
        for kind, values in _maps(i).items():
            writer.write(kind, "Camera_B1", f"{i:06d}", values)


def zju_sapiens(root: Path, person: Person) -> None:
    zju_priors(root, person, sapiens=True)


def zju_demo(root: Path, person: Person) -> None:
    """With exact maps and a protocol of its own, as `fmgs-demo` writes it."""
    root = _one_camera(root, person)
    for i in range(person.n):
        exact = {kind: (values * 255).astype(np.uint8) for kind, values in _maps(i).items()}
        exact |= {"depth": np.full((HEIGHT, WIDTH), 20000, np.uint16), "semantics": mask(i).astype(np.uint8)}
        for kind, values in exact.items():
            write(root / "ground_truth" / kind / "Camera_B1" / f"{i:06d}.png", values)
    part = {"cameras": ["Camera_B1"], "frames": [0, 1]}
    parts = {"train": part, "novel_view": {"cameras": [], "frames": []}, "novel_pose": {**part, "frames": [2]}}
    (root / "protocol.json").write_text(json.dumps({"name": "own", **parts}))


def neuman_split(root: Path, person: Person) -> None:
    neuman(root, person)
    (root / "train_split.txt").write_text("00000.png\n00001.png\n00002.png\n")
    (root / "test_split.txt").write_text("00002.png\n")


def humannerf_betas(root: Path, person: Person) -> None:
    humannerf(root, person)
    np.save(root / "377" / "avg_betas.npy", person.betas)


def instant_avatar_protocol(root: Path, person: Person) -> None:
    root = root / "male-3-casual"
    root.mkdir()
    instant_avatar(root, person)
    (root / "SMPL_NEUTRAL.npz").rename(root / "SMPL_MALE.npz")
    (root / "poses").mkdir()
    (root / "poses_optimized.npz").rename(root / "poses" / "anim_nerf_train.npz")


BUILDERS: dict[Callable[[Path, Person], Any], str] = {
    **dict.fromkeys(LAYOUTS, ""),
    zju_priors: "priors",
    zju_sapiens: "sapiens",
    zju_demo: "ground_truth|protocol",
    neuman_split: r"\w+_split",
    humannerf_betas: "avg_betas",
    instant_avatar_protocol: "poses",
    gem_smpl: "smpl_params",
}
"""Writers, and which of their files to corrupt."""


# What is read -------------------------------------------------------------------


Pixels = dict[tuple[str, str], list[np.ndarray]]
"""By split and image."""


def read_all(root: Path) -> tuple[Capture, Pixels]:
    """The capture, and all numbers and pixels of each of its images."""
    open_capture.cache_clear()
    capture = open_capture(root)
    found = {}
    for split, members in capture.splits.items():
        for frame in members:
            found[split, str(frame.image)] = list(_values(capture, frame))
    return capture, found


def _values(capture: Capture, frame: Frame) -> Iterator[np.ndarray]:
    camera = capture.cameras[frame.camera]
    yield from (capture.poses[frame.pose_id], capture.transl[frame.pose_id], capture.betas, camera.world_to_camera)
    yield from (capture.intrinsics(frame.camera)[0], capture.image(frame), capture.mask(frame))
    maps = capture.truth(frame) | {kind: capture.prior(kind, frame) for kind in KINDS}
    yield from (np.zeros(0) if value is None else value for value in maps.values())


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    pairs = zip(a, b, strict=True)
    return all(x.shape == y.shape and np.allclose(x, y, rtol=1e-4, atol=1e-4) for x, y in pairs)


def problem(root: Path, path: Path, whole: Pixels) -> str | None:
    """None where the corruption is told by name or changes nothing."""
    try:
        capture, found = read_all(root)
    except (CaptureError, PriorsError) as error:
        told = path.name in str(error) or (not path.exists() and "holds no known layout" in str(error))
        return None if told else f"told without its name: {error}"
    except Exception as error:  # what a user would see as a traceback
        return repr(error)
    if not all(key in whole and same(values, whole[key]) for key, values in found.items()):
        return "silently read as something else"
    lost = whole.keys() - found.keys()
    if lost and not any(path.name in item.detail for item in capture.left_out):
        return f"{len(lost)} images lost without its name"
    return None


# Files that are as good without what was taken, and what only people could miss.
HARMLESS = (
    ("*", "*betas: a * too few", "any number of betas is a shape"),
    ("*", "*shapes: a * too few", "any number of betas is a shape"),
    ("*/avg_betas.npy", "a *", "any number of betas is a shape"),
    ("*/SMPLX_NEUTRAL.npz", "shapedirs: a column too few", "any number of betas is a shape"),
    ("*/SMPLX_NEUTRAL.npz", "missing", "SMPL's mean shape stands in, and that is said"),
    ("*mask*", "missing", "told by the name of its image; of two masks one is enough"),
    ("*/1/000001.png", "missing", "a mask beside its image, by whose name it is told"),
    ("*/images/*", "missing", "a folder's images are the capture"),
    ("*/image/*", "missing", "a folder's images are the capture"),
    ("*.mp4", "missing", "told as the folder that has no video"),
    ("*/annots.npy", "ims: a row too few", "the images that are listed are the capture"),
    ("*/cam_params.json", "all_cam_names: a row too few", "the cameras that are listed are the capture"),
    ("*/intri.yml", "names: a row too few", "the cameras that are listed are the capture"),
    ("*/intri.yml", "no dist_*", "a lens without distortion"),
    ("*/cameras.pkl", "*: no distortions", "a lens without distortion"),
    ("*/masks.hdf5", "masks: a row too few", "the number of masks alone says which poses are before the video"),
    ("*/wham_output.pkl", "no 4", "another person is tracked"),
    ("*/demo_clip.pkl", "*: no mask", "told by the name of the image: the tracker need not have masks"),
    ("*/demo_clip.pkl", "*: mask: *", "told by the name of the image: the tracker need not have masks"),
    ("*/romp/photo1.npz", "missing", "told by the name of the image, as one in which nobody was found"),
    ("*/romp/photo1.npz", "*smpl_thetas: a row too few", "told by the name of the image: nobody was found"),
    ("*/protocol.json", "missing", "the layout's own split stands in"),
    ("*/protocol.json", "novel_pose: *: a row too few", "what is listed is the split"),
    ("*_split.txt", "* too few", "what is listed is the split"),
    ("*_split.txt", "a row too few", "what is listed is the split"),
    ("*/priors/*.png", "missing", "a frame without this map (`Capture.prior`)"),
    ("*/sapiens/*.npy", "missing", "a frame without this map (`Capture.prior`)"),
    ("*/sapiens/depth/*", "a NaN", "a pixel without depth orders no pair (`depth_ranking_loss`)"),
    ("*/sapiens/normal/*", "a NaN", "a pixel without a normal is 0"),
)


def harmless(path: Path, label: str) -> bool:
    return any(fnmatch(str(path), files) and fnmatch(label, labels) for files, labels, _ in HARMLESS)


def one_of_each(root: Path, pattern: str) -> list[Path]:
    """Of files that differ in their numbers, the second; body models have a test of their own."""
    alike: dict[tuple[Path, str], list[Path]] = {}
    for path in sorted(root.rglob("*")):
        known = re.match(pattern, str(path.relative_to(root))) and not path.name.startswith(("SMPL_", "basicModel_"))
        if path.is_file() and known:
            alike.setdefault((path.parent, re.sub(r"\d+", "", path.name)), []).append(path)
    return [paths[len(paths) > 1] for paths in alike.values()]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    find = cache(lambda gender, places, find=assemble.BodyFile.find: find(gender, places))
    monkeypatch.setattr(assemble.BodyFile, "find", lambda gender, places: find(gender, tuple(places)))
    monkeypatch.setattr(CONSOLE, "quiet", True)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_corruption_is_told_by_name(tmp_path: Path, build: Callable[[Path, Person], Any]) -> None:
    build(tmp_path, PERSON)
    inside = list(tmp_path.iterdir())
    root = inside[0] if len(inside) == 1 else tmp_path
    _, whole = read_all(root)
    assert whole
    found = []
    for path in one_of_each(root, BUILDERS[build]):
        content = path.read_bytes()
        for label, corrupt in corruptions(path):
            corrupt(path)
            if (what := problem(root, path, whole)) and not harmless(path, label):
                found.append(f"{path.relative_to(root)}, {label}: {what}")
            path.write_bytes(content)
    assert not found, "\n".join(found)


def test_a_missing_image_shifts_no_other(tmp_path: Path) -> None:
    """Where results are rows of a file or files by number, each image keeps its own."""
    person = Person(5)
    for build in (instant_avatar, neuman_hugs, snapshot_arah, humans4d, romp_images, gvhmr):
        root = tmp_path / build.__name__
        root.mkdir()
        build(root, person)
        root = next((path for path in root.iterdir() if path.name == "male-9-sport"), root)
        before, whole = read_all(root)
        frames = before.splits["train"]
        frames[1].image.unlink()
        capture, found = read_all(root)
        assert len(found) == len(whole) - (build is not gvhmr)  # whose images are made again from the video
        poses = {frame.image: before.poses[frame.pose_id] for frame in sum(before.splits.values(), ())}
        for frame in sum(capture.splits.values(), ()):
            assert np.allclose(capture.poses[frame.pose_id], poses[frame.image], atol=1e-5), frame


# Body models and motions ------------------------------------------------------------


def smpl_npz(root: Path) -> Path:
    (root / "SMPL_NEUTRAL.npz").write_bytes(ASSET.read_bytes())
    return root / "SMPL_NEUTRAL.npz"


def smpl_pkl(root: Path) -> Path:
    with np.load(ASSET) as file:
        (root / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps(dict(file)))
    return root / "SMPL_NEUTRAL.pkl"


def _motion(joints: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 3 * joints)) * 0.1, rng.normal(size=(6, 3))


def amass(root: Path) -> Path:
    poses, trans = _motion(52)
    np.savez(root / "walk.npz", poses=poses, trans=trans, mocap_framerate=np.array(120.0))
    return root / "walk.npz"


def amass_parts(root: Path) -> Path:
    poses, trans = _motion(52)
    parts = {"root_orient": poses[:, :3], "pose_body": poses[:, 3:66], "pose_hand": poses[:, 66:]}
    np.savez(root / "walk.npz", **parts, trans=trans, mocap_frame_rate=np.array(60.0))
    return root / "walk.npz"


def aist(root: Path) -> Path:
    poses, trans = _motion(24)
    content = {"smpl_poses": poses, "smpl_trans": trans * 90, "smpl_scaling": np.array([90.0])}
    (root / "gBR.pkl").write_bytes(pickle.dumps(content))
    return root / "gBR.pkl"


def thetas(root: Path) -> Path:
    poses, transl = _motion(24)
    np.savez(root / "poses.npz", thetas=poses, transl=transl)
    return root / "poses.npz"


def _body(path: Path) -> list[np.ndarray]:
    body = BodyModel.load(path)
    return [np.asarray(value) for value in vars(body).values()]


def _played(path: Path) -> list[np.ndarray]:
    motion = read_motion(path)
    return [motion.poses, motion.transl, np.array([motion.fps, *motion.up])]


HARMLESS_HERE = {
    "shapedirs: a column too few": "any number of betas is a shape",
    "no trans": "a motion that says no place stays where it is",
    "no transl": "a motion that says no place stays where it is",
    "no smpl_trans": "a motion that says no place stays where it is",
    "no smpl_scaling": "units and rate are then guessed (`Reading`)",
    "no mocap_framerate": "the rate is then 30 (`Reading`)",
    "no mocap_frame_rate": "the rate is then 30 (`Reading`)",
    "no pose_hand": "SMPL-X's body has no hands",
}


@pytest.mark.parametrize("build", [smpl_npz, smpl_pkl, amass, amass_parts, aist, thetas], ids=lambda b: b.__name__)
def test_corrupt_bodies_and_motions(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    path = build(tmp_path)
    read, told = (_body, (ValueError, FileNotFoundError)) if "SMPL" in path.name else (_played, MotionError)
    whole, content, found = read(path), path.read_bytes(), []
    for label, corrupt in corruptions(path):
        corrupt(path)
        try:
            if not same(read(path), whole) and label not in HARMLESS_HERE:
                found.append(f"{label}: silently read as something else")
        except told as error:
            if str(path) not in str(error):
                found.append(f"{label}: told without its name: {error}")
        path.write_bytes(content)
    assert not found, "\n".join(found)
