"""The tables of a report, the same for HTML and Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from fmgs_dataparsers.capture import Split

from fmgs_nerfstudio.evaluation.report import paper
from fmgs_nerfstudio.evaluation.report.results import RunResult
from fmgs_nerfstudio.metrics.protocols import MEASURES, PROTOCOLS, paper_protocol

_COLUMNS = {"psnr": ("PSNR ↑", 2), "ssim": ("SSIM ↑", 4), "lpips": ("LPIPS ↓", 2)}
_MAPS = {
    "mask_iou": ("mask IoU ↑", 4),
    "normal_degrees": ("normals [°] ↓", 2),
    "surface_normal_degrees": ("depth normals [°] ↓", 2),
    "depth_mm": ("depth [mm] ↓", 1),
    "miou": ("mIoU ↑", 3),
}
_SPLITS: dict[Split | None, str] = {
    "novel_view": "new views",
    "novel_pose": "new poses",
    None: "training images",
}


@dataclass(frozen=True)
class Table:
    """Cells as text; `ours`: rows that were measured here."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    ours: set[int] = field(default_factory=set)

    def stands_out(self, row: int) -> bool:
        """Whether it was measured here and others were not."""
        return row in self.ours and len(self.ours) < len(self.rows)

    def is_text(self, column: int) -> bool:
        """Whether it has no number."""
        cells = [row[column] for row in self.rows]
        return column == 0 or not any(cell == "–" or cell[:1].isdigit() or cell[:1] == "-" for cell in cells)


def paper_tables(results: Sequence[RunResult]) -> list[Table]:
    """Tables 1 and 2 with the runs whose data they are about; none where there is no such run."""
    tables = []
    zju = [r for r in results if r.capture.protocol == "humannerf" and r.subject in paper.ZJU_SUBJECTS]
    if zju:
        tables.append(_table_1(zju))
    for subject, rows in paper.TABLE_2.items():
        snapshot = [r for r in results if r.capture.protocol == "instantavatar" and r.subject == subject]
        if snapshot:
            tables.append(_table_2(subject, rows, snapshot))
    return tables


def _table_1(results: Sequence[RunResult]) -> Table:
    measured = [(f"{r.name} ({r.subject})", r.means("novel_view"), r.speeds) for r in results]
    subjects = sorted({r.subject for r in results})
    if len(subjects) > 1:
        names = [name for name in (*_COLUMNS,) if all(name in metrics for _, metrics, _ in measured)]
        mean = {name: fmean(metrics[name] for _, metrics, _ in measured) for name in names}
        measured.append((f"mean of these ({len(results)} runs)", mean, {}))
    ours = [[name, *_cells(metrics, _COLUMNS), _duration(s), _number(s.get("fps"), 1)] for name, metrics, s in measured]
    printed = list(paper.TABLE_1) + ([paper.TABLE_3_FULL] if "377" in subjects else [])
    theirs = [
        [
            row.method,
            f"{row.psnr:.2f}",
            f"{row.ssim:.3f}",
            f"{row.lpips:.2f}",
            row.train,
            f"{row.fps:g}" if row.fps else "",
        ]
        for row in printed
    ]
    header = ["", *(title for title, _ in _COLUMNS.values()), "Train ↓", "FPS ↑"]
    note = (
        f"{_protocol_note('humannerf')} The paper's rows are means over the subjects {', '.join(paper.ZJU_SUBJECTS)}, "
        "with times and speeds of its GPU; training time and speed of the runs were measured where they ran."
    )
    return Table("ZJU-MoCap, new views: beside the paper's Table 1", header, ours + theirs, note, set(range(len(ours))))


def _table_2(subject: str, rows: Sequence[paper.Row], results: Sequence[RunResult]) -> Table:
    ours = [[r.name, *_cells(r.means("novel_pose"), _COLUMNS)] for r in results]
    theirs = [[row.method, f"{row.psnr:.2f}", f"{row.ssim:.4f}", f"{row.lpips:.1f}"] for row in rows]
    header = ["", *(title for title, _ in _COLUMNS.values())]
    note = (
        f"{_protocol_note('instantavatar')} InstantAvatar optimised the test poses on the test images; "
        "in these rows they are as given."
    )
    title = f"PeopleSnapshot, {subject}: beside the paper's Table 2"
    return Table(title, header, ours + theirs, note, set(range(len(ours))))


