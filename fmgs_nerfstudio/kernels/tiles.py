# pyright: standard
"""Products of small matrices inside numba kernels, as fast as the processor's vectors allow.

A tile of the result stays in registers while the inner dimension runs, which LLVM does not find by itself; around it,
`pack` lays a matrix out as tiles read it, and `product` goes over the tiles.
"""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from fmgs_nerfstudio.kernels.compiled import device_function
from fmgs_nerfstudio.kernels.simd import instruction

_WIDE = llvm.get_host_cpu_features().get("avx512f", False)
WIDTH = 16 if _WIDE else 8
"""Columns of a tile are a multiple of this: one vector, or two."""
ROWS = 8 if _WIDE else 4
"""Rows of a tile: with two vectors a row they fill the registers without spilling."""
_I32 = ir.IntType(32)
_LANES, _INTS = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(_I32, WIDTH)
_ARRAY = types.Array(types.float32, 1, "C")


def _tile(vectors: int):
    """The intrinsic for tiles of so many vectors in a row."""

    @instruction
    def tile(
        typing_context, inner, a, a_at, a_row, a_step, b, b_at, b_step, start, start_at, start_row, c, c_at, c_row
    ):
        """`c = start + a b` for `ROWS` x `vectors * WIDTH` entries; `start` may be `c`.

        Arrays are flat float32, places and strides are in numbers: entry (m, k) of a lies at a_at + m a_row + k a_step,
        row k of b at b_at + k b_step, row m of c at c_at + m c_row, and of start likewise (stride 0: all rows alike).
        """

        def codegen(context, builder, signature, arguments):
            inner, a, a_at, a_row, a_step, b, b_at, b_step, start, start_at, start_row, c, c_at, c_row = arguments
            index = inner.type

            def pointer(array, number):
                kind = signature.args[number]
                return context.make_array(kind)(context, builder, array).data

            def number(value):
                return ir.Constant(index, value)

            def lanes_at(data, place):
                return builder.bitcast(builder.gep(data, [place]), _LANES.as_pointer())

            def load(data, place):
                value = builder.load(lanes_at(data, place))
                value.align = 4
                return value

            def rows(at, row):
                return [builder.add(at, builder.mul(row, number(m))) for m in range(ROWS)]

            def columns(place):
                return [builder.add(place, number(v * WIDTH)) for v in range(vectors)]

            data_a, data_b, data_start, data_c = (pointer(x, i) for x, i in ((a, 1), (b, 5), (start, 8), (c, 11)))
            sums = [[cgutils.alloca_once(builder, _LANES) for _ in range(vectors)] for _ in range(ROWS)]
            for places, at in zip(sums, rows(start_at, start_row), strict=True):
                for place, column in zip(places, columns(at), strict=True):
                    builder.store(load(data_start, column), place)
            a_rows = rows(a_at, a_row)
            with cgutils.for_range(builder, inner) as loop:
                along = builder.mul(loop.index, a_step)
                b_row = [load(data_b, at) for at in columns(builder.add(b_at, builder.mul(loop.index, b_step)))]
                for places, at in zip(sums, a_rows, strict=True):
                    factor = builder.load(builder.gep(data_a, [builder.add(at, along)]))
                    factors = builder.insert_element(ir.Constant(_LANES, ir.Undefined), factor, ir.Constant(_I32, 0))
                    factors = builder.shuffle_vector(factors, factors, ir.Constant(_INTS, [0] * WIDTH))
                    for place, values in zip(places, b_row, strict=True):
                        builder.store(builder.fadd(builder.load(place), builder.fmul(factors, values)), place)
            for places, at in zip(sums, rows(c_at, c_row), strict=True):
                for place, column in zip(places, columns(at), strict=True):
                    builder.store(builder.load(place), lanes_at(data_c, column)).align = 4
            return context.get_dummy_value()

        arrays, place = _ARRAY, types.intp
        expected = [
            place,
            arrays,
            place,
            place,
            place,
            arrays,
            place,
            place,
            arrays,
            place,
            place,
            arrays,
            place,
            place,
        ]
        return types.void(*expected), codegen

    return tile


_tile_of_one, _tile_of_two = _tile(1), _tile(2)
PANEL = 2 * WIDTH


@device_function
def padded(width):
    """`width` up to whole vectors."""
    return -(-width // WIDTH) * WIDTH


@device_function
def pack(matrix, at, rows, columns, row_step, column_step, panels, to):
    """Lay `columns` of a matrix side by side in panels as wide as a tile, from `panels[to]` on; zeros beyond the last.

    Entry (i, j) lies at `matrix[at + i row_step + j column_step]`. Takes `rows * padded(columns)` numbers.
    """
    for left in range(0, padded(columns), PANEL):
        width = min(PANEL, padded(columns) - left)
        for row in range(rows):
            for column in range(left, left + width):
                inside = column < columns
                panels[to] = matrix[at + row * row_step + column * column_step] if inside else np.float32(0)
                to += 1


@device_function
def product(rows, inner, columns, a, a_at, a_row, a_step, b, b_at, b_row, start, start_at, start_row, c, c_at, c_row):
    """`c = start + a b` as the tiles have it; b lies row by row, or (`b_row` 0) in panels (`pack`), from `b[b_at]` on.

    c is written, and a and `start` are read, up to whole tiles: rows to a multiple of `ROWS`, columns to `padded`.
    """
    for left in range(0, padded(columns), PANEL):
        two = left + WIDTH < padded(columns)
        panel = b_at + (left if b_row else left * inner)
        step = b_row or (PANEL if two else WIDTH)
        for row in range(0, rows, ROWS):
            a_here, start_here, c_here = (
                a_at + row * a_row,
                start_at + row * start_row + left,
                c_at + row * c_row + left,
            )
            if two:
                _tile_of_two(
                    inner, a, a_here, a_row, a_step, b, panel, step, start, start_here, start_row, c, c_here, c_row
                )
            else:
                _tile_of_one(
                    inner, a, a_here, a_row, a_step, b, panel, step, start, start_here, start_row, c, c_here, c_row
                )
