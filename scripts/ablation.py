"""The paper's ablations (Table 3, Fig. 3, Fig. 5), and the method without one part at a time, from the same seed.

A plan of `fmgs-batch` (docs/scale.md): each row is one `ns-train fmgs-avatar` with a few flags more, and one `ns-eval`,
one at a time; what is done is not done again.
"""

from __future__ import annotations

import copy
import csv
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
import tyro
from rich.console import Console

from fmgs_nerfstudio.batch.ablation import FULL, PRIORS, TABLE_3, weigh
from fmgs_nerfstudio.batch.local import LocalEngine, Machine
from fmgs_nerfstudio.batch.plan import Plan, Source, Variant
from fmgs_nerfstudio.batch.progress import Progress
from fmgs_nerfstudio.batch.scheduler import run as run_tasks
from fmgs_nerfstudio.batch.state import State
from fmgs_nerfstudio.batch.steps import Place, runs_of, tasks_of
from fmgs_nerfstudio.batch.tasks import BatchError, Record
from fmgs_nerfstudio.cli.errors import in_one_line
from fmgs_nerfstudio.files import atomic_path, write_image


class Row(NamedTuple):
    """What a row changes."""

    flags: tuple[str, ...] = ()
    factors: Mapping[str, float] = MappingProxyType({})
    """Of the priors' weights."""

    def flags_of(self, method: str) -> tuple[str, ...]:
        """Flags for `ns-train METHOD`."""
        return (*self.flags, *weigh(method, self.factors))


def _without(terms: Sequence[str]) -> dict[str, float]:
    return dict.fromkeys(terms, 0.0)


TWO_SIDED = ("--pipeline.model.rendering.backface_cutoff", "1")
NO_LIGHT = ("--pipeline.model.light.kind", "none")
FREE = ("--pipeline.model.surfels.guided", "False", *NO_LIGHT)
UNCOORDINATED = ("--pipeline.model.coordinated", "False")
STRONG: Mapping[str, float] = {"d": 10, "sn": 10, "n": 10, "s": 10}
ROWS: dict[str, Row] = {
    # Table 3, one prior after the other
    **{row: Row(factors=_without(priors)) for row, priors in TABLE_3.items()},
    # Fig. 5
    "uncoordinated": Row(UNCOORDINATED),
    "opacity closed to priors": Row(("--pipeline.model.priors-move-opacity", "False")),
    # where its conflict should show, if anywhere: priors that outweigh the colours
    "priors x10": Row(factors=STRONG),
    "priors x10, uncoordinated": Row(UNCOORDINATED, STRONG),
    # Fig. 3: Gaussians that no mesh guides, drawn from both sides as 3DGS and 2DGS do
    "3D Gaussians": Row((*FREE, *TWO_SIDED, "--pipeline.model.surfels.kind", "3d"), _without(PRIORS)),
    "unguided": Row((*FREE, *TWO_SIDED), _without(PRIORS)),
    "unguided, priors": Row(FREE),
    # one part away
    "Z_p of another frame": Row(),
    "skinning frozen": Row(("--optimizers.skinning.optimizer.lr", "0")),
    "poses not refined": Row(("--pipeline.model.refine-poses", "False")),
    "no residual": Row(("--pipeline.model.schedule.residual-start", "2")),
    # beyond the paper: one part of the default away, or one more
    "one-sided": Row(("--pipeline.model.rendering.backface_cutoff", "0")),
    "two-sided": Row(TWO_SIDED),
    "no supersampling": Row(("--pipeline.model.rendering.supersampling", "1")),
    "no light": Row(NO_LIGHT),
    "light moves no normals": Row(("--pipeline.model.light.moves-normals", "False")),
    "exposures not found": Row(("--pipeline.model.light.exposures", "False")),
}
NEED_CUDA = {"3D Gaussians"}
OTHER_LATENT = "Z_p of another frame"
VARIANTS = {
    "fmgs-avatar-other-latent": "ablation_methods:other_latent",
    "fmgs-avatar-paper-other-latent": "ablation_methods:other_latent_paper",
}
"""Methods of `ablation_methods.py`."""
COLUMNS = {
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 4),
    "lpips": ("LPIPS x1000", 1),
    "mask_iou": ("mask IoU", 4),
    "normal_degrees": ("normals [deg]", 2),
    "surface_normal_degrees": ("depth normals [deg]", 2),
    "depth_mm": ("depth [mm]", 2),
    "miou": ("mIoU", 3),
    "novel_pose_psnr": ("PSNR, new poses", 2),
    "novel_pose_ssim": ("SSIM, new poses", 4),
    "seconds": ("time [s]", 0),
}
PANELS = {
    "fig3": ("3D Gaussians", "unguided", "unguided, priors", FULL),
    "fig5": ("uncoordinated", FULL, "priors x10, uncoordinated", "priors x10"),
}


