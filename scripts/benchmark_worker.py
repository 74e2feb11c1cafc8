"""One job of `scripts/benchmark` in a process of its own: `benchmark_worker.py JOB.json RESULT.json`.

It measures the package that PYTHONPATH names, ours or a former state of it, so it uses only what both have. A job is a
dictionary: `kind` names the function below, and the rest are its arguments.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmark_measure import Json, rates, summary, timed
from benchmark_training import Training
from torch import Tensor

from fmgs_nerfstudio.fields import hash_grid, skinning
from fmgs_nerfstudio.rendering import Camera, Layer, rasterize


def pinhole(cameras: Any) -> Camera:
    """nerfstudio's first camera as the renderer's."""
    fx, fy, cx, cy = (float(value[0]) for value in (cameras.fx, cameras.fy, cameras.cx, cameras.cy))
    width, height = int(cameras.width[0]), int(cameras.height[0])
    return Camera.from_opengl(cameras.camera_to_worlds[0], fx, fy, cx, cy, width, height)


def scene(capture: str, n_vertices: int, pixels: int, channels: int) -> tuple[list[Tensor], Camera]:
    """Means [N, 3], tangents [N, 3, 2], opacities [N] and values [N, C] of a posed body, seen in a square image."""
    training = Training(capture, n_vertices=n_vertices)
    model: Any = training.model
    torch.manual_seed(0)
    with torch.no_grad():
        avatar = model.pose_avatar(0)
        camera = pinhole(training.manager.train_dataset.cameras)
        surfels, T = avatar.canonical, avatar.T
        means = (T[:, :, :3] @ surfels.means[..., None])[..., 0] + T[:, :, 3]
        tangents = T[:, :, :3] @ (surfels.frames[:, :, :2] * surfels.scales[:, None, :2])
    K = camera.K * torch.tensor([[pixels / camera.width], [pixels / camera.height], [1.0]])
    values = torch.rand(len(means), channels)
    leaves = [means, tangents, torch.full((len(means),), 0.9), values]
    return [leaf.detach().requires_grad_() for leaf in leaves], Camera(camera.viewmat, K, pixels, pixels)


def both_ways(render: Callable[[], Tensor], leaves: list[Tensor], seconds: float) -> Json:
    """Forward alone, and forward and backward."""

    def alone() -> None:
        with torch.no_grad():
            render()

    return {
        "forward": timed(alone, seconds=seconds),
        "forward + backward": timed(lambda: torch.autograd.grad(render().sum(), leaves), seconds=seconds),
    }


def render(
    capture: str, n_vertices: int, pixels: int, channels: int, executor: Any, seconds: float, peer: str | None = None
) -> Json:
    """The rasteriser; `peer`: a file as docs/performance.md describes it, in our place."""
    leaves, camera = scene(capture, n_vertices, pixels, channels)
    means, tangents, opacities, values = leaves

    def ours() -> Tensor:
        return rasterize([Layer(means, tangents, opacities, values)], camera, executor)[0]

    draw = adapter(peer)(leaves, camera) if peer else ours
    numbers, image = len(means) * (3 + 6 + 1 + channels), pixels * pixels * channels
    work = {"forward": {"bytes": 4 * (numbers + image)}, "forward + backward": {"bytes": 4 * (3 * numbers + 2 * image)}}
    return both_ways(draw, leaves, seconds) | {"surfels": len(means), "work": work}


def adapter(path: str) -> Callable[[list[Tensor], Camera], Callable[[], Tensor]]:
    """The function `prepare` of a file."""
    names: dict[str, Any] = {}
    exec(compile(Path(path).read_text(), path, "exec"), names)
    return names["prepare"]


def channels(capture: str, n_vertices: int, pixels: int, seconds: float) -> Json:
    """All modalities with their routes, as a training step composites them, 2 x 2 samples a pixel."""
    training = Training(capture, n_vertices=n_vertices, pixels=pixels)
    model: Any = training.model
    camera, _ = training.frame(0)
    view, avatar = pinhole(camera), model.train().pose_avatar(0)
    rgb = model.shade(avatar, camera.camera_to_worlds[0, :, 3]).detach().requires_grad_()

    def draw() -> Tensor:
        maps = model.render(avatar, rgb, view, model.objective.modalities)
        return torch.cat([value.flatten() for value in maps.values()])

    def both() -> None:
        torch.autograd.grad(draw().sum(), [avatar.T, rgb], retain_graph=True, allow_unused=True)

    ways = {"forward + backward": timed(both, seconds=seconds)}
    return ways | {"surfels": len(avatar.T)}


def encode(points: int, seconds: float, peer: bool = False) -> Json:
    """The hash encoding of moving points, ours or nerfstudio's in torch."""
    from nerfstudio.field_components.encodings import HashEncoding

    x, config = torch.rand(points, 3, requires_grad=True), hash_grid.HashGridConfig()
    if peer:
        theirs = HashEncoding(16, 16, 512, 16, 2, implementation="torch")
        return both_ways(lambda: theirs(x), [x, theirs.hash_table], seconds)
    ours = hash_grid.HashEncoding(config)
    values = points * 16 * (8 * 2 + 2)
    work = {"forward": {"bytes": 4 * values}, "forward + backward": {"bytes": 4 * 3 * values}}
    return both_ways(lambda: ours(x), [x, *ours.parameters()], seconds) | {"work": work}


