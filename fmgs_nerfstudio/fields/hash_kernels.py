# pyright: standard
"""CPU kernels of the multi-resolution hash grid: cells, trilinear gather, its transpose and its slope.

Arrays are level-major: `index [L, N, 8]` int32 rows of the table, `fraction [L, N, 3]` positions inside the cell.
Corner c of a cell is the cell plus (c & 1, c >> 1 & 1, c >> 2). Levels own disjoint rows of the table.
`lanes` is a tuple of F zeros: its length is a compile-time constant, so the loops over features unroll.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from fmgs_nerfstudio.kernels.compiled import device_function, kernel


@device_function
def _weights(fraction):
    """The eight trilinear weights of a position inside its cell."""
    x, y, z = fraction[0], fraction[1], fraction[2]
    one = np.float32(1)
    x0, y0, z0 = one - x, one - y, one - z
    return (
        x0 * y0 * z0,
        x * y0 * z0,
        x0 * y * z0,
        x * y * z0,
        x0 * y0 * z,
        x * y0 * z,
        x0 * y * z,
        x * y * z,
    )


@device_function
def _split(p):
    """Cell number (wrapping as uint32 does below zero) and fraction of a coordinate in grid units."""
    floor = math.floor(p)
    return np.uint32(np.int64(floor)), np.float32(p - np.float32(floor))


@kernel
def locate(positions, scale, resolution, entries, first, dense, index, fraction):
    """Fill `index` and `fraction` for `positions [N, 3]`; the other arrays [L] are the columns of `levels`."""
    half = np.float32(0.5)
    for level in range(scale.shape[0]):
        for n in numba.prange(positions.shape[0]):
            i0, x = _split(positions[n, 0] * scale[level] + half)
            j0, y = _split(positions[n, 1] * scale[level] + half)
            k0, z = _split(positions[n, 2] * scale[level] + half)
            fraction[level, n, 0], fraction[level, n, 1], fraction[level, n, 2] = x, y, z
            for corner in range(8):
                # numba widens sums and products of uint32 to uint64; every cast below is a wrap
                i = np.uint32(i0 + (corner & 1))
                j = np.uint32(j0 + (corner >> 1 & 1))
                k = np.uint32(k0 + (corner >> 2))
                if dense[level]:
                    row = np.uint32(i + np.uint32(resolution[level] * np.uint32(j + resolution[level] * k)))
                else:
                    row = np.uint32(i ^ np.uint32(j * np.uint32(2654435761)) ^ np.uint32(k * np.uint32(805459861)))
                if row >= entries[level]:  # the division is slow, and rare in dense levels
                    row = np.uint32(row % entries[level])
                index[level, n, corner] = first[level] + row


@kernel
def gather(table, index, fraction, lanes, out):
    """`out [N, L * F]`: the weighted sum of eight rows of `table [R, F]` per level and point."""
    features = len(lanes)
    for level in range(index.shape[0]):  # one level's rows at a time stay in cache
        for n in numba.prange(index.shape[1]):
            weights = _weights(fraction[level, n])
            for f in range(features):
                out[n, level * features + f] = 0
            for corner in range(8):
                row = index[level, n, corner]
                for f in range(features):
                    out[n, level * features + f] += weights[corner] * table[row, f]


@kernel
def scatter(grad_out, index, fraction, lanes, grad_table):
    """Transpose of `gather`: adds into `grad_table [R, F]`; a level is one thread's, so the order of sums is fixed."""
    features = len(lanes)
    for level in numba.prange(index.shape[0]):
        for n in range(index.shape[1]):
            weights = _weights(fraction[level, n])
            for corner in range(8):
                row = index[level, n, corner]
                for f in range(features):
                    grad_table[row, f] += weights[corner] * grad_out[n, level * features + f]


@kernel
def position_gradient(grad_out, table, index, fraction, scale, lanes, grad_positions):
    """Adds the gradient to `grad_positions [N, 3]`: the slope of the trilinear weights times the level's scale."""
    features = len(lanes)
    one = np.float32(1)
    for level in range(index.shape[0]):
        for n in numba.prange(index.shape[1]):
            x, y, z = fraction[level, n, 0], fraction[level, n, 1], fraction[level, n, 2]
            for corner in range(8):
                row = index[level, n, corner]
                dot = np.float32(0)
                for f in range(features):
                    dot += grad_out[n, level * features + f] * table[row, f]
                dot *= scale[level]
                right, up, front = corner & 1, corner >> 1 & 1, corner >> 2
                u = x if right else one - x
                v = y if up else one - y
                w = z if front else one - z
                grad_positions[n, 0] += (dot if right else -dot) * v * w
                grad_positions[n, 1] += (dot if up else -dot) * u * w
                grad_positions[n, 2] += (dot if front else -dot) * u * v
