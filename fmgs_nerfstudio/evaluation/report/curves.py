"""Training curves: nerfstudio's TensorBoard events, and their picture as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

_PREFIXES = {
    "Train Loss Dict/": "",
    "Train Metrics Dict/psnr": "PSNR of training images",
    "Train Loss": "sum of losses",
}
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 300, 170, 54, 22, 8


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


def svg(title: str, curves: Sequence[Curve | None]) -> str:
    """One chart, a line for each run (None: it has no such curve); logarithmic where all values are positive losses."""
    drawn = [(i, curve) for i, curve in enumerate(curves) if curve is not None]
    values = np.array([value for _, curve in drawn for value in curve.values if math.isfinite(value)])
    logarithmic = "PSNR" not in title and values.min() > 0 and values.max() > 3 * values.min()
    scaled = np.log10(values) if logarithmic else values
    low, high = float(scaled.min()), float(scaled.max())
    high = high if high > low else low + 1
    last = max(curve.steps[-1] for _, curve in drawn) or 1

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 6) * step / last

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title} over training steps">']
    for at in np.linspace(low, high, 4):
        label = 10**at if logarithmic else at
        parts.append(f'<path class="grid" d="M{_LEFT} {y(at):.1f}H{_WIDTH - 6}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y(at) + 3:.1f}" text-anchor="end">{label:.3g}</text>')
    for at, anchor in ((0, "start"), (last, "end")):
        parts.append(f'<text x="{x(at):.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{at:,}</text>')
    for i, curve in drawn:
        finite = [(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if math.isfinite(v)]
        points = " ".join(f"{x(s):.1f},{y(math.log10(v) if logarithmic else v):.1f}" for s, v in finite)
        parts.append(f'<polyline class="run{i % 6}" points="{points}"/>')
    return "".join(parts) + "</svg>"
