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

BLOCK = 1024
"""Points that all levels are done for before the next: their features stay in the cache."""


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


@device_function
def _blocks(points):
    return (points + BLOCK - 1) // BLOCK


# Corners are written out: as a loop over a tuple of weights they cost half as much again.


@device_function
def _faces(index, n):
    """Rows of the corners of a cell's two faces across z, each in the order (0, 0), (1, 0), (0, 1), (1, 1)."""
    return (
        (index[n, 0], index[n, 1], index[n, 2], index[n, 3]),
        (index[n, 4], index[n, 5], index[n, 6], index[n, 7]),
    )


@device_function
def _on_face(table, rows, f, x, y):
    """A feature at a place on a face, and its slopes along x and y."""
    low, high = table[rows[0], f], table[rows[2], f]
    along_low, along_high = table[rows[1], f] - low, table[rows[3], f] - high
    low += x * along_low
    rise = high + x * along_high - low
    return low + y * rise, along_low + y * (along_high - along_low), rise


@device_function
def _add_to_face(table, rows, f, x, y, value):
    """Transpose of `_on_face`."""
    high = y * value
    low = value - high
    table[rows[0], f] += low - x * low
    table[rows[1], f] += x * low
    table[rows[2], f] += high - x * high
    table[rows[3], f] += x * high


@device_function
def _gather(table, index, fraction, first, lanes, out):
    """One level of a block of points."""
    for n in range(index.shape[0]):
        x, y, z = fraction[n, 0], fraction[n, 1], fraction[n, 2]
        near, far = _faces(index, n)
        for f in range(len(lanes)):
            value = _on_face(table, near, f, x, y)[0]
            out[n, first + f] = value + z * (_on_face(table, far, f, x, y)[0] - value)


@kernel
def gather(table, index, fraction, lanes, out):
    """`out [N, L * F]`: the weighted sum of eight rows of `table [R, F]` per level and point."""
    for block in numba.prange(_blocks(index.shape[1])):
        points = slice(block * BLOCK, min(block * BLOCK + BLOCK, index.shape[1]))
        for level in range(index.shape[0]):
            _gather(table, index[level, points], fraction[level, points], level * len(lanes), lanes, out[points])


@device_function
def _scatter(grad_out, index, fraction, first, lanes, grad_table):
    """One level of a block of points."""
    for n in range(index.shape[0]):
        x, y, z = fraction[n, 0], fraction[n, 1], fraction[n, 2]
        near, far = _faces(index, n)
        for f in range(len(lanes)):
            value = grad_out[n, first + f]
            _add_to_face(grad_table, near, f, x, y, value - z * value)
            _add_to_face(grad_table, far, f, x, y, z * value)


@kernel
def scatter(grad_out, index, fraction, lanes, workers, grad_table):
    """Transpose of `gather`: adds into `grad_table [R, F]`; a level is one worker's, so the order of sums is fixed."""
    count = index.shape[0]
    for worker in numba.prange(workers):
        for block in range(_blocks(index.shape[1])):
            points = slice(block * BLOCK, min(block * BLOCK + BLOCK, index.shape[1]))
            for level in range(worker * count // workers, (worker + 1) * count // workers):
                here, place = index[level, points], fraction[level, points]
                _scatter(grad_out[points], here, place, level * len(lanes), lanes, grad_table)


@device_function
def _position_gradient(grad_out, table, index, fraction, scale, first, lanes, grad_positions):
    """One level of a block of points."""
    for n in range(index.shape[0]):
        x, y, z = fraction[n, 0], fraction[n, 1], fraction[n, 2]
        near, far = _faces(index, n)
        for f in range(len(lanes)):
            slope = scale * grad_out[n, first + f]
            value, along_x, along_y = _on_face(table, near, f, x, y)
            beyond, beyond_x, beyond_y = _on_face(table, far, f, x, y)
            grad_positions[n, 0] += slope * (along_x + z * (beyond_x - along_x))
            grad_positions[n, 1] += slope * (along_y + z * (beyond_y - along_y))
            grad_positions[n, 2] += slope * (beyond - value)


@kernel
def position_gradient(grad_out, table, index, fraction, scale, lanes, grad_positions):
    """Adds the gradient to `grad_positions [N, 3]`: the slope of the trilinear weights times the level's scale."""
    for block in numba.prange(_blocks(index.shape[1])):
        points = slice(block * BLOCK, min(block * BLOCK + BLOCK, index.shape[1]))
        for level in range(index.shape[0]):
            here, place = index[level, points], fraction[level, points]
            first, out = level * len(lanes), grad_positions[points]
            _position_gradient(grad_out[points], table, here, place, scale[level], first, lanes, out)