def _protocol_note(name: str) -> str:
    protocol = PROTOCOLS[name]
    return f"Protocol {name}: {protocol.psnr}, {protocol.ssim}, {protocol.lpips}."


def summary(results: Sequence[RunResult]) -> Table:
    """Every run and split under the paper's protocol, the maps' metrics, training time and speed."""
    shown = _present([r.means(split) for r in results for split in r.splits])
    rows = []
    for r in results:
        for split in r.splits:
            speeds = [_duration(r.speeds), _number(r.speeds["fps"], 1)]
            rows.append([r.name, _SPLITS[split], *_cells(r.means(split), shown), *speeds])
    used = sorted({paper_protocol(r.capture.protocol) for r in results})
    note = " ".join(_protocol_note(name) for name in used)
    if "lpips" not in shown:
        note += " LPIPS is left out: its backbones were not found (see the log)."
    header = ["run", "held out", *(title for title, _ in shown.values()), "Train ↓", "FPS ↑"]
    return Table("Held-out images", header, rows, note, set(range(len(rows))))


def refined_tables(results: Sequence[RunResult]) -> list[Table]:
    """New poses as given and as fitted to their test images; none where no run was asked to fit them."""
    refined = [r for r in results if r.refined]
    shown = _present([r.refined_means for r in refined])
    rows = []
    for r in refined:
        rows.append([r.name, "as given", *_cells(r.means("novel_pose"), shown)])
        rows.append([r.name, f"refined, {r.refine_steps} steps", *_cells(r.refined_means, shown)])
    header = ["run", "poses", *(title for title, _ in shown.values())]
    note = (
        "Each pose was fitted to the test images that it is scored on, with the avatar frozen (ns-eval's "
        "refined_pose_): no other table has these numbers."
    )
    return [Table("New poses, refined on their test images", header, rows, note)] if refined else []


def protocol_table(results: Sequence[RunResult]) -> Table:
    """The same renderings under every protocol."""
    rows = []
    for r in results:
        for split in r.splits:
            means = r.means(split)
            for name, protocol in PROTOCOLS.items():
                cells = _cells(protocol.columns(means), _COLUMNS)
                rows.append([r.name, _SPLITS[split], name, *cells, protocol.papers])
    header = ["run", "held out", "protocol", *(title for title, _ in _COLUMNS.values()), "as in the tables of"]
    note = "The same renderings; numbers are comparable only inside one protocol."
    return Table("Under other papers' protocols", header, rows, note)


def measures_table(results: Sequence[RunResult]) -> Table:
    """Every named measure, as ns-eval writes them."""
    columns = {f"{r.name}, {_SPLITS[split]}": r.means(split) for r in results for split in r.splits}
    rows = [
        [name, *(_number(means.get(name), 4) for means in columns.values())]
        for name in MEASURES
        if any(name in means for means in columns.values())
    ]
    return Table("All measures", ["measure", *columns], rows)


def view_table(result: RunResult) -> Table:
    """Every held-out image of one run."""
    shown = _present([view.metrics for view in result.views])
    rows = [[view.name, _SPLITS[view.split], *_cells(view.metrics, shown)] for view in result.views]
    return Table("Every held-out image", ["image", "held out", *(title for title, _ in shown.values())], rows)


def worst_table(result: RunResult) -> Table:
    """The images with the lowest PSNR."""
    table = view_table(result)
    worst = {panel.view.name for panel in result.worst}
    rows = sorted((row for row in table.rows if row[0] in worst), key=lambda row: float(row[2]))
    return Table("Worst frames", table.header, rows)


def _present(measured: Sequence[Mapping[str, float]]) -> dict[str, tuple[str, int]]:
    """The columns that any of these fill."""
    columns = _COLUMNS | _MAPS
    return {name: column for name, column in columns.items() if any(name in metrics for metrics in measured)}


def _cells(metrics: Mapping[str, float], columns: Mapping[str, tuple[str, int]]) -> Iterator[str]:
    for name, (_, digits) in columns.items():
        yield _number(metrics.get(name), digits)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _duration(speeds: Mapping[str, float]) -> str:
    """Training time as the paper writes it."""
    if "train_seconds" not in speeds:
        return "–"
    seconds = speeds["train_seconds"]
    if seconds < 60:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 3600 else f"{seconds / 3600:.1f}h"
