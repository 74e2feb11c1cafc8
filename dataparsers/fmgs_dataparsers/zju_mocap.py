"""ZJU-MoCap, raw layout: `annots.npy`, `Camera_B1/000000.jpg`, `mask_cihp/`, `new_params/0.npy`.

Millimetres, Rh / Th and OpenCV's pixel centres end here. A `protocol.json` beside `annots.npy`, as `fmgs-demo` writes
it, names splits and body model; without it the split is HumanNeRF's.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float

from fmgs_dataparsers.capture import Capture, CaptureError, Frame, PinholeCamera, Split, check_files
from fmgs_nerfstudio.body import BodyModel, find_body_model
from fmgs_nerfstudio.body.unpickle import read_numpy_object
from fmgs_nerfstudio.priors.maps import open_priors

NAME = "zju-mocap"
SIGNATURE = "annots.npy with new_params/ or params/"
# HumanNeRF's split (chungyiweng/humannerf, issue 8): camera 1 trains; the others test on every 30th of the same frames.
_HUMANNERF_FRAMES = {"377": 570, "386": 540, "387": 540, "394": 475}
_HUMANNERF_TEST_STEP = 30


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    return (root / "annots.npy").is_file() and _params_folder(root) is not None


def read(root: Path, body_model: Path | None, downscale: int | None) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    annots = _read(root / "annots.npy")
    try:
        calibration, instants = annots["cams"], annots["ims"]
        images = [[PurePosixPath(str(name).replace("\\", "/")) for name in instant["ims"]] for instant in instants]
    except (KeyError, TypeError, IndexError) as error:
        raise CaptureError(f"{root / 'annots.npy'} lacks the key {error}; expected 'cams' and 'ims'") from error
    names = [str(image.parent) for image in images[0]]
    splits, protocol = _splits(root, names, images)
    used = sorted({image for frames in splits.values() for image in frames}, key=str)
    frame_ids = sorted({int(image.stem) for image in used})
    row = {frame_id: row for row, frame_id in enumerate(frame_ids)}
    frames: dict[Split, tuple[Frame, ...]] = {
        split: tuple(_frame(root, image, row[int(image.stem)]) for image in members)
        for split, members in splits.items()
    }
    check_files([frame for members in frames.values() for frame in members])

    try:
        body_path = find_body_model("neutral", [body_model, root])
        body = BodyModel.load(body_path)
    except ValueError as error:
        raise CaptureError(str(error)) from error
    poses, transl, betas = _poses(root, frame_ids, body)
    cameras = _cameras(root, calibration, names, frames)
    largest = max(max(camera.width, camera.height) for camera in cameras.values())
    return Capture(
        root=root,
        layout=NAME,
        protocol=protocol,
        cameras=cameras,
        splits=frames,
        poses=poses,
        transl=transl,
        betas=betas,
        body_model=body_path,
        up=(0.0, 0.0, 1.0),
        priors=open_priors(root),
        downscale=downscale or max(1, round(largest / 512)),
    )


def _read(path: Path) -> Any:
    try:
        return read_numpy_object(path)
    except (ValueError, FileNotFoundError) as error:
        raise CaptureError(f"{error}; copy it again from its source") from error


def _params_folder(root: Path) -> Path | None:
    # new_params are fits with pose blend shapes, the later of the two.
    return next((root / name for name in ("new_params", "params") if (root / name).is_dir()), None)


def _splits(
    root: Path, names: list[str], images: list[list[PurePosixPath]]
) -> tuple[dict[Split, list[PurePosixPath]], str]:
    path = root / "protocol.json"
    if path.is_file():
        try:
            protocol = json.loads(path.read_text())
            chosen: dict[Split, list[PurePosixPath]] = {
                split: [images[i][names.index(camera)] for camera in part["cameras"] for i in part["frames"]]
                for split in ("train", "novel_view", "novel_pose")
                for part in [protocol[split]]
            }
            return chosen, str(protocol["name"])
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise CaptureError(f"{path} does not describe this capture's splits: {error}") from error
    subject = root.name.removeprefix("CoreView_")
    last = min(_HUMANNERF_FRAMES.get(subject, len(images)), len(images))
    test = range(0, last, _HUMANNERF_TEST_STEP)
    return {
        "train": [images[i][0] for i in range(last)],
        "novel_view": [images[i][camera] for camera in range(1, len(names)) for i in test],
        "novel_pose": [],
    }, "humannerf"


def _frame(root: Path, image: PurePosixPath, pose: int) -> Frame:
    mask = root / "mask_cihp" / image.with_suffix(".png")
    if not mask.is_file() and (root / "mask" / image.with_suffix(".png")).is_file():
        mask = root / "mask" / image.with_suffix(".png")
    return Frame(camera=str(image.parent), stem=image.stem, image=root / image, mask=mask, pose=pose)


def _poses(root: Path, frame_ids: list[int], body: BodyModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    folder = _params_folder(root)
    assert folder is not None
    rows = []
    for frame_id in frame_ids:
        path = folder / f"{frame_id}.npy"
        params = _read(path)
        try:
            values = [np.asarray(params[key], np.float64).ravel() for key in ("poses", "Rh", "Th", "shapes")]
        except (KeyError, TypeError, IndexError) as error:
            raise CaptureError(f"{path} lacks the key {error}; expected poses, Rh, Th, shapes") from error
        if [len(value) for value in values[:3]] != [72, 3, 3] or not all(np.isfinite(value).all() for value in values):
            raise CaptureError(f"{path}: expected finite poses [72], Rh [3], Th [3], shapes; found other values")
        rows.append(values)
    poses, Rh, Th = (np.stack(column) for column in list(zip(*rows, strict=True))[:3])
    betas = np.mean([row[3] for row in rows], axis=0)
    _, joints = body.shape(torch.from_numpy(betas).float())
    return np.concatenate([Rh, poses[:, 3:]], axis=1), to_smplx_translation(Rh, Th, joints[0].double().numpy()), betas


def to_smplx_translation(
    Rh: Float[np.ndarray, "P 3"], Th: Float[np.ndarray, "P 3"], pelvis: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "P 3"]:
    """EasyMocap turns about the origin, V = R(Rh) X + Th; smplx about the pelvis J: transl = Th + R J - J."""
    R = np.stack([cv2.Rodrigues(r)[0] for r in Rh])
    return Th + R @ pelvis - pelvis


def _cameras(
    root: Path, calibration: dict[str, Any], names: list[str], frames: dict[Split, tuple[Frame, ...]]
) -> dict[str, PinholeCamera]:
    first = {frame.camera: frame for members in frames.values() for frame in members}
    cameras = {}
    for i, name in enumerate(names):
        if name not in first:
            continue
        image = cv2.imread(str(first[name].image))
        if image is None:
            raise CaptureError(f"{first[name].image} cannot be read as an image")
        try:
            K, R, T, D = (np.asarray(calibration[key][i], np.float64) for key in ("K", "R", "T", "D"))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CaptureError(f"{root / 'annots.npy'}: camera {name} has no K, R, T, D: {error}") from error
        pose = np.eye(4)
        u, _, vt = np.linalg.svd(R)  # R is stored in low precision
        pose[:3, :3], pose[:3, 3] = u @ vt, T.ravel() / 1000
        K = K.copy()
        K[:2, 2] += 0.5  # OpenCV's pixel centres are at whole numbers
        cameras[name] = PinholeCamera(K, pose, image.shape[1], image.shape[0], D.ravel())
    return cameras
