"""A tiny capture: its files agree with each other and with a plain reading of the conventions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.cli import demo as cli
from fmgs_nerfstudio.demo import capture
from fmgs_nerfstudio.demo.capture import DemoError, DemoOptions, Preset, make_capture
from fmgs_nerfstudio.maps.classes import IDS, NUM_CLASSES
from fmgs_nerfstudio.maps.maps import open_priors, read_labels, read_normal

EXACT = DemoOptions(preset="ci", pose_noise=0, mask_noise=0, depth_noise=0, normal_noise=0, label_noise=0)
TINY = Preset(96, 0, 8, 2, 3, ("Camera_B2", "Camera_B3"))


@pytest.fixture(scope="module", autouse=True)
def tiny_preset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(capture.PRESETS, "ci", TINY)
        yield


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, tiny_preset: None) -> Path:
    out = tmp_path_factory.mktemp("exact") / "capture"
    assert make_capture(out, EXACT)
    return out


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory, tiny_preset: None) -> Path:
    out = tmp_path_factory.mktemp("noisy") / "capture"
    assert make_capture(out, DemoOptions(preset="ci", priors="sapiens-npy"))
    return out


def protocol(path: Path) -> dict:
    return json.loads((path / "protocol.json").read_text())


def images(path: Path) -> list[tuple[str, int]]:
    """(camera, frame) of every image that the protocol names."""
    splits = protocol(path)
    pairs = {
        (c, f) for s in ("train", "novel_view", "novel_pose") for c in splits[s]["cameras"] for f in splits[s]["frames"]
    }
    return sorted(pairs)


def camera(path: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K, R and T in metres, by the camera's place in the image lists."""
    annots = np.load(path / "annots.npy", allow_pickle=True).item()
    index = [image.split("/")[0] for image in annots["ims"][0]["ims"]].index(name)
    cams = annots["cams"]
    assert not np.any(cams["D"][index])
    return np.array(cams["K"][index]), np.array(cams["R"][index]), np.array(cams["T"][index]).reshape(3) / 1000


def mask(path: Path, name: str, frame: int) -> np.ndarray:
    return cv2.imread(str(path / "ground_truth/mask" / name / f"{frame:06d}.png"), cv2.IMREAD_UNCHANGED) / 255


def depth(path: Path, name: str, frame: int) -> np.ndarray:
    return cv2.imread(str(path / "ground_truth/depth" / name / f"{frame:06d}.png"), cv2.IMREAD_UNCHANGED) * 1e-4


def test_only_the_images_of_the_protocol_exist(exact: Path) -> None:
    expected = {f"{name}/{frame:06d}" for name, frame in images(exact)}
    assert len(expected) == 8 + 4 * 2 + 2 * 3
    for folder, suffix in (
        (".", "jpg"),
        ("mask_cihp", "png"),
        ("ground_truth/depth", "png"),
        ("ground_truth/semantics", "png"),
    ):
        found = {
            str(p.relative_to(exact / folder).with_suffix("")) for p in (exact / folder).glob(f"Camera_B*/*.{suffix}")
        }
        assert found == expected
    frames = {frame for _, frame in images(exact)}
    for folder in ("new_params", "new_vertices"):
        assert {int(p.stem) for p in (exact / folder).glob("*.npy")} == frames
    ims = np.load(exact / "annots.npy", allow_pickle=True).item()["ims"]
    assert len(ims) == len(frames)
    assert ims[3]["ims"][1] == "Camera_B2/000003.jpg"
    splits = protocol(exact)
    assert splits["train"]["cameras"] == ["Camera_B1"]
    assert "Camera_B1" not in splits["novel_view"]["cameras"]
    assert not set(splits["novel_pose"]["frames"]) & set(splits["train"]["frames"])
    held_out = set(splits["novel_view"]["frames"]) | set(splits["novel_pose"]["frames"])
    assert {p.stem for p in (exact / "ground_truth/surface").glob("0*.npz")} == {f"{f:06d}" for f in held_out}
    kinds = {"semantics", "depth", "normal", "mask"}
    for kind in kinds:
        assert {p.parent.name for p in (exact / "priors" / kind).rglob("*.png")} == {"Camera_B1"}


def test_it_says_whether_its_poses_are_exact(exact: Path, noisy: Path) -> None:
    assert (protocol(exact)["exact_poses"], protocol(noisy)["exact_poses"]) == (True, False)


