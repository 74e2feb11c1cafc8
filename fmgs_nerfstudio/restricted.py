"""Restricted unpickler: pickles of arrays open without the classes that wrote them, and a payload does not run.

A pickle is a program. Here it can name arrays, numbers, sparse matrices and containers only, call what makes those and
nothing else, take so many steps, and make so much. What declares its size is not believed.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import IO, Any, ClassVar

import numpy as np
import scipy.sparse

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.gate import ARRAYS, NUMBERS

STEPS = 3_000_000  # of a pickle: 4D-Humans takes some hundred a frame
_PARTS = 3_000_000  # of the tree that it makes, where what is shared counts each time that it is met

# What stands for what a pickle may name -----------------------------------------------


class _Named:
    """What is named as an argument and never called."""


class _StandIn:
    """What becomes something `real` when all of its state is there."""

    def real(self) -> Any: ...


class _ChumpyArray(_StandIn):
    """Stands for `chumpy.ch.Ch`, of whose state only the values (`x`) are wanted."""

    x: Any

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.x = state["x"]

    def real(self) -> Array:
        return np.asarray(self.x)


class _Matrix(_StandIn):
    """Stands for a sparse matrix. SciPy's own, made from a state, would index with whatever that says."""

    def real(self) -> Any:
        found = vars(self)
        kind, shape = type(self).__name__, found.get("_shape") or found["shape"]
        if length(shape) > NUMBERS:
            raise ValueError(f"a sparse matrix has the shape {shape}")
        if kind == "coo":
            return scipy.sparse.coo_matrix((found["data"], (found["row"], found["col"])), shape)
        make = scipy.sparse.csr_matrix if kind == "csr" else scipy.sparse.csc_matrix
        matrix = make((found["data"], found["indices"], found["indptr"]), shape)
        matrix.check_format(full_check=True)
        return matrix


