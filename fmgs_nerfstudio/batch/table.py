"""What came of a plan, side by side: made of records and of the files that ns-eval wrote, of nothing else."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fmgs_nerfstudio.batch.plan import Plan
from fmgs_nerfstudio.batch.steps import Place, runs_of
from fmgs_nerfstudio.batch.tasks import Record
from fmgs_nerfstudio.evaluation.html import render
from fmgs_nerfstudio.evaluation.report import paper
from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.gate import FileError, read_json

COLUMNS = {
    "psnr": ("PSNR ↑", 2),
    "ssim": ("SSIM ↑", 4),
    "lpips": ("LPIPS x1000 ↓", 2),
    "mask_iou": ("mask IoU ↑", 4),
    "normal_degrees": ("normals [°] ↓", 2),
    "surface_normal_degrees": ("depth normals [°] ↓", 2),
    "depth_mm": ("depth [mm] ↓", 1),
    "miou": ("mIoU ↑", 3),
}
HELD_OUT = {
    "": "New views",
    "novel_pose_": "New poses",
    "refined_pose_": "New poses, refined on their test images",
    "trained_": "Frames that were trained on, of captures that hold nothing out",
}
TIMES = ("fps", "train_seconds")
"""What differs from one machine and hour to the next: kept out of the tables of results."""


class Result(NamedTuple):
    """What came of one run."""

    at: Place
    metrics: Mapping[str, float]
    missing: str
    """Why there are no metrics."""

    @property
    def variant(self) -> str:
        assert self.at.variant is not None
        return self.at.variant.name


@dataclass(frozen=True)
class Table:
    """Cells as text; `set_off`: rows that stand apart."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    set_off: frozenset[int] = frozenset()


def results_of(plan: Plan, out: Path, records: Mapping[str, Record]) -> list[Result]:
    """The metrics of every run; or which task is in their way."""
    return [_result(at, records) for at in runs_of(plan, out)]


def _result(at: Place, records: Mapping[str, Record]) -> Result:
    record = records.get(f"{at.name}/eval")
    if record is None:
        return Result(at, {}, "the plan does not run eval")
    if not record.done:
        return Result(at, {}, f"{record.task} failed" if record.status == "failed" else record.why)
    try:
        values = read_json(at.folder / "metrics.json")["results"]
        kind = "" if values.pop("held_out", 1) else "trained_"
        return Result(at, {f"{kind}{name}": float(value) for name, value in values.items() if name not in TIMES}, "")
    except (OSError, FileError, TypeError, AttributeError, KeyError, ValueError) as error:
        return Result(at, {}, f"{at.folder / 'metrics.json'} cannot be read: {error}")


# Tables ---------------------------------------------------------------------------------------------------------------


def tables(plan: Plan, results: Sequence[Result]) -> list[Table]:
    """One for each kind of held-out images that was measured; one without numbers where none was."""
    kinds = [kind for kind in HELD_OUT if any(f"{kind}psnr" in result.metrics for result in results)]
    return [_table(plan, results, kind) for kind in kinds or [""]]


def _table(plan: Plan, results: Sequence[Result], kind: str) -> Table:
    printed = [*_papers_rows(plan, kind)]
    measured = {name for name in COLUMNS if any(kind + name in result.metrics for result in results)}
    shown = {name: column for name, column in COLUMNS.items() if name in measured or (printed and name in _PAPERS)}
    complete = all(f"{kind}psnr" in result.metrics for result in results)
    rows: list[list[str]] = []
    set_off = set[int]()
    for variant in plan.variants:
        own = [result for result in results if result.variant == variant.name]
        subjects = {s.name: [r for r in own if r.at.source.name == s.name] for s in plan.captures}
        for name, runs in subjects.items():
            rows.append(
                [name, variant.name, *_cells(_each(runs, kind), shown), *([] if complete else [_missing(runs, kind)])]
            )
        means = [mean for runs in subjects.values() if (mean := _mean(_each(runs, kind)))]
        if len(subjects) > 1 and means:
            set_off.add(len(rows))
            label = f"mean of {len(means)}" + (f" of {len(subjects)}" if len(means) < len(subjects) else "")
            rows.append([label, variant.name, *_cells(means, shown), *([] if complete else [""])])
    for capture, row, digits in printed:
        cells = (_printed(row, name, digits) for name in shown)
        rows.append([capture, f"{row.method} (paper)", *cells, *([] if complete else [""])])
    header = ["capture", "variant", *(title for title, _ in shown.values()), *([] if complete else ["missing"])]
    return Table(HELD_OUT[kind], header, rows, _note(plan, kind), frozenset(set_off))


def _each(runs: Iterable[Result], kind: str) -> list[dict[str, float]]:
    """The metrics of one kind of images, without its prefix, of every run that has some."""
    return [
        {name: run.metrics[kind + name] for name in COLUMNS if kind + name in run.metrics}
        for run in runs
        if run.metrics
    ]


def _mean(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name in COLUMNS if each and all(name in one for one in each)]
    return {name: statistics.fmean(one[name] for one in each) for name in names}


def _cells(each: Sequence[Mapping[str, float]], shown: Mapping[str, tuple[str, int]]) -> Iterator[str]:
    """Mean, and the standard deviation of several."""
    for name, (_, digits) in shown.items():
        values = [one[name] for one in each if math.isfinite(one.get(name, math.nan))]
        cell = f"{statistics.fmean(values):.{digits}f}" if values else "–"
        yield cell + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def _missing(runs: Sequence[Result], kind: str) -> str:
    why = {run.at.seed: run.missing or "it has no such images" for run in runs if f"{kind}psnr" not in run.metrics}
    reasons = [f"seed {seed}: {reason}" if len(runs) > 1 else reason for seed, reason in why.items()]
    return "; ".join(reasons)


