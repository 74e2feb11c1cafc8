"""A video as a telephone takes it, and the exact truth beside it: what a tracker is measured by.

    <out>/video.mp4       H.264; of odd seeds upright, stored on its side with the turn in its metadata
    <out>/truth/          a capture in the raw ZJU-MoCap layout like any other of fmgs-demo, without noise: Camera_B1 is
                          the video's, the others and the novel poses judge an avatar that was trained on what a
                          tracker made of the video
    <out>/truth/ground_truth/clip.npz     what a tracker should find (see its README.txt)

World of the truth: z up, metres, the ground is z = 0. A tracker has a world of its own: the camera, which both share,
takes one to the other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from fmgs_dataparsers.capture import PinholeCamera
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo.acts import video_motion
from fmgs_nerfstudio.demo.motion import novel_poses
from fmgs_nerfstudio.demo.person import Person
from fmgs_nerfstudio.demo.plan import DemoOptions, Plan, Preset, PresetName, frames_of, splits_of
from fmgs_nerfstudio.demo.render import LIGHTS, Picture, PosedPerson
from fmgs_nerfstudio.demo.room import Room
from fmgs_nerfstudio.demo.skinned_surface import BODY
from fmgs_nerfstudio.demo.studio import TRAIN_CAMERA, Motion, changing_exposure, place_cameras
from fmgs_nerfstudio.demo.writer import CaptureWriter
from fmgs_nerfstudio.maps.maps import write_mask

_RATES = (15, 20, 24, 30)  # frames per second
_CLOCK = 90_000  # time stamps in a second
_CLOTH = 0.03  # metres that hair, soles and cloth stand off the body


@dataclass(frozen=True)
class VideoPreset:
    longer: int
    """Pixels of the image's longer side; the other is 9 / 16 of it."""
    rest: Preset
    """The person's detail, frames, and the images of the other cameras."""


VIDEO_PRESETS: dict[PresetName, VideoPreset] = {
    "ci": VideoPreset(320, Preset(128, 0, 24, 2, 2, ("Camera_B2",))),
    "small": VideoPreset(1280, Preset(512, 2, 100, 6, 8, ("Camera_B2", "Camera_B4"))),
    "full": VideoPreset(1920, Preset(720, 2, 200, 12, 20, ("Camera_B2", "Camera_B3", "Camera_B4"))),
}


def without_noise(options: DemoOptions) -> DemoOptions:
    """The truth has no errors, and a video no priors."""
    exact = {field.name: 0.0 for field in dataclasses.fields(options) if field.name.endswith("_noise")}
    return dataclasses.replace(options, priors="none", **exact)


def is_portrait(seed: int) -> bool:
    """Whether the telephone is held upright."""
    return seed % 2 == 1


def clock(frames: int, seed: int) -> Float[Array, "F"]:
    """Seconds of the frames, the first at 0; of every third seed they do not come evenly, as with telephones."""
    rng = np.random.default_rng([seed, 52])
    rate = _RATES[int(rng.integers(len(_RATES)))]
    uneven = 0.12 * rng.uniform(-1, 1, frames) if seed % 3 == 0 else np.zeros(frames)
    ticks = np.rint((np.arange(frames) + uneven) * (_CLOCK / rate))
    return (ticks - ticks[0]) / _CLOCK


def place_camera(points: Float[Array, "N 3"], width: int, height: int, seed: int) -> PinholeCamera:
    """A level camera at rest whose height, pitch, focal length and distance the seed draws; it sees all of `points`.

    It looks along +y, its middle near the middle of what it sees; the person fills a drawn share of the image.
    """
    rng = np.random.default_rng([seed, 53])
    focal = max(width, height) * np.exp(rng.uniform(np.log(0.72), np.log(1.5)))
    at, fill, off = rng.uniform(0.5, 2.1), rng.uniform(0.62, 0.85), rng.uniform(-0.05, 0.05)
    middle = (points.min(0) + points.max(0)) / 2
    distance, pitch, shift = 3.0, 0.0, 0.0
    world_to_camera, half = np.eye(4), np.array([width, height]) / 2
    for _ in range(60):
        forward = np.array([0, np.cos(pitch), -np.sin(pitch)])
        right = np.array([1.0, 0, 0])
        eye = np.array([middle[0] + shift, middle[1] - distance, at])
        rotation = np.stack([right, np.cross(forward, right), forward])
        world_to_camera[:3, :3], world_to_camera[:3, 3] = rotation, -rotation @ eye
        seen = points @ rotation.T + world_to_camera[:3, 3]
        image = focal * seen[:, :2] / np.maximum(seen[:, 2:], 0.3)
        low, high = image.min(0), image.max(0)
        shift += (low[0] + high[0]) / 2 / focal * distance * 0.5
        pitch += np.arctan(((low[1] + high[1]) / 2 - off * height) / focal) * 0.7
        distance *= float(np.max((high - low) / 2 / half) / fill) ** 0.5
    K = np.array([[focal, 0, half[0]], [0, focal, half[1]], [0, 0, 1]])
    return PinholeCamera(K, world_to_camera, width, height)


