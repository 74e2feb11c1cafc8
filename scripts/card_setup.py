"""What the sections of the card check share: options, report, models, frames, and a clock that waits for the card."""

from __future__ import annotations

import copy
import functools
import json
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from fmgs_dataparsers.parser import FMGSDataParserConfig
from jaxtyping import Shaped
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from fmgs_nerfstudio.data import AvatarDataset, Batch, crop_to_person
from fmgs_nerfstudio.fields.skinning import fit_to_surface
from fmgs_nerfstudio.method import FMGSTrainerConfig, fmgs_avatar
from fmgs_nerfstudio.model import FMGSModel, FMGSModelConfig
from fmgs_nerfstudio.schedule import Schedule

Results = dict[str, Any]
SectionName = Literal[
    "machine", "kernels", "training", "step", "layers", "pieces", "timing", "fps", "tests", "commands", "gaussians"
]


@dataclass(frozen=True)
class CardCheck:
    """Check this package on a CUDA card against the CPU, and time it.

    Prints a table at the end and writes card_check.json as it goes. A section that fails is written down, and the next
    one runs. Four minutes on an H100 where gsplat's kernels are compiled.
    """

    capture: Path | None = None
    """A capture; none: the demo's small one, made in --out, with known figures after 200 steps."""
    out: Path = Path("card_check_out")
    """Folder for card_check.json, pytest.log and runs."""
    device: Literal["cuda", "cpu"] = "cuda"
    """cpu: everything but what only a card does, to try this script; with small numbers below."""
    budget: float = 600.0
    """Seconds; sections that would not end in time are left out."""
    only: tuple[SectionName, ...] = ()
    """Sections; none: all."""
    steps: int = 200
    """Steps of the training run."""
    repeats: int = 30
    """Of what is timed; the median counts."""
    vertices: int = 30_000
    """Of the template that is timed; it has twice as many surfels."""
    size: int = 512
    """Of the picture that is timed, pixels."""


class CardReport:
    """Results by section, saved after each, and the lines of the table."""

    def __init__(self, path: Path, budget: float) -> None:
        self.path, self.budget, self.begin = path, budget, time.monotonic()
        self.results: dict[str, Results] = {}
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)
        print(f"[{time.monotonic() - self.begin:5.0f} s] {line}", flush=True)

    def section(self, name: str, function: Callable[[], Results], needs: float) -> None:
        """Run one section, if `needs` seconds are left."""
        begin = time.monotonic()
        left = self.budget - (begin - self.begin)
        if left < needs:
            self.say(f"{name}: LEFT OUT, {left:.0f} s left of the budget and it needs about {needs:.0f}")
            return
        self.say(f"--- {name}")
        try:
            made = function()
        except (Exception, SystemExit) as error:  # nerfstudio and commands exit
            made = {"error": traceback.format_exc()}
            self.say(f"{name}: FAILED, {type(error).__name__}: {str(error)[:300]}")
            traceback.print_exc()
        self.results[name] = made | {"seconds": round(time.monotonic() - begin, 1)}
        self.path.write_text(json.dumps(self.results, indent=1, default=str))


