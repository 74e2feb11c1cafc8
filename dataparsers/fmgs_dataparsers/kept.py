"""What a run keeps of its capture, so that a trained avatar opens without it: all but images, masks and maps.

One `.npz` of plain arrays and a JSON text. The body is the person's own, shaped: the body model's shape and pose
directions stay where its licence has them. Its keys are SMPL's, so that `BodyModel.load` reads it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args

import numpy as np
import torch

from fmgs_dataparsers.capture import Capture, CaptureError, Frame, PinholeCamera, Split
from fmgs_dataparsers.files import array, entries, read_npz, stack
from fmgs_dataparsers.masks import NoMask
from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.maps.maps import KINDS, Kind, PngPriors, PriorsInfo

FILE_NAME = "capture.npz"
_TEXTS = ("root", "layout", "protocol", "pixel_centres")


@dataclass(frozen=True, eq=False)
class KeptCapture(Capture):
    """A capture whose files are not there; its body model is the file that it was read from."""

    why: str = ""
    """Why not, and what to do: the message of the errors."""

    def image(self, frame: Frame) -> NoReturn:
        raise CaptureError(self.why)

    def mask(self, frame: Frame) -> NoReturn:
        raise CaptureError(self.why)

    def prior(self, kind: Kind, frame: Frame) -> NoReturn:
        raise CaptureError(self.why)

    def truth(self, frame: Frame) -> NoReturn:
        raise CaptureError(self.why)


class _KeptPriors(PngPriors):
    """Kinds of maps that there were."""

    def __init__(self, root: Path, kinds: frozenset[Kind]) -> None:
        self.root, self.info, self.kinds = root, PriorsInfo("not kept", "not kept"), kinds


def keep(capture: Capture, path: Path) -> None:
    """Write what is kept of a capture."""
    body = BodyModel.load(capture.body_model)
    vertices, _ = body.shape(torch.from_numpy(capture.betas).float())
    text = {
        **{name: str(getattr(capture, name)) for name in _TEXTS},
        "up": capture.up,
        "background": capture.background,
        "downscale": capture.downscale,
        "priors": sorted(capture.priors.kinds) if capture.priors else [],
        "cameras": {name: _camera_text(camera) for name, camera in capture.cameras.items()},
        "splits": {
            split: [[frame.camera, frame.stem, frame.pose_id] for frame in frames]
            for split, frames in capture.splits.items()
        },
    }
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            capture=np.array(json.dumps(text)),
            poses=capture.poses,
            transl=capture.transl,
            v_template=vertices.numpy(),
            f=body.faces.numpy().astype(np.int32),
            shapedirs=np.zeros((len(vertices), 3, 0), np.float32),
            posedirs=np.zeros((len(vertices), 3, len(body.posedirs)), np.float32),
            J_regressor=body.J_regressor.numpy(),
            weights=body.weights.numpy(),
            kintree_table=np.array([body.parents, range(len(body.parents))]),
        )


def read_kept(path: Path, why: str) -> KeptCapture:
    """The capture that `keep` wrote; what it does not have raises a CaptureError that says `why`.

    Raises:
        CaptureError: the file is broken, or something else.
    """
    content = read_npz(path, ("capture", "poses", "transl"))
    text, poses, transl = entries(path, content, "capture", "poses", "transl")
    poses = stack(path, "poses", poses, 72)
    transl = stack(path, "transl", transl, 3, counts=[len(poses)])
    try:
        said = json.loads(str(text))
        cameras = {str(name): _camera(path, camera) for name, camera in said["cameras"].items()}
        root = Path(said["root"])
        splits: dict[Split, tuple[Frame, ...]] = {
            split: tuple(_frame(root, cameras, len(poses), *frame) for frame in said["splits"][split])
            for split in get_args(Split)
        }
        if not splits["train"] or not (np.isfinite(poses).all() and np.isfinite(transl).all()):
            raise ValueError("it has no training frame, or poses that are no numbers")
        kinds = frozenset[Kind](kind for kind in KINDS if kind in said["priors"])
        return KeptCapture(
            root=root,
            layout=str(said["layout"]),
            protocol=str(said["protocol"]),
            cameras=cameras,
            splits=splits,
            poses=poses.astype(content["poses"].dtype),
            transl=transl.astype(content["transl"].dtype),
            betas=np.zeros(0, np.float32),
            body_model=path,
            up=_triple(path, "up", said["up"]),
            priors=_KeptPriors(path.parent, kinds) if kinds else None,
            downscale=max(int(said["downscale"]), 1),
            background=_triple(path, "background", said["background"]),
            pixel_centres="whole" if said["pixel_centres"] == "whole" else "half",
            why=why,
        )
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, CaptureError):
            raise
        raise CaptureError(f"{path} is not what a run keeps of its capture: {error}; copy the run again") from error


def _camera_text(camera: PinholeCamera) -> dict[str, Any]:
    return {
        "K": camera.K.tolist(),
        "world_to_camera": camera.world_to_camera.tolist(),
        "size": [camera.width, camera.height],
        "distortion": None if camera.distortion is None else camera.distortion.tolist(),
    }


def _camera(path: Path, said: dict[str, Any]) -> PinholeCamera:
    K = array(path, "K", said["K"], 3, 3)
    world_to_camera = array(path, "world_to_camera", said["world_to_camera"], 4, 4)
    width, height = (int(length) for length in said["size"])
    if not (K[0, 0] > 0 and K[1, 1] > 0 and 0 < width < 2**16 and 0 < height < 2**16):
        raise ValueError("a camera without an image")
    distortion: Array | None = None if said["distortion"] is None else array(path, "distortion", said["distortion"], 5)
    return PinholeCamera(K, world_to_camera, width, height, distortion)


def _frame(root: Path, cameras: dict[str, PinholeCamera], n_poses: int, camera: str, stem: str, pose_id: int) -> Frame:
    if camera not in cameras or pose_id not in range(n_poses):
        raise ValueError(f"a frame of camera {camera!r} and pose {pose_id!r}, which are not there")
    image = root / camera / stem
    return Frame(camera, stem, image, NoMask(image), pose_id)


def _triple(path: Path, name: str, value: Any) -> tuple[float, float, float]:
    x, y, z = array(path, name, value, 3).tolist()
    return x, y, z