def video_plan(options: DemoOptions) -> tuple[Plan, Float[Array, "F"]]:
    """What is rendered, and the seconds of the video's frames."""
    preset, seed = VIDEO_PRESETS[options.preset], options.seed
    rest = preset.rest
    person = Person(seed, rest.detail)
    times = clock(rest.train_frames, seed)
    novel = novel_poses(rest.pose_frames, seed).pose
    exact = video_motion(BodyModel.load(BODY), np.array(person.look.betas), times, seed, novel)
    splits = splits_of(rest)
    sides = (preset.longer * 9 // 16, preset.longer)
    width, height = sides if is_portrait(seed) else sides[::-1]
    points = _outline(exact, rest.train_frames)
    cameras = place_cameras(exact, rest.size, frames_of(splits))
    cameras[TRAIN_CAMERA] = place_camera(points, width, height, seed)
    exposures = changing_exposure(rest.train_frames, LIGHTS[options.light].flicker, seed)
    return Plan(person, exact, exact, cameras, splits, exposures), times


def _outline(motion: Motion, frames: int) -> Float[Array, "N 3"]:
    points = motion.vertices[:frames, ::5].reshape(-1, 3)
    return np.concatenate([points - _CLOTH, points + _CLOTH])


class VideoWriter(CaptureWriter):
    """Renders the truth of a video, frame by frame, and then the video."""

    def __init__(self, folder: Path, options: DemoOptions) -> None:
        plan, self.times = video_plan(options)
        super().__init__(folder / "truth", options, plan)
        self.video = folder / "video.mp4"
        points = _outline(plan.exact, len(self.times))
        camera, light = plan.cameras[TRAIN_CAMERA], LIGHTS[options.light]
        self.room = Room(camera, light, points.min(0), points.max(0), options.seed)

    def _picture(self, posed: PosedPerson, name: str, frame: int) -> Picture:
        if name != TRAIN_CAMERA:
            return super()._picture(posed, name, frame)
        room = self.room.behind(posed.scene)
        return posed.picture(self.plan.cameras[name], exposure=self.plan.exposures[frame], room=room)

    def _write_truth(self, picture: Picture, name: str, stem: str) -> None:
        if name != TRAIN_CAMERA:
            super()._write_truth(picture, name, stem)
        else:
            write_mask(self.folder / "ground_truth" / "mask" / name / f"{stem}.png", picture.mask)

    def write_shared(self) -> None:
        """As of a capture, and what a tracker should find."""
        super().write_shared()
        frames, exact, camera = len(self.times), self.plan.exact, self.plan.cameras[TRAIN_CAMERA]
        truth = self.folder / "ground_truth"
        np.savez(
            truth / "clip.npz",
            time=self.times, pose=exact.pose[:frames], transl=exact.transl[:frames], betas=exact.betas,
            K=camera.K, world_to_camera=camera.world_to_camera, size=np.array([camera.width, camera.height]),
            up=np.array([0.0, 0.0, 1.0]),
        )  # fmt: skip
        with (truth / "README.txt").open("a") as file:
            file.write(_README)

    def write_video(self) -> None:
        """H.264 of the training camera's images, each at its time; on its side where the camera was upright."""
        names = [self.folder / TRAIN_CAMERA / f"{frame:06d}.jpg" for frame in range(len(self.times))]
        portrait = is_portrait(self.options.seed)
        with av.open(str(self.video), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"crf": "18", "bf": "0", "threads": "1"})
            stream.time_base = stream.codec_context.time_base = Fraction(1, _CLOCK)
            stream.pix_fmt = "yuv420p"
            for i, (name, second) in enumerate(zip(names, self.times, strict=True)):
                image: Array = np.asarray(cv2.imread(str(name)), np.uint8)
                if portrait:  # a quarter turn against the clock, which its player undoes
                    image = np.ascontiguousarray(np.rot90(image))
                if i == 0:
                    stream.height, stream.width = image.shape[:2]
                    if portrait:
                        stream.set_display_rotation(-90)
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts, frame.time_base = round(second * _CLOCK), Fraction(1, _CLOCK)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


_README = """
clip.npz holds what a tracker should find in video.mp4, for its F frames:
  time [F]                 seconds, as the video's time stamps have them
  pose [F, 72], transl [F, 3], betas [10]
                           in smplx's sense, of ../SMPL_NEUTRAL.npz; world metres, z up, the ground is z = 0
  K [3, 3], world_to_camera [4, 4], size [2]
                           pixels of the upright picture (width, height), the centre of the first one at (0.5, 0.5);
                           OpenCV's axes; the camera is at rest
  up [3]                   the world's upward axis
mask/Camera_B1/<frame>.png is the share of each pixel of the video that the person covers.
Seeds from 30 to 99 show motions that others do not: calibrate on others, measure on these.
"""
