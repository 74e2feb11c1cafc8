"""One small whole file of each kind that strangers give, the function that reads it, and the errors that may end it.

A new reader is one entry of `READERS`: it is then cut, flipped, bombed and replaced by pipes with all others.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import h5py
import joblib
import numpy as np
import torch
import yaml
from fmgs_dataparsers import easymocap, files, neuman
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.mask_folder import MaskFolder
from fmgs_dataparsers.masks import HdfMask
from fmgs_dataparsers.people_snapshot import _poses
from fmgs_dataparsers.protocols import choose
from fmgs_dataparsers.video import extract_frames
from support.known_person import ASSET

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.checkpoints import CheckpointError as TornError
from fmgs_nerfstudio.checkpoints import read_checkpoint, why_torn
from fmgs_nerfstudio.evaluation.config_file import RunError
from fmgs_nerfstudio.evaluation.config_file import read_config as read_run
from fmgs_nerfstudio.maps.files import PriorsError
from fmgs_nerfstudio.maps.info import PriorsInfo, read_info, write_info
from fmgs_nerfstudio.maps.labels import label_table
from fmgs_nerfstudio.maps.maps import PngPriors, PriorsWriter, SapiensPriors, SapiensWriter
from fmgs_nerfstudio.method import fmgs_avatar
from fmgs_nerfstudio.motion.motion import MotionError
from fmgs_nerfstudio.motion.readers import read_motion
from fmgs_nerfstudio.priors.checkpoints import CheckpointError
from fmgs_nerfstudio.priors.estimators.pretrained import read_config
from fmgs_nerfstudio.relighting import LightError, read_map
from fmgs_nerfstudio.track.video import Choice, open_footage

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 255, (12, 16, 3), np.uint8)
INFO = PriorsInfo(estimator="test", licence="none")
TREE = {"poses": RNG.normal(size=(3, 72)), "trans": RNG.normal(size=(3, 3)), "names": ["a", "b"], 3: {"betas": 1.5}}


@dataclass(frozen=True)
class Reader:
    """A kind of file."""

    file: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...] = (CaptureError,)
    stands: tuple[str, ...] = ()
    """What may stand in its place, as if there were none."""


def _image(path: Path) -> Any:
    size = files.image_size(path)
    files.is_whole(path)
    image = files.decode(path, cv2.IMREAD_COLOR)
    assert size == (image.shape[1], image.shape[0])
    return image


def _mask(mask: Any) -> Any:
    return mask.size(), mask.read()


def _folder_mask(path: Path) -> Any:
    return _mask(MaskFolder([path]).mask(path))


def _split(path: Path) -> Any:
    return choose("auto", "last-fifth", path.parent, ["a"], 1)


def _checkpoint(path: Path) -> Any:
    if reason := why_torn(path):
        raise TornError(f"{path}: {reason}")
    return read_checkpoint(path)


def _config(path: Path) -> Any:
    return read_config(path.parent)


def _frames(path: Path) -> Any:
    return extract_frames(path, path.parent / "frames")


def _tracked_frames(path: Path) -> Any:
    footage = open_footage(path, Choice(every=1))
    return [picture.image for picture in footage.pictures(footage.wanted)]


def _hdf_mask(path: Path) -> Any:
    return _mask(HdfMask(path, 1))


def _write_hdf(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["masks"] = RNG.integers(0, 2, (3, 6, 8), np.uint8)
        file["pose"], file["trans"], file["betas"] = TREE["poses"], TREE["trans"], np.zeros(10)


def _write_video(path: Path, codec: str = "mpeg4") -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(RNG.integers(0, 255, (32, 32, 3), np.uint8), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_hdr(path: Path) -> None:
    cv2.imwrite(str(path), RNG.random((8, 16, 3)).astype(np.float32) * 5)


def _write_object(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array(TREE, dtype=object))


def _write_json(content: Any) -> Callable[[Path], Any]:
    return lambda path: path.write_text(json.dumps(content))


def _write_yaml(path: Path) -> None:
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.startWriteStruct("names", cv2.FILE_NODE_SEQ)
    storage.write("", "01")
    storage.endWriteStruct()
    storage.write("K_01", np.eye(3))
    storage.release()


def _prior(kind: Any, values: np.ndarray, sapiens: bool = False) -> tuple[Callable[[Path], Any], Callable[[Path], Any]]:
    def write(path: Path) -> None:
        writer = SapiensWriter(path.parents[3]) if sapiens else PriorsWriter(path.parents[3], INFO)
        writer.write(kind, path.parent.name, "0", values)

    def read(path: Path) -> Any:
        priors = SapiensPriors if sapiens else PngPriors
        return priors(path.parents[2], INFO).read(kind, path.parent.name, "0")

    return write, read


_PART = {"cameras": ["a"], "frames": [0]}
_PROTOCOL = {"name": "own", "train": _PART, "novel_view": _PART, "novel_pose": _PART}
_NORMAL = np.dstack([np.zeros((6, 8, 2)), np.ones((6, 8))]).astype(np.float32)
_COLMAP = "# images\n1 1 0 0 0 0 0 0 1 a.png\n3.0 4.0 -1\n"
_MOTION = {"poses": np.full((4, 156), 0.1), "trans": np.zeros((4, 3)), "mocap_framerate": 60.0}
_AIST = {"smpl_poses": np.zeros((4, 72)), "smpl_trans": np.zeros((4, 3)), "smpl_scaling": np.array([90.0])}
_PRIORS, _TORN = (PriorsError,), (TornError,)
_XZ: Any = ("xz", 3)
_LABELS = np.ones((6, 8), np.uint8)
_NO_FILES = (
    "a pipe",
    "a socket",
    "a folder",
    "endless",
    "a link to a pipe",
    "a link to itself",
    "a link to nothing",
    "nothing",
)

READERS = {
    "json": Reader("metadata.json", _write_json({"a": {"poses": [0.5] * 72}}), files.read_json),
    "protocol": Reader("protocol.json", _write_json(_PROTOCOL), _split, stands=_NO_FILES),
    "priors.json": Reader("priors.json", lambda p: write_info(p, INFO), read_info, _PRIORS),
    "label map": Reader("map.json", _write_json({"x": "Hair"}), lambda p: label_table({0: "x"}, p), (ValueError,)),
    "network's config": Reader("config.json", _write_json({"a": 1}), _config, (CheckpointError,)),
    "config.yml": Reader("config.yml", lambda p: p.write_text(yaml.dump(fmgs_avatar.config)), read_run, (RunError,)),
    "checkpoint": Reader("step-000000004.ckpt", lambda p: torch.save({"a": torch.ones(3, 4)}, p), _checkpoint, _TORN),
    "yaml of OpenCV": Reader("intri.yml", _write_yaml, easymocap._matrices),
    "people of EasyMocap": Reader("0.json", _write_json([{"id": 0, "Rh": [[0, 0, 0]]}]), easymocap._people),
    "text of COLMAP": Reader("images.txt", lambda p: p.write_text(_COLMAP), neuman._extrinsics, stands=("empty",)),
    "pickle": Reader("a.pkl", lambda p: p.write_bytes(pickle.dumps(TREE)), files.read_pickle),
    "pickle, old": Reader("a.pkl", lambda p: p.write_bytes(pickle.dumps(TREE, protocol=0)), files.read_pickle),
    "joblib": Reader("a.pkl", lambda p: joblib.dump(TREE, p), files.read_joblib),
    "joblib, zlib": Reader("a.pkl", lambda p: joblib.dump(TREE, p, compress=3), files.read_joblib),
    "joblib, xz": Reader("a.pkl", lambda p: joblib.dump(TREE, p, compress=_XZ), files.read_joblib),
    "npy": Reader("a.npy", lambda p: np.save(p, TREE["poses"]), files.read_npy),
    "npy of an object": Reader("annots.npy", _write_object, files.read_npy),
    "npz": Reader("a.npz", lambda p: np.savez(p, a=TREE["poses"], b=np.array(TREE, dtype=object)), files.read_npz),
    "npz, packed": Reader("a.npz", lambda p: np.savez_compressed(p, a=TREE["poses"]), files.read_npz),
    "tensors": Reader("a.pt", lambda p: torch.save({"a": torch.ones(3, 4), "b": [1]}, p), files.read_tensors),
    "hdf5 mask": Reader("masks.hdf5", _write_hdf, _hdf_mask),
    "hdf5 poses": Reader("poses.hdf5", _write_hdf, _poses),
    "png": Reader("0.png", lambda p: cv2.imwrite(str(p), PICTURE), _image),
    "jpeg": Reader("0.jpg", lambda p: cv2.imwrite(str(p), PICTURE), _image),
    "webp": Reader("0.webp", lambda p: cv2.imwrite(str(p), PICTURE), _image),
    "tiff": Reader("0.tif", lambda p: cv2.imwrite(str(p), PICTURE), _image),
    "bmp": Reader("0.bmp", lambda p: cv2.imwrite(str(p), PICTURE), _image),
    "png mask": Reader("0.png", lambda p: cv2.imwrite(str(p), PICTURE[..., 0]), _folder_mask),
    "npy mask": Reader("0.npy", lambda p: np.save(p, PICTURE[..., 0] > 9), _folder_mask),
    "prior depth": Reader("c/priors/depth/a/0.png", *_prior("depth", _NORMAL[..., 2] * 2), _PRIORS),
    "prior normal": Reader("c/priors/normal/a/0.png", *_prior("normal", _NORMAL), _PRIORS),
    "prior semantics": Reader("c/priors/semantics/a/0.png", *_prior("semantics", _LABELS), _PRIORS),
    "prior mask": Reader("c/priors/mask/a/0.png", *_prior("mask", np.ones((6, 8), np.float32)), _PRIORS),
    "Sapiens' normal": Reader("c/sapiens/normal/a/0.npy", *_prior("normal", _NORMAL, True), _PRIORS),
    "Sapiens' semantics": Reader("c/sapiens/seg/a/0_seg.npy", *_prior("semantics", _LABELS, True), _PRIORS),
    "video": Reader("a.mp4", _write_video, _frames),
    "video to track": Reader("a.mp4", _write_video, _tracked_frames),
    "video, Matroska": Reader("a.mkv", lambda p: _write_video(p, "mjpeg"), _frames),
    "motion, AMASS": Reader("walk.npz", lambda p: np.savez(p, **_MOTION), read_motion, (MotionError,)),
    "motion, AIST++": Reader("walk.pkl", lambda p: p.write_bytes(pickle.dumps(_AIST)), read_motion, (MotionError,)),
    "map of light": Reader("a.hdr", _write_hdr, read_map, (LightError,)),
    "map of light, png": Reader("a.png", lambda p: cv2.imwrite(str(p), PICTURE[:8]), read_map, (LightError,)),
    "body": Reader("SMPL_NEUTRAL.npz", lambda p: shutil.copy(ASSET, p), BodyModel.load, (ValueError, OSError)),
}  # fmt: skip
