"""The nerfstudio data parser: finds out which layout a folder has, reads it, and hands it to nerfstudio.

Imports nothing of nerfstudio's engine, data managers or pipelines: those import every data parser while they load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
import tyro
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from fmgs_dataparsers import (
    arah,
    easymocap,
    gem,
    gvhmr,
    humannerf,
    instant_avatar,
    neuman,
    people_snapshot,
    sam_3d_body,
    tracked,
    trackers,
    zju_mocap,
    zju_mocap_refined,
)
from fmgs_dataparsers.assemble import Gender, ReadOptions
from fmgs_dataparsers.capture import Capture, CaptureError, Frame, Split
from fmgs_dataparsers.conventions import PixelCentres
from fmgs_dataparsers.kept import read_kept
from fmgs_dataparsers.protocols import Name
from fmgs_nerfstudio.console import log
from fmgs_nerfstudio.maps.maps import PriorsError


class Layout(Protocol):
    """How one kind of folder is told and read."""

    @property
    def NAME(self) -> str: ...

    @property
    def SIGNATURE(self) -> str:
        """What is looked for, for people."""
        ...

    @property
    def PIXEL_CENTRES(self) -> PixelCentres:
        """The convention of its calibrations, with its source."""
        ...

    def matches(self, root: Path) -> bool:
        """Does `root` hold this layout? Looks at names only."""
        ...

    def read(self, root: Path, options: ReadOptions) -> Capture:
        """The capture; a CaptureError where a file is not what the layout says."""
        ...


# The first that matches is read: prepared forms come before what they were prepared from.
LAYOUTS: tuple[Layout, ...] = (
    tracked,
    zju_mocap,
    zju_mocap_refined,
    arah,
    people_snapshot,
    instant_avatar,
    humannerf,
    neuman,
    easymocap,
    gvhmr,
    gem,
    sam_3d_body,
    trackers.WHAM,
    trackers.HUMANS4D,
    trackers.ROMP,
)
LayoutName = Literal[
    "auto",
    "tracked",
    "zju-mocap",
    "zju-mocap-refined",
    "arah",
    "people-snapshot",
    "instant-avatar",
    "humannerf",
    "neuman",
    "easymocap",
    "gvhmr",
    "gem",
    "sam-3d-body",
    "wham",
    "4d-humans",
    "romp",
]
PixelCentresChoice = Literal["auto", "whole", "half"]
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass
class FMGSDataParserConfig(DataParserConfig):
    """A monocular capture of one person with SMPL fits and masks."""

    _target: type = field(default_factory=lambda: FMGSDataParser)
    data: Path = Path()
    """Folder of the capture."""
    layout: LayoutName = "auto"
    """Layout of the folder. auto: recognised by its files."""
    protocol: Name = "auto"
    """Training and test split. auto: humannerf (ZJU-MoCap), instantavatar (PeopleSnapshot), last-fifth (own video)."""
    body_model: Path | None = None
    """SMPL model file, or a folder with one. Default: searched in the capture's folder, then in $SMPL_MODEL_DIR."""
    gender: Gender = "auto"
    """Gender of the SMPL model. auto: from the folder's name for PeopleSnapshot, else neutral."""
    pixel_centres: PixelCentresChoice = "auto"
    """Pixel centres of the capture's calibration: whole (OpenCV), or half (+0.5). auto: as its layout has them."""
    downscale_factor: int | None = None
    """Whole factor by which images are reduced. Default: chosen so that the longer side has about 512 pixels."""
    background: tuple[float, float, float] | None = None
    """Background colour of images and renders, 0..1. Default: white with protocol instantavatar, else black."""
    eval_split: Literal["all", "novel_view", "novel_pose"] = "all"
    """Held-out images that ns-eval renders: other cameras, other poses, or both, reported separately."""
    kept: tyro.conf.Suppress[Path | None] = None
    """What a finished run keeps of its capture (`fmgs_dataparsers.kept`): read where the capture is not there."""

    def open(self) -> Capture:
        """The capture itself.

        Raises:
            CaptureError, PriorsError, FileNotFoundError: a user's mistake.
        """
        return open_capture(
            self.data.resolve(),
            self.layout,
            self.body_model,
            self.downscale_factor,
            self.protocol,
            self.gender,
            pixel_centres=self.pixel_centres,
        )

    def why_not(self, error: Exception) -> str:
        """Why a finished run has no capture, where `open` said `error`: without the list of layouts, if it is gone."""
        return str(error) if self.data.is_dir() else f"the capture {self.data} is not there"