def step(steps: int, **options: Any) -> Json:
    """Whole training steps with all losses, split by stage."""
    training = Training(**options)
    for each in range(3):
        training.step(each)
    training.stages.clear()
    total = [training.step(3 + each) for each in range(steps)]
    stages = {name: summary(times) for name, times in training.stages.items()}
    return {"step": summary(total), "stages": stages, "work": training.work(), "surfels": training.surfels}


def fit(capture: str, steps: int, repeats: int = 3) -> Json:
    """The fit of the skinning field before the first step."""
    model: Any = Training(capture).model

    low, extent = model.skinning.low, model.skinning.extent

    def once() -> None:
        field = skinning.SkinningField(model.config.skinning, torch.stack([low, low + extent]), 24)
        skinning.fit_to_surface(field, model.surface, steps, torch.Generator().manual_seed(0))

    return {"fit": timed(once, warm=1, least=repeats, seconds=0)}


def frame(capture: str, pixels: int, seconds: float) -> Json:
    """A picture of the avatar in a pose, as the viewer draws it."""
    training = Training(capture, pixels=pixels)
    model: Any = training.model.eval()
    camera, _ = training.frame(0)
    return {"frame": timed(lambda: model.get_outputs_for_camera(camera), seconds=seconds)}


def train(targets: list[float], every: int, views: int, **options: Any) -> Json:
    """Seconds of training until the mean PSNR of held-out views has reached each target."""
    training = Training(**options)
    seconds, reached, curve = 0.0, dict[str, float | None](), list[tuple[int, float, float]]()
    for each in range(training.steps):
        seconds += training.step(each) / 1000
        if (each + 1) % every == 0 or each + 1 == training.steps:
            psnr = training.psnr(views)
            curve.append((each + 1, round(seconds, 2), round(psnr, 3)))
            for target in targets:
                if psnr >= target and str(target) not in reached:
                    reached[str(target)] = round(seconds, 2)
    return {"seconds": reached, "curve": curve}


def track(video: str, out: str) -> Json:
    """Errors of the tracker on a video of fmgs-demo."""
    from benchmark_tracking import track_errors  # former states have no tracker

    return track_errors(Path(video), Path(out))


def avatar(run: str, truth: str) -> Json:
    """Errors of an avatar that was trained on what the tracker made of a video of fmgs-demo."""
    from benchmark_avatar import avatar_errors

    return avatar_errors(Path(run), Path(truth))


KINDS: dict[str, Callable[..., Json]] = {
    each.__name__: each for each in (rates, render, channels, encode, step, fit, frame, train, track, avatar)
}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps(KINDS[job.pop("kind")](**job)))


if __name__ == "__main__":
    main()
