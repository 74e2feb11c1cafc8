"""Prior maps on disk: the one module that reads and writes them.

    <capture>/priors/priors.json                        what they are (`PriorsInfo`)
    <capture>/priors/semantics/<camera>/<stem>.png      8-bit Goliath ids with a palette
    <capture>/priors/depth/<camera>/<stem>.png          16-bit, scaled to its own range (text chunk "range": "low high")
    <capture>/priors/normal/<camera>/<stem>.png         8- or 16-bit RGB, (n + 1) / 2, black = no value
    <capture>/priors/mask/<camera>/<stem>.png           8-bit coverage

or, read as they are, the folders that the demos of Sapiens v1 write:

    <capture>/sapiens/seg/<camera>/<stem>.npy, <stem>_seg.npy    bool foreground, int64 Goliath ids
    <capture>/sapiens/depth/<camera>/<stem>.npy                  float32, relative, larger is farther, not masked
    <capture>/sapiens/normal/<camera>/<stem>.npy                 float32, OpenGL camera axes, not masked
    <capture>/sapiens/normal/<camera>/<stem>.png                 or RGB(A) of (n + 1) / 2, as ECON and AniGS have it

where a `priors.json` beside `seg/` may say otherwise. Maps have the image file's size and are not cropped. Where both
folders exist, `priors/` is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.files import atomic_path, write_array
from fmgs_nerfstudio.maps.classes import NUM_CLASSES
from fmgs_nerfstudio.maps.files import (
    PriorsError,
    png_size,
    read_depth,
    read_labels,
    read_mask,
    read_normal,
    read_npy,
    unit_or_zero,
    write_depth,
    write_labels,
    write_mask,
    write_normal,
)
from fmgs_nerfstudio.maps.headers import size_of_npy, size_of_png
from fmgs_nerfstudio.maps.info import KINDS, Kind, PriorsInfo, Source, read_info, write_info
from fmgs_nerfstudio.maps.labels import DOME29_TO_GOLIATH

__all__ = [
    "KINDS", "SAPIENS_INFO", "Kind", "PngPriors", "Priors", "PriorsError", "PriorsInfo", "PriorsWriter",
    "SapiensPriors", "SapiensWriter", "Source", "open_priors", "png_size", "read_labels", "read_normal", "write_labels",
    "write_mask", "write_normal",
]  # fmt: skip

SAPIENS_INFO = PriorsInfo(estimator="sapiens-v1 (.npy of its demos)", licence="CC BY-NC 4.0")


def open_priors(capture: Path) -> Priors | None:
    """The prior maps of a capture folder, or None where it has none.

    Raises:
        PriorsError: `priors.json` is missing, unreadable, or says something this version does not know.
    """
    # A run that was cut off at once leaves an empty folder.
    if any((capture / "priors" / name).exists() for name in (*KINDS, "priors.json")):
        return PngPriors(capture / "priors", read_info(capture / "priors" / "priors.json"))
    if (capture / "sapiens").is_dir():
        info = capture / "sapiens" / "priors.json"
        return SapiensPriors(capture / "sapiens", read_info(info) if info.is_file() else SAPIENS_INFO)
    return None


class Priors(ABC):
    """Prior maps of one capture, read one at a time in canonical form."""

    def __init__(self, root: Path, info: PriorsInfo) -> None:
        self.root = root
        self.info = info
        self.kinds: frozenset[Kind] = frozenset(
            kind for kind in KINDS if any(next(root.glob(name), None) for name in self._names(kind, "*", "*"))
        )

    def path(self, kind: Kind, camera: str, stem: str) -> Path:
        """Where the map of the image `<camera>/<stem>.*` lies, whether or not it exists."""
        paths = [self.root / name for name in self._names(kind, camera, stem)]
        return next((path for path in paths if path.is_file()), paths[0])

    def exists(self, kind: Kind, camera: str, stem: str) -> bool:
        return self.path(kind, camera, stem).is_file()

    def size(self, kind: Kind, camera: str, stem: str) -> tuple[int, int]:
        """Width and height of a map that is there, by its header.

        Raises:
            PriorsError: the file is cut off, or not a map of this kind.
        """
        path = self.path(kind, camera, stem)
        return (size_of_npy if path.suffix == ".npy" else size_of_png)(path, kind)

    def read(self, kind: Kind, camera: str, stem: str) -> Array:
        """One map in canonical form.

        Returns:
            semantics: uint8 [H, W], Goliath ids.
            depth: float32 [H, W], larger is farther, valid inside the mask only; metres where `info` says metric.
            normal: float32 [H, W, 3], unit length, OpenGL camera axes, 0 where there is no value.
            mask: float32 [H, W], 0 to 1.

        Raises:
            PriorsError: the file is missing, truncated, or not a map of this kind.
        """
        path = self.path(kind, camera, stem)
        if kind == "semantics":
            return _goliath(self._semantics(path), self.info, path)
        if kind == "depth":
            depth = self._depth(path)
            return depth if self.info.depth_direction == "farther" else -depth
        if kind == "normal":
            to_opengl = np.diag([1, -1, -1] if self.info.normal_frame == "opencv" else [1, 1, 1]) @ self.info.axes()
            return unit_or_zero(self._normal(path)) @ to_opengl.T.astype(np.float32)
        return self._mask(path)

    @abstractmethod
    def _names(self, kind: Kind, camera: str, stem: str) -> list[str]:
        """Where under the root the map may lie, the preferred first."""

    @abstractmethod
    def _semantics(self, path: Path) -> Array: ...

    @abstractmethod
    def _depth(self, path: Path) -> Float[Array, "H W"]: ...

    @abstractmethod
    def _normal(self, path: Path) -> Float[Array, "H W 3"]: ...

    @abstractmethod
    def _mask(self, path: Path) -> Float[Array, "H W"]: ...


class PngPriors(Priors):
    """`<capture>/priors`, as `PriorsWriter` writes it."""

    def _names(self, kind: Kind, camera: str, stem: str) -> list[str]:
        return [f"{kind}/{camera}/{stem}.png"]

    def _semantics(self, path: Path) -> Array:
        return read_labels(path)

    def _depth(self, path: Path) -> Float[Array, "H W"]:
        return read_depth(path)

    def _normal(self, path: Path) -> Float[Array, "H W 3"]:
        return read_normal(path)

    def _mask(self, path: Path) -> Float[Array, "H W"]:
        return read_mask(path)


class SapiensPriors(Priors):
    """`<capture>/sapiens`, the files of vis_seg.py, vis_depth.py and vis_normal.py of Sapiens v1."""

    def _names(self, kind: Kind, camera: str, stem: str) -> list[str]:
        if kind == "normal":
            return [f"normal/{camera}/{stem}.npy", f"normal/{camera}/{stem}.png"]
        folder = "depth" if kind == "depth" else "seg"
        return [f"{folder}/{camera}/{stem}{'_seg' if kind == 'semantics' else ''}.npy"]

    def _semantics(self, path: Path) -> Array:
        return read_npy(path, "iu", 2)

    def _depth(self, path: Path) -> Float[Array, "H W"]:
        return read_npy(path, "f", 2).astype(np.float32)

    def _normal(self, path: Path) -> Float[Array, "H W 3"]:
        return read_normal(path) if path.suffix == ".png" else read_npy(path, "f", 3).astype(np.float32)

    def _mask(self, path: Path) -> Float[Array, "H W"]:
        return read_npy(path, "b", 2).astype(np.float32)


class PriorsWriter:
    """Writes `<capture>/priors`. Maps are given as `info` describes them; each file appears whole or not at all."""

    def __init__(self, capture: Path, info: PriorsInfo) -> None:
        self.root = capture / "priors"
        write_info(self.root / "priors.json", info)

    def write(self, kind: Kind, camera: str, stem: str, values: Array) -> None:
        """Write one map: shapes and dtypes of `Priors.read`, axes and direction of the writer's `info`."""
        path = self.root / kind / camera / f"{stem}.png"
        if kind == "semantics":
            write_labels(path, values)
        elif kind == "depth":
            write_depth(path, values)
        elif kind == "normal":
            write_normal(path, values, bits=8)
        else:
            write_mask(path, values)