@pytest.mark.parametrize("which", ["exact", "noisy"])
def test_vertices_are_those_of_the_fit(which: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(which)
    body = BodyModel.load(path / "SMPL_NEUTRAL.npz")
    for frame in (0, 9):
        fit = np.load(path / "new_params" / f"{frame}.npy", allow_pickle=True).item()
        assert {name: array.shape for name, array in fit.items()} == {
            "poses": (1, 72), "Rh": (1, 3), "Th": (1, 3), "shapes": (1, 10),
        }  # fmt: skip
        assert not fit["poses"][0, :3].any()
        tensors = {name: torch.tensor(array[0]) for name, array in fit.items()}
        still = body.vertices(tensors["shapes"], tensors["poses"], torch.zeros(3)).numpy()
        world = Rotation.from_rotvec(fit["Rh"][0]).apply(still) + fit["Th"][0]
        np.testing.assert_allclose(np.load(path / "new_vertices" / f"{frame}.npy"), world, atol=2e-5)


def test_exact_parameters_in_smplx_sense(exact: Path) -> None:
    truth = np.load(exact / "ground_truth/smpl_params.npz")
    body = BodyModel.load(exact / "SMPL_NEUTRAL.npz")
    for frame in (2, 10):
        pose = np.concatenate([truth["global_orient"][frame], truth["body_pose"][frame]])
        tensors = (torch.tensor(a, dtype=torch.float32) for a in (truth["betas"], pose, truth["transl"][frame]))
        np.testing.assert_allclose(
            body.vertices(*tensors).numpy(), np.load(exact / f"new_vertices/{frame}.npy"), atol=2e-5
        )


def test_body_projects_into_the_mask(exact: Path) -> None:
    for name, frame in images(exact):
        K, R, T = camera(exact, name)
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)
        v = np.load(exact / "new_vertices" / f"{frame}.npy") @ R.T + T
        pixel = np.rint((v @ K.T)[:, :2] / v[:, 2:]).astype(int)
        inside = binary_dilation(mask(exact, name, frame) > 0.5)[pixel[:, 1], pixel[:, 0]]
        assert inside.mean() > 0.98, (name, frame)  # but for finger tips thinner than a pixel


def test_person_fills_the_image_but_for_a_margin(exact: Path) -> None:
    for name in ("Camera_B1", "Camera_B2"):
        boxes = [np.argwhere(mask(exact, n, f) > 0) for n, f in images(exact) if n == name]
        low, high = np.min([b.min(0) for b in boxes], 0), np.max([b.max(0) for b in boxes], 0)
        assert low.min() >= 0.06 * TINY.size
        assert high.max() <= 0.94 * TINY.size
        assert (high - low).max() > 0.7 * TINY.size


def test_depth_and_normals_agree_with_the_surface(exact: Path) -> None:
    """Moeller-Trumbore in plain numpy, on the rays that K, R, T define through pixel centres at whole numbers."""
    faces = np.load(exact / "ground_truth/surface/faces.npz")
    rng = np.random.default_rng(0)
    for name, frame in (("Camera_B3", protocol(exact)["novel_view"]["frames"][0]), ("Camera_B2", 9)):
        K, R, T = camera(exact, name)
        triangles = np.load(exact / f"ground_truth/surface/{frame:06d}.npz")["vertices"].astype(float)[faces["faces"]]
        z = depth(exact, name, frame)
        labels = read_labels(exact / f"ground_truth/semantics/{name}/{frame:06d}.png")
        normals = read_normal(exact / f"ground_truth/normal/{name}/{frame:06d}.png")
        rows, columns = np.nonzero(binary_dilation(z > 0, iterations=2))
        for k in rng.choice(len(rows), 60, replace=False):
            i, j = rows[k], columns[k]
            ray = R.T @ np.array([(j - K[0, 2]) / K[0, 0], (i - K[1, 2]) / K[1, 1], 1.0])
            edge1, edge2 = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
            p = np.cross(ray, edge2)
            determinant = np.einsum("fi,fi->f", edge1, p)
            determinant = np.where(np.abs(determinant) < 1e-15, np.inf, determinant)
            s = -R.T @ T - triangles[:, 0]
            u = np.einsum("fi,fi->f", s, p) / determinant
            q = np.cross(s, edge1)
            v = q @ ray / determinant
            t = np.einsum("fi,fi->f", edge2, q) / determinant
            hit = (u > 0) & (v > 0) & (u + v < 1) & (t > 0) & np.isfinite(determinant)
            if not hit.any():
                assert z[i, j] == 0 or not binary_erosion(z > 0)[i, j]  # a ray along an edge may go either way
                continue
            first = np.flatnonzero(hit)[np.argmin(t[hit])]
            np.testing.assert_allclose(z[i, j], t[first], atol=2e-4)
            assert labels[i, j] == faces["labels"][first]
            flat = R @ np.cross(edge1[first], edge2[first])
            cosine = abs(flat @ (normals[i, j] * [1, -1, -1])) / np.linalg.norm(flat)
            assert cosine > 0.5  # interpolated normals differ from the face's, not by much


