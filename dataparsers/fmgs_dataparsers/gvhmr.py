"""GVHMR's `hmr4d_results.pt` beside its video: SMPL-X in the camera's axes, and the camera it assumed.

SMPL-X is another body: its origin lies elsewhere, and its betas are not SMPL's. The 21 body joints turn alike; the
hands stay straight. With `SMPLX_NEUTRAL.npz`, looked for where body models are, the pelvis is exact and the SMPL shape
is the one whose joints fit best. Without it, the pelvis is that of SMPL-X's mean shape, and the person has SMPL's.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fmgs_dataparsers.assemble import Calibration, ReadOptions, monocular
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.conventions import N_BETAS, BodyFile, Fit, PixelCentres, checked
from fmgs_dataparsers.files import array, entries, read_npz, read_tensors, stack
from fmgs_dataparsers.own_video import masks_beside
from fmgs_dataparsers.video import source_frames
from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.console import log

NAME = "gvhmr"
SIGNATURE = "hmr4d_results.pt beside a video or images/"
PIXEL_CENTRES: PixelCentres = "half"
"""Assumed: it looks at (width / 2, height / 2) (`estimate_K`), the middle if centres are at +0.5."""
_SMPLX = "SMPLX_NEUTRAL.npz"
_SMPLX_PELVIS = np.array([0.0031, -0.3514, 0.0120])  # metres; root joint of the neutral mean shape
_BODY_JOINTS = 22  # SMPL-X and SMPL share the pelvis and 21 joints after it
_RIDGE = 5e-3  # metres of joint error that one unit of beta is worth: the two bodies' joints differ by as much


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    return (root / "hmr4d_results.pt").is_file()


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    return read_smplx(root, options, NAME, root / "hmr4d_results.pt", "smpl_params_incam")


def read_smplx(root: Path, options: ReadOptions, layout: str, path: Path, key: str) -> Capture:
    """A capture whose fits are SMPL-X's parameters in the camera's axes, under `key` of the file `path`.

    Raises:
        CaptureError, FileNotFoundError: as `read`.
    """
    params, K = entries(path, read_tensors(path), key, "K_fullimg")
    orient, local, transl, betas = entries(path, params, "global_orient", "body_pose", "transl", "betas")
    orient = stack(path, "global_orient", orient, 3)
    n = [len(orient)]
    local, transl = stack(path, "body_pose", local, 63, counts=n), stack(path, "transl", transl, 3, counts=n)
    K = stack(path, "K_fullimg", K, 3, 3, counts=n)
    # One person has one shape.
    mean = array(path, "betas", stack(path, "betas", np.atleast_2d(betas), -1, counts=[1, *n]).mean(0), -1)
    body = options.body(root)
    images = source_frames(root)
    shape, pelvis = _shape(root, options, body, mean)

    def fit(i: int) -> Fit:
        if i >= len(orient):
            raise CaptureError(f"{path} has {len(orient)} frames, none for {images[i].name}")
        return checked(path, np.r_[orient[i], local[i], np.zeros(6)], transl[i] + pelvis, shape)

    return monocular(
        root,
        layout,
        options,
        protocol="last-fifth",
        images=images,
        mask=masks_beside(root, images),
        calibration=lambda i: Calibration(array(path, "K_fullimg", K[min(i, len(K) - 1)], 3, 3), np.eye(4), file=path),
        fit=fit,
        body=body,
    )


def _shape(root: Path, options: ReadOptions, body: BodyFile, betas: Array) -> tuple[Array, Array]:
    """SMPL's betas, and the pelvis of the shaped SMPL-X, metres."""
    model = options.body_model
    own = [model.parent if model.is_file() else model] if model else []
    environment = os.environ.get("SMPL_MODEL_DIR")
    places = [*own, root, *([Path(environment)] if environment else [])]
    path = next((p / sub / _SMPLX for p in places for sub in ("", "smplx") if (p / sub / _SMPLX).is_file()), None)
    if path is None:
        log(f"{root}: no {_SMPLX} beside the SMPL model; the person gets SMPL's mean shape")
        return np.zeros(N_BETAS), _SMPLX_PELVIS
    keys = ("v_template", "shapedirs", "J_regressor")
    template, directions, regressor = entries(path, read_npz(path, keys), *keys)
    template = stack(path, "v_template", template, 3)
    directions = stack(path, "shapedirs", directions, 3, -1, counts=[len(template)])
    regressor = stack(path, "J_regressor", regressor, len(template))
    n = min(len(betas), directions.shape[-1])
    joints = regressor[:_BODY_JOINTS] @ (template + directions[..., :n] @ betas[:n])
    joints = array(path, "its joints", joints, _BODY_JOINTS, 3)
    return body.betas(joints, _RIDGE), joints[0]
