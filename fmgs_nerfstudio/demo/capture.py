"""A synthetic monocular capture in the raw ZJU-MoCap layout, with priors and exact ground truth.

    <out>/annots.npy                     cameras K, R, T (mm), D and image names
    <out>/Camera_B1/000000.jpg ...       only the images that protocol.json names
    <out>/mask_cihp/Camera_B1/000000.png
    <out>/new_params/0.npy, new_vertices/0.npy    the (noisy) SMPL fit
    <out>/SMPL_NEUTRAL.npz               the demo body, in SMPL's schema
    <out>/priors/ or sapiens/            maps of the training camera
    <out>/protocol.json                  splits, and the options that made this capture
    <out>/ground_truth/                  what training must not read

World: z up, metres. The person turns at the origin; Camera_B1 looks along +y.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo import noise
from fmgs_nerfstudio.demo.person import Person
from fmgs_nerfstudio.demo.render import LIGHTS, LightName, Picture, PosedPerson
from fmgs_nerfstudio.demo.skinned_surface import BODY
from fmgs_nerfstudio.demo.studio import (
    CAMERAS,
    TRAIN_CAMERA,
    changing_exposure,
    noisy_motion,
    place_cameras,
    sample_motion,
)
from fmgs_nerfstudio.files import ensure_writable, folder_beside, write_array, write_image
from fmgs_nerfstudio.gate import read_json
from fmgs_nerfstudio.maps.maps import (
    PriorsInfo,
    PriorsWriter,
    SapiensWriter,
    write_labels,
    write_mask,
    write_normal,
)

VERSION = 1
_DEPTH_UNIT = 1e-4  # metres per step of the 16-bit depth truth
_OPENCV = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # its pixel centres are at whole numbers, ours at a half

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

    def generator(self) -> dict[str, Any]:
        """The record in protocol.json by which a capture is recognised."""
        return {"program": "fmgs-demo", "version": VERSION, **dataclasses.asdict(self)}


class CaptureWriter:
    """Renders one frame after another into a capture folder."""

    def __init__(self, folder: Path, options: DemoOptions) -> None:
        self.folder, self.options, self.preset = folder, options, PRESETS[options.preset]
        preset, seed = self.preset, options.seed
        self.person = Person(seed, preset.detail)
        body = BodyModel.load(BODY)
        self.exact = sample_motion(
            body, np.array(self.person.look.betas), preset.train_frames, preset.pose_frames, seed
        )
        self.fit = noisy_motion(self.exact, options.pose_noise, preset.train_frames, seed)
        self.train = list(range(preset.train_frames))
        self.exposures = changing_exposure(preset.train_frames, LIGHTS[options.light].flicker, seed)
        step = preset.train_frames / preset.view_frames
        self.view = [int((k + 0.5) * step) for k in range(preset.view_frames)]
        self.pose = list(range(preset.train_frames, preset.train_frames + preset.pose_frames))
        held_out = [name for name, _, _ in CAMERAS if name != TRAIN_CAMERA]
        self.protocol: dict[str, Any] = {
            "name": "demo",
            "body_model": "SMPL_NEUTRAL.npz",
            "train": {"cameras": [TRAIN_CAMERA], "frames": self.train},
            "novel_view": {"cameras": held_out, "frames": self.view},
            "novel_pose": {"cameras": list(preset.pose_cameras), "frames": self.pose},
            "generator": options.generator(),
        }
        self.views_of: dict[int, list[str]] = {frame: [] for frame in range(len(self.exact))}
        for split in ("train", "novel_view", "novel_pose"):
            for frame in self.protocol[split]["frames"]:
                self.views_of[frame] += self.protocol[split]["cameras"]
        frames_of = {name: [f for f, seen in self.views_of.items() if name in seen] for name, _, _ in CAMERAS}
        self.cameras = place_cameras(self.exact, preset.size, frames_of)
        info = PriorsInfo(estimator="fmgs-demo (truth with noise)", licence="CC0-1.0")
        self.priors = {
            "fmgs": lambda: PriorsWriter(folder, info),
            "sapiens-npy": lambda: SapiensWriter(folder),
            "none": lambda: None,
        }[options.priors]()

    def write_frame(self, frame: int) -> int:
        """Render all views of a frame and write their files. Returns the number of images."""
        surface = self.person.posed(self.exact.bones[frame], self.exact.pose[frame])
        posed = PosedPerson(self.person, surface, LIGHTS[self.options.light], seed=self.options.seed * 100003 + frame)
        stem = f"{frame:06d}"
        for name in self.views_of[frame]:
            exposed = self.exposures[frame] if name == TRAIN_CAMERA else 1.0
            picture = posed.picture(self.cameras[name], exposure=exposed)
            self._write_image(picture, name, stem)
            self._write_truth(picture, name, stem)
            rng = np.random.default_rng([self.options.seed, 41, frame, int(name[-1])])
            mask = noise.noisy_mask(picture.mask, self.options.mask_noise, rng)
            write_mask(self.folder / "mask_cihp" / name / f"{stem}.png", (mask > 0.5).astype(np.float32))
            if name == TRAIN_CAMERA and self.priors is not None:
                self._write_priors(picture, mask, name, stem, rng)
        if frame in self.view or frame in self.pose:
            path = self.folder / "ground_truth" / "surface" / f"{stem}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, vertices=np.round(surface, 5).astype(np.float32))
        self._write_fit(frame)
        return len(self.views_of[frame])

    def _write_image(self, picture: Picture, name: str, stem: str) -> None:
        path = self.folder / name / f"{stem}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, picture.rgb[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, 95)

    def _write_truth(self, picture: Picture, name: str, stem: str) -> None:
        truth, file = self.folder / "ground_truth", f"{name}/{stem}.png"
        write_labels(truth / "semantics" / file, picture.labels)
        write_mask(truth / "mask" / file, picture.mask)
        write_normal(truth / "normal" / file, picture.normal, bits=16)
        path = truth / "depth" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.rint(picture.depth / _DEPTH_UNIT).astype(np.uint16))

    def _write_priors(self, picture: Picture, mask: Array, name: str, stem: str, rng: np.random.Generator) -> None:
        if self.priors is None:
            return
        options, hit = self.options, picture.depth > 0
        self.priors.write("semantics", name, stem, noise.noisy_labels(picture.labels, options.label_noise, rng))
        self.priors.write("depth", name, stem, noise.noisy_depth(picture.depth, hit, options.depth_noise, rng))
        normal = noise.noisy_normals(picture.normal, hit, options.normal_noise, rng)
        if isinstance(self.priors, PriorsWriter):  # Sapiens' own files are not masked
            normal = normal * (mask > 0)[..., None]
        self.priors.write("normal", name, stem, normal)
        self.priors.write("mask", name, stem, mask)

    def _write_fit(self, frame: int) -> None:
        for folder, content in (
            ("new_params", np.array(self.fit.zju(frame))),
            ("new_vertices", self.fit.vertices[frame]),
        ):
            path = self.folder / folder / f"{frame}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_array(path, content)

    def write_shared(self) -> None:
        """Cameras, body model, protocol, and the truth that is not per image."""
        names = [name for name, _, _ in CAMERAS]
        cameras = [self.cameras[name] for name in names]
        annots = {
            "cams": {
                "K": [c.K - _OPENCV for c in cameras], "R": [c.world_to_camera[:3, :3] for c in cameras],
                "T": [1000 * c.world_to_camera[:3, 3:] for c in cameras], "D": [np.zeros((5, 1)) for _ in cameras],
            },
            "ims": [{"ims": [f"{name}/{frame:06d}.jpg" for name in names]} for frame in range(len(self.exact))],
        }  # fmt: skip
        write_array(self.folder / "annots.npy", np.array(annots))
        shutil.copyfile(BODY, self.folder / "SMPL_NEUTRAL.npz")
        (self.folder / "protocol.json").write_text(json.dumps(self.protocol, indent=2) + "\n")
        truth, exact = self.folder / "ground_truth", self.exact
        np.savez_compressed(
            truth / "smpl_params.npz",
            frames=np.arange(len(exact)), betas=exact.betas, global_orient=exact.pose[:, :3],
            body_pose=exact.pose[:, 3:], transl=exact.transl,
        )  # fmt: skip
        np.savez_compressed(
            truth / "surface" / "faces.npz", faces=self.person.faces.astype(np.int32), labels=self.person.face_labels
        )
        light = dataclasses.asdict(LIGHTS[self.options.light]) | {"exposures": [round(e, 5) for e in self.exposures]}
        (truth / "light.json").write_text(json.dumps(light, indent=2) + "\n")
        (truth / "README.txt").write_text(_README)


_README = """Exact ground truth of a synthetic capture. For evaluation only: training must not read this folder.