@dataclass
class Ablation:
    """Train the rows on one capture and write table.md, table.csv and panels."""

    data: Annotated[Path, tyro.conf.Positional]
    """Folder of the capture. Columns of geometry and semantics need exact truth, as fmgs-demo writes it."""
    method: Literal["fmgs-avatar", "fmgs-avatar-paper"] = "fmgs-avatar"
    """Method that the rows change: the default, or the paper's own."""
    out: Path = Path("ablation_out")
    """Folder of runs and tables. An interrupted ablation continues there."""
    budget: float = 90.0
    """Seconds of training per row. The speed of the full method turns them into steps, the same for every row."""
    steps: int | None = None
    """Training steps of a row. Default: computed from the budget."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Seeds of initialisation, frame order and draws. With several, the table has mean and standard deviation."""
    rows: list[str] = field(default_factory=lambda: list(ROWS))
    """Rows to train."""


def main(ablation: Ablation) -> None:
    if unknown := [row for row in ablation.rows if row not in ROWS]:
        sys.exit(f"error: there is no row {unknown[0]!r}; rows: {', '.join(ROWS)}")
    console, out = Console(markup=False, emoji=False), ablation.out.resolve()
    left_out = set() if torch.cuda.is_available() else NEED_CUDA
    for row in left_out.intersection(ablation.rows):
        console.print(f"Leaving out {row}: needs CUDA, and there is no CUDA device here")
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for row in ablation.rows if row not in left_out]
    if not rows:
        return
    steps = _steps(ablation, out, console)
    variants = tuple(_variant(ablation.method, row) for row in rows)
    capture = Source(ablation.data.resolve().name, ablation.data.resolve())
    plan = Plan("ablation", (capture,), variants, tuple(ablation.seeds), ("train", "eval"), steps)
    records = _run(plan, out)
    _write_tables(plan, out, records, console)
    for name, shown in PANELS.items():
        _write_panel(plan, out, out / f"{name}.png", [row for row in shown if row not in left_out])
    if failed := [record for record in records.values() if record.status == "failed"]:
        sys.exit("\n".join(f"{record.task} failed: {record.why}" for record in failed))


def _variant(method: str, row: str) -> Variant:
    return Variant(row, method_of(method, row), ROWS[row].flags_of(method))


def _run(plan: Plan, out: Path) -> dict[str, Record]:
    """Train and evaluate one row after the other, each with all cores."""
    tasks, state = tasks_of(plan, out), State(out, environment=variants())
    state.open()
    engine = LocalEngine(1, state.order, Machine.here().cards[:1])
    try:
        with Progress(len(tasks), state.folder) as progress:
            return run_tasks(tasks, engine, state.finished, progress.tell)
    finally:
        engine.close()


def _steps(ablation: Ablation, out: Path, console: Console) -> int:
    """Asked for, or as this folder was begun with, or by the budget."""
    path = out / "ablation.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    data, method = str(ablation.data.resolve()), ablation.method
    if kept and ((kept["data"], kept["method"]) != (data, method) or ablation.steps not in (None, kept["steps"])):
        begun = f"{kept['steps']} steps of {kept['method']} on {kept['data']}"
        sys.exit(f"error: {out} was begun with {begun}; choose another --out")
    if not kept:
        steps = ablation.steps or max(
            50, round(ablation.budget / _seconds_per_step(ablation.data.resolve(), method, out))
        )
        kept = {"data": data, "method": method, "steps": steps}
        path.write_text(json.dumps(kept))
    console.print(f"{kept['steps']} steps a row")
    return int(kept["steps"])


