"""The surfels in a few parts of equal size: losses between neighbours look at one of them in a step.

Where a surfel is not drawn and no loss looks at it, its way through the fields needs no backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor, nn

from fmgs_nerfstudio.arrays import Array

NEIGHBOURS = 4
"""Neighbours of a surfel in L_iso, as in [30]."""
PATCHES = 4
_CELLS = 8
"""Connected pieces of a patch: few, or the neighbours beyond its borders are many; but some everywhere on the body."""


class Patch(NamedTuple):
    """Surfels and their neighbours."""

    rows: Int[Tensor, "M"]
    """The patch's own surfels, and after them the other neighbours of these."""
    neighbours: Int[Tensor, "C K"]
    """Of each of its own: places in `rows`."""
    scale: Float[Tensor, ""]
    """What a mean over all pairs is to be multiplied by: more than 1 where some are of a point with itself."""


class Patches(nn.Module):
    """Every surfel is one patch's own. Drawn as often as their sizes say, so that a mean over pairs is unbiased."""

    def __init__(self, points: Float[Tensor, "N 3"], count: int = PATCHES, k: int = NEIGHBOURS) -> None:
        super().__init__()
        nearest, self._patch_of = neighbours_of(points, k), _cells(points.numpy(force=True), count * _CELLS) % count
        found = list[tuple[Int[Array, "M"], Int[Array, "C K"]]]()
        for patch in range(int(self._patch_of.max()) + 1):
            own = np.flatnonzero(self._patch_of == patch)
            rows = np.concatenate([own, np.setdiff1d(nearest[own], own)])
            place = np.empty(len(points), np.int64)
            place[rows] = np.arange(len(rows))
            found.append((rows, place[nearest[own]]))
        self._sizes = [(len(rows), len(near)) for rows, near in found]
        most, most_own = (max(sizes) for sizes in zip(*self._sizes, strict=True))
        # Beyond a patch's size, rows that nobody looks at, and pairs of a point with itself.
        rows, near = np.zeros((len(found), most), np.int64), np.empty((len(found), most_own, k), np.int64)
        near[:] = np.arange(most_own)[:, None]
        for patch, (own_rows, own_near) in enumerate(found):
            rows[patch, : len(own_rows)], near[patch, : len(own_near)] = own_rows, own_near
        scale = torch.tensor([most_own / max(own, 1) for _, own in self._sizes])
        for name, value in {
            "rows": torch.from_numpy(rows),
            "neighbours": torch.from_numpy(near),
            "scale": scale,
        }.items():
            self.register_buffer(name, value.to(points.device), persistent=False)

    rows: Tensor
    neighbours: Tensor
    scale: Tensor

    def __iter__(self) -> Iterator[Patch]:
        """Each as it is, without what makes them equally large."""
        for patch, (size, own) in enumerate(self._sizes):
            yield Patch(self.rows[patch, :size], self.neighbours[patch, :own], torch.ones(()))

    def draw(self, generator: torch.Generator) -> Patch:
        """The patch of a surfel drawn at random, with as many rows and pairs as the largest."""
        patch = int(self._patch_of[int(torch.randint(len(self._patch_of), (), generator=generator))])
        return Patch(self.rows[patch], self.neighbours[patch], self.scale[patch])


def neighbours_of(points: Float[Tensor, "N 3"], k: int = NEIGHBOURS) -> Int[Array, "N K"]:
    """The nearest other points of each."""
    places = points.numpy(force=True)
    return np.asarray(KDTree(places).query(places, k=k + 1)[1])[:, 1:]


def _cells(points: Float[Array, "N 3"], count: int) -> Int[Array, "N"]:
    """Cells of equal size, those of near numbers near each other: halved across their longest side, again and again."""
    cell = np.zeros(len(points), np.int64)

    def split(members: Int[Array, "M"], first: int, cells: int) -> None:
        if cells == 1 or len(members) < 2:
            cell[members] = first
            return
        places = points[members]
        along = int(np.ptp(places, axis=0).argmax())
        order, left = members[np.argsort(places[:, along], kind="stable")], cells // 2
        cut = len(members) * left // cells
        split(order[:cut], first, left)
        split(order[cut:], first + left, cells - left)

    split(np.arange(len(points)), 0, count)
    return cell
