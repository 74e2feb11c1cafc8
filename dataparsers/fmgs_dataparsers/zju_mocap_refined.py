"""ZJU-MoCap refined (instant-nvr; GauHuman's `my_377`): `annots.npy`, `images/00/000000.jpg`, `mask/`, `smpl_params/`.

The raw release with better cameras and fits, and other folder names.
"""

from __future__ import annotations

from pathlib import Path

from fmgs_dataparsers.assemble import ReadOptions
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.conventions import PixelCentres
from fmgs_dataparsers.files import entries, images_in, natural, read_npy
from fmgs_dataparsers.zju_mocap import listed, read_annotated

NAME = "zju-mocap-refined"
SIGNATURE = "annots.npy with smpl_params/ and images/00/"
PIXEL_CENTRES: PixelCentres = "whole"
"""As the raw release; instant-nvr (`get_rays`) casts its rays through whole numbers."""
# Some downloads carry the second, without the list of images.
_ANNOTS = ("annots.npy", "annots_new.npy")


def matches(root: Path) -> bool:
    """Does `root` hold this layout?"""
    return (root / "smpl_params").is_dir() and any((root / name).is_file() for name in _ANNOTS)


def read(root: Path, options: ReadOptions) -> Capture:
    """Read a capture folder.

    Raises:
        CaptureError: a file is missing, truncated, or not what the layout says; names it.
        FileNotFoundError: no body model.
    """
    annots = next(root / name for name in _ANNOTS if (root / name).is_file())
    content = read_npy(annots)
    (calibration,) = entries(annots, content, "cams")
    if "ims" in content:
        images = listed(annots, content["ims"])
    else:
        folders = sorted((path for path in (root / "images").glob("*") if path.is_dir()), key=natural)
        frames = [image.name for image in max(map(images_in, folders), key=len, default=[])]
        if not frames:
            raise CaptureError(f"{annots} lists no images and {root / 'images'} has no folders of cameras with images")
        images = [[f"images/{folder.name}/{name}" for folder in folders] for name in frames]
    return read_annotated(root, NAME, options, annots, calibration, images, root / "smpl_params")
