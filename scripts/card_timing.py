"""Sections of the card check: where a step's time goes, what the host launches and waits for, frames per second."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from card_setup import Bench, Results
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils import writer
from torch import Tensor

from fmgs_nerfstudio import model as model_module
from fmgs_nerfstudio.frozen import FrozenAvatar
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.rendering import Camera, Layer, rasterize_finer

_RUN, _FROM = 3000, 2000  # every loss and part is on


class Steps:
    """Training steps through nerfstudio's own trainer, on one frame at the size that is timed."""

    def __init__(self, bench: Bench) -> None:
        made = bench.trainer_config(_RUN, "timing")
        made.pipeline.model.n_vertices = bench.options.vertices
        torch.manual_seed(made.machine.seed)
        self.trainer: Trainer = made.setup()
        self.trainer.setup()
        pipeline: Any = self.trainer.pipeline
        self.pipeline, self.model, self.at = pipeline, pipeline.model, _FROM
        assert isinstance(self.model, FMGSModel)
        self.model.update_to_step(_FROM)
        self.model.set_run_length(_RUN)
        self.camera, batch = bench.enlarged_frame()
        # As the data manager gives it, without the decoding.
        on_device = {k: v.to(self.model.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        pipeline.datamanager.drawn = pipeline.datamanager.train_dataset.frames[0]
        pipeline.datamanager.next_train = lambda step: (self.camera, dict(on_device))

    def __call__(self, log: bool = False) -> None:
        self.pipeline.train()
        for callback in self.trainer.callbacks:
            callback.run_callback_at_location(self.at, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        loss, terms, metrics = self.trainer.train_iteration(self.at)
        for callback in self.trainer.callbacks:
            callback.run_callback_at_location(self.at, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        if log:  # as the trainer does
            writer.put_scalar(name="Train Loss", scalar=loss, step=self.at)
            writer.put_dict(name="Train Loss Dict", scalar_dict=terms, step=self.at)
            writer.put_dict(name="Train Metrics Dict", scalar_dict=metrics, step=self.at)
            writer.write_out_storage()
        else:
            writer.EVENT_STORAGE.clear()
        self.at += 1


class Stages:
    """Time inside functions: on the host, and on the card between two events, its idle time included."""

    def __init__(self, on_card: bool) -> None:
        self.on_card = on_card
        self.host: dict[str, list[float]] = {}
        self.events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}
        self._undo: list[Callable[[], None]] = []

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        pair = None
        if self.on_card:
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.host.setdefault(name, []).append(1000 * (time.perf_counter() - begin))
            if pair is not None:
                pair[1].record()
                self.events.setdefault(name, []).append(pair)

    def watch(self, holder: Any, attribute: str, name: str) -> None:
        """Time every call of `holder.attribute` under this name."""
        original, own = getattr(holder, attribute), attribute in vars(holder)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return original(*args, **kwargs)

        setattr(holder, attribute, timed)
        self._undo.append(lambda: setattr(holder, attribute, original) if own else delattr(holder, attribute))

    def close(self) -> None:
        for undo in reversed(self._undo):
            undo()

    def table(self, steps: int) -> dict[str, dict[str, float]]:
        """Calls and milliseconds of a step; a call's time is the median."""
        rows = {}
        for name, times in self.host.items():
            calls = len(times) / steps
            rows[name] = {"calls": calls, "host ms": statistics.median(times) * calls}
            if pairs := self.events.get(name):
                rows[name]["card ms"] = statistics.median(a.elapsed_time(b) for a, b in pairs) * calls
        return rows


def timing(bench: Bench) -> Results:
    """A training step of the paper's size: whole, by stage, by launch and wait; the rasteriser alone."""
    step = Steps(bench)
    bench.timed = step.model
    n, surfels = bench.options.repeats, len(step.model.surfels.means)
    whole = bench.median_ms(step, n, 8)
    logged = bench.median_ms(lambda: step(log=True), n)
    bench.say(f"step of {surfels:,} surfels, {bench.options.size} px: {whole:.1f} ms; logged too {logged:.1f} ms")
    found: Results = {"surfels": surfels, "step ms": whole, "step with logging ms": logged}
    found["stages"] = _by_stage(bench, step)
    if bench.on_card:
        found["peak MB"] = torch.cuda.max_memory_allocated() / 2**20
        bench.say(f"  most memory {found['peak MB']:.0f} MB")
        found |= _launches(bench, step) | {"waits by line": _waits(bench, step)}
    found["rasteriser ms"] = _rasterizer(bench, step)
    return found


def _by_stage(bench: Bench, step: Steps) -> dict[str, dict[str, float]]:
    model, trainer, stages = step.model, step.trainer, Stages(bench.on_card)
    for holder, attribute, name in (
        (model.canonical, "forward", "bones"),
        (model.pose_encoder, "forward", "pose encoder"),
        (model.V_g, "forward", "volumes"),
        (model.V_c, "forward", "volumes"),
        (model.distilled, "forward", "volume and field, distilled"),
        (model.geometry, "forward", "geometry field"),
        (model.skinning.encoding, "forward", "hash encoding"),
        (model.skinning.mlp, "forward", "skinning field"),
        (model, "shade", "shade"),
        (model, "_inputs_for", "what changes"),
        (model_module, "layers_of", "layers"),
        (model_module, "rasterize_finer", "rasteriser, forward"),
        (model, "_replayed_step", "forward"),
        (model_module, "compose_outputs", "maps"),
        (model, "get_loss_dict", "losses, forward"),
        (model, "get_metrics_dict", "metrics"),
        (Tensor, "backward", "backward"),
        (trainer.optimizers, "optimizer_scaler_step_some", "Adam"),
        (trainer.optimizers, "scheduler_step_all", "rates"),
        (trainer, "train_iteration", "all"),
    ):
        stages.watch(holder, attribute, name)
    try:
        for _ in range(bench.options.repeats):
            step()
        bench.synchronize()
        table = stages.table(bench.options.repeats)
    finally:
        stages.close()
    for name, row in sorted(table.items(), key=lambda item: -item[1]["host ms"]):
        card = f"  card {row['card ms']:7.2f} ms" if "card ms" in row else ""
        bench.say(f"  {name:<28} {row['calls']:4.0f} x  host {row['host ms']:7.2f} ms{card}")
    return table


def _launches(bench: Bench, step: Steps, steps: int = 3) -> Results:
    """Of one step: kernels and copies, the card's busy time, calls of the driver, the largest kernels."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(steps):
            step()
        bench.synchronize()
    events: Any = profile.key_averages()
    # Without the spans of `record_function`, which are on the card, too.
    named = ("Optimizer.", "ProfilerStep", "Lr")
    on_card = [e for e in events if str(e.device_type).endswith("CUDA") and not e.key.startswith(named)]
    busy = {event.key: event.self_device_time_total / 1000 / steps for event in on_card}
    driver = ("cudaLaunch", "cuLaunch", "cudaMemcpy", "cudaMemset", "cudaStreamSync", "cudaDeviceSync", "cudaEventSync")
    calls = {event.key: event.count / steps for event in events if event.key.startswith(driver)}
    largest = dict(sorted(busy.items(), key=lambda item: -item[1])[:25])
    count = sum(event.count for event in on_card) / steps
    bench.say(f"  kernels and copies {count:.0f}, card busy {sum(busy.values()):.1f} ms")
    bench.say("  calls a step: " + ", ".join(f"{name} {number:.0f}" for name, number in calls.items()))
    for name, ms in itertools.islice(largest.items(), 10):
        bench.say(f"    {ms:6.3f} ms  {name[:90]}")
    return {"kernels": count, "card busy ms": sum(busy.values()), "calls": calls, "largest kernels, ms": largest}


def _waits(bench: Bench, step: Steps) -> dict[str, int]:
    """Lines of one step at which torch says that the host waits for the card; gsplat's own waits it does not see."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    found = dict(Counter(places).most_common())
    for place, count in found.items():
        bench.say(f"    waits {count} x  {place}")
    return found


def _rasterizer(bench: Bench, step: Steps) -> dict[str, float]:
    """The rasteriser on what a step gives it, forward and with its backward pass; products of small matrices."""
    device, caught = bench.options.device, []

    def catching(layers: Any, camera: Camera, factor: int) -> list[Tensor]:
        caught.append((layers, camera, factor))
        return rasterize_finer(layers, camera, factor)

    model_module.rasterize_finer = catching
    try:
        step()
    finally:
        model_module.rasterize_finer = rasterize_finer
    layers, camera, factor = caught[0]

    def once(chosen: list[Layer], backward: bool) -> None:
        # Layers that share a tensor go on sharing it.
        leaves = {id(x): x.detach().requires_grad_(backward) for layer in chosen for x in layer}
        images = rasterize_finer([Layer(*(leaves[id(x)] for x in layer)) for layer in chosen], camera, factor)
        if backward:
            torch.autograd.backward(images, [torch.ones_like(image) for image in images])

    n = bench.options.repeats
    found = {
        "all, forward": bench.median_ms(lambda: once(layers, False), n),
        "all, both ways": bench.median_ms(lambda: once(layers, True), n),
    }
    for layer in layers:
        found[f"{layer.values.shape[1]} channels, both ways"] = bench.median_ms(
            lambda layer=layer: once([layer], True), n
        )
    a, b = (torch.randn(len(layers[0].means), 3, columns, device=device) for columns in (3, 2))
    found["bmm N x 3x3 x 3x2"] = bench.median_ms(lambda: torch.bmm(a, b), n)
    found["the same by mul and sum"] = bench.median_ms(lambda: (a[..., None] * b[:, None]).sum(2), n)
    bench.say(f"  rasteriser, {camera.width} px, ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in found.items()))
    return found


def fps(bench: Bench) -> Results:
    """Frames a second from a pose to a picture in memory, as the paper counts them."""
    model = bench.timed or bench.model(bench.options.vertices).to(bench.options.device)
    camera, _ = bench.enlarged_frame()
    view = Camera.from_nerfstudio(camera).to(model.device)
    frozen, poses, found = FrozenAvatar(model), itertools.cycle(range(len(model.poses.pose))), {}
    rendering = model.config.rendering

    def draw() -> None:
        frozen.render(frozen.pose(*model.pose_now(next(poses))), view, ["colour"])

    for supersampling in (2, 1):
        model.config.rendering = dataclasses.replace(rendering, supersampling=supersampling)
        ms = bench.median_ms(draw, 3 * bench.options.repeats, 5)
        found[f"supersampling {supersampling}"] = {"ms": ms, "fps": 1000 / ms}
        bench.say(
            f"frozen avatar, {len(model.surfels.means):,} surfels, {view.width} px, supersampling {supersampling}: "
            f"{ms:.1f} ms, {1000 / ms:.0f} frames a second"
        )
    model.config.rendering = rendering
    return found
