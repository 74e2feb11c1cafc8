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

Maps have the image's size and are not cropped. Where both folders exist, `priors/` is read.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.priors.classes import NUM_CLASSES, PALETTE

Kind = Literal["semantics", "depth", "normal", "mask"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class PriorsError(ValueError):
    """A prior map or its description cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class PriorsInfo:
    """What the maps of one capture are: the content of `priors.json`."""

    estimator: str
    """Who made the maps, e.g. "sapiens-1b" or "fmgs-demo"."""
    licence: str
    """Licence of the estimator's weights, which usually binds the maps."""
    label_set: Literal["goliath28"] = "goliath28"
    depth_kind: Literal["relative", "inverse", "metric"] = "relative"
    """Relative: depth up to an unknown scale and shift. Inverse: 1 / depth up to scale and shift. Metric: metres."""
    depth_direction: Literal["farther", "nearer"] = "farther"
    """What a larger stored value means."""
    normal_frame: Literal["opengl", "opencv"] = "opengl"
    """Camera axes: OpenGL = x right, y up, z toward the camera; OpenCV = x right, y down, z forward."""
    crop: str = "none"
    """How the estimator cropped the image; for the record, the maps cover the whole image."""


SAPIENS_INFO = PriorsInfo(estimator="sapiens-v1 (.npy of its demos)", licence="CC BY-NC 4.0")


def open_priors(capture: Path) -> Priors | None:
    """The prior maps of a capture folder, or None where it has none.

    Raises:
        PriorsError: `priors.json` is missing, unreadable, or says something this version does not know.
    """
    if (capture / "priors").is_dir():
        return PngPriors(capture / "priors", _read_info(capture / "priors" / "priors.json"))
    if (capture / "sapiens").is_dir():
        return SapiensPriors(capture / "sapiens", SAPIENS_INFO)
    return None


class Priors(ABC):
    """Prior maps of one capture, read one at a time in canonical form."""

    def __init__(self, root: Path, info: PriorsInfo) -> None:
        self.root = root
        self.info = info
        self.kinds: frozenset[Kind] = frozenset(
            kind for kind in KINDS if next(root.glob(self._name(kind, "*", "*")), None) is not None
        )

    def path(self, kind: Kind, camera: str, stem: str) -> Path:
        """Where the map of the image `<camera>/<stem>.*` lies, whether or not it exists."""
        return self.root / self._name(kind, camera, stem)

    def exists(self, kind: Kind, camera: str, stem: str) -> bool:
        return self.path(kind, camera, stem).is_file()

    def read(self, kind: Kind, camera: str, stem: str) -> np.ndarray:
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
            return _check_labels(self._semantics(path), path)
        if kind == "depth":
            depth = self._depth(path)
            return depth if self.info.depth_direction == "farther" else -depth
        if kind == "normal":
            normal = _unit_or_zero(self._normal(path))
            return normal if self.info.normal_frame == "opengl" else normal * np.array([1, -1, -1], np.float32)
        return self._mask(path)

    @abstractmethod
    def _name(self, kind: Kind, camera: str, stem: str) -> str: ...

    @abstractmethod
    def _semantics(self, path: Path) -> np.ndarray: ...

    @abstractmethod
    def _depth(self, path: Path) -> Float[np.ndarray, "H W"]: ...

    @abstractmethod
    def _normal(self, path: Path) -> Float[np.ndarray, "H W 3"]: ...

    @abstractmethod
    def _mask(self, path: Path) -> Float[np.ndarray, "H W"]: ...


class PngPriors(Priors):
    """`<capture>/priors`, as `PriorsWriter` writes it."""

    def _name(self, kind: Kind, camera: str, stem: str) -> str:
        return f"{kind}/{camera}/{stem}.png"

    def _semantics(self, path: Path) -> np.ndarray:
        return read_labels(path)

    def _depth(self, path: Path) -> Float[np.ndarray, "H W"]:
        image, text = _read_gray(path, bits=16)
        try:
            low, high = (float(word) for word in text["range"].split())
        except (KeyError, ValueError) as error:
            raise PriorsError(
                f'{path}: no PNG text chunk "range" of two numbers, so its depth has no scale.'
            ) from error
        return np.float32(low) + image.astype(np.float32) * np.float32((high - low) / 65535)

    def _normal(self, path: Path) -> Float[np.ndarray, "H W 3"]:
        return read_normal(path)

    def _mask(self, path: Path) -> Float[np.ndarray, "H W"]:
        return _read_gray(path, bits=8)[0].astype(np.float32) / 255


class SapiensPriors(Priors):
    """`<capture>/sapiens`, the files of vis_seg.py, vis_depth.py and vis_normal.py of Sapiens v1."""

    def _name(self, kind: Kind, camera: str, stem: str) -> str:
        folder = kind if kind in ("depth", "normal") else "seg"
        return f"{folder}/{camera}/{stem}{'_seg' if kind == 'semantics' else ''}.npy"

    def _semantics(self, path: Path) -> np.ndarray:
        return _read_npy(path, "iu", 2)

    def _depth(self, path: Path) -> Float[np.ndarray, "H W"]:
        return _read_npy(path, "f", 2).astype(np.float32)

    def _normal(self, path: Path) -> Float[np.ndarray, "H W 3"]:
        return _read_npy(path, "f", 3).astype(np.float32)

    def _mask(self, path: Path) -> Float[np.ndarray, "H W"]:
        return _read_npy(path, "b", 2).astype(np.float32)


class PriorsWriter:
    """Writes `<capture>/priors`. Maps are given as `info` describes them; each file appears whole or not at all."""

    def __init__(self, capture: Path, info: PriorsInfo) -> None:
        self.root = capture / "priors"
        with atomic_path(self.root / "priors.json") as path:
            path.write_text(json.dumps(dataclasses.asdict(info), indent=2) + "\n")

    def write(self, kind: Kind, camera: str, stem: str, values: np.ndarray) -> None:
        """Write one map: shapes and dtypes of `Priors.read`, axes and direction of the writer's `info`."""
        path = self.root / kind / camera / f"{stem}.png"
        if kind == "semantics":
            write_labels(path, values)
        elif kind == "depth":
            low, high = float(values.min()), float(values.max())
            scaled = (values.astype(np.float64) - low) * (65535 / max(high - low, 1e-12))
            text = PngInfo()
            text.add_text("range", f"{low!r} {high!r}")
            with atomic_path(path) as temporary:
                Image.fromarray(np.rint(scaled).astype(np.uint16)).save(temporary, compress_level=3, pnginfo=text)
        elif kind == "normal":
            write_normal(path, values, bits=8)
        else:
            write_mask(path, values)


class SapiensWriter:
    """Writes `<capture>/sapiens` with the names and types of Sapiens' own demos."""

    def __init__(self, capture: Path) -> None:
        self.root = capture / "sapiens"

    def write(self, kind: Kind, camera: str, stem: str, values: np.ndarray) -> None:
        """Write one canonical map (`Priors.read`)."""
        folder, name, dtype = {
            "semantics": ("seg", f"{stem}_seg.npy", np.int64),
            "mask": ("seg", f"{stem}.npy", np.bool_),
            "depth": ("depth", f"{stem}.npy", np.float32),
            "normal": ("normal", f"{stem}.npy", np.float32),
        }[kind]
        values = values > 0.5 if kind == "mask" else values
        with atomic_path(self.root / folder / camera / name) as temporary:
            np.save(temporary, values.astype(dtype))


# One file each ------------------------------------------------------------


def write_labels(path: Path, labels: UInt8[np.ndarray, "H W"]) -> None:
    """8-bit index PNG with the Goliath palette."""
    image = Image.fromarray(labels)
    image.putpalette(PALETTE.tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, compress_level=3)


def read_labels(path: Path) -> UInt8[np.ndarray, "H W"]:
    """Ids of an index PNG (or an 8-bit gray one)."""
    image = _open(path)
    if image.mode not in ("P", "L"):
        raise PriorsError(
            f"{path}: expected class ids (an 8-bit index or gray PNG), got an image of mode {image.mode}."
        )
    return np.asarray(image)


def write_mask(path: Path, mask: Float[np.ndarray, "H W"]) -> None:
    """8-bit gray PNG of a mask in 0..1."""
    with atomic_path(path) as temporary:
        Image.fromarray(np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8)).save(temporary, compress_level=3)


