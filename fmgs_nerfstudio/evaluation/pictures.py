"""Pictures of a trained avatar: a sheet of held-out views, and a turn-around."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from rich.progress import track
from torch import Tensor

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.evaluation.runs import open_run
from fmgs_nerfstudio.files import atomic_path, write_image
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.pipeline import FMGSPipeline

_T = TypeVar("_T")
Image = UInt8[Array, "H W 3"]
_COLUMNS = {
    "rgb": "rgb",
    "depth": "depth",
    "normal": "normal",
    "surface_normal": "depth normal",
    "semantics": "semantics",
}
"""Output maps, and their titles."""


def show_run(config: Path, sheet: Path, video: Path) -> None:
    """Write the picture sheet (PNG) and the turn-around (mp4) of the run with this `config.yml`."""
    pipeline = open_run(config, with_images=True).pipeline
    with atomic_path(sheet) as path:
        write_image(path, held_out_sheet(pipeline)[..., ::-1])
    frames = turnaround(pipeline)
    write_mp4(track(frames, "Turn-around", total=TURN_FRAMES), video, fps=24)


def held_out_sheet(pipeline: FMGSPipeline, rows: int = 5) -> Image:
    """One row per held-out image, spread over all: truth, RGB, depth, normal, depth normal, semantics; of the maps
    those that were trained."""
    loaders = [pipeline.datamanager.eval_loader(split) for split in ("novel_view", "novel_pose")]
    pairs = [pair for loader in loaders for pair in _spread(list(loader), (rows + 1) // 2)][:rows]
    strips, titles = [], ["truth"]
    for camera, batch in pairs:
        maps = pipeline.model.get_outputs_for_camera(camera)
        shown = [name for name in _COLUMNS if name in maps]
        titles = ["truth", *(_COLUMNS[name] for name in shown)]
        strips.append(np.hstack([_bytes(batch["image"]), *(picture(name, maps) for name in shown)]))
    return np.vstack([_header(titles, strips[0].shape[1] // len(titles)), *strips])


def picture(name: str, maps: dict[str, Float[Tensor, "H W C"]], depths: tuple[float, float] | None = None) -> Image:
    """An output map as people see it; depth near = bright, black where nothing is.

    `depths`: the nearest and the farthest of a whole video; none: this map's own.
    """
    value = maps[name].cpu()
    if name == "depth":
        covered = value > 0
        seen = value[covered] if covered.any() else torch.tensor([0.0, 1.0])
        near, far = depths or (float(seen.min()), float(seen.max()))
        value = torch.where(covered, 1 - 0.8 * ((value - near) / (far - near + 1e-6)).clamp(0, 1), 0)
    return _bytes(value.expand(-1, -1, 3))


TURN_FRAMES = 72


@torch.no_grad()
def turnaround(pipeline: FMGSPipeline) -> Iterable[Image]:
    """The person of the first training frame seen from all around: RGB, normal and semantics side by side; where the
    surfels' normals were not trained, those of the depth."""
    model = pipeline.model
    assert isinstance(model, FMGSModel)
    source = pipeline.datamanager.train_dataset.cameras[0:1].to(model.device)
    centre = (model.poses.transl + model.canonical.joints[0]).mean(0)
    up = centre.new_tensor(model.kwargs["metadata"]["capture"].up)
    for i in range(TURN_FRAMES):
        camera = orbit(source, centre, up, 2 * np.pi * i / TURN_FRAMES)
        maps = model.get_outputs_for_camera(camera)
        names = ("rgb", "normal" if "normal" in maps else "surface_normal", "semantics")
        yield np.hstack([picture(name, maps) for name in names if name in maps])


def orbit(camera: Cameras, centre: Float[Tensor, "3"], up: Float[Tensor, "3"], angle: float) -> Cameras:
    """`camera` carried about the axis `up` through `centre` by `angle` radians; its pose stays."""
    x, y, z = up.tolist()
    cross = up.new_tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    R = torch.linalg.matrix_exp(cross * angle)
    c2w = camera.camera_to_worlds[0]
    moved = torch.cat([R @ c2w[:, :3], (R @ (c2w[:, 3] - centre) + centre)[:, None]], dim=1)
    return Cameras(
        camera_to_worlds=moved[None], fx=camera.fx, fy=camera.fy, cx=camera.cx, cy=camera.cy,
        width=camera.width, height=camera.height, times=camera.times, metadata=camera.metadata,
    )  # fmt: skip


VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
"""Files that `write_mp4` can write."""


def write_mp4(frames: Iterable[Image], path: Path, fps: float) -> None:
    """H.264 that browsers play; frames of one size, odd sizes cut by a pixel."""
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"})
        for i, frame in enumerate(frames):
            height, width = (size // 2 * 2 for size in frame.shape[:2])
            if i == 0:
                stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            picture = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _spread(items: list[_T], count: int) -> list[_T]:
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]


def _bytes(image: Float[Tensor, "H W 3"]) -> Image:
    return (image.clamp(0, 1) * 255).round().byte().cpu().numpy()


def _header(titles: Sequence[str], width: int) -> Image:
    header = np.zeros((24, width * len(titles), 3), np.uint8)
    for i, title in enumerate(titles):
        cv2.putText(header, title, (i * width + 6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return header
