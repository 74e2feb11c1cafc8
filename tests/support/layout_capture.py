"""`known_person` in every layout, by code that shares nothing with the readers.

Each function writes a capture and returns what its images show: the view of a camera in a frame.
"""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import h5py
import joblib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.known_person import (
    ASSET,
    DISTORTION,
    HEIGHT,
    WIDTH,
    Person,
    View,
    body_model,
    intrinsics,
    mask,
    middle,
    picture,
    view,
    write,
)

Seen = Callable[[str, int], View]
"""Camera and frame -> what that image shows."""


def save_object(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(value, dtype=object))


def save_video(path: Path, person: Person) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25), options={"qscale": "1"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        for i in range(person.n):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i), format="bgr24")))
        container.mux(stream.encode())


def own_masks(root: Path, person: Person) -> None:
    for i in range(person.n):
        write(root / "masks" / f"{i:06d}.png", mask(i).astype(np.uint8) * 255)


# ZJU-MoCap -----------------------------------------------------------------


def _annots(views: dict[str, View], names: list[list[str]]) -> dict[str, Any]:
    return {
        "cams": {
            "K": [v.K for v in views.values()],
            "R": [v.R for v in views.values()],
            "T": [v.T[:, None] * 1000 for v in views.values()],
            "D": [DISTORTION[:, None]] * len(views),
        },
        "ims": [{"ims": of_frame} for of_frame in names],
    }


def zju(root: Path, person: Person, cameras: int = 2) -> Seen:
    """The demo's and most subjects' form."""
    root = root / "CoreView_377"
    views = {f"Camera_B{k + 1}": view(40.0 * k) for k in range(cameras)}
    save_object(root / "annots.npy", _annots(views, [[f"{n}\\{i:06d}.jpg" for n in views] for i in range(person.n)]))
    for i in range(person.n):
        save_object(root / "new_params" / f"{i}.npy", person.easymocap(i))
        (root / "new_vertices").mkdir(exist_ok=True)
        np.save(root / "new_vertices" / f"{i}.npy", person.vertices[i])
        for name in views:
            write(root / name / f"{i:06d}.jpg", picture(i))
            write(root / "mask_cihp" / name / f"{i:06d}.png", mask(i).astype(np.uint8) * 5)
    body_model(root)
    return lambda camera, i: views[camera]


def zju_313(root: Path, person: Person) -> Seen:
    """Folders with brackets, frames from 1, and two sets of masks that only together have all of the person."""
    root = root / "CoreView_313"
    views = {"Camera (1)": view(), "Camera (22)": view(70.0)}
    names = [
        [f"{n}/CoreView_313_{n.replace(' ', '_')}_{i + 1:04d}_2019-08-23_16-08-50.592.jpg" for n in views]
        for i in range(person.n)
    ]
    save_object(root / "annots.npy", _annots(views, names))
    for i in range(person.n):
        save_object(root / "params" / f"{i + 1}.npy", person.easymocap(i))
        upper = mask(i) & (np.arange(HEIGHT)[:, None] < 40)
        for name in names[i]:
            write(root / name, picture(i))
            write(root / "mask_cihp" / name.replace(".jpg", ".png"), upper.astype(np.uint8) * 9)
            write(root / "mask" / name.replace(".jpg", ".png"), (mask(i) & ~upper).astype(np.uint8))
    body_model(root)
    return lambda camera, i: views[camera]


def zju_refined(root: Path, person: Person, listed: bool = True) -> Seen:
    root = root / "my_377"
    views = {"00": view(), "01": view(40.0)}
    annots = _annots(views, [[f"images/{n}/{i:06d}.jpg" for n in views] for i in range(person.n)])
    if not listed:
        del annots["ims"]
    save_object(root / ("annots.npy" if listed else "annots_new.npy"), annots)
    for i in range(person.n):
        save_object(root / "smpl_params" / f"{i}.npy", person.easymocap(i))
        for name in views:
            write(root / "images" / name / f"{i:06d}.jpg", picture(i))
            write(root / "mask" / name / f"{i:06d}.png", mask(i).astype(np.uint8) * 255)
    body_model(root)
    return lambda camera, i: views[camera]


