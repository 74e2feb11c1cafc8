# pyright: standard
"""Eight float32 lanes as one number in numba kernels.

Surfels are a few pixels wide, so a loop over their pixels is too short for a compiler to vectorise; written with these
lanes it needs no vectorising. LLVM maps a `float32x8` to one AVX register or two of SSE or NEON.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model

LANES = 8
_I1, _I8, _I32 = ir.IntType(1), ir.IntType(8), ir.IntType(32)
_FLOATS, _INTS, _MASKS = (ir.VectorType(lane, LANES) for lane in (ir.FloatType(), _I32, _I1))


class Float32x8(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x8")


class Mask8(types.Type):
    def __init__(self) -> None:
        super().__init__(name="mask8")


float32x8, mask8 = Float32x8(), Mask8()


@register_model(Float32x8)
class _Float32x8Model(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _FLOATS)


@register_model(Mask8)
class _Mask8Model(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _MASKS)


def instruction(definition: Callable[..., object]) -> Callable[..., Any]:
    """numba's `intrinsic`; type checkers then see what is called, not the typing context that numba adds."""
    return cast(Callable[..., Any], intrinsic(definition))


def _lanes(context, builder, value, numba_type):
    """A scalar becomes eight equal lanes; lanes stay as they are."""
    if numba_type == float32x8:
        return value
    scalar = context.cast(builder, value, numba_type, types.float32)
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, first, ir.Constant(_INTS, [0] * LANES))


def _is_arithmetic(a, b) -> bool:
    return float32x8 in (a, b) and all(x == float32x8 or isinstance(x, types.Number) for x in (a, b))


def _calling(function):
    """An implementation for `overload`, which takes Python functions only."""

    def implementation(a, b):
        return function(a, b)

    return implementation


def _define_arithmetic(python_operator, name: str) -> None:
    @instruction
    def apply(typing_context, a, b):
        def codegen(context, builder, signature, arguments):
            x, y = (_lanes(context, builder, *pair) for pair in zip(arguments, signature.args, strict=True))
            return getattr(builder, name)(x, y)

        return float32x8(a, b), codegen

    @overload(python_operator)
    def choose(a, b):
        return _calling(apply) if _is_arithmetic(a, b) else None


def _define_comparison(python_operator, symbol: str) -> None:
    @instruction
    def apply(typing_context, a, b):
        def codegen(context, builder, signature, arguments):
            x, y = (_lanes(context, builder, *pair) for pair in zip(arguments, signature.args, strict=True))
            return builder.fcmp_ordered(symbol, x, y)  # any comparison with NaN is false

        return mask8(a, b), codegen

    @overload(python_operator)
    def choose(a, b):
        return _calling(apply) if _is_arithmetic(a, b) else None


for _operator, _name in (
    (operator.add, "fadd"),
    (operator.iadd, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_arithmetic(_operator, _name)
for _operator, _symbol in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.ne, "!="),
):
    _define_comparison(_operator, _symbol)


@instruction
def _both(typing_context, a, b):
    def codegen(context, builder, signature, arguments):
        return builder.and_(*arguments)

    return mask8(mask8, mask8), codegen


@overload(operator.and_)
def _and(a, b):
    return _calling(_both) if a == b == mask8 else None


@instruction
def where(typing_context, mask, a, b):
    """`a` in the lanes where the mask holds, `b` elsewhere; scalars stand for eight equal lanes."""

    def codegen(context, builder, signature, arguments):
        x, y = (_lanes(context, builder, v, t) for v, t in zip(arguments[1:], signature.args[1:], strict=True))
        return builder.select(arguments[0], x, y)

    return float32x8(mask8, a, b), codegen


@instruction
def any_lane(typing_context, mask):
    """Does the mask hold in any lane?"""

    def codegen(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], _I8)
        return builder.icmp_unsigned("!=", bits, ir.Constant(_I8, 0))

    return types.boolean(mask8), codegen


@instruction
def splat(typing_context, scalar):
    """Eight equal lanes."""

    def codegen(context, builder, signature, arguments):
        return _lanes(context, builder, arguments[0], signature.args[0])

    return float32x8(scalar), codegen


@instruction
def ramp(typing_context):
    """The lanes 0, 1, ..., 7."""

    def codegen(context, builder, signature, arguments):
        return ir.Constant(_FLOATS, [float(i) for i in range(LANES)])

    return float32x8(), codegen


def _pointer(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


@instruction
def load(typing_context, array, index):
    """Lanes `array[index : index + 8]` of a contiguous float32 vector; no bounds are checked."""

    def codegen(context, builder, signature, arguments):
        value = builder.load(_pointer(context, builder, signature.args[0], *arguments))
        value.align = 4
        return value

    return float32x8(array, types.intp), codegen


@instruction
def store(typing_context, array, index, value):
    """`array[index : index + 8] = value` for a contiguous float32 vector; no bounds are checked."""

    def codegen(context, builder, signature, arguments):
        stored = builder.store(arguments[2], _pointer(context, builder, signature.args[0], *arguments[:2]))
        stored.align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, float32x8), codegen


@instruction
def prefetch(typing_context, array, index):
    """Ask for the cache line of `array[index]`, to be read soon."""

    def codegen(context, builder, signature, arguments):
        byte_pointer = _I8.as_pointer()
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte_pointer)
        prototype = ir.FunctionType(ir.VoidType(), [byte_pointer, _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte_pointer], prototype)
        read, keep, data_cache = (ir.Constant(_I32, x) for x in (0, 3, 1))
        builder.call(function, [address, read, keep, data_cache])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


# 2^r on [-1/2, 1/2], least maximum relative error (9e-8) of its degree with p(0) = 1.
_EXP2 = (1.0, 0.6931469776, 0.2402224209, 0.05550733743, 0.00967151264, 0.00132647272)


@instruction
def exp_negative(typing_context, x):
    """e^x for -87 <= x <= 0, relative error below 3e-7."""

    def codegen(context, builder, signature, arguments):
        def constant(value: float):
            return ir.Constant(_FLOATS, [value] * LANES)

        t = builder.fmul(arguments[0], constant(1.4426950408889634))
        whole = builder.fptosi(builder.fsub(t, constant(0.5)), _INTS)  # truncation rounds t <= 0 to the nearest
        r = builder.fsub(t, builder.sitofp(whole, _FLOATS))
        power = constant(_EXP2[-1])
        for coefficient in _EXP2[-2::-1]:
            power = builder.fadd(builder.fmul(power, r), constant(coefficient))
        exponent = builder.shl(whole, ir.Constant(_INTS, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(power, _INTS), exponent), _FLOATS)

    return float32x8(float32x8), codegen


@instruction
def lane_sums(typing_context, a, b, c, d, e, f, g, h):
    """Lane i of the result is the sum over the lanes of the i-th argument."""

    def codegen(context, builder, signature, arguments):
        even = ir.Constant(_INTS, list(range(0, 2 * LANES, 2)))
        odd = ir.Constant(_INTS, list(range(1, 2 * LANES, 2)))
        rows = list(arguments)
        while len(rows) > 1:
            pairs = zip(rows[::2], rows[1::2], strict=True)
            rows = [
                builder.fadd(builder.shuffle_vector(x, y, even), builder.shuffle_vector(x, y, odd)) for x, y in pairs
            ]
        return rows[0]

    return float32x8(*[float32x8] * LANES), codegen
