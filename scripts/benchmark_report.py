"""Tables of what `scripts/benchmark` found."""

from __future__ import annotations

from collections.abc import Mapping

from benchmark_measure import Json, least_ms
from rich.console import Console
from rich.table import Table

_TIMED = ("forward", "forward + backward", "encode", "fit", "frame", "step")


def show(suite: str, rows: list[Json], reached: Json) -> None:
    """Print one suite; times are minimum and median in milliseconds, ratios of minima to ours of the same thing."""
    errors = {row["what"]: row["errors"] for row in rows if "errors" in row}
    console = Console(width=max(200 if errors else 100, Console().width))
    if errors:
        console.print(_error_table(suite, errors))
    else:
        console.print(_time_table(suite, rows, reached))
    for row in rows:
        if "error" in row:
            console.print(f"{row['what']}, {row['who']}: {row['error']}", markup=False)


def _error_table(suite: str, errors: Mapping[str, Mapping[str, float]]) -> Table:
    """One line for each thing that was measured, one column for each measure."""
    table = Table(title=suite)
    table.add_column("", no_wrap=True)
    for measure in next(iter(errors.values())):
        table.add_column(measure.replace("_", " "), justify="right")
    for what, values in errors.items():
        table.add_row(what, *map(_figure, values.values()))
    return table


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"


def _time_table(suite: str, rows: list[Json], reached: Json) -> Table:
    table = Table(title=suite)
    for head in ("what", "who", "min", "median", "ours is", "at best"):
        table.add_column(head, justify="left" if head in ("what", "who") else "right")
    lines = [line for row in rows for line in _lines(row, reached)]
    ours = {what: least for what, who, least, *_ in lines if who == "ours"}

    def ratio(what: str, least: float) -> str:
        return f"{least / mine:.1f} x" if (mine := ours.get(what)) else ""

    for what, who, least, median, best in lines:
        faster = ratio(what, least) if who != "ours" and least is not None else ""
        table.add_row(what, who, _number(least), _number(median), faster, _number(best))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _lines(row: Json, reached: Json) -> list[tuple[str, str, float | None, float | None, float | None]]:
    """What, whose, minimum, median, and the machine's best (the roofline), in milliseconds."""
    what, who, work = row["what"], row["who"], row.get("work", {})
    lines: list[tuple[str, str, float | None, float | None, float | None]] = []
    for name, times in {**{n: row[n] for n in _TIMED if n in row}, **row.get("stages", {})}.items():
        best = least_ms(work[name], reached) if name in work else None
        lines.append((f"{what}, {name}", who, times["min_ms"], times["median_ms"], best))
    if "seconds" in row and isinstance(row["seconds"], dict):
        lines += [(f"{what}, to {target} dB", who, 1000 * s, None, None) for target, s in row["seconds"].items()]
        step, seconds, psnr = row["curve"][-1]
        lines.append((f"{what}, {step} steps, {psnr:.1f} dB", who, 1000 * seconds, None, None))
    elif "seconds" in row:
        lines.append((f"{what}, clock", who, 1000 * row["seconds"], None, None))
        lines.append((f"{what}, processors", who, 1000 * row["processor_seconds"], None, None))
    if "alone" in row and not ("error" in row["alone"] or "error" in row["crowd"]):
        for name in (n for n in _TIMED if n in row["alone"]):
            alone, beside = row["alone"][name]["median_ms"], row["crowd"][name]["median_ms"]
            lines.append((f"{what}: alone, and x {beside / alone:.2f} in a crowd", who, alone, beside, None))
    return lines
