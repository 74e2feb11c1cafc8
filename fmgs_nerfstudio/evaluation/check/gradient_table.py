"""The matrix loss x part of gradient norms, with the cells that the coordinated training strategy (4.5) blocks."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fmgs_nerfstudio.modalities import MODALITIES
from fmgs_nerfstudio.objective import TERMS
from fmgs_nerfstudio.routes import OPEN, Route, Strategy

# What a route opens or closes (see `routes.py`). The shared parts are reached through every open head.
_POSITION = ("displacement", "skinning")
_ORIENTATION = ("rotation",)
_SHAPE = ("scale head", "scales")
_OPACITY = ("opacities",)
_SHARED = ("pose", "pose encoder", "trunk", "V_g")

Norms = Mapping[str, Mapping[str, float]]


def route_of(loss: str) -> Route | None:
    """The route of the modality that a loss looks at; None for losses on no rendered map."""
    for modality in MODALITIES.values():
        if loss in modality.terms:
            return modality.route
    modalities = TERMS[loss].modalities
    # L_sn compares the normals with those of the depth map, which is detached.
    return MODALITIES[modalities[-1]].route if modalities else None


def blocked_parts(loss: str, strategy: Strategy) -> frozenset[str]:
    """Parts that `loss` must not move in a run of this strategy."""
    route = strategy.admits(route_of(loss) or OPEN)
    closed = [
        parts
        for is_open, parts in (
            (route.position, _POSITION),
            (route.orientation, _ORIENTATION),
            (route.shape, _SHAPE),
            (route.opacity, _OPACITY),
            (route.position or route.orientation or route.shape, _SHARED),
        )
        if not is_open
    ]
    return frozenset(part for parts in closed for part in parts)


def leaks(norms: Norms, strategy: Strategy) -> list[tuple[str, str]]:
    """Blocked cells with a gradient: (loss, part)."""
    return [
        (loss, part)
        for loss, parts in norms.items()
        for part in blocked_parts(loss, strategy)
        if parts.get(part, 0) > 0
    ]


def gradient_table(norms: Norms, strategy: Strategy) -> Table:
    """One row per part, one column per loss. A dot is zero; x is a zero that the routes ask for; ! a blocked cell that
    is not zero. Without coordination nothing is blocked."""
    table = Table("part", title="Gradient norms of the weighted losses", box=SIMPLE_HEAD, padding=0)
    for loss in norms:
        table.add_column(loss, justify="right", min_width=9)
    for part in next(iter(norms.values())):
        cells = (_cell(norms[loss][part], part in blocked_parts(loss, strategy)) for loss in norms)
        table.add_row(part, *cells)
    return table


def _cell(norm: float, blocked: bool) -> str:
    if norm == 0:
        return "[red]x[/]" if blocked else "[dim]·[/]"
    return f"[bold white on red]! {norm:.1e}[/]" if blocked else f"{norm:.1e}"