@dataclass
class FMGSDataParser(DataParser):
    """Cameras and frames of one split; poses, shape and the capture itself travel in `metadata`."""

    config: FMGSDataParserConfig
    includes_time: bool = True

    def capture(self) -> Capture:
        """The capture behind `config`, read once per process; or where it has gone, what the run keeps of it.

        Raises:
            SystemExit: a user's mistake, told without a traceback; nerfstudio's scripts catch nothing gentler.
        """
        try:
            try:
                return self.config.open()
            except (CaptureError, PriorsError, FileNotFoundError) as error:
                if self.config.kept is None or not self.config.kept.is_file():
                    raise
                return _read_kept(self.config.kept, self.config.why_not(error))
        except (CaptureError, PriorsError, FileNotFoundError) as error:
            raise SystemExit(f"\nerror: {error}") from error

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: object) -> DataparserOutputs:
        capture = self.capture()
        frames = capture.splits["train"] if split == "train" else self._held_out(capture)
        centres = capture.transl
        box = np.stack([centres.min(0) - 1.5, centres.max(0) + 1.5])
        return DataparserOutputs(
            image_filenames=[frame.image for frame in frames],
            cameras=_cameras(capture, frames),
            scene_box=SceneBox(aabb=torch.from_numpy(box).float()),
            metadata={
                "capture": capture,
                "frames": frames,
                "background": self.config.background or capture.background,
            },
        )

    def _held_out(self, capture: Capture) -> tuple[Frame, ...]:
        chosen: tuple[Split, ...] = ("novel_view", "novel_pose")
        if self.config.eval_split != "all":
            chosen = (self.config.eval_split,)
        frames = tuple(frame for split in chosen for frame in capture.splits[split])
        # A capture with one camera and no held-out frames is evaluated on what it has.
        return frames or capture.splits["train"][:: max(1, len(capture.splits["train"]) // 10)]


@lru_cache(maxsize=4)
def _read_kept(path: Path, why: str) -> Capture:
    """Once per process, as `open_capture`."""
    config = path.with_name("config.yml")
    kept = read_kept(path, f"{why}. Write its folder into {config}, at pipeline: datamanager: data")
    log(f"{why}. Going on without images, with what the run keeps of it: {path}")
    return kept


@lru_cache(maxsize=4)
def open_capture(
    root: Path,
    layout: str = "auto",
    body_model: Path | None = None,
    downscale: int | None = None,
    protocol: str = "auto",
    gender: Gender = "auto",
    need_masks: bool = True,
    pixel_centres: PixelCentresChoice = "auto",
) -> Capture:
    """Find the capture folder and its layout, read it, and say what was found.

    Without `need_masks`, frames that have no mask are kept, with one that covers nothing: to make masks for.

    Raises:
        CaptureError: nothing at `root`, no known layout there, or a broken file.
        FileNotFoundError: no body model.
    """
    known = "\n".join(f"  {kind.NAME}: {kind.SIGNATURE}" for kind in LAYOUTS)
    # People write zju/377 for what the archive calls zju/CoreView_377.
    folders = [folder for folder in (root, root.parent / f"CoreView_{root.name}") if folder.is_dir()]
    if not folders:
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise CaptureError(f"--data {root} {what}. It should be a folder in one of these layouts:\n{known}")
    for folder in folders:
        found = [kind for kind in LAYOUTS if layout in ("auto", kind.NAME) and kind.matches(folder)]
        if found:
            others = f" (also looks like {', '.join(kind.NAME for kind in found[1:])})" if found[1:] else ""
            log(f"{folder}: layout {found[0].NAME}{others}")
            centres = found[0].PIXEL_CENTRES if pixel_centres == "auto" else pixel_centres
            options = ReadOptions(protocol, body_model, gender, downscale, need_masks, centres)
            capture = found[0].read(folder, options)
            counts = ", ".join(f"{len(frames)} {split.replace('_', ' ')}" for split, frames in capture.splits.items())
            log(f"{folder}: split {capture.protocol}: {counts} images")
            return capture
    inside = sorted(path.name for path in folders[0].iterdir())
    there = ", ".join(inside[:12]) + (" ..." if len(inside) > 12 else "") if inside else "nothing, it is empty"
    wanted = "" if layout == "auto" else f" named {layout}"
    raise CaptureError(f"--data {root} holds no known layout{wanted}. Known layouts:\n{known}\n  found there: {there}")


def _cameras(capture: Capture, frames: tuple[Frame, ...]) -> Cameras:
    intrinsics = [capture.intrinsics(frame.camera) for frame in frames]
    K = torch.from_numpy(np.stack([k for k, _, _ in intrinsics])).float()
    to_world = {name: np.linalg.inv(camera.world_to_camera) @ _FLIP_YZ for name, camera in capture.cameras.items()}
    last = max(len(capture.poses) - 1, 1)
    return Cameras(
        camera_to_worlds=torch.from_numpy(np.stack([to_world[frame.camera][:3] for frame in frames])).float(),
        fx=K[:, 0, 0],
        fy=K[:, 1, 1],
        cx=K[:, 0, 2],
        cy=K[:, 1, 2],
        width=torch.tensor([width for _, width, _ in intrinsics]),
        height=torch.tensor([height for _, _, height in intrinsics]),
        camera_type=CameraType.PERSPECTIVE,
        times=torch.tensor([frame.pose_id / last for frame in frames]),
        metadata={"pose_id": torch.tensor([[frame.pose_id] for frame in frames])},
    )


fmgs_capture = DataParserSpecification(
    config=FMGSDataParserConfig(),
    description="A person's capture with SMPL fits: ZJU-MoCap, PeopleSnapshot, own videos, fmgs-demo.",
)