def _seconds_per_step(data: Path, method: str, out: Path, count: int = 40) -> float:
    """Median time of a step of the full method, after its first ones."""
    from nerfstudio.configs.method_configs import all_methods
    from nerfstudio.engine.callbacks import TrainingCallbackLocation

    config = copy.deepcopy(all_methods[method])
    config.pipeline.datamanager.data = data
    config.output_dir, config.timestamp, config.vis, config.max_num_iterations = out, "speed", "tensorboard", count
    config.logging.local_writer.enable = False
    trainer = config.setup()
    trainer.setup()
    times = []
    for step in range(count):
        trainer.step = step
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        trainer.pipeline.train()
        start = time.perf_counter()
        trainer.train_iteration(step)
        times.append(time.perf_counter() - start)
    return statistics.median(times[count // 2 :])


def method_of(method: str, row: str) -> str:
    """The nerfstudio method of a row."""
    return f"{method}-other-latent" if row == OTHER_LATENT else method


def variants() -> dict[str, str]:
    """Environment in which nerfstudio's programs know the methods of `ablation_methods.py`."""
    methods = ",".join(f"{name}={place}" for name, place in VARIANTS.items())
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"NERFSTUDIO_METHOD_CONFIGS": methods, "PYTHONPATH": os.pathsep.join(path)}


def _results(plan: Plan, out: Path, records: Mapping[str, Record], row: str) -> list[dict[str, float]]:
    """Of the seeds that were evaluated: metrics, `seed`, `steps` and the `seconds` of training."""
    return [
        json.loads((at.folder / "metrics.json").read_text())["results"]
        | {"seed": at.seed, "steps": plan.steps, "seconds": records[f"{at.name}/train"].seconds}
        for at in _runs(plan, out, row)
        if records[f"{at.name}/eval"].done
    ]


def _runs(plan: Plan, out: Path, row: str) -> list[Place]:
    return [at for at in runs_of(plan, out) if at.variant is not None and at.variant.name == row]


def _cells(results: list[dict[str, float]]) -> Iterator[str]:
    """Mean, and the standard deviation over seeds where there are several; empty where not measured."""
    for key, (_, digits) in COLUMNS.items():
        values = [result[key] for result in results if key in result]
        cell = f"{statistics.fmean(values):.{digits}f}" if values else ""
        if len(values) > 1:
            cell += f" ± {statistics.stdev(values):.{digits}f}"
        yield cell


def _write_tables(plan: Plan, out: Path, records: Mapping[str, Record], console: Console) -> None:
    header = ["", *(title for title, _ in COLUMNS.values())]
    results = {row: found for row in ROWS if (found := _results(plan, out, records, row))}
    rows = [[row, *_cells(found)] for row, found in results.items()]
    lines = [" | ".join(cells) for cells in (header, ["---"] * len(header), *rows)]
    markdown = "".join(f"| {line} |\n" for line in lines)
    with atomic_path(out / "table.md") as path:
        path.write_text(markdown)
    with atomic_path(out / "table.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "seed", "steps", *COLUMNS])
        for row, found in results.items():
            for result in found:
                writer.writerow([row, *(result.get(key, "") for key in ("seed", "steps", *COLUMNS))])
    console.print(markdown, soft_wrap=True, markup=False)
    console.print(f"{out / 'table.md'}, {out / 'table.csv'}", soft_wrap=True)


def _write_panel(plan: Plan, out: Path, path: Path, rows: list[str], count: int = 2) -> None:
    """Truth, RGB, normal, depth normal, semantics of a few held-out views, one line per row (first seed) and view; of
    the maps those that the row trained."""
    lines = []
    for i in range(count):
        for row in rows:
            folder = next((at.folder / "images" for at in _runs(plan, out, row)), out)
            views = sorted(folder.glob("eval_novel_view_img_*.png"))
            if not views:
                return
            view = views[(2 * i + 1) * len(views) // (2 * count)]
            maps = folder / view.name.replace("_img_", "_maps_")
            line = np.hstack([cv2.imread(str(view)), cv2.imread(str(maps))])
            cv2.putText(line, row, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
            lines.append(line)
    with atomic_path(path) as temporary:
        width = max(line.shape[1] for line in lines)
        padded = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0))) for line in lines]
        write_image(temporary, np.vstack(padded))


if __name__ == "__main__":
    command = tyro.cli(Ablation)
    with in_one_line("scripts/ablation", BatchError, interrupted="the same command goes on where it stopped"):
        main(command)
