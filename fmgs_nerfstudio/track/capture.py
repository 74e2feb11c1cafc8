"""The capture that tracking leaves, beside the images and masks that it wrote before: fits and body model."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from fmgs_dataparsers import tracked
from fmgs_dataparsers.capture import Uncertainty
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.track.records import Fits


def write_capture(
    root: Path, fits: Fits, names: Sequence[str], time: Float[Array, "F"], size: tuple[int, int], body: Path
) -> None:
    """Write `fits.npz`, as `fmgs_dataparsers.tracked` reads it, and a copy of the body model.

    Args:
        root: the capture's folder, with `images/` and `masks/`.
        names: file stems of the images, one per fit.
        time: seconds in the video.
        size: width and height of the images.
        body: file of the body model that was fitted.
    """
    kept = root / f"SMPL_NEUTRAL{body.suffix}"
    if not (kept.exists() and kept.samefile(body)):
        with atomic_path(kept) as path:
            shutil.copyfile(body, path)
    width, height = size
    content = io.BytesIO()  # numpy tells of a full disk without a cause
    np.savez(
        content,
        names=np.array(list(names)),
        time=time,
        global_orient=fits.pose[:, :3],
        body_pose=fits.pose[:, 3:],
        transl=fits.transl,
        betas=fits.betas,
        body=np.array(kept.name),
        intrinsic=fits.K,
        extrinsic=fits.world_to_camera,
        width=width,
        height=height,
        **{f"sigma_{field.name}": np.array(getattr(fits.uncertainty, field.name)) for field in fields(Uncertainty)},
    )
    with atomic_path(root / tracked.FILE_NAME) as path:
        path.write_bytes(content.getbuffer())
