"""Training curves: nerfstudio's TensorBoard events, and charts of them."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

_PREFIXES = {
    "Train Loss Dict/": "",
    "Train Metrics Dict/psnr": "PSNR of training images",
    "Train Loss": "sum of losses",
}
COLOURS = ("#3a7fdc", "#d9730d", "#2b9a66", "#c24fae", "#a3830f", "#7272e0")
"""Of the runs, in turn; to be seen on black and on white."""
_GREY = "#7d8792"
_STYLE = {
    "font.size": 8,
    "text.color": _GREY,
    "axes.edgecolor": _GREY,
    "grid.color": _GREY,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
}


class Curve(NamedTuple):
    """A scalar over training steps."""

    steps: list[int]
    values: list[float]


def read_curves(run: Path, most: int = 400) -> dict[str, Curve]:
    """PSNR, the sum of losses and each weighted term by name; at most `most` points each. Empty where the run wrote no
    events (`--vis` without tensorboard)."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    curves: dict[str, Curve] = {}
    for tag in events.Tags()["scalars"]:
        if (title := _title(tag)) is None:
            continue
        # A resumed run writes some steps again: the last word counts.
        scalars = sorted({event.step: event.value for event in events.Scalars(tag)}.items())
        kept = [scalars[i] for i in np.unique(np.linspace(0, len(scalars) - 1, most).round().astype(int))]
        curves[title] = Curve([step for step, _ in kept], [value for _, value in kept])
    return dict(sorted(curves.items(), key=lambda item: (item[0].startswith("L_"), item[0])))


def _title(tag: str) -> str | None:
    for prefix, title in _PREFIXES.items():
        if tag == prefix or (prefix.endswith("/") and tag.startswith(prefix)):
            return title or tag.removeprefix(prefix)
    return None


def chart(title: str, curves: Sequence[Curve | None]) -> Figure:
    """A line for each run (None: it has no such curve); logarithmic where all values are positive losses that vary."""
    figure = Figure(figsize=(3.3, 1.9), layout="constrained")
    axes = figure.subplots()
    for i, curve in enumerate(curves):
        if curve is not None:
            axes.plot(curve.steps, curve.values, color=COLOURS[i % len(COLOURS)], linewidth=1.2)
    values = np.array([value for curve in curves if curve is not None for value in curve.values])
    values = values[np.isfinite(values)]
    if "PSNR" not in title and len(values) and values.min() > 0 and values.max() > 3 * values.min():
        axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(alpha=0.3)
    return figure


def svg(title: str, curves: Sequence[Curve | None]) -> str:
    """The `chart` as an <svg> element, to stand in a page beside others."""
    written = StringIO()
    # Text stays text; the salt keeps the identifiers of charts on one page apart.
    style: Any = {**_STYLE, "svg.fonttype": "none", "svg.hashsalt": title}
    with matplotlib.rc_context(style):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        chart(title, curves).savefig(written, format="svg", transparent=True, metadata=nothing)
    return written.getvalue()[written.getvalue().index("<svg") :]
