"""Normal equations of a clip: unknowns of each frame, tied to the two before, and a few of all frames."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve, solveh_banded

from fmgs_nerfstudio.arrays import Array


class NormalEquations:
    """J^T J and J^T r of F frames with n unknowns each, and g unknowns that all frames share.

    Rows of one frame and rows over three frames in turn are added; the first is a band of 3 n, so that time and memory
    grow with the frames.
    """

    def __init__(self, frames: int, n: int, g: int) -> None:
        self.n, self.cost = n, 0.0
        self.band = np.zeros((3, frames, n, n))
        """[k, f]: between the unknowns of frame f + k and those of f."""
        self.side = np.zeros((frames, n, g))
        self.corner = np.zeros((g, g))
        self.right, self.right_shared = np.zeros((frames, n)), np.zeros(g)

    def add(
        self,
        frames: slice,
        residual: Float[Array, "F R"],
        moves: Float[Array, "F R n"],
        shared: Float[Array, "F R g"] | None = None,
    ) -> None:
        """Rows of single frames."""
        turned = moves.swapaxes(1, 2)
        self.cost += float((residual**2).sum())
        self.band[0, frames] += turned @ moves
        self.right[frames] += (turned @ residual[..., None])[..., 0]
        if shared is not None:
            self.side[frames] += turned @ shared
            flat = shared.reshape(-1, shared.shape[-1])
            self.corner += flat.T @ flat
            self.right_shared += flat.T @ residual.ravel()

    def add_diagonal(self, residual: Float[Array, "F n"], weight: Float[Array, "F n"]) -> None:
        """`weight` x unknown + `residual`, frame by frame."""
        self.cost += float((residual**2).sum())
        index = np.arange(self.n)
        self.band[0][:, index, index] += weight**2
        self.right += weight * residual

    def add_steps(
        self, residual: Float[Array, "T R"], moves: tuple[Float[Array, "T R n"], ...], first: int = 0
    ) -> None:
        """Rows over frames t, t + 1, ... from `first` on: as many frames as there are `moves`."""
        steps = len(residual)
        self.cost += float((residual**2).sum())
        for i, move in enumerate(moves):
            turned = move.swapaxes(1, 2)
            self.right[first + i : first + i + steps] += (turned @ residual[..., None])[..., 0]
            for j in range(i + 1):
                self.band[i - j, first + j : first + j + steps] += turned @ moves[j]

    def add_shared(self, residual: Float[Array, "R"], slope: Float[Array, "R g"]) -> None:
        """Rows of what all frames share."""
        self.cost += float((residual**2).sum())
        self.corner += slope.T @ slope
        self.right_shared += slope.T @ residual

    def step(self, damping: float) -> tuple[Float[Array, "F n"], Float[Array, "g"], Float[Array, "g g"]]:
        """Of Levenberg and Marquardt, for frames and for what they share; and the inverse covariance of the latter."""
        frames, n, g = self.side.shape
        banded = self._banded(damping)
        right = np.concatenate([self.right.reshape(-1, 1), self.side.reshape(-1, g)], 1)
        solved = solveh_banded(banded, right, lower=True, overwrite_ab=True, check_finite=False)
        own, response = solved[:, 0], solved[:, 1:]
        side = self.side.reshape(-1, g)
        corner = self.corner - side.T @ response
        damped = corner + damping * np.diag(np.diag(self.corner))
        shared = solve(damped, self.right_shared - side.T @ own, assume_a="sym")
        return -(own - response @ shared).reshape(frames, n), -shared, corner

    def _banded(self, damping: float) -> Float[Array, "3n Fn"]:
        """LAPACK's lower form: [i - j, j]."""
        frames, n, _ = self.side.shape
        out = np.zeros((3 * n, frames, n))
        row, column = np.indices((n, n))
        for k in range(3):
            below = row + k * n - column
            seen = below >= 0
            out[below[seen], :, column[seen]] = self.band[k][:, row[seen], column[seen]].T
        out[0] *= 1 + damping
        out[0] += 1e-9
        return out.reshape(3 * n, frames * n)