depth/<camera>/<frame>.png      16 bit, steps of 0.1 mm, z-depth at the pixel's centre, 0 where nothing is
normal/<camera>/<frame>.png     16 bit RGB, (n + 1) / 2, camera space: x right, y up, z toward it; black = nothing
semantics/<camera>/<frame>.png  28 Goliath classes
mask/<camera>/<frame>.png       share of the pixel that the person covers
surface/<frame>.npz             vertices of the dressed surface, world, metres; faces and their classes in faces.npz
smpl_params.npz                 exact pose and shape in smplx's sense (new_params/ holds the noisy fit)
light.json                      the light; radiance from direction d is sky + slope * d_z, lamp (key) and window come on
                                top; exposures of the training camera's frames: factors of linear light
"""


def make_capture(
    out: Path,
    options: DemoOptions,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Write a capture to `out`, all of it or nothing. Returns False where `out` already is this very capture.

    `progress(done, total)` is called with counts of images.

    Raises:
        DemoError: `out` is something else, or a capture made with other options, and `overwrite` is not set.
        OSError: nothing can be written there.
    """
    if _already_there(out, options, overwrite):
        return False
    if out.is_dir() and (Path.cwd().is_relative_to(out.resolve()) or out.is_mount()):
        raise DemoError(
            f"{out} is a folder that cannot be replaced while it is in use; name one in it: {out / 'capture'}"
        )
    ensure_writable(out.parent)
    with folder_beside(out) as scratch:
        folder = scratch / "capture"
        folder.mkdir()
        writer = CaptureWriter(folder, options)
        total, done = sum(len(views) for views in writer.views_of.values()), 0
        progress(done, total)
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # the frames are the parallel part
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                frames = [pool.submit(writer.write_frame, frame) for frame in range(len(writer.exact))]
                try:
                    for written in as_completed(frames):
                        done += written.result()
                        progress(done, total)
                finally:  # after an error or Ctrl-C, do not render the rest first
                    pool.shutdown(cancel_futures=True)
        finally:
            cv2.setNumThreads(threads)
        writer.write_shared()
        if out.exists():
            out.rename(scratch / "old")
        folder.rename(out)
    return True


def _already_there(out: Path, options: DemoOptions, overwrite: bool) -> bool:
    """Whether `out` is the wanted capture; an error where it is something that may not be replaced."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise DemoError(f"{out} is a file; give a folder for the capture.")
    if not any(out.iterdir()):
        return False
    try:
        made_with = read_json(out / "protocol.json")["generator"]
    except (OSError, ValueError, KeyError, TypeError):
        made_with = {}
    if made_with.get("program") != "fmgs-demo":
        raise DemoError(
            f"{out} is not empty and no capture of fmgs-demo; give another folder or empty this one yourself."
        )
    if made_with == options.generator() and not overwrite:
        return True
    if not overwrite:
        wanted = options.generator()
        changed = ", ".join(
            f"{key} {made_with.get(key)} -> {wanted[key]}" for key in wanted if made_with.get(key) != wanted[key]
        )
        raise DemoError(f"{out} holds a capture made with other options ({changed}); add --overwrite to replace it.")
    return False