class _Dtype:
    """Stands for `numpy.dtype`, whose own state could say anything; no records."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[<>=|]?([biufcSUVmMO]\d{0,5}|[?bBhHiIlLqQefdgFDGO])", code):
            raise pickle.UnpicklingError(f"it has an array of {code[:40]!r}, not of numbers")
        self.real = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.real = self.real.newbyteorder(state[1])


class _JoblibArray:
    """Stands for joblib's `NumpyArrayWrapper`: in the stream, the array's bytes follow it."""

    shape: tuple[int, ...]
    order: str
    dtype: _Dtype

    def read(self, file: IO[bytes]) -> Array:
        if getattr(self, "numpy_array_alignment_bytes", None) is not None:
            file.read(file.read(1)[0])
        return read_array(file, self.shape, self.order == "F", self.dtype.real)


def _scalar(dtype: _Dtype, content: bytes | str) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, dtype.real, 1)[0]


def _frombuffer(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> Array:
    if not isinstance(content, bytes | bytearray):  # an array could be given another state below its view
        raise pickle.UnpicklingError("it has an array of another's bytes")
    return np.frombuffer(content, dtype.real).reshape(shape, order=order)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it has text as {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _bare(cls: Any, *state: Any) -> Any:
    """An object that has its state still to come: `cls.__new__(cls)`."""
    if cls not in _BARE or any(isinstance(part, tuple) and part for part in state):
        raise pickle.UnpicklingError("it makes an object that is no array")
    return cls()


def _key(value: Any) -> Any:
    """Hashing these is quick; a tuple of tuples of tuples can take forever, or all of the stack."""
    quick = isinstance(value, str | bytes | float | None | np.integer | np.floating)
    if not (quick or (isinstance(value, int) and value.bit_length() <= 64)):
        raise pickle.UnpicklingError(f"it has a {type(value).__name__} as a key; expected words or numbers")
    return value


def _dictionary(items: Iterable[Any] = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in items}


_MATRICES = {kind: type(kind, (_Matrix,), {}) for kind in ("csc", "csr", "coo")}
_BARE = (_ChumpyArray, _JoblibArray, *_MATRICES.values())
ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Named,
    ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{_}.multiarray", "_reconstruct"): lambda *_: np.empty(0, np.int8) for _ in ("core", "_core")},
    **{(f"numpy.{_}.multiarray", "scalar"): _scalar for _ in ("core", "_core")},
    **{(f"numpy.{_}.numeric", "_frombuffer"): _frombuffer for _ in ("core", "_core")},
    **{(f"scipy.sparse.{_}{kind}", f"{kind}_matrix"): cls for _ in ("", "_") for kind, cls in _MATRICES.items()},
    ("chumpy.ch", "Ch"): _ChumpyArray,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _JoblibArray,
    ("collections", "OrderedDict"): _dictionary,
    ("collections", "defaultdict"): lambda *_: _dictionary(),
    **{(_, "_reconstructor"): _bare for _ in ("copy_reg", "copyreg")},
    **{(_, name): _Named for _ in ("__builtin__", "builtins") for name in ("object", "dict", "list", "int")},
    **{(_, "set"): lambda items=(): {_key(item) for item in items} for _ in ("__builtin__", "builtins")},
    **{(_, "bytes"): lambda: b"" for _ in ("__builtin__", "builtins")},
    ("_codecs", "encode"): _encode,
}


# The unpickler ---------------------------------------------------------------------------

# Not in the standard library's types: only the unpickler written in Python lets an opcode be replaced.
_PythonUnpickler: Any = pickle._Unpickler  # pyright: ignore[reportPrivateUsage]


class Unpickler(_PythonUnpickler):
    """In Python, because joblib has the array's bytes in the middle of the stream (and reads them in the same way)."""

    dispatch: ClassVar[dict[int, Any]] = {}
    admitted = ADMITTED

    def __init__(self, file: IO[bytes], steps: int = STEPS) -> None:
        super().__init__(file, encoding="latin1")
        self._file_read = self._read
        self.file, self.steps, self.bytes_left = file, steps, ARRAYS

    def _read(self, size: int) -> bytes:
        if size > ARRAYS:  # memory for it would be taken before a byte is read
            raise EOFError(f"it has {size:,} bytes in one piece")
        return self.file.read(size)

    def spend(self, *values: Any, nbytes: int = 0) -> None:
        """Arrays, bytes and words can be copied again and again in a few steps."""
        self.bytes_left -= nbytes
        for value in values:
            self.bytes_left -= value.nbytes if isinstance(value, np.ndarray) else len(value) if _sized(value) else 0
        if self.bytes_left < 0:
            raise pickle.UnpicklingError(f"it makes more than {ARRAYS:,} bytes")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            what = f"{module}.{name}"[:80]
            raise pickle.UnpicklingError(f"it names {what}, which is not an array, a number or a sparse matrix")
        return self.admitted[module, name]

    def load_reduce(self) -> None:
        self.spend(*self.stack[-1])
        super().load_reduce()

    def load_newobj(self) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        self.append(_bare(cls, arguments))

    def load_build(self) -> None:
        target, state = self.stack[-2:]
        if isinstance(target, np.ndarray):
            _, shape, dtype, order, content = state
            self.spend(content)
            expected = length(shape) * (1 if dtype.real.hasobject else dtype.real.itemsize)
            if expected != len(content):
                raise pickle.UnpicklingError(f"an array {list(shape)} of {dtype.real} has {len(content):,} parts")
            self.stack[-1] = (1, shape, dtype.real, order, content)
        elif not isinstance(target, (*_BARE, _Dtype)):
            raise pickle.UnpicklingError(f"it gives a {type(target).__name__} a state")
        super().load_build()
        if isinstance(target, _JoblibArray):
            self.stack[-1] = self._joblib(target)

    def _joblib(self, wrapper: _JoblibArray) -> Any:
        if not wrapper.dtype.real.hasobject:
            return _JoblibArray.read(wrapper, self.file)  # the state may have put something in the method's place
        return self.inner(self.file)

    def inner(self, file: IO[bytes]) -> Any:
        """The content of a pickle that stands in this one."""
        unpickler = type(self)(file, self.steps)
        content = unpickler.load()
        self.steps, self.bytes_left = unpickler.steps, min(unpickler.bytes_left, self.bytes_left)
        return content

    def load_setitem(self) -> None:
        _key(self.stack[-2])
        super().load_setitem()

    def load_empty_set(self) -> None:
        self.steps -= 3  # a set is large
        super().load_empty_set()

    def load_bytearray8(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))