_PAPERS = ("psnr", "ssim", "lpips")


def _papers_rows(plan: Plan, kind: str) -> Iterator[tuple[str, paper.Row, int]]:
    """Capture, row, and digits of SSIM of what the paper's table prints."""
    if plan.paper == "zju" and kind == "":
        yield from ((f"mean of {len(paper.ZJU_SUBJECTS)}", row, 3) for row in paper.TABLE_1)
    if plan.paper == "people-snapshot" and kind == "novel_pose_":
        yield from ((source.name, row, 4) for source in plan.captures for row in paper.TABLE_2.get(source.name, ()))
    if plan.paper == "ablation" and kind == "":
        yield from (("377", row, 3) for row in paper.TABLE_3)


def _printed(row: paper.Row, name: str, digits: int) -> str:
    return {"psnr": f"{row.psnr:.2f}", "ssim": f"{row.ssim:.{digits}f}", "lpips": f"{row.lpips:.2f}"}.get(name, "")


def _note(plan: Plan, kind: str) -> str:
    several = [f"over {len(plan.seeds)} seeds in a capture's row"] if len(plan.seeds) > 1 else []
    several += ["over captures in a mean's"] if len(plan.captures) > 1 else []
    seeds = f"± is the standard deviation: {', '.join(several)}." if several else ""
    if not plan.paper:
        return seeds
    from fmgs_nerfstudio.metrics.protocols import PROTOCOLS  # takes seconds

    name = "instantavatar" if plan.protocol == "instantavatar" else "humannerf"
    protocol = PROTOCOLS[name]
    note = f"Protocol {name}: {protocol.psnr}, {protocol.ssim}, {protocol.lpips}. {seeds}"
    if plan.paper == "people-snapshot" and kind:
        note += " InstantAvatar optimised the test poses on the test images; in our rows they are as given."
    return note


def failures(records: Mapping[str, Record]) -> list[Record]:
    """Tasks that failed; those that needed them are not among them."""
    return [record for record in records.values() if record.status == "failed"]


# Files ----------------------------------------------------------------------------------------------------------------


def markdown(made: Sequence[Table], failed: Sequence[Record]) -> str:
    """The tables, and why what is missing is missing."""
    parts: list[str] = []
    for table in made:
        lines = [table.header, ["---"] * len(table.header), *table.rows]
        body = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        parts += [f"### {table.title}", body, *([table.note] if table.note else [])]
    if failed:
        parts.append("### Failed")
    parts += [f"- {record.task}: {record.why.replace(chr(10), chr(10) + '  ')}" for record in failed]
    return "\n\n".join(parts) + "\n"


def write_tables(plan: Plan, out: Path, records: Mapping[str, Record]) -> str:
    """Write table.md, table.csv and index.html, which are the same wherever the tasks were done, and times.csv, which
    is not. Returns the Markdown."""
    results = results_of(plan, out, records)
    made, failed = tables(plan, results), failures(records)
    text = markdown(made, failed)
    page = render(
        "batch.html",
        title=f"fmgs-batch: {plan.name}",
        tables=made,
        failed=failed,
        pictures=[(at.name, pictures) for at in runs_of(plan, out) if (pictures := _pictures(at, records))],
    )
    for name, content in (("table.md", text), ("index.html", page)):
        with atomic_path(out / name) as path:
            path.write_text(content, encoding="utf-8")
    _write_csv(out / "table.csv", lambda writer: _write_results(writer, results))
    _write_csv(out / "times.csv", lambda writer: _write_times(writer, records.values()))
    return text


def _write_csv(path: Path, write: Callable[[Callable[[Iterable[object]], object]], None]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        write(csv.writer(file).writerow)


def _write_results(row: Callable[[Iterable[object]], object], results: Sequence[Result]) -> None:
    """A line for each run, all digits."""
    names = sorted({name for result in results for name in result.metrics})
    row(["capture", "variant", "seed", *names, "missing"])
    for r in results:
        row([r.at.source.name, r.variant, r.at.seed, *(r.metrics.get(name, "") for name in names), r.missing])


def _write_times(row: Callable[[Iterable[object]], object], records: Iterable[Record]) -> None:
    row(["task", "status", "seconds", "CPU seconds", "peak MB", "host", "finished before"])
    for r in records:
        row([r.task, r.status, f"{r.seconds:.2f}", f"{r.cpu_seconds:.2f}", f"{r.peak_mb:.0f}", r.host, r.kept])


def _pictures(at: Place, records: Mapping[str, Record]) -> list[str]:
    """A held-out image and its maps as ns-eval drew them, by their places beside the page; of a capture's first run."""
    record = records.get(f"{at.name}/eval")
    assert at.variant is not None
    if (at.variant, at.seed) != (at.plan.variants[0], at.plan.seeds[0]) or record is None or not record.done:
        return []
    images = sorted((at.folder / "images").glob("*_img_*.png"))
    if not images:
        return []
    middle = images[len(images) // 2]
    both = (middle, middle.with_name(middle.name.replace("_img_", "_maps_")))
    return [path.relative_to(at.out).as_posix() for path in both if path.is_file()]