def test_normals_face_the_camera_in_opengl_axes(exact: Path) -> None:
    normals = read_normal(exact / "ground_truth/normal/Camera_B1/000000.png")
    hit = depth(exact, "Camera_B1", 0) > 0
    np.testing.assert_array_equal(np.linalg.norm(normals, axis=-1) > 0.5, hit)
    y, x = np.nonzero(hit)
    assert normals[hit][:, 2].mean() > 0.5
    assert np.corrcoef(normals[hit][:, 0], x)[0, 1] > 0.15
    assert normals[y.min(), int(np.median(x[y == y.min()])), 1] > 0.4  # the top of the head looks up


def test_zero_noise_is_exact(exact: Path) -> None:
    priors = open_priors(exact)
    assert priors is not None
    assert priors.info.estimator.startswith("fmgs-demo")
    for frame in (0, 5):
        stem, z = f"{frame:06d}", depth(exact, "Camera_B1", frame)
        hit = z > 0
        truth = read_labels(exact / f"ground_truth/semantics/Camera_B1/{stem}.png")
        np.testing.assert_array_equal(priors.read("semantics", "Camera_B1", stem), truth)
        np.testing.assert_array_equal(truth > 0, hit)
        relative = priors.read("depth", "Camera_B1", stem)[hit]
        np.testing.assert_allclose(relative, (z[hit] - z[hit].min()) / np.ptp(z[hit]), atol=1e-3)
        normal = priors.read("normal", "Camera_B1", stem)
        exact_normal = read_normal(exact / f"ground_truth/normal/Camera_B1/{stem}.png")
        assert np.degrees(np.arccos(np.clip(np.sum(normal * exact_normal, -1)[hit], -1, 1))).max() < 0.6
        silhouette = cv2.imread(str(exact / f"mask_cihp/Camera_B1/{stem}.png"), cv2.IMREAD_UNCHANGED) > 0
        np.testing.assert_array_equal(silhouette, mask(exact, "Camera_B1", frame) > 0.5)


def test_noisy_capture_errs_as_promised(exact: Path, noisy: Path) -> None:
    differences, wrong = [], []
    for frame in range(11):
        a, b = (np.load(p / "new_params" / f"{frame}.npy", allow_pickle=True).item() for p in (exact, noisy))
        joints = [np.concatenate([p["Rh"][0], p["poses"][0, 3:]]).reshape(24, 3) for p in (a, b)]
        turn = Rotation.from_rotvec(joints[1]) * Rotation.from_rotvec(joints[0]).inv()
        differences.append(turn.magnitude())
        np.testing.assert_array_equal(a["shapes"], b["shapes"])
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(differences))), 0.015, rtol=0.02)
    for name, frame in images(noisy):
        silhouette = cv2.imread(str(noisy / f"mask_cihp/{name}/{frame:06d}.png"), cv2.IMREAD_UNCHANGED) > 0
        true = mask(noisy, name, frame) > 0.5
        wrong.append(np.mean(silhouette != true) / np.mean(true))
    assert 0.03 < np.mean(wrong) < 0.3
    # noise never touches pictures or truth
    for file in ("Camera_B1/000003.jpg", "ground_truth/depth/Camera_B1/000003.png", "ground_truth/smpl_params.npz"):
        assert (exact / file).read_bytes() == (noisy / file).read_bytes()


def test_sapiens_files_have_its_types(noisy: Path) -> None:
    assert not (noisy / "priors").exists()
    folder = noisy / "sapiens"
    kinds = {"seg/Camera_B1/000000.npy": np.bool_, "seg/Camera_B1/000000_seg.npy": np.int64,
             "depth/Camera_B1/000000.npy": np.float32, "normal/Camera_B1/000000.npy": np.float32}  # fmt: skip
    for file, dtype in kinds.items():
        array = np.load(folder / file)
        assert array.dtype == dtype
        assert array.shape[:2] == (TINY.size, TINY.size)
    normal = np.load(folder / "normal/Camera_B1/000000.npy")
    assert np.linalg.norm(normal, axis=-1).min() > 0.5  # not masked
    priors = open_priors(noisy)
    assert priors is not None
    assert priors.kinds == {"semantics", "depth", "normal", "mask"}