def _keyed(load: Callable[[Any], None], stride: int) -> Callable[[Any], None]:
    """The opcode with a look at the keys among the values since the last mark."""

    def checked(self: Any) -> None:
        for value in self.stack[::stride]:
            _key(value)
        load(self)

    return checked


def _counted(load: Callable[[Any], None]) -> Callable[[Any], None]:
    def step(self: Any) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise pickle.UnpicklingError(f"it takes more than {STEPS:,} steps")
        load(self)

    return step


_OPCODES = dict(_PythonUnpickler.dispatch) | {
    pickle.REDUCE[0]: Unpickler.load_reduce,
    pickle.NEWOBJ[0]: Unpickler.load_newobj,
    pickle.BUILD[0]: Unpickler.load_build,
    pickle.SETITEM[0]: Unpickler.load_setitem,
    pickle.EMPTY_SET[0]: Unpickler.load_empty_set,
    pickle.BYTEARRAY8[0]: Unpickler.load_bytearray8,
    pickle.SETITEMS[0]: _keyed(_PythonUnpickler.load_setitems, 2),
    pickle.DICT[0]: _keyed(_PythonUnpickler.load_dict, 2),
    pickle.ADDITEMS[0]: _keyed(_PythonUnpickler.load_additems, 1),
    pickle.FROZENSET[0]: _keyed(_PythonUnpickler.load_frozenset, 1),
}
for _opcode in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4):
    del _OPCODES[_opcode[0]]  # other ways to make objects
Unpickler.dispatch = {code: _counted(load) for code, load in _OPCODES.items()}


def _sized(value: Any) -> bool:
    return hasattr(value, "__len__")


def length(shape: Sequence[Any]) -> int:
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"its shape is {shape}")
    return prod(shape)


def read_array(file: IO[bytes], shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]) -> Array:
    """An array whose bytes are the next in `file`."""
    n = length(shape) * dtype.itemsize
    if n > ARRAYS:
        raise ValueError(f"an array {list(shape)} of {dtype} has {n:,} bytes; expected at most {ARRAYS:,}")
    content, there = np.empty(n, np.uint8), 0
    while there < n:
        if not (read := file.readinto(content[there : there + 2**24].data)):  # pyright: ignore[reportAttributeAccessIssue]
            raise EOFError(f"an array {list(shape)} ends after {there:,} of {n:,} bytes")
        there += read
    flat = content.view(dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def plain(value: Any) -> Any:
    """Without stand-ins.

    Raises:
        ValueError: written out as a tree, it is too large.
    """
    return _part(value, {})[0]


def _part(value: Any, known: dict[int, tuple[Any, int]]) -> tuple[Any, int]:
    """What stands in `value`'s place, and the number of its parts; large arrays and words count as several."""
    if isinstance(value, str | bytes):
        return value, 1 + len(value) // 100
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value, 1 + value.size // 20
    if not isinstance(value, dict | list | tuple | set | np.ndarray | _StandIn):
        return value, 1
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = value, _PARTS  # for one that is a part of itself
    if isinstance(value, dict):
        inside = [_part(item, known) for item in value.values()]
        made: Any = dict(zip(value, (item for item, _ in inside), strict=True))
    elif isinstance(value, _StandIn):
        inside = [_part(item, known) for item in vars(value).values()]
        made = value
    else:
        items = value.ravel().tolist() if isinstance(value, np.ndarray) else value
        inside = [_part(item, known) for item in items]
        made = type(value)(item for item, _ in inside) if isinstance(value, list | tuple) else value
    count = 1 + sum(n for _, n in inside)
    if count >= _PARTS:
        raise ValueError("it has too many parts, or is a part of itself")
    known[id(value)] = (type(value).real(value) if isinstance(value, _StandIn) else made), count
    return known[id(value)]