def write_normal(path: Path, normal: Float[np.ndarray, "H W 3"], bits: Literal[8, 16]) -> None:
    """RGB PNG of (n + 1) / 2; vectors of length 0 become black, which is no unit vector."""
    top, dtype = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    colour = np.rint((np.clip(normal, -1, 1) + 1) * (top / 2)).astype(dtype)
    colour[~np.any(normal, axis=-1)] = 0
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), colour[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3]):
            raise OSError(f"OpenCV could not write {path}")


def read_normal(path: Path) -> Float[np.ndarray, "H W 3"]:
    """Unit vectors of an 8- or 16-bit RGB PNG of (n + 1) / 2; 0 where no unit vector was stored."""
    _open(path)  # OpenCV would return the readable half of a damaged file
    colour = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if colour is None or colour.ndim != 3 or colour.shape[2] != 3:
        raise PriorsError(f"{path}: expected normals as an RGB PNG of 8 or 16 bits.")
    top = 255 if colour.dtype == np.uint8 else 65535
    return _unit_or_zero(colour[..., ::-1].astype(np.float32) * np.float32(2 / top) - 1)


def _unit_or_zero(vectors: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    # Black decodes to length 1.73 and mid-gray to 0.01: neither is a direction. Sapiens' own are not exactly unit.
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    valid = (length > 0.5) & (length < 1.5)
    return np.where(valid, vectors / np.where(valid, length, 1), 0).astype(np.float32)


def _check_labels(labels: np.ndarray, path: Path) -> UInt8[np.ndarray, "H W"]:
    if labels.min() < 0 or labels.max() >= NUM_CLASSES:
        raise PriorsError(
            f"{path}: class ids {labels.min()}..{labels.max()}, expected 0..{NUM_CLASSES - 1} (Goliath, Sapiens v1). "
            "Sapiens2 counts 29 classes: map 2 to 1 and every k >= 3 to k - 1 first."
        )
    return labels.astype(np.uint8)


def _open(path: Path) -> Image.Image:
    """A decoded PNG; damage anywhere in the file is an error."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise PriorsError(f"{path}: no such prior map. Run the estimator again for this frame.") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise PriorsError(
            f"{path}: truncated or not a PNG ({error}). Delete it and run the estimator again."
        ) from error


def _read_gray(path: Path, bits: Literal[8, 16]) -> tuple[np.ndarray, dict[Any, Any]]:
    image = _open(path)
    if image.mode not in (("L",) if bits == 8 else ("I;16", "I")):
        raise PriorsError(f"{path}: expected a {bits}-bit gray PNG, got an image of mode {image.mode}.")
    return np.asarray(image), image.info


def _read_npy(path: Path, dtype_kinds: str, ndim: int) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise PriorsError(f"{path}: no such prior map. Run Sapiens again for this frame.") from error
    except (ValueError, EOFError, OSError) as error:
        raise PriorsError(
            f"{path}: truncated or not an .npy file ({error}). Run Sapiens again for this frame."
        ) from error
    if values.dtype.kind not in dtype_kinds or values.ndim != ndim or (ndim == 3 and values.shape[2] != 3):
        raise PriorsError(f"{path}: unexpected array {values.dtype} {values.shape} for this kind of map.")
    return values


def _read_info(path: Path) -> PriorsInfo:
    try:
        fields = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise PriorsError(f"{path}: missing, so nobody knows what the maps beside it are.") from error
    except ValueError as error:
        raise PriorsError(f"{path}: not JSON ({error}).") from error
    if not isinstance(fields, dict):
        raise PriorsError(f"{path}: expected a JSON object.")
    known = {field.name: field for field in dataclasses.fields(PriorsInfo)}
    allowed = {
        "label_set": ("goliath28",),
        "depth_kind": ("relative", "inverse", "metric"),
        "depth_direction": ("farther", "nearer"),
        "normal_frame": ("opengl", "opencv"),
    }
    missing, unknown = known.keys() - fields.keys(), fields.keys() - known.keys()
    if missing or unknown:
        raise PriorsError(f"{path}: missing fields {sorted(missing)}, unknown fields {sorted(unknown)}.")
    for name, values in allowed.items():
        if fields[name] not in values:
            raise PriorsError(f"{path}: {name} is {fields[name]!r}, expected one of {', '.join(values)}.")
    return PriorsInfo(**fields)
