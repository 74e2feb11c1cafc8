# pyright: standard
"""The CPU kernels of `perceptron.py`: all layers of a block of rows, forth and back.

Weights and biases are one flat vector, layer after layer; of `inputs [N, sum of padded widths]` a row has the inputs of
all layers side by side.
"""

from __future__ import annotations

import numba
import numpy as np

from fmgs_nerfstudio.kernels.compiled import device_function, kernel
from fmgs_nerfstudio.kernels.tiles import PANEL, ROWS, WIDTH, pack, padded, product

BLOCK = 128
"""Rows that go through all layers at once."""


@device_function
def _share(share, shares, count):
    """First row of a share, which has whole blocks."""
    blocks = -(-count // BLOCK)
    return min(share * blocks // shares * BLOCK, count)


@device_function
def _whole_tiles(rows):
    return -(-rows // ROWS) * ROWS


@device_function
def _pack_layers(widths, parameters, transposed, starts, panels):
    """The matrices that rows are multiplied with: W^T on the way forth, W on the way back."""
    weight = 0
    for layer in range(len(widths) - 1):
        i, o = widths[layer], widths[layer + 1]
        if transposed:
            pack(parameters, weight, i, o, 1, i, panels, starts[layer])
        else:
            pack(parameters, weight, o, i, i, 1, panels, starts[layer])
        weight += o * (i + 1)


@kernel
def forward(x, widths, parameters, inputs, keep, y, shares):
    """`y` of `x`; `inputs` is filled for all rows, or (`keep` off) has room for a block of each share."""
    layers, count = len(widths) - 1, len(x)
    starts = np.zeros(layers + 1, np.int64)
    for layer in range(layers):
        starts[layer + 1] = starts[layer] + widths[layer] * padded(widths[layer + 1])
    panels = np.empty(starts[layers], np.float32)
    _pack_layers(widths, parameters, True, starts, panels)
    biases, at = np.zeros((layers, padded(widths.max())), np.float32), 0
    for layer in range(layers):
        at += widths[layer] * widths[layer + 1]
        biases[layer, : widths[layer + 1]] = parameters[at : at + widths[layer + 1]]
        at += widths[layer + 1]
    stride, flat, out_stride = inputs.shape[1], inputs.reshape(-1), padded(widths[layers])
    outs = np.empty((shares, BLOCK * out_stride), np.float32)

    for share in numba.prange(shares):
        for first in range(_share(share, shares, count), _share(share + 1, shares, count), BLOCK):
            rows = min(BLOCK, count - first)
            at = (first if keep else share * BLOCK) * stride
            for row in range(_whole_tiles(rows)):
                here = at + row * stride
                flat[here : here + padded(widths[0])] = 0
                if row < rows:
                    flat[here : here + widths[0]] = x[first + row]
            for layer in range(layers - 1):
                i, o, to = widths[layer], widths[layer + 1], at + padded(widths[layer])
                product(
                    rows, i, o, flat, at, stride, 1, panels, starts[layer], 0, biases[layer], 0, 0, flat, to, stride
                )
                for row in range(_whole_tiles(rows)):
                    for k in range(to + row * stride, to + row * stride + padded(o)):
                        flat[k] = np.float32(0) if flat[k] < 0 else flat[k]  # NaN stays
                at = to
            i, o, out, bias = widths[layers - 1], widths[layers], outs[share], biases[layers - 1]
            product(rows, i, o, flat, at, stride, 1, panels, starts[layers - 1], 0, bias, 0, 0, out, 0, out_stride)
            for row in range(rows):
                y[first + row] = out[row * out_stride : row * out_stride + o]


@kernel
def backward(grad, widths, parameters, inputs, needs_x, needs_parameters, of_x, of_parameters, shares):
    """The gradients of rows and of parameters, where they are needed. Rows without a gradient are passed over."""
    layers, count = len(widths) - 1, len(grad)
    starts = np.zeros(layers + 1, np.int64)  # of panels
    sums_at = np.zeros(layers + 1, np.int64)  # of a layer's sums: weights [O, I], whole tiles, then biases
    for layer in range(layers):
        i, o = widths[layer], widths[layer + 1]
        starts[layer + 1] = starts[layer] + o * padded(i)
        sums_at[layer + 1] = sums_at[layer] + (_whole_tiles(o) * padded(i) + padded(o) if needs_parameters else 0)
    panels = np.empty(starts[layers], np.float32)
    _pack_layers(widths, parameters, False, starts, panels)
    sums = np.empty((shares, sums_at[layers]), np.float32)
    stride, width = inputs.shape[1], padded(widths.max())
    x_stride = stride + (WIDTH if stride % PANEL == 0 else 0)  # odd in vectors, so that rows do not meet in the cache

    for share in numba.prange(shares):
        sums[share] = 0
        rows, number = np.empty(BLOCK, np.int64), 0
        xs = np.empty(BLOCK * x_stride, np.float32)
        pulls, zeros = np.zeros((2, BLOCK * width), np.float32), np.zeros(width, np.float32)
        begin, end = _share(share, shares, count), _share(share + 1, shares, count)
        for row in range(begin, end):
            if _has_any(grad[row]):
                at = number * width
                pulls[0, at : at + grad.shape[1]] = grad[row]
                pulls[0, at + grad.shape[1] : at + width] = 0
                xs[number * x_stride : number * x_stride + stride] = inputs[row]
                rows[number] = row
                number += 1
            elif needs_x:
                of_x[row] = 0
            if number == BLOCK or (row == end - 1 and number > 0):
                _pull_back(
                    *(rows[:number], pulls, xs, x_stride, zeros, widths, panels, starts),
                    *(sums[share], sums_at, needs_x, needs_parameters, of_x),
                )
                number = 0

    if needs_parameters:
        for entry in numba.prange(sums.shape[1]):
            for share in range(1, shares):
                sums[0, entry] += sums[share, entry]
        to = 0
        for layer in range(layers):
            i, o, at = widths[layer], widths[layer + 1], sums_at[layer]
            for k in range(o):
                of_parameters[to : to + i] = sums[0, at + k * padded(i) : at + k * padded(i) + i]
                to += i
            at += _whole_tiles(o) * padded(i)
            of_parameters[to : to + o] = sums[0, at : at + o]
            to += o


@device_function
def _has_any(values):
    for value in values:  # noqa: SIM110 (numba's any() makes an array)
        if value != 0:
            return True
    return False


@device_function
def _pull_back(
    rows, pulls, xs, x_stride, zeros, widths, panels, starts, sums, sums_at, needs_x, needs_parameters, of_x
):  # fmt: skip
    """One block back through all layers: `pulls[0]` has the gradient of its outputs, xs their layers' inputs; adds to
    `sums`, writes `of_x`."""
    number, layers, width = len(rows), len(widths) - 1, pulls.shape[1] // BLOCK
    columns_at = 0
    for layer in range(layers):
        columns_at += padded(widths[layer])
    here = 0
    for back in range(layers):
        layer = layers - 1 - back
        i, o, pull = widths[layer], widths[layer + 1], pulls[here]
        columns_at -= padded(i)
        if needs_parameters:
            at = sums_at[layer]
            product(o, number, i, pull, 0, 1, width, xs, columns_at, x_stride, sums, at, padded(i), sums, at, padded(i))
            at += _whole_tiles(o) * padded(i)
            for row in range(number):
                for k in range(o):
                    sums[at + k] += pull[row * width + k]
        if layer == 0 and not needs_x:
            return
        pull[number * width : _whole_tiles(number) * width] = 0
        product(number, o, i, pull, 0, width, 1, panels, starts[layer], 0, zeros, 0, 0, pulls[1 - here], 0, width)
        here = 1 - here
        pull = pulls[here]
        for row in range(number):
            if layer > 0:
                source = row * x_stride + columns_at
                for k in range(i):  # without a branch, so that vectors do it
                    value = pull[row * width + k]
                    pull[row * width + k] = value if xs[source + k] > 0 else np.float32(0)
            else:
                of_x[rows[row]] = pull[row * width : row * width + i]
