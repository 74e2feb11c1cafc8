"""A capture on disk, whatever its layout: the one record that leaves a reader.

Conventions end in the reader: metres, radians, smplx's sense of pose and translation, OpenCV cameras with pixel centres
at +0.5, frames that exist. See `fmgs_dataparsers/parser.py` for what nerfstudio gets of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fmgs_nerfstudio.priors.maps import Kind, Priors, read_labels, read_normal

Split = Literal["train", "novel_view", "novel_pose"]


class CaptureError(ValueError):
    """The capture cannot be used; the message names the file, what was expected, and what to do."""


@dataclass(frozen=True)
class PinholeCamera:
    """A calibrated camera of the capture at the size of its files."""

    K: Float[np.ndarray, "3 3"]
    """Pixels; the centre of the first pixel is at (0.5, 0.5)."""
    world_to_camera: Float[np.ndarray, "4 4"]
    """OpenCV axes (x right, y down, z forward), metres."""
    width: int
    height: int
    distortion: Float[np.ndarray, "5"] | None = None
    """OpenCV's k1, k2, p1, p2, k3."""


@dataclass(frozen=True)
class Frame:
    """One image of the capture."""

    camera: str
    stem: str
    """File stem of the image: it names prior and truth maps."""
    image: Path
    mask: Path
    pose: int
    """Row of `Capture.poses`."""


@dataclass(frozen=True, eq=False)
class Capture:
    """Cameras, frames with masks, one pose per instant, shape, body model, splits.

    Maps are read at working size: undistorted, and reduced by the whole factor `downscale`.
    """

    root: Path
    layout: str
    protocol: str
    cameras: Mapping[str, PinholeCamera]
    splits: Mapping[Split, tuple[Frame, ...]]
    poses: Float[np.ndarray, "P 72"]
    """Axis-angle in radians, global orientation first."""
    transl: Float[np.ndarray, "P 3"]
    betas: Float[np.ndarray, "S"]
    body_model: Path
    up: tuple[float, float, float]
    """The world's upward axis."""
    priors: Priors | None
    downscale: int = 1

    def intrinsics(self, camera: str) -> tuple[Float[np.ndarray, "3 3"], int, int]:
        """K, width and height at working size."""
        source = self.cameras[camera]
        scale = np.diag([1 / self.downscale, 1 / self.downscale, 1.0])
        return scale @ source.K, source.width // self.downscale, source.height // self.downscale

    def image(self, frame: Frame) -> UInt8[np.ndarray, "H W 3"]:
        """The RGB image with its own background."""
        image = _decode(frame.image, cv2.IMREAD_COLOR)[..., ::-1]
        return self._to_working_size(image, frame.camera, cv2.INTER_AREA)

    def mask(self, frame: Frame) -> Float[np.ndarray, "H W"]:
        """Foreground coverage in 0..1; soft only where the image was reduced."""
        mask = (_decode(frame.mask, cv2.IMREAD_UNCHANGED) != 0).astype(np.float32)
        mask = mask.max(axis=-1) if mask.ndim == 3 else mask
        return self._to_working_size(mask, frame.camera, cv2.INTER_AREA)

    def prior(self, kind: Kind, frame: Frame) -> np.ndarray | None:
        """A prior map in the canonical form of `Priors.read`, or None where this frame has none."""
        if self.priors is None or not self.priors.exists(kind, frame.camera, frame.stem):
            return None
        value = self.priors.read(kind, frame.camera, frame.stem)
        return self._to_working_size(value, frame.camera, cv2.INTER_NEAREST)

    def truth(self, frame: Frame) -> dict[str, np.ndarray]:
        """Exact depth (metres), normal, semantics and mask where the capture has them; training never asks."""
        folder = self.root / "ground_truth"
        if not folder.is_dir():
            return {}
        paths = {
            kind: folder / kind / frame.camera / f"{frame.stem}.png"
            for kind in ("depth", "normal", "semantics", "mask")
        }
        maps = {
            "depth": _decode(paths["depth"], cv2.IMREAD_UNCHANGED).astype(np.float32) * 1e-4,
            "normal": read_normal(paths["normal"]),
            "semantics": read_labels(paths["semantics"]),
            "mask": _decode(paths["mask"], cv2.IMREAD_UNCHANGED).astype(np.float32) / 255,
        }
        return {kind: self._to_working_size(value, frame.camera, cv2.INTER_NEAREST) for kind, value in maps.items()}

    @cached_property
    def person_pixels(self) -> int:
        """Mean foreground area of a few training images at working size."""
        frames = self.splits["train"]
        some = frames[:: max(1, len(frames) // 8)][:8]
        return round(float(np.mean([self.mask(frame).sum() for frame in some])))

    def _to_working_size(self, image: np.ndarray, camera: str, interpolation: int) -> np.ndarray:
        source = self.cameras[camera]
        if image.shape[:2] != (source.height, source.width):
            raise CaptureError(
                f"{self.root}: a map of camera {camera} is {image.shape[1]} x {image.shape[0]} pixels; "
                f"its calibration says {source.width} x {source.height}"
            )
        if source.distortion is not None and np.any(source.distortion):
            warp = cv2.INTER_NEAREST if interpolation == cv2.INTER_NEAREST else cv2.INTER_LINEAR
            image = cv2.remap(np.ascontiguousarray(image), *self._undistortion[camera], interpolation=warp)
        if self.downscale > 1:
            width, height = source.width // self.downscale, source.height // self.downscale
            image = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=interpolation)
        return np.ascontiguousarray(image)

    @cached_property
    def _undistortion(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        maps = {}
        for name, camera in self.cameras.items():
            K = camera.K.copy()
            K[:2, 2] -= 0.5  # OpenCV's pixel centres are at whole numbers
            size = (camera.width, camera.height)
            distortion = np.zeros(5) if camera.distortion is None else camera.distortion
            maps[name] = cv2.initUndistortRectifyMap(K, distortion, np.eye(3), K, size, cv2.CV_32FC1)
        return maps


def check_files(frames: Iterable[Frame]) -> None:
    """Every image and mask is there and not cut off, so that training does not stop half-way through the data.

    Only the first and last bytes are read.

    Raises:
        CaptureError: names the first missing and the first truncated file and how many more there are.
    """
    paths = sorted({path for frame in frames for path in (frame.image, frame.mask)})
    if missing := [path for path in paths if not path.is_file()]:
        raise CaptureError(f"{missing[0]} is missing{_more(missing)}; the capture's own index names it")
    if broken := [path for path in paths if not _is_whole(path)]:
        raise CaptureError(f"{broken[0]} is truncated or not an image{_more(broken)}; copy it again from its source")


def _more(paths: list[Path]) -> str:
    return f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""


def _is_whole(path: Path) -> bool:
    """JPEG and PNG say where they end; of other formats only that there is something."""
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(-min(path.stat().st_size, 16), 2)
        tail = file.read()
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in tail
    if head == b"\x89PNG\r\n\x1a\n":
        return b"IEND" in tail
    return len(head) == 8 and path.suffix.lower() not in (".jpg", ".jpeg", ".png")


def _decode(path: Path, flags: int) -> np.ndarray:
    image = cv2.imread(str(path), flags)
    if image is None:
        raise CaptureError(f"{path} cannot be read as an image; copy it again from its source")
    return image