@dataclass
class Bench:
    """The capture and the models of one check."""

    options: CardCheck
    capture: Path
    out: Path
    report: CardReport
    trained: Path | None = None
    """The run that the section `training` left."""
    timed: FMGSModel | None = None
    """The model that the section `timing` left."""
    failures: list[str] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        """Folder of the runs, and of what is made of them."""
        return self.out / "runs"

    @property
    def on_card(self) -> bool:
        return self.options.device == "cuda"

    def say(self, line: str) -> None:
        self.report.say(line)

    def synchronize(self) -> None:
        if self.on_card:
            torch.cuda.synchronize()

    def median_ms(self, function: Callable[[], object], repeats: int, warm_up: int = 3) -> float:
        """Median time of a call, the card's work included."""
        times = []
        for repeat in range((warm_up if self.on_card else 1) + repeats):
            self.synchronize()
            begin = time.perf_counter()
            function()
            self.synchronize()
            times.append((repeat, 1000 * (time.perf_counter() - begin)))
        return statistics.median(ms for _, ms in times[-repeats:])

    def check(self, what: str, errors: dict[str, float], limit: float) -> None:
        """Print relative errors and note those that are not below the limit."""
        over = [name for name, error in errors.items() if not error < limit]
        self.failures += [f"{what}: {name} {errors[name]:.0e}, limit {limit:.0e}" for name in over]
        listed = ", ".join(f"{name} {error:.0e}{' (!)' if name in over else ''}" for name, error in errors.items())
        self.say(f"{what}: {listed}")

    @functools.cached_property
    def outputs(self) -> DataparserOutputs:
        return FMGSDataParserConfig(data=self.capture).setup().get_dataparser_outputs("train")

    @functools.cached_property
    def frame(self) -> tuple[Cameras, Batch]:
        """Camera and maps of a training frame, whole."""
        dataset = AvatarDataset(self.outputs)
        index = len(dataset.frames) // 3
        return dataset.cameras[index : index + 1], dataset.get_data(index)

    @property
    def cropped_frame(self) -> tuple[Cameras, Batch]:
        """As training sees it."""
        return crop_to_person(*self.frame, 0.25)

    def enlarged_frame(self) -> tuple[Cameras, Batch]:
        """The whole frame at the size that is timed."""
        (camera, batch), size = self.frame, self.options.size
        maps = {name: _resized(x, size) if isinstance(x, Tensor) else x for name, x in batch.items()}
        if "prior_normal" in maps:
            maps["prior_normal"] = normalize(maps["prior_normal"].nan_to_num(0), dim=-1)
        factor = size / float(camera.width[0])
        larger = Cameras(
            camera_to_worlds=camera.camera_to_worlds,
            fx=camera.fx * factor,
            fy=camera.fy * factor,
            cx=camera.cx * factor,
            cy=camera.cy * factor,
            width=torch.full_like(camera.width, size),
            height=torch.full_like(camera.height, size),
            times=camera.times,
            metadata=camera.metadata,
        )
        return larger, maps

    def model(self, n_vertices: int | None = None, **options: Any) -> FMGSModel:
        """Not trained, on the CPU."""
        torch.manual_seed(0)
        config = FMGSModelConfig(n_vertices=n_vertices, **options)
        return config.setup(scene_box=SceneBox(torch.eye(3)[:2]), num_train_data=1, metadata=self.outputs.metadata)

    def stirred_model(self, **options: Any) -> FMGSModel:
        """With fields that do something, skinning that is nearly the body's, late in its run."""
        model = self.model(**options)
        fit_to_surface(model.skinning, model.surface, 40, torch.Generator().manual_seed(0))
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if name.endswith("table"):
                torch.nn.init.uniform_(parameter, -0.5, 0.5)
            elif parameter.numel() and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.01)
        model.step = 900
        model.set_run_length(1000)
        model.zero_grad()
        model.train()
        return model

    def trainer_config(self, steps: int, name: str) -> FMGSTrainerConfig:
        """Of a run in the folder `out`, without evaluation on the way."""
        made = copy.deepcopy(fmgs_avatar.config)
        assert isinstance(made, FMGSTrainerConfig)
        made.pipeline.datamanager.data = self.capture
        made.pipeline.datamanager.check_fit = False  # the card is judged, not the capture
        made.output_dir, made.timestamp, made.vis = self.runs, name, "tensorboard"
        made.max_num_iterations = made.steps_per_save = steps
        made.steps_per_eval_image = 0
        made.pipeline.model.schedule = Schedule(skinning_fit_steps=min(2 * steps, Schedule.skinning_fit_steps))
        made.machine.device_type = self.options.device
        made.logging.local_writer.enable, made.logging.profiler = False, "none"
        return made


def _resized(value: Shaped[Tensor, "h w *c"], size: int) -> Shaped[Tensor, "H W *c"]:
    """Bilinear where it is continuous, else the nearest."""
    planes = value[..., None] if value.dim() == 2 else value
    mode = "bilinear" if value.is_floating_point() else "nearest"
    made = interpolate(planes.movedim(-1, 0)[None].float(), size=(size, size), mode=mode)[0].movedim(0, -1)
    made = made.to(value.dtype).contiguous()
    return made[..., 0] if value.dim() == 2 else made


def relative(value: Tensor, expected: Tensor) -> float:
    """Relative error in the 2-norm; NaN where shapes differ or a value is not finite."""
    value, expected = (x.detach().double().cpu() for x in (value, expected))
    if value.shape != expected.shape or not value.isfinite().all():
        return float("nan")
    return float((value - expected).norm() / expected.norm().clamp_min(1e-30))
