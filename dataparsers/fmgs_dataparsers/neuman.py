"""NeuMan's scenes: `images/`, COLMAP's `sparse/` as text, `segmentations/` (255 is background), SMPL per image.

The person is either NeuMan's own (`smpl_output_optimized.pkl` or `smpl_output_romp.pkl` with `alignments.npy`, which
takes SMPL at the origin into COLMAP's world) or the later fit of HUGS (`4d_humans/smpl_optimized_aligned_scale.npz`,
with masks of its own). COLMAP's unit is no metre and its camera moves: here the person moves, in metres, before a
camera at rest. `train_split.txt` and `test_split.txt` are the protocol `neuman`, where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from fmgs_dataparsers.assemble import Calibration, ReadOptions, monocular
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.conventions import BodyFile, Fit, PixelCentres, checked, rotation, seen_from
from fmgs_dataparsers.files import (
    array,
    by_name,
    entries,
    images_in,
    number,
    read_joblib,
    read_npy,
    read_npz,
    read_text,
    stack,
)
from fmgs_dataparsers.mask_folder import FolderMask, MaskFolder
from fmgs_dataparsers.own_video import longest_track, row_of
from fmgs_dataparsers.protocols import BLACK, ChosenSplit
from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.gate import TEXT

NAME = "neuman"
SIGNATURE = "images/, sparse/cameras.txt, and alignments.npy or 4d_humans/smpl_optimized_aligned_scale.npz"
PIXEL_CENTRES: PixelCentres = "half"
"""COLMAP's documentation: the image's corner is (0, 0), the centre of its first pixel (0.5, 0.5)."""
_LINES = 1_000_000
_HUGS = Path("4d_humans/smpl_optimized_aligned_scale.npz")
_FITS = ("smpl_output_optimized.pkl", "smpl_output_romp.pkl")


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    return (root / "sparse" / "cameras.txt").is_file() and any(
        (root / name).is_file() for name in (_HUGS, "alignments.npy")
    )


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    images = images_in(root / "images")
    calibration = _intrinsics(root / "sparse" / "cameras.txt")
    poses = _extrinsics(root / "sparse" / "images.txt")
    body = options.body(root)
    placed = _hugs(root, body, images) if (root / _HUGS).is_file() else _aligned(root, body)

    def fit(i: int) -> Fit:
        if images[i].name not in poses:
            raise CaptureError(f"{root / 'sparse' / 'images.txt'} has no camera for {images[i].name}")
        in_world, units_per_metre = placed(i, images[i])
        return seen_from(in_world, poses[images[i].name], units_per_metre)

    return monocular(
        root,
        NAME,
        options,
        protocol="last-fifth",
        images=images,
        mask=_masks(root, images),
        calibration=lambda i: calibration,
        fit=fit,
        body=body,
        split=_split(root, [image.name for image in images]) if options.protocol == "auto" else None,
    )


_Placed = Callable[[int, Path], tuple[Fit, float]]
"""The fit of an image in COLMAP's world, its pelvis in COLMAP's units, and how many of those make a metre."""


def _aligned(root: Path, body: BodyFile) -> _Placed:
    path = next((root / name for name in _FITS if (root / name).is_file()), None)
    if path is None:
        raise CaptureError(f"{root} has neither {' nor '.join(_FITS)}; copy one of them again from its source")
    track = longest_track(path, read_joblib(path))
    pose, betas = entries(path, dict(track), "pose", "betas")
    poses = stack(path, "pose", pose, 72)
    betas = stack(path, "betas", betas, -1, counts=[len(poses)])
    align_file = root / "alignments.npy"
    alignments = read_npy(align_file)

    def placed(i: int, image: Path) -> tuple[Fit, float]:
        frame = number(image.stem)
        if frame is None or frame >= len(poses):
            raise CaptureError(f"{path} has {len(poses)} frames, none for {image.name}")
        fit = body.fit(path, poses[frame], np.zeros(3), betas[frame])
        (alignment,) = entries(align_file, alignments, image.name)
        A = array(align_file, image.name, alignment, 4, 3)  # on rows: world = [x, 1] A
        scale = np.cbrt(np.linalg.det(A[:3]))
        if not scale > 0:
            raise CaptureError(f"{align_file}: the alignment of {image.name} is no rotation and scale")
        turn = Rotation.from_matrix(rotation(A[:3].T / scale))
        root_turn = (turn * Rotation.from_rotvec(fit.pose[:3])).as_rotvec()
        return checked(path, np.r_[root_turn, fit.pose[3:]], fit.pelvis @ A[:3] + A[3], fit.betas), float(scale)

    return placed


def _hugs(root: Path, body: BodyFile, images: list[Path]) -> _Placed:
    path = root / _HUGS
    keys = ("global_orient", "body_pose", "transl", "scale", "betas")
    orient, local, transl, scale, betas = entries(path, read_npz(path, keys), *keys)
    transl = stack(path, "transl", transl, 3)
    n = len(transl)
    poses = np.hstack(
        [stack(path, "global_orient", orient, 3, counts=[n]), stack(path, "body_pose", local, 69, counts=[n])]
    )
    scales = np.resize(stack(path, "scale", np.ravel(scale), counts=[1, n]), n)
    betas = stack(path, "betas", np.atleast_2d(betas), -1, counts=[1, n])
    row_at = row_of(images, n)

    def placed(i: int, image: Path) -> tuple[Fit, float]:
        row = row_at(i)
        if row >= n:
            raise CaptureError(f"{path} has {n} frames, none for {image.name}")
        fit = body.fit(path, poses[row], np.zeros(3), betas[row % len(betas)])
        # World = scale * SMPL + transl: the pelvis is scaled with the body.
        return checked(path, fit.pose, scales[row] * fit.pelvis + transl[row], fit.betas), float(scales[row])

    return placed


def _masks(root: Path, images: list[Path]) -> Callable[[int], FolderMask | None]:
    sam = images_in(root / "4d_humans" / "sam_segmentations")
    folder = root / "segmentations"
    files = sam or [*images_in(folder), *folder.glob("*.npy")]
    find, masks = by_name(files), MaskFolder(files, inverted=not sam)

    def mask(i: int) -> FolderMask | None:
        file = sam[i] if len(sam) == len(images) else find(images[i])
        return masks.mask(file) if file else None

    return mask


def _text(path: Path, most: int = TEXT) -> str:
    if not path.is_file():
        raise CaptureError(
            f"{path} is missing; copy it again, or export COLMAP's model as text "
            "(colmap model_converter --output_type TXT)"
        )
    return read_text(path, most)


def _lines(path: Path) -> list[list[str]]:
    return [line.split() for line in _text(path).splitlines() if not line.startswith("#")]


def _intrinsics(path: Path) -> Calibration:
    cameras = [words for words in _lines(path) if words]
    match cameras:
        case [[_, "PINHOLE" as model, *words]]:
            width, height, fx, fy, cx, cy = array(path, model, words, 6)
        case [[_, "SIMPLE_PINHOLE" as model, *words]]:
            width, height, fx, cx, cy = array(path, model, words, 5)
            fy = fx
        case _:
            found = " and ".join(" ".join(words[:2]) for words in cameras) or "none"
            raise CaptureError(
                f"{path}: expected one undistorted PINHOLE camera, found {found}; run colmap image_undistorter"
            )
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return Calibration(K, np.eye(4), None, (int(width), int(height)), path)


def _extrinsics(path: Path) -> dict[str, Array]:
    """World to camera by image name: every other line is one of id, quaternion (w first), translation, camera, name."""
    poses = {}
    text = _text(path, most=4 * TEXT)  # the other lines have all points
    if text.count("\n") > _LINES:
        raise CaptureError(f"{path} has more than {_LINES:,} lines; expected two for each image")
    for line in [line for line in text.splitlines() if not line.startswith("#")][::2]:
        if len(words := line.split(maxsplit=9)) < 10:
            continue
        values = array(path, f"the pose of image {words[0]}", words[1:8], 7)
        if not values[:4].any():
            raise CaptureError(f"{path}: the quaternion of image {words[0]} is 0; copy the file again from its source")
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_quat(values[[1, 2, 3, 0]]).as_matrix()
        matrix[:3, 3] = values[4:]
        poses[words[9].rstrip()] = matrix
    return poses


def _split(root: Path, names: list[str]) -> ChosenSplit | None:
    files = {part: root / f"{part}_split.txt" for part in ("train", "test")}
    if not any(file.is_file() for file in files.values()):
        return None
    chosen = {part: [(0, i) for i in _places(file, names)] for part, file in files.items()}
    return ChosenSplit("neuman", {"train": chosen["train"], "novel_view": [], "novel_pose": chosen["test"]}, BLACK)


def _places(file: Path, names: list[str]) -> list[int]:
    """Where the images that `file` lists are among those there are."""
    listed = [name for line in _lines(file) for name in line]
    unknown = [name for name in listed if name not in names]
    if unknown or not listed:
        what = f"{unknown[0]}, which is not in images/" if unknown else "no images"
        raise CaptureError(f"{file} names {what}; copy both again from their source")
    return [names.index(name) for name in listed]
