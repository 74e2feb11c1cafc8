"""What `fmgs-track` writes of a video: `images/`, `masks/`, `fits.npz` and the body model that was fitted.

`fits.npz` holds, for F frames of a camera at rest, in metres, radians and pixels:

| key | shape | |
|---|---|---|
| `names` | [F] | file stems of the images |
| `time` | [F] | seconds in the video |
| `global_orient`, `body_pose`, `transl` | [F, 3], [F, 69], [F, 3] | as smplx has them; y is up, the ground at 0 |
| `betas`, `body` | [S], | shape, and the name of its body model's file in the folder |
| `intrinsic`, `extrinsic` | [3, 3], [4, 4] | pixel centres at +0.5; world to camera, OpenCV's axes |
| `width`, `height` | | of the images |
| `sigma_rotation`, `sigma_position`, `sigma_lean`, `sigma_distance`, `sigma_focal` | , [3], , , | `Uncertainty` |
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fmgs_dataparsers.assemble import Calibration, ReadOptions, monocular
from fmgs_dataparsers.capture import Capture, CaptureError, Uncertainty
from fmgs_dataparsers.conventions import BodyFile, Fit, PixelCentres
from fmgs_dataparsers.files import arrays, entries, images_in, inside, read_npz, stack
from fmgs_dataparsers.own_video import masks_beside

NAME = "tracked"
SIGNATURE = "images/, masks/ and fits.npz"
PIXEL_CENTRES: PixelCentres = "half"
"""Ours: `fmgs_nerfstudio.track` writes it."""
FILE_NAME = "fits.npz"


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    return (root / FILE_NAME).is_file()


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    path = root / FILE_NAME
    content = read_npz(path)
    K, extrinsic, height, width = arrays(path, content, intrinsic=(3, 3), extrinsic=(4, 4), height=(), width=())
    calibration = Calibration(K, extrinsic, None, (int(width), int(height)), path)
    names, body_name = entries(path, content, "names", "body")
    rows = {str(name): row for row, name in enumerate(np.ravel(names))}
    body = BodyFile.find("neutral", [options.body_model, inside(root, str(body_name), path)])
    poses = entries(path, content, "global_orient", "body_pose", "transl")
    sizes = {"global_orient": 3, "body_pose": 69, "transl": 3}
    orient, joints, transl = (
        stack(path, name, value, size, counts=(len(rows),))
        for (name, size), value in zip(sizes.items(), poses, strict=True)
    )
    (betas,) = arrays(path, content, betas=(-1,))
    images = images_in(root / "images")

    def fit(i: int) -> Fit:
        row = rows.get(images[i].stem)
        if row is None:
            raise CaptureError(f"{path} has no row for {images[i].name}; track the video again")
        return body.fit(path, np.r_[orient[row], joints[row]], transl[row], betas)

    capture = monocular(
        root,
        NAME,
        options,
        protocol="last-fifth",
        images=images,
        mask=masks_beside(root, images),
        calibration=lambda i: calibration,
        fit=fit,
        body=body,
    )
    return replace(capture, up=(0.0, 1.0, 0.0), uncertainty=_uncertainty(path, content))


def _uncertainty(path: Path, content: object) -> Uncertainty:
    shapes: dict[str, tuple[int, ...]] = {
        "sigma_rotation": (), "sigma_position": (3,), "sigma_lean": (), "sigma_distance": (), "sigma_focal": (),
    }  # fmt: skip
    rotation, position, lean, distance, focal = arrays(path, content, **shapes)
    right, down, forward = map(float, position)
    return Uncertainty(float(rotation), (right, down, forward), float(lean), float(distance), float(focal))
