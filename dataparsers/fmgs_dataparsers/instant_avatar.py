"""InstantAvatar's form, which GART and others read too: `images/`, `masks/`, `cameras.npz`, `poses*.npz`.

PeopleSnapshot's subjects have the fits of Anim-NeRF in `poses/anim_nerf_{train,val,test}.npz`, of which row i is the
i-th frame of that part of the protocol; own videos one row per image in `poses_optimized.npz`, `poses.npz` or
`poses/train.npz`. The images are undistorted. Test fits have betas of their own: here a person has one shape, the
training frames', and the pelvis stays in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmgs_dataparsers.assemble import Calibration, ReadOptions, monocular
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.conventions import BodyFile, Fit, PixelCentres
from fmgs_dataparsers.files import arrays, entries, images_in, read_npz, stack
from fmgs_dataparsers.own_video import masks_beside, row_of
from fmgs_dataparsers.people_snapshot import gender_of
from fmgs_dataparsers.protocols import INSTANT_AVATAR, frames_of, subject_of

NAME = "instant-avatar"
SIGNATURE = "images/, masks/, cameras.npz and poses*.npz or poses/*.npz"
PIXEL_CENTRES: PixelCentres = "whole"
"""InstantAvatar (`make_rays`) casts its rays through whole numbers, those of own videos too."""
_OWN = ("poses_optimized.npz", "poses.npz", "poses/train.npz")


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    fits = any((root / name).is_file() for name in _OWN) or any((root / "poses").glob("anim_nerf_*.npz"))
    return (root / "cameras.npz").is_file() and (root / "images").is_dir() and fits


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    path = root / "cameras.npz"
    K, extrinsic, height, width = arrays(path, read_npz(path), intrinsic=(3, 3), extrinsic=(4, 4), height=(), width=())
    calibration = Calibration(K, extrinsic, None, (int(width), int(height)), path)
    images = images_in(root / "images")
    body = options.body(root, gender_of(root))
    fits = _snapshot_fits(root, body) or _own_fits(root, body, images)

    def fit(i: int) -> Fit:
        if i not in fits:
            raise CaptureError(f"{root}: no file of poses has a row for {images[i].name}")
        return fits[i]

    return monocular(
        root,
        NAME,
        options,
        protocol="instantavatar",
        images=images,
        mask=masks_beside(root, images),
        calibration=lambda i: calibration,
        fit=fit,
        body=body,
    )


def _snapshot_fits(root: Path, body: BodyFile) -> dict[int, Fit]:
    """By frame. The validation frame comes first: of female-4-casual it also is a test frame, with another fit."""
    subject, fits = subject_of(root), {}
    for part in ("val", "train", "test"):
        path = root / "poses" / f"anim_nerf_{part}.npz"
        if not path.is_file():
            continue
        if subject not in INSTANT_AVATAR:
            raise CaptureError(
                f"{path}: its rows are frames of PeopleSnapshot's protocol, which has none for {root.name!r}; "
                f"call the folder by its subject: {', '.join(INSTANT_AVATAR)}"
            )
        fits |= dict(zip(frames_of(subject, part), _rows(path, body), strict=False))
    return fits


def _own_fits(root: Path, body: BodyFile, images: Sequence[Path]) -> dict[int, Fit]:
    path = next((root / name for name in _OWN if (root / name).is_file()), None)
    if path is None:
        raise CaptureError(f"{root} has none of {', '.join(_OWN)}")
    fits = dict(enumerate(_rows(path, body)))
    if path.parent.name == "poses" and len(fits) != len(images):
        raise CaptureError(f"{path} has {len(fits)} rows for {len(images)} images; expected one per image")
    row = row_of(images, len(fits))
    return {i: fits[row(i)] for i in range(len(images)) if row(i) in fits}


def _rows(path: Path, body: BodyFile) -> list[Fit]:
    content: Any = read_npz(path)
    if "thetas" in content:
        poses = stack(path, "thetas", content["thetas"], 72)
    else:
        orient, local = entries(path, content, "global_orient", "body_pose")
        orient = stack(path, "global_orient", orient, 3)
        poses = np.hstack([orient, stack(path, "body_pose", local, 69, counts=[len(orient)])])
    n, (transl, betas) = len(poses), entries(path, content, "transl", "betas")
    transl = stack(path, "transl", transl, 3, counts=[n])
    betas = stack(path, "betas", np.atleast_2d(betas), -1, counts=[1, n])
    return [body.fit(path, poses[i], transl[i], betas[i % len(betas)]) for i in range(n)]
