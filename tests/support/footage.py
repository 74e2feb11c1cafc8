"""Films of demo people before a wall with pictures, whose every joint is known, and the files they are kept in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
from fmgs_dataparsers.capture import PinholeCamera

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo.motion import turn
from fmgs_nerfstudio.demo.person import Person
from fmgs_nerfstudio.demo.render import LIGHTS, PosedPerson
from fmgs_nerfstudio.demo.skinned_surface import BODY
from fmgs_nerfstudio.demo.studio import Motion

SIZE, _FOCAL, _DISTANCE = 320, 560.0, 4.2
"""Of a shot, pixels; focal length, pixels; metres."""


JOINTS = {11: 16, 12: 17, 13: 18, 14: 19, 15: 20, 16: 21, 23: 1, 24: 2, 25: 4, 26: 5, 27: 7, 28: 8}
"""BlazePose's landmarks, and SMPL's joints beside them; left before right."""


@dataclass(frozen=True)
class Shot:
    """A person alone."""

    image: np.ndarray
    """[H, W, 3], blue, green, red, over grey."""
    mask: np.ndarray
    """[H, W], 0..1."""
    joints: np.ndarray
    """[24, 2], pixels."""
    depth: np.ndarray
    """[24], metres."""


@cache
def turning(seed: int = 3, frames: int = 12) -> tuple[Shot, ...]:
    """A person of the demo who turns once, from the front over their left."""
    person, body = Person(seed, 0), BodyModel.load(BODY)
    clip = turn(np.arange(frames) / (2 * frames), np.random.default_rng(seed))
    pose = clip.pose.astype(np.float32)
    motion = Motion(body, np.array(person.look.betas), pose, np.zeros((frames, 3)))
    camera = _camera(motion)
    return tuple(_shot(person, motion, frame, camera) for frame in range(frames))


def _camera(motion: Motion) -> PinholeCamera:
    K = np.array([[_FOCAL, 0, SIZE / 2], [0, _FOCAL, SIZE / 2], [0, 0, 1]])
    pelvis = motion.bones[0, 0, :3, :3] @ motion.joints[0] + motion.bones[0, 0, :3, 3]
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # z is up in the world, and y ahead
    world_to_camera[:3, 3] = [0, 0, _DISTANCE] - world_to_camera[:3, :3] @ (pelvis - [0, 0, 0.1])
    return PinholeCamera(K, world_to_camera, SIZE, SIZE)


def _shot(person: Person, motion: Motion, frame: int, camera: PinholeCamera) -> Shot:
    bones = motion.bones[frame]
    posed = PosedPerson(person, person.posed(bones, motion.pose[frame]), LIGHTS["studio"], seed=frame)
    picture = posed.picture(camera)
    joints = np.einsum("jik,jk->ji", bones[:, :3, :3], motion.joints) + bones[:, :3, 3]
    seen = joints @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
    pixels = seen @ camera.K.T
    image = np.ascontiguousarray(picture.rgb[..., ::-1])
    return Shot(image, picture.mask, pixels[:, :2] / pixels[:, 2:], seen[:, 2])


@cache
def wall(seed: int = 0, width: int = 640, height: int = 360) -> np.ndarray:
    """A wall with things on it: rectangles of dull colours, blurred a little."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 150, np.uint8)
    for _ in range(60):
        x, y = rng.integers(0, (width, height)).tolist()
        w, h = rng.integers(10, 80, 2).tolist()
        grey = int(rng.integers(60, 200))
        colour = tuple(int(np.clip(grey + c, 0, 255)) for c in rng.integers(-15, 15, 3))
        cv2.rectangle(image, (x, y), (x + w, y + h), colour, -1)
    return cv2.GaussianBlur(image, (0, 0), 1)


def place(background: np.ndarray, shot: Shot, left: float, top: float, scale: float = 1.0) -> np.ndarray:
    """The person before a background, their picture's corner at (left, top)."""
    move = np.array([[scale, 0, left + 0.5 * scale - 0.5], [0, scale, top + 0.5 * scale - 0.5]])
    size = background.shape[1::-1]
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    mask = cv2.warpAffine(shot.mask.astype(np.float32), move, size, flags=flags)[..., None]
    image = cv2.warpAffine(shot.image, move, size, flags=flags).astype(np.float32)
    return np.rint(mask * image + (1 - mask) * background).clip(0, 255).astype(np.uint8)


def film(
    path: Path,
    images: Iterable[np.ndarray],
    rate: int = 30,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[float] | None = None,
    tags: dict[str, str] | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """Write images (blue, green, red) as a video; `times` are seconds, where the rate varies."""
    options = {"movflags": "use_metadata_tags"} if tags else {}
    with av.open(str(path), "w", options=options) as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=rate)
        stream.pix_fmt = pixels
        if codec == "libx264":
            stream.options = {"crf": "16", "preset": "ultrafast"}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 90_000)
        for i, image in enumerate(images):
            if not i:
                stream.height, stream.width = image.shape[:2]
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