def test_classes_of_a_dressed_person(exact: Path) -> None:
    counts = np.zeros(NUM_CLASSES, int)
    for name, frame in images(exact):
        labels = read_labels(exact / f"ground_truth/semantics/{name}/{frame:06d}.png")
        counts += np.bincount(labels.ravel(), minlength=NUM_CLASSES)
    shown = {
        "Face_Neck",
        "Hair",
        "Upper_Clothing",
        "Lower_Clothing",
        "Left_Hand",
        "Right_Hand",
        "Left_Shoe",
        "Right_Shoe",
    }
    assert all(counts[IDS[name]] > 20 for name in shown)
    # at the first frame the subject faces the camera: their left is at the right of the image
    x = np.arange(TINY.size)
    labels = read_labels(exact / "ground_truth/semantics/Camera_B1/000000.png")
    left, right = ((labels == IDS[f"{side}_Hand"]).sum(0) for side in ("Left", "Right"))
    assert left @ x / left.sum() > right @ x / right.sum()


def test_seeds_are_different_people(tmp_path: Path, exact: Path) -> None:
    other = tmp_path / "capture"
    make_capture(other, DemoOptions(preset="ci", seed=2, priors="none", light="key"))
    a, b = (cv2.imread(str(p / "Camera_B1/000000.jpg")).astype(int) for p in (exact, other))
    assert np.abs(a - b)[mask(exact, "Camera_B1", 0) > 0.5].mean() > 20
    betas = [np.load(p / "ground_truth/smpl_params.npz")["betas"] for p in (exact, other)]
    assert np.abs(betas[0] - betas[1]).max() > 0.1
    assert open_priors(other) is None
    light = json.loads((other / "ground_truth/light.json").read_text())
    assert light["name"] == "key"
    assert light["key"] > 0


def test_background_is_plain_and_not_black(exact: Path) -> None:
    image = cv2.imread(str(exact / "Camera_B1/000000.jpg"))
    far = np.asarray(binary_erosion(mask(exact, "Camera_B1", 0) == 0, iterations=8), bool)
    assert image[far].std() < 2
    assert 100 < image[far].mean() < 240


def test_an_equal_capture_is_kept_and_another_refused(exact: Path, tmp_path: Path) -> None:
    before = (exact / "annots.npy").stat().st_mtime_ns
    assert not make_capture(exact, EXACT)
    assert (exact / "annots.npy").stat().st_mtime_ns == before
    with pytest.raises(DemoError, match=r"seed 0 -> 3.*--overwrite"):
        make_capture(exact, dataclasses.replace(EXACT, seed=3))
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(DemoError, match="no capture of fmgs-demo"):
            make_capture(foreign, EXACT, overwrite)
    assert (foreign / "thesis.txt").exists()


def test_failure_leaves_nothing_and_overwrite_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "capture"
    small = DemoOptions(preset="ci", priors="none")
    monkeypatch.setitem(capture.PRESETS, "ci", Preset(48, 0, 2, 1, 0, ()))

    def fail(done: int, total: int) -> None:
        if done:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make_capture(out, small, progress=fail)
    assert not list(tmp_path.iterdir())
    assert make_capture(out, small)
    assert make_capture(out, DemoOptions(preset="ci", priors="none", seed=4), overwrite=True)
    assert protocol(out)["generator"]["seed"] == 4
    assert [p.name for p in tmp_path.iterdir()] == ["capture"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", "cannot be replaced while it is in use"),
        ("..", "is not empty and no capture of fmgs-demo"),
        ("/proc/none/capture", "/proc/none cannot be written to"),
        ("file/capture", "file cannot be written to: Not a directory"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, message: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(capture, "CaptureWriter", lambda *arguments: pytest.fail("began to work"))
    if out.startswith("file"):
        Path("file").write_text("mine")
    monkeypatch.setattr("sys.argv", ["fmgs-demo", out, "--preset", "ci"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--pose-noise", "-1"], "--pose-noise is -1.0"), (["--seed", "-2"], "--seed is -2")]
)
def test_command_line_reports_mistakes_without_a_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["fmgs-demo", str(tmp_path / "x"), "--preset", "ci", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