class SapiensWriter:
    """Writes `<capture>/sapiens` with the names and types of Sapiens' own demos."""

    def __init__(self, capture: Path) -> None:
        self.root = capture / "sapiens"

    def write(self, kind: Kind, camera: str, stem: str, values: Array) -> None:
        """Write one canonical map (`Priors.read`)."""
        folder, name, dtype = {
            "semantics": ("seg", f"{stem}_seg.npy", np.int64),
            "mask": ("seg", f"{stem}.npy", np.bool_),
            "depth": ("depth", f"{stem}.npy", np.float32),
            "normal": ("normal", f"{stem}.npy", np.float32),
        }[kind]
        values = values > 0.5 if kind == "mask" else values
        with atomic_path(self.root / folder / camera / name) as temporary:
            write_array(temporary, values.astype(dtype))


def _goliath(labels: Array, info: PriorsInfo, path: Path) -> UInt8[Array, "H W"]:
    """Goliath ids of a stored class map."""
    count = NUM_CLASSES if info.label_set == "goliath28" else len(DOME29_TO_GOLIATH)
    if labels.min() < 0 or labels.max() >= count:
        raise PriorsError(
            f"{path}: class ids {labels.min()}..{labels.max()}, expected 0..{count - 1} ({info.label_set}). "
            f'Sapiens2 counts 29 classes: say "label_set": "dome29" in {path.parents[2] / "priors.json"}.'
        )
    return labels.astype(np.uint8) if info.label_set == "goliath28" else DOME29_TO_GOLIATH[labels]