def zju_refined_unlisted(root: Path, person: Person) -> Seen:
    return zju_refined(root, person, listed=False)


def _arah_model(path: Path, person: Person, pose: np.ndarray, transl: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with np.load(ASSET) as file:
        shaped = file["v_template"] + file["shapedirs"][..., :10] @ person.betas
    parts = {"root_orient": pose[:3], "pose_body": pose[3:66], "pose_hand": pose[66:], "trans": transl}
    np.savez(path, minimal_shape=shaped.astype(np.float32), betas=person.betas[None], **parts)


def arah(root: Path, person: Person) -> Seen:
    root = root / "CoreView_377"
    views = {"1": view(), "2": view(40.0)}
    cameras = {n: {"K": v.K.tolist(), "D": DISTORTION.tolist(), "R": v.R.tolist(), "T": v.T[:, None].tolist()}
               for n, v in views.items()}  # fmt: skip
    root.mkdir()
    (root / "cam_params.json").write_text(json.dumps({"all_cam_names": list(views), **cameras}))
    for i in range(person.n):
        _arah_model(root / "models" / f"{i:06d}.npz", person, person.pose[i], person.transl[i])
        for name in views:
            write(root / name / f"{i:06d}.jpg", picture(i))
            write(root / name / f"{i:06d}.png", mask(i).astype(np.uint8))
    body_model(root)
    return lambda camera, i: views[camera]


def humannerf(root: Path, person: Person) -> Seen:
    """ZJU-MoCap as HumanNeRF prepares it: no betas, soft masks of three channels, distorted images."""
    root, seen = root / "377", view()
    extrinsics = np.eye(4)
    extrinsics[:3, :3], extrinsics[:3, 3] = seen.R, seen.T
    cameras, infos = {}, {}
    for i in range(person.n):
        name, fit = f"frame_{i:06d}", person.easymocap(i)
        cameras[name] = {"intrinsics": seen.K, "extrinsics": extrinsics, "distortions": DISTORTION}
        infos[name] = {"Rh": fit["Rh"][0], "Th": fit["Th"][0], "poses": fit["poses"][0], "joints": np.zeros((24, 3))}
        infos[name]["tpose_joints"] = person.joints
        write(root / "images" / f"{name}.png", picture(i))
        write(root / "masks" / f"{name}.png", np.dstack([mask(i).astype(np.uint8) * 255] * 3))
    for name, content in (("cameras.pkl", cameras), ("mesh_infos.pkl", infos)):
        (root / name).write_bytes(pickle.dumps(content))
    body_model(root)
    return lambda camera, i: seen


def _moving(i: int) -> View:
    """A camera that goes round the person."""
    return view(25.0 * i, distance=3.0 + 0.1 * i)


def humannerf_video(root: Path, person: Person) -> Seen:
    """`metadata.json` of a video: SMPL at the origin, a camera of its own for each frame."""
    content, seen = {}, {}
    for i in range(person.n):
        to_camera = np.eye(4)
        to_camera[:3, :3], to_camera[:3, 3] = _moving(i).R, _moving(i).R @ person.transl[i] + _moving(i).T
        content[f"{i:06d}"] = {
            "poses": person.pose[i].tolist(), "betas": person.betas.tolist(),
            "cam_intrinsics": intrinsics().tolist(), "cam_extrinsics": to_camera.tolist(),
        }  # fmt: skip
        write(root / "images" / f"{i:06d}.png", picture(i))
        seen[i] = _moving(i)
    own_masks(root, person)
    (root / "metadata.json").write_text(json.dumps(content))
    body_model(root)
    return lambda camera, i: seen[i]


# PeopleSnapshot ------------------------------------------------------------


def _snapshot_camera(root: Path, seen: View) -> None:
    content = {
        "camera_t": np.zeros(3), "camera_rt": np.zeros(3), "camera_f": seen.K[[0, 1], [0, 1]],
        "camera_c": seen.K[:2, 2], "camera_k": DISTORTION, "width": WIDTH, "height": HEIGHT,
    }  # fmt: skip
    (root / "camera.pkl").write_bytes(pickle.dumps(content, protocol=2))


def snapshot(root: Path, person: Person) -> Seen:
    """As it is downloaded: a video, HDF5 files, and a pose more than there are masks."""
    root, seen = root / "female-9-sport", view()
    root.mkdir()
    fits = [person.before(seen, i) for i in range(person.n)]
    with h5py.File(root / "masks.hdf5", "w") as file:
        file["masks"] = np.stack([mask(i) for i in range(person.n)]).astype(np.uint8)
    with h5py.File(root / "reconstructed_poses.hdf5", "w") as file:
        file["pose"] = np.stack([np.zeros(72), *(pose for pose, _ in fits)])
        file["trans"] = np.stack([np.zeros(3), *(transl for _, transl in fits)])
        file["betas"] = person.betas
    _snapshot_camera(root, seen)
    save_video(root / "female-9-sport.mp4", person)
    body_model(root, "basicModel_f_lbs_10_207_0_v1.0.0.npz")
    return lambda camera, i: seen


def snapshot_arah(root: Path, person: Person) -> Seen:
    root, seen = root / "male-9-sport", view()
    for i in range(person.n):
        write(root / "image" / f"{i:06d}.jpg", picture(i))
        write(root / "mask" / f"{i:06d}.png", mask(i).astype(np.uint8) * 255)
        _arah_model(root / "animnerf_models" / f"{i:06d}.npz", person, *person.before(seen, i))
    _snapshot_camera(root, seen)
    body_model(root, "SMPL_MALE.npz")
    return lambda camera, i: seen


# Own videos ----------------------------------------------------------------


def instant_avatar(root: Path, person: Person, thetas: bool = False) -> Seen:
    seen = view()
    fits = [person.before(seen, i) for i in range(person.n)]
    poses, transl = (np.stack(part).astype(np.float32) for part in zip(*fits, strict=True))
    for i in range(person.n):
        write(root / "images" / f"image_{i:04d}.png", picture(i))
        (root / "masks").mkdir(exist_ok=True)
        np.save(root / "masks" / f"mask_{i:04d}.npy", mask(i).astype(np.uint8))
    np.savez(root / "cameras.npz", intrinsic=seen.K, extrinsic=np.eye(4), height=HEIGHT, width=WIDTH)
    pose = {"thetas": poses} if thetas else {"global_orient": poses[:, :3], "body_pose": poses[:, 3:]}
    name = "poses.npz" if thetas else "poses_optimized.npz"
    np.savez(root / name, betas=person.betas[None], transl=transl, **pose)
    body_model(root)
    return lambda camera, i: seen


def instant_avatar_thetas(root: Path, person: Person) -> Seen:
    return instant_avatar(root, person, thetas=True)


def tracked(root: Path, person: Person) -> Seen:
    """Of `fmgs-track`: y points up."""
    seen = view()
    up = Rotation.from_euler("x", -90, degrees=True)
    turned = View(seen.K, seen.R @ up.as_matrix().T, seen.T)
    pelvis = up.apply(person.transl + person.joints[0]) - person.joints[0]
    K, extrinsic = seen.K.copy(), np.eye(4)
    K[:2, 2] += 0.5
    extrinsic[:3, :3], extrinsic[:3, 3] = turned.R, turned.T
    for i in range(person.n):
        write(root / "images" / f"{i:06d}.jpg", picture(i))
        write(root / "masks" / f"{i:06d}.png", mask(i).astype(np.uint8) * 255)
    np.savez(
        root / "fits.npz",
        names=np.array([f"{i:06d}" for i in range(person.n)]), body=np.array("SMPL_NEUTRAL.npz"),
        time=np.arange(person.n) / 15, sigma_rotation=0.1, sigma_position=np.array([0.01, 0.02, 0.03]),
        sigma_lean=0.04, sigma_distance=0.05, sigma_focal=0.06,
        global_orient=(up * Rotation.from_rotvec(person.pose[:, :3])).as_rotvec(), body_pose=person.pose[:, 3:],
        transl=pelvis, betas=person.betas, intrinsic=K, extrinsic=extrinsic, width=WIDTH, height=HEIGHT,
    )  # fmt: skip
    body_model(root)
    return lambda camera, i: seen


_UNITS = 2.5  # of COLMAP's world, to the metre


def _colmap(root: Path, person: Person) -> None:
    lines = []
    for i in range(person.n):
        x, y, z, w = Rotation.from_matrix(_moving(i).R).as_quat()
        t = _moving(i).T * _UNITS
        lines += [f"{i + 1} {w} {x} {y} {z} {t[0]} {t[1]} {t[2]} 1 {i:05d}.png", "" if i else "1.0 2.0 -1"]
        write(root / "images" / f"{i:05d}.png", picture(i))
        write(root / "segmentations" / f"{i:05d}.png", (~mask(i)).astype(np.uint8) * 255)
    K = intrinsics()
    camera = f"1 PINHOLE {WIDTH} {HEIGHT} {K[0, 0]} {K[1, 1]} {K[0, 2] + 0.5} {K[1, 2] + 0.5}\n"
    (root / "sparse").mkdir()
    (root / "sparse" / "cameras.txt").write_text("# Camera list\n" + camera)
    (root / "sparse" / "images.txt").write_text("# Image list\n#\n" + "\n".join(lines[::1]) + "\n")
    body_model(root)


def neuman(root: Path, person: Person) -> Seen:
    """SMPL as ROMP saw it, and an alignment with a scale that takes it into COLMAP's world."""
    _colmap(root, person)
    turn = Rotation.from_euler("xyz", [0.3, -0.5, 0.2])
    pose, alignments = person.pose.copy(), {}
    pose[:, :3] = (turn.inv() * Rotation.from_rotvec(pose[:, :3])).as_rotvec()
    for i in range(person.n):
        local = person.joints[0]  # where SMPL at the origin has the pelvis
        A = np.zeros((4, 3))
        A[:3] = _UNITS * turn.as_matrix().T
        A[3] = _UNITS * (person.transl[i] + local) - local @ A[:3]
        alignments[f"{i:05d}.png"] = A
    save_object(root / "alignments.npy", alignments)
    betas = np.tile(person.betas, (person.n, 1))
    joblib.dump({1: {"pose": pose, "betas": betas}}, root / "smpl_output_romp.pkl", compress=3)
    return lambda camera, i: _moving(i)


def neuman_hugs(root: Path, person: Person) -> Seen:
    _colmap(root, person)
    folder = root / "4d_humans"
    for i in range(person.n):
        write(folder / "sam_segmentations" / f"mask_{i:04d}.png", mask(i).astype(np.uint8) * 255)
    np.savez(
        folder / "smpl_optimized_aligned_scale.npz",
        global_orient=person.pose[:, :3], body_pose=person.pose[:, 3:], betas=np.tile(person.betas, (person.n, 1)),
        transl=_UNITS * person.transl, scale=np.full(person.n, _UNITS),
    )  # fmt: skip
    return lambda camera, i: _moving(i)


def easymocap(root: Path, person: Person) -> Seen:
    views = {"01": view(), "02": view(40.0)}
    intri, extri = (cv2.FileStorage(str(root / f"{n}.yml"), cv2.FILE_STORAGE_WRITE) for n in ("intri", "extri"))
    for storage in (intri, extri):
        storage.startWriteStruct("names", cv2.FILE_NODE_SEQ)
        for name in views:
            storage.write("", name)
        storage.endWriteStruct()
    for name, v in views.items():
        intri.write(f"K_{name}", v.K)
        intri.write(f"dist_{name}", DISTORTION[None])
        extri.write(f"R_{name}", Rotation.from_matrix(v.R).as_rotvec()[:, None])
        extri.write(f"Rot_{name}", v.R)
        extri.write(f"T_{name}", v.T[:, None])
        for i in range(person.n):
            write(root / "images" / name / f"{i:06d}.jpg", picture(i))
            write(root / "mask" / name / f"{i:06d}.png", mask(i).astype(np.uint8) * 255)
    intri.release()
    extri.release()
    (root / "output" / "smpl").mkdir(parents=True)
    for i in range(person.n):
        fit = {key: value.tolist() for key, value in person.easymocap(i).items()}
        fit["poses"] = [fit["poses"][0][3:]] if i % 2 else fit["poses"]
        other = {"id": 3, "Rh": [[0, 0, 0]], "Th": [[9, 9, 9]], "poses": [[0] * 69], "shapes": [[0] * 10]}
        people = [{"id": 7, **fit}] if i else [other, {"id": 7, **fit}]
        (root / "output" / "smpl" / f"{i:06d}.json").write_text(json.dumps(people))
    body_model(root)
    return lambda camera, i: views[camera]


def _video(root: Path, person: Person, seen: View) -> list[tuple[np.ndarray, np.ndarray]]:
    save_video(root / "clip.mp4", person)
    own_masks(root, person)
    body_model(root)
    return [person.before(seen, i) for i in range(person.n)]


def wham(root: Path, person: Person) -> Seen:
    """A passer-by with fewer frames, and drawings of the tracker beside the video."""
    seen = view(K=middle(float(np.hypot(WIDTH, HEIGHT))))
    fits = _video(root, person, seen)
    (root / "output.mp4").write_bytes(b"a rendering")
    results: Any = defaultdict(dict)
    results[0] = {"pose": np.zeros((1, 72)), "trans": np.zeros((1, 3)), "betas": np.zeros((1, 10)),
                  "frame_ids": np.array([0])}  # fmt: skip
    results[4] = {
        "pose": np.stack([pose for pose, _ in fits]), "trans": np.stack([transl for _, transl in fits]),
        "betas": np.tile(person.betas, (person.n, 1)), "frame_ids": np.arange(person.n),
        "verts": np.zeros((person.n, 10, 3), np.float32),
    }  # fmt: skip
    joblib.dump(results, root / "wham_output.pkl")
    return lambda camera, i: seen


def humans4d(root: Path, person: Person) -> Seen:
    """Matrices, someone else in each frame, and masks as COCO's run lengths."""
    coco = pytest.importorskip("pycocotools.mask")
    focal = 5000 / 256 * max(WIDTH, HEIGHT)
    seen = view(K=middle(focal), distance=60.0)
    results = {}
    for i in range(person.n):
        write(root / "images" / f"{i + 1:06d}.jpg", picture(i))
        pose, transl = person.before(seen, i)
        matrices = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().astype(np.float32)
        fit = {"global_orient": matrices[:1], "body_pose": matrices[1:], "betas": person.betas.astype(np.float32)}
        other = {"global_orient": np.eye(3)[None], "body_pose": np.tile(np.eye(3), (23, 1, 1)), "betas": np.zeros(10)}
        runs = [coco.encode(np.asfortranarray(m.astype(np.uint8))) for m in (~mask(i), mask(i))]
        results[f"outputs/_DEMO/clip/img/{i + 1:06d}.jpg"] = {
            "tid": [10 + i, 2],
            "tracked_time": [i, 0], "smpl": [other, fit], "camera": [np.zeros(3), transl], "mask": runs,
        }  # fmt: skip
    body_model(root)
    (root / "results").mkdir()
    joblib.dump(results, root / "results" / "demo_clip.pkl", compress=3)
    return lambda camera, i: seen


def romp(root: Path, person: Person) -> Seen:
    seen = view(K=middle(443.4 * max(WIDTH, HEIGHT) / 512))
    results = {}
    for i, (pose, transl) in enumerate(_video(root, person, seen)):
        two = np.stack([np.zeros(72), pose]), np.stack([np.zeros(3), transl]), np.array([[0.2, 0, 0], [0.7, 0, 0]])
        betas = np.stack([np.zeros(11), np.r_[person.betas, 0.3]])
        results[f"{i:08d}.jpg"] = {"smpl_thetas": two[0], "cam_trans": two[1], "cam": two[2], "smpl_betas": betas}
    np.savez(root / "video_results.npz", results=np.array(results, dtype=object))
    return lambda camera, i: seen


def romp_images(root: Path, person: Person) -> Seen:
    """A file per image."""
    seen = view(K=middle(443.4 * max(WIDTH, HEIGHT) / 512))
    fits = [person.before(seen, i) for i in range(person.n)]
    (root / "romp").mkdir()
    for i, (pose, transl) in enumerate(fits):
        write(root / "images" / f"photo{i}.png", picture(i))
        write(root / "masks" / f"photo{i}.png", mask(i).astype(np.uint8))
        one = {"smpl_thetas": pose[None], "cam_trans": transl[None], "smpl_betas": person.betas[None]}
        one["cam"] = np.ones((1, 3))
        np.savez(root / "romp" / f"photo{i}.npz", results=np.array(one, dtype=object))
    body_model(root)
    return lambda camera, i: seen


def gvhmr(root: Path, person: Person) -> Seen:
    """SMPL-X is played by the same body with another origin."""
    seen = view(K=middle(120.0))
    fits = _video(root, person, seen)
    (root / "clip.mp4").rename(root / "0_input_video.mp4")
    (root / "1_incam.mp4").write_bytes(b"a rendering")
    origin = np.array([0.01, -0.13, 0.02])
    with np.load(ASSET) as file:
        np.savez(
            root / "SMPLX_NEUTRAL.npz",
            v_template=file["v_template"] + origin, shapedirs=file["shapedirs"], J_regressor=file["J_regressor"],
        )  # fmt: skip
    params = {
        "global_orient": np.stack([pose[:3] for pose, _ in fits]), "body_pose": np.stack([p[3:66] for p, _ in fits]),
        "transl": np.stack([transl for _, transl in fits]) - origin, "betas": np.tile(person.betas, (person.n, 1)),
    }  # fmt: skip
    K = seen.K.copy()
    K[:2, 2] += 0.5
    content = {
        "smpl_params_incam": {key: torch.tensor(value).float() for key, value in params.items()},
        "K_fullimg": torch.tensor(K).float().expand(person.n, 3, 3),
    }
    torch.save(content, root / "hmr4d_results.pt")
    return lambda camera, i: seen


LAYOUTS: dict[Callable[[Path, Person], Seen], str] = {
    zju: "zju-mocap",
    zju_313: "zju-mocap",
    zju_refined: "zju-mocap-refined",
    zju_refined_unlisted: "zju-mocap-refined",
    arah: "arah",
    snapshot_arah: "arah",
    snapshot: "people-snapshot",
    instant_avatar: "instant-avatar",
    instant_avatar_thetas: "instant-avatar",
    tracked: "tracked",
    humannerf: "humannerf",
    humannerf_video: "humannerf",
    neuman: "neuman",
    neuman_hugs: "neuman",
    easymocap: "easymocap",
    wham: "wham",
    humans4d: "4d-humans",
    romp: "romp",
    romp_images: "romp",
    gvhmr: "gvhmr",
}
"""Writers, and the layout that each should be told to be."""
