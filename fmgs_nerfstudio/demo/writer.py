"""Renders a person frame by frame into a folder in the raw ZJU-MoCap layout, with exact ground truth."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.demo import noise
from fmgs_nerfstudio.demo.plan import DemoOptions, Plan
from fmgs_nerfstudio.demo.render import LIGHTS, Picture, PosedPerson
from fmgs_nerfstudio.demo.skinned_surface import BODY
from fmgs_nerfstudio.demo.studio import (
    CAMERAS,
    TRAIN_CAMERA,
)
from fmgs_nerfstudio.files import write_array, write_image
from fmgs_nerfstudio.maps.maps import (
    PriorsInfo,
    PriorsWriter,
    SapiensWriter,
    write_labels,
    write_mask,
    write_normal,
)

_DEPTH_UNIT = 1e-4  # metres per step of the 16-bit depth truth
_OPENCV = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # its pixel centres are at whole numbers, ours at a half


class CaptureWriter:
    """Renders one frame after another into a capture folder."""

    def __init__(self, folder: Path, options: DemoOptions, plan: Plan) -> None:
        self.folder, self.options, self.plan = folder, options, plan
        self.protocol: dict[str, Any] = {
            "name": "demo",
            "body_model": "SMPL_NEUTRAL.npz",
            **plan.splits,
            "generator": options.generator(),
            "exact_poses": options.pose_noise == 0,
        }
        self.views_of = plan.views_of
        info = PriorsInfo(estimator="fmgs-demo (truth with noise)", licence="CC0-1.0")
        self.priors = {
            "fmgs": lambda: PriorsWriter(folder, info),
            "sapiens-npy": lambda: SapiensWriter(folder),
            "none": lambda: None,
        }[options.priors]()

    def write_frame(self, frame: int) -> int:
        """Render all views of a frame and write their files. Returns the number of images."""
        surface = self.plan.person.posed(self.plan.exact.bones[frame], self.plan.exact.pose[frame])
        posed = PosedPerson(
            self.plan.person, surface, LIGHTS[self.options.light], seed=self.options.seed * 100003 + frame
        )
        stem = f"{frame:06d}"
        for name in self.views_of[frame]:
            picture = self._picture(posed, name, frame)
            self._write_image(picture, name, stem)
            self._write_truth(picture, name, stem)
            rng = np.random.default_rng([self.options.seed, 41, frame, int(name[-1])])
            mask = noise.noisy_mask(picture.mask, self.options.mask_noise, rng)
            write_mask(self.folder / "mask_cihp" / name / f"{stem}.png", (mask > 0.5).astype(np.float32))
            if name == TRAIN_CAMERA and self.priors is not None:
                self._write_priors(picture, mask, name, stem, rng)
        if any(frame in self.plan.splits[split]["frames"] for split in ("novel_view", "novel_pose")):
            path = self.folder / "ground_truth" / "surface" / f"{stem}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, vertices=np.round(surface, 5).astype(np.float32))
        self._write_fit(frame)
        return len(self.views_of[frame])

    def _picture(self, posed: PosedPerson, name: str, frame: int) -> Picture:
        exposed = self.plan.exposures[frame] if name == TRAIN_CAMERA else 1.0
        return posed.picture(self.plan.cameras[name], exposure=exposed)

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
            ("new_params", np.array(self.plan.fit.zju(frame))),
            ("new_vertices", self.plan.fit.vertices[frame]),
        ):
            path = self.folder / folder / f"{frame}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_array(path, content)

    def write_shared(self) -> None:
        """Cameras, body model, protocol, and the truth that is not per image."""
        names = [name for name, _, _ in CAMERAS]
        cameras = [self.plan.cameras[name] for name in names]
        annots = {
            "cams": {
                "K": [c.K - _OPENCV for c in cameras], "R": [c.world_to_camera[:3, :3] for c in cameras],
                "T": [1000 * c.world_to_camera[:3, 3:] for c in cameras], "D": [np.zeros((5, 1)) for _ in cameras],
            },
            "ims": [{"ims": [f"{name}/{frame:06d}.jpg" for name in names]} for frame in range(len(self.plan.exact))],
        }  # fmt: skip
        write_array(self.folder / "annots.npy", np.array(annots))
        shutil.copyfile(BODY, self.folder / "SMPL_NEUTRAL.npz")
        (self.folder / "protocol.json").write_text(json.dumps(self.protocol, indent=2) + "\n")
        truth, exact = self.folder / "ground_truth", self.plan.exact
        np.savez_compressed(
            truth / "smpl_params.npz",
            frames=np.arange(len(exact)), betas=exact.betas, global_orient=exact.pose[:, :3],
            body_pose=exact.pose[:, 3:], transl=exact.transl,
        )  # fmt: skip
        np.savez_compressed(
            truth / "surface" / "faces.npz",
            faces=self.plan.person.faces.astype(np.int32),
            labels=self.plan.person.face_labels,
        )
        light = dataclasses.asdict(LIGHTS[self.options.light]) | {
            "exposures": [round(e, 5) for e in self.plan.exposures]
        }
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
