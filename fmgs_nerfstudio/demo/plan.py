"""What a capture depends on, and what is to be rendered of it: the person, their motion, cameras and splits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fmgs_dataparsers.capture import PinholeCamera

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo.person import Person
from fmgs_nerfstudio.demo.render import LIGHTS, LightName
from fmgs_nerfstudio.demo.skinned_surface import BODY
from fmgs_nerfstudio.demo.studio import (
    CAMERAS,
    TRAIN_CAMERA,
    Motion,
    changing_exposure,
    noisy_motion,
    place_cameras,
    sample_motion,
)

VERSION = 1

PresetName = Literal["ci", "small", "full"]
PriorsName = Literal["fmgs", "sapiens-npy", "none"]


class DemoError(ValueError):
    """A mistake of the user's; the message says what to do."""


@dataclass(frozen=True)
class Preset:
    size: int
    """Image width and height in pixels."""
    detail: int
    """Of the person's meshes, see `Person`."""
    train_frames: int
    view_frames: int
    """Training frames that the four held-out cameras see, too."""
    pose_frames: int
    """Novel poses, each seen by `pose_cameras`."""
    pose_cameras: tuple[str, ...]


PRESETS: dict[PresetName, Preset] = {
    "ci": Preset(128, 0, 24, 2, 4, ("Camera_B2", "Camera_B3")),
    "small": Preset(256, 1, 100, 6, 8, ("Camera_B2", "Camera_B4")),
    "full": Preset(512, 2, 200, 12, 20, ("Camera_B2", "Camera_B3", "Camera_B4")),
}


@dataclass(frozen=True)
class DemoOptions:
    """Everything a capture depends on."""

    preset: PresetName = "small"
    """ci: 128 px, 24 training frames; small: 256 px, 100 frames; full: 512 px, 200 frames."""
    seed: int = 0
    """Decides the person (shape, clothes, hair), the motion and all noise."""
    light: LightName = "studio"
    """studio: soft, from all sides; key: a lamp in front; window: a window at one side, bluer than the room; sky: from
    above, little from below; flicker: as studio, by a camera whose exposure changes."""
    priors: PriorsName = "fmgs"
    """Prior maps of the training camera: PNGs in priors/, .npy as Sapiens' demos write them, or none."""
    pose_noise: float = 1.0
    """Error of the SMPL fit; 1 is 0.015 rad per joint and 5 mm, 0 is exact."""
    mask_noise: float = 1.0
    """Error of the masks; 1 is 1 to 2 pixels in blobs, 0 is exact."""
    depth_noise: float = 1.0
    """Error of the depth priors; 1 is 3 % of the person's depth range, 0 is exact up to scale and shift."""
    normal_noise: float = 1.0
    """Error of the normal priors; 1 is 15 degrees in patches, 0 is exact."""
    label_noise: float = 1.0
    """Error of the class priors along borders; 1 is about 2 pixels, 0 is exact."""
    video: bool = False
    """Write a video as a telephone takes it, in a room, and beside it the exact truth, to measure a tracker by: in
    truth/, without noise and priors. ci: 24 frames of 320 x 180; small: 100 of 1280 x 720; full: 200 of 1920 x 1080."""

    def generator(self) -> dict[str, Any]:
        """The record in protocol.json by which a capture is recognised."""
        record = {"program": "fmgs-demo", "version": VERSION, **dataclasses.asdict(self)}
        return record if self.video else {key: value for key, value in record.items() if key != "video"}


@dataclass(frozen=True)
class Plan:
    """What is rendered: a person, how they move, the cameras that see them, and what a split has of it."""

    person: Person
    exact: Motion
    fit: Motion
    """What new_params/ says."""
    cameras: dict[str, PinholeCamera]
    splits: dict[str, dict[str, Any]]
    """As protocol.json has them."""
    exposures: list[float]
    """Of the training camera."""

    @property
    def views_of(self) -> dict[int, list[str]]:
        """The cameras that see a frame."""
        found: dict[int, list[str]] = {frame: [] for frame in range(len(self.exact))}
        for split in self.splits.values():
            for frame in split["frames"]:
                found[frame] += split["cameras"]
        return found


def splits_of(preset: Preset) -> dict[str, dict[str, Any]]:
    """Training frames, those that other cameras see, too, and novel poses."""
    step = preset.train_frames / preset.view_frames
    held_out = [name for name, _, _ in CAMERAS if name != TRAIN_CAMERA]
    last = preset.train_frames + preset.pose_frames
    return {
        "train": {"cameras": [TRAIN_CAMERA], "frames": list(range(preset.train_frames))},
        "novel_view": {"cameras": held_out, "frames": [int((k + 0.5) * step) for k in range(preset.view_frames)]},
        "novel_pose": {"cameras": list(preset.pose_cameras), "frames": list(range(preset.train_frames, last))},
    }


def frames_of(splits: dict[str, dict[str, Any]]) -> dict[str, list[int]]:
    """The frames that each camera sees."""
    return {
        name: sorted({f for split in splits.values() if name in split["cameras"] for f in split["frames"]})
        for name, _, _ in CAMERAS
    }


def studio_plan(options: DemoOptions) -> Plan:
    """A turn before the training camera, then other motions, in a studio."""
    preset, seed = PRESETS[options.preset], options.seed
    person = Person(seed, preset.detail)
    betas = np.array(person.look.betas)
    exact = sample_motion(BodyModel.load(BODY), betas, preset.train_frames, preset.pose_frames, seed)
    splits = splits_of(preset)
    return Plan(
        person,
        exact,
        noisy_motion(exact, options.pose_noise, preset.train_frames, seed),
        place_cameras(exact, preset.size, frames_of(splits)),
        splits,
        changing_exposure(preset.train_frames, LIGHTS[options.light].flicker, seed),
    )
