"""A capture on disk, whatever its layout: the one record that leaves a reader.

Conventions end in the reader: metres, radians, smplx's sense of pose and translation, OpenCV cameras with pixel centres
at +0.5, frames that can be used. See `fmgs_dataparsers/parser.py` for what nerfstudio gets of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fmgs_dataparsers.conventions import PixelCentres
from fmgs_dataparsers.files import CaptureError as CaptureError
from fmgs_dataparsers.files import decode
from fmgs_dataparsers.masks import MaskSource
from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.maps.maps import Kind, Priors, png_size, read_labels, read_normal

Split = Literal["train", "novel_view", "novel_pose"]


@dataclass(frozen=True)
class PinholeCamera:
    """A calibrated camera of the capture at the size of its files."""

    K: Float[Array, "3 3"]
    """Pixels; the centre of the first pixel is at (0.5, 0.5)."""
    world_to_camera: Float[Array, "4 4"]
    """OpenCV axes (x right, y down, z forward), metres."""
    width: int
    height: int
    distortion: Float[Array, "5"] | None = None
    """OpenCV's k1, k2, p1, p2, k3."""


@dataclass(frozen=True)
class Frame:
    """One image of the capture."""

    camera: str
    stem: str
    """File stem of the image: it names prior and truth maps."""
    image: Path
    mask: MaskSource
    pose_id: int
    """Row of `Capture.poses`."""


@dataclass(frozen=True)
class LeftOut:
    """An image that the protocol names and that cannot be used."""

    split: Split
    name: str
    """`camera/stem`."""
    reason: str
    """One of a few, e.g. "without a mask": reports count them."""
    detail: str
    """The file and what is wrong with it."""


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations of a capture's fits, where their source states them: training starts from such errors."""

    rotation: float
    """Radians, of a joint's rotation in one frame."""
    position: tuple[float, float, float]
    """Metres, of the root in one frame: right, down and forward of the camera."""
    lean: float
    """Radians, of the whole clip about the camera's horizontal axis."""
    distance: float
    """Metres, of the whole clip along the camera's axis."""
    focal: float
    """Of the focal length, relative to it."""


