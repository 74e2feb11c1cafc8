# pyright: standard
"""The CPU kernels of `perceptron.py`: all layers of a block of rows, forth and back.

Weights and biases are one flat vector, layer after layer; of `inputs [N, sum of padded widths]` a row has the inputs of
all layers side by side. `starts [layers + 1]` says where a layer's panels lie among `starts[-1]` numbers.

Copies are written with lanes: numba compiles a slice's assignment for seconds, and a plain loop has no vectors.
"""

from __future__ import annotations

import numba
import numpy as np

from fmgs_nerfstudio.kernels.compiled import device_function, kernel
from fmgs_nerfstudio.kernels.simd import LANES, load, store, where
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
def _copy(source, source_at, target, target_at, count):
    whole = count // LANES * LANES
    for k in range(0, whole, LANES):
        store(target, target_at + k, load(source, source_at + k))
    for k in range(whole, count):
        target[target_at + k] = source[source_at + k]


@device_function
def _clear(target, begin, end):
    for k in range(begin, end):
        target[k] = 0


@device_function
def _has_any(values):
    for value in values:  # noqa: SIM110 (numba's any() makes an array)
        if value != 0:
            return True
    return False


@kernel
def forward(x, widths, parameters, starts, inputs, keep, y, shares):
    """`y` of `x`; `inputs` is filled for all rows, or (`keep` off) has room for a block of each share."""
    layers, count, widest = len(widths) - 1, len(x), 0
    panels, at = np.empty(starts[layers], np.float32), 0
    for layer in range(layers):
        i, o = widths[layer], widths[layer + 1]
        pack(parameters, at, i, o, 1, i, panels, starts[layer])
        at += o * (i + 1)
        widest = max(widest, padded(o))
    biases, at = np.zeros((layers, widest), np.float32), 0
    for layer in range(layers):
        at += widths[layer] * widths[layer + 1]
        _copy(parameters, at, biases[layer], 0, widths[layer + 1])
        at += widths[layer + 1]
    stride, flat, out_stride = inputs.shape[1], inputs.reshape(-1), padded(widths[layers])
    outs = np.empty((shares, BLOCK * out_stride), np.float32)

    for share in numba.prange(shares):
        for first in range(_share(share, shares, count), _share(share + 1, shares, count), BLOCK):
            rows = min(BLOCK, count - first)
            at = (first if keep else share * BLOCK) * stride
            for row in range(_whole_tiles(rows)):
                here = at + row * stride
                _clear(flat, here, here + padded(widths[0]))
                if row < rows:
                    _copy(x[first + row], 0, flat, here, widths[0])
            for layer in range(layers - 1):
                i, o, to = widths[layer], widths[layer + 1], at + padded(widths[layer])
                product(
                    rows, i, o, flat, at, stride, 1, panels, starts[layer], 0, biases[layer], 0, 0, flat, to, stride
                )
                for row in range(_whole_tiles(rows)):
                    for k in range(to + row * stride, to + row * stride + padded(o), LANES):
                        value = load(flat, k)
                        store(flat, k, where(value < 0, 0, value))  # NaN stays
                at = to
            i, o, out, bias = widths[layers - 1], widths[layers], outs[share], biases[layers - 1]
            product(rows, i, o, flat, at, stride, 1, panels, starts[layers - 1], 0, bias, 0, 0, out, 0, out_stride)
            for row in range(rows):
                _copy(out, row * out_stride, y[first + row], 0, o)


@kernel
def backward(grad, widths, parameters, starts, sums_at, inputs, needs_x, needs_parameters, of_x, of_parameters, shares):
    """The gradients of rows and of parameters, where they are needed. Rows without a gradient are passed over.

    A share's `sums_at[-1]` sums are, from `sums_at[layer]` on, those of a layer's weights [O, I], in whole tiles, and
    of its biases.
    """
    layers, count, widest = len(widths) - 1, len(grad), 0
    panels, at = np.empty(starts[layers], np.float32), 0
    for layer in range(layers):
        i, o = widths[layer], widths[layer + 1]
        pack(parameters, at, o, i, i, 1, panels, starts[layer])
        at += o * (i + 1)
        widest = max(widest, padded(i), padded(o))
    sums = np.empty((shares, sums_at[layers]), np.float32)
    stride, outputs = inputs.shape[1], grad.shape[1]
    x_stride = stride + (WIDTH if stride % PANEL == 0 else 0)  # odd in vectors, so that rows do not meet in the cache

    for share in numba.prange(shares):
        _clear(sums[share], 0, sums.shape[1])
        rows, number = np.empty(BLOCK, np.int64), 0
        xs, pulls = np.empty(BLOCK * x_stride, np.float32), np.empty((2, BLOCK * widest), np.float32)
        zeros = np.zeros(widest, np.float32)
        begin, end = _share(share, shares, count), _share(share + 1, shares, count)
        for row in range(begin, end):
            if _has_any(grad[row]):
                at = number * widest
                _copy(grad[row], 0, pulls[0], at, outputs)
                _clear(pulls[0], at + outputs, at + widest)
                _copy(inputs[row], 0, xs, number * x_stride, stride)
                rows[number] = row
                number += 1
            elif needs_x:
                _clear(of_x[row], 0, of_x.shape[1])
            if number == BLOCK or (row == end - 1 and number > 0):
                _pull_back(
                    *(rows, number, pulls, widest, xs, x_stride, zeros, widths, panels, starts),
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
                _copy(sums[0], at + k * padded(i), of_parameters, to, i)
                to += i
            _copy(sums[0], at + _whole_tiles(o) * padded(i), of_parameters, to, o)
            to += o


@device_function
def _pull_back(
    rows, number, pulls, width, xs, x_stride, zeros, widths, panels, starts,
    sums, sums_at, needs_x, needs_parameters, of_x,
):  # fmt: skip
    """One block back through all layers: `pulls[0]` has the gradient of its outputs, xs their layers' inputs; adds to
    `sums`, writes `of_x`."""
    layers, columns_at, here = len(widths) - 1, 0, 0
    for layer in range(layers):
        columns_at += padded(widths[layer])
    for layer in range(layers - 1, -1, -1):
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
        _clear(pull, number * width, _whole_tiles(number) * width)
        here = 1 - here
        product(number, o, i, pull, 0, width, 1, panels, starts[layer], 0, zeros, 0, 0, pulls[here], 0, width)
        pull = pulls[here]
        for row in range(number):
            if layer > 0:
                source, target = row * x_stride + columns_at, row * width
                for k in range(0, padded(i), LANES):
                    active = load(xs, source + k) > 0
                    store(pull, target + k, where(active, load(pull, target + k), 0))
            else:
                _copy(pull, row * width, of_x[rows[row]], 0, i)