@dataclass(frozen=True, eq=False)
class Capture:
    """Cameras, frames with masks, one pose per time step, shape, body model, splits.

    Maps are read at working size: undistorted, and reduced by the whole factor `downscale`.
    """

    root: Path
    layout: str
    protocol: str
    cameras: Mapping[str, PinholeCamera]
    splits: Mapping[Split, tuple[Frame, ...]]
    poses: Float[Array, "P 72"]
    """Axis-angle in radians, global orientation first."""
    transl: Float[Array, "P 3"]
    betas: Float[Array, "S"]
    body_model: Path
    up: tuple[float, float, float]
    """The world's upward axis."""
    priors: Priors | None
    downscale: int = 1
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """The protocol's colour behind the person, 0..1."""
    left_out: tuple[LeftOut, ...] = ()
    """Images of the protocol that are in no split, and why."""
    pixel_centres: PixelCentres = "half"
    """What its files' calibration was read as; the cameras' K is ours."""
    uncertainty: Uncertainty | None = None
    """How far its fits may be off, where their source says so."""
    exact_poses: bool = False
    """Its poses are known, not fitted: its protocol.json says so."""

    def intrinsics(self, camera: str) -> tuple[Float[Array, "3 3"], int, int]:
        """K, width and height at working size."""
        source = self.cameras[camera]
        scale = np.diag([1 / self.downscale, 1 / self.downscale, 1.0])
        return scale @ source.K, source.width // self.downscale, source.height // self.downscale

    def image(self, frame: Frame) -> UInt8[Array, "H W 3"]:
        """The RGB image with its own background."""
        image = decode(frame.image, cv2.IMREAD_COLOR)[..., ::-1]
        return self._to_working_size(image, frame.image, frame.camera, cv2.INTER_AREA)

    def mask(self, frame: Frame) -> Float[Array, "H W"]:
        """Foreground coverage in 0..1; soft where the source is soft, or was reduced or undistorted."""
        return self._to_working_size(frame.mask.read(), frame.mask.file, frame.camera, cv2.INTER_AREA)

    def prior(self, kind: Kind, frame: Frame) -> Array | None:
        """A prior map in the canonical form of `Priors.read`, or None where this frame has none."""
        if self.priors is None or not self.priors.exists(kind, frame.camera, frame.stem):
            return None
        path = self.priors.path(kind, frame.camera, frame.stem)
        if path.suffix == ".png":  # before it is decoded: a small file can have many pixels
            self._check_size(png_size(path), path, frame.camera)
        value = self.priors.read(kind, frame.camera, frame.stem)
        return self._to_working_size(value, path, frame.camera, cv2.INTER_NEAREST)

    def check_prior(self, kind: Kind, frame: Frame) -> None:
        """Look at the header of a prior map that is there.

        Raises:
            PriorsError, CaptureError: it cannot be read, or has not the image's size.
        """
        if self.priors is not None:
            size = self.priors.size(kind, frame.camera, frame.stem)
            self._check_size(size, self.priors.path(kind, frame.camera, frame.stem), frame.camera)

    def truth(self, frame: Frame) -> dict[str, Array]:
        """Exact depth (metres), normal, semantics and mask where the capture has them; training never asks."""
        folder = self.root / "ground_truth"
        if not folder.is_dir():
            return {}
        paths = {
            kind: folder / kind / frame.camera / f"{frame.stem}.png"
            for kind in ("depth", "normal", "semantics", "mask")
        }
        maps = {
            "depth": decode(paths["depth"], cv2.IMREAD_UNCHANGED).astype(np.float32) * 1e-4,
            "normal": read_normal(paths["normal"]),
            "semantics": read_labels(paths["semantics"]),
            "mask": decode(paths["mask"], cv2.IMREAD_UNCHANGED).astype(np.float32) / 255,
        }
        return {
            kind: self._to_working_size(value, paths[kind], frame.camera, cv2.INTER_NEAREST)
            for kind, value in maps.items()
        }

    @cached_property
    def person_pixels(self) -> int:
        """Mean foreground area of a few training images at working size."""
        frames = self.splits["train"]
        some = frames[:: max(1, len(frames) // 8)][:8]
        return round(float(np.mean([self.mask(frame).sum() for frame in some])))

    def _to_working_size(self, image: Array, path: Path, camera: str, interpolation: int) -> Array:
        source = self.cameras[camera]
        self._check_size((image.shape[1], image.shape[0]), path, camera)
        if source.distortion is not None and np.any(source.distortion):
            method = cv2.INTER_NEAREST if interpolation == cv2.INTER_NEAREST else cv2.INTER_LINEAR
            image = cv2.remap(np.ascontiguousarray(image), *self._undistortion(camera), interpolation=method)
        if self.downscale > 1:
            _, width, height = self.intrinsics(camera)
            # What is over at the right and lower edge goes, so that the whole factor is exact.
            image = np.ascontiguousarray(image[: height * self.downscale, : width * self.downscale])
            image = cv2.resize(image, (width, height), interpolation=interpolation)
        return np.ascontiguousarray(image)

    def _check_size(self, size: tuple[int, int], path: Path, camera: str) -> None:
        source = self.cameras[camera]
        if size != (source.width, source.height):
            raise CaptureError(
                f"{path} has {size[0]} x {size[1]} pixels; camera {camera} has {source.width} x {source.height}"
            )

    @cached_property
    def _undistortion(self) -> Callable[[str], tuple[Array, Array]]:
        """OpenCV's maps; for a few cameras at a time, because each takes 8 bytes a pixel."""

        @lru_cache(maxsize=4)
        def maps(name: str) -> tuple[Array, Array]:
            camera = self.cameras[name]
            K = camera.K.copy()
            K[:2, 2] -= 0.5  # OpenCV's pixel centres are at whole numbers
            distortion = np.zeros(5) if camera.distortion is None else camera.distortion
            size = (camera.width, camera.height)
            x, y = cv2.initUndistortRectifyMap(K, distortion, np.eye(3), K, size, cv2.CV_32FC1)
            return x, y

        return maps
