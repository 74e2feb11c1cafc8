"""Restricted unpicklers: pickles of arrays open without the classes that wrote them, and a payload does not run."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch

from fmgs_nerfstudio.arrays import Array

# Value types only: arrays, numbers, sparse matrices, containers. `_reconstructor` builds only the classes named here.
_ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    *((f"scipy.sparse.{_}{kind}", f"{kind}_matrix") for _ in ("", "_") for kind in ("csc", "csr", "coo")),
    *(("collections", name) for name in ("OrderedDict", "defaultdict")),
    *((module, "_reconstructor") for module in ("copy_reg", "copyreg")),
    *(
        (builtins, name)
        for builtins in ("__builtin__", "builtins")
        for name in ("object", "dict", "list", "set", "int", "bytes")
    ),
    ("_codecs", "encode"),
}
FAILURES = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    OSError,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    zipfile.BadZipFile,
    RuntimeError,
    SyntaxError,
    SystemError,
    MemoryError,
    OverflowError,
    tokenize.TokenError,
)
"""What pickle, numpy, zipfile and the decompressors raise at a corrupt file."""


class _ChumpyArray:
    """Stands for `chumpy.ch.Ch`, of whose state only the values (`x`) are wanted."""

    x: Array

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.x = np.asarray(state["x"])


class _JoblibArray:
    """Stands for joblib's `NumpyArrayWrapper`: in the stream, the array's bytes follow it."""

    shape: tuple[int, ...]
    order: str
    dtype: np.dtype[Any]

    def read(self, file: IO[bytes]) -> Array:
        if self.dtype.hasobject:
            return _JoblibUnpickler(file).load()
        if getattr(self, "numpy_array_alignment_bytes", None) is not None:
            file.read(file.read(1)[0])
        count = int(np.prod(self.shape, dtype=np.int64))
        content = bytearray(file.read(count * self.dtype.itemsize))  # so that the array can be written to
        flat = np.frombuffer(content, self.dtype, count)
        return flat.reshape(self.shape[::-1]).T if self.order == "F" else flat.reshape(self.shape)


def _tensor_values(content: bytes) -> Any:
    """Stands for `torch.storage._load_from_bytes`: the flat values behind a tensor, which torch opens as data."""
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return torch.empty(0, dtype=storage.dtype).set_(storage)


def _tensor(values: torch.Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *rest: Any) -> Array:
    """Stands for `torch._utils._rebuild_tensor_v2`, and gives an array. That nothing beyond the values is seen, torch
    looks after."""
    return values.as_strided(tuple(size), tuple(stride), offset).clone().numpy()


_STAND_INS: dict[tuple[str, str], Any] = {
    ("chumpy.ch", "Ch"): _ChumpyArray,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _JoblibArray,
    ("torch.storage", "_load_from_bytes"): _tensor_values,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda values, *rest: values,
}


# Not in the standard library's types: only the unpickler written in Python lets an opcode be replaced.
_PythonUnpickler: Any = pickle._Unpickler  # pyright: ignore[reportPrivateUsage]


def _admit(module: str, name: str, import_class: Callable[[str, str], Any]) -> Any:
    if stand_in := _STAND_INS.get((module, name)):
        return stand_in
    if (module, name) not in _ADMITTED:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not an array, a number or a sparse matrix")
    if module.startswith("scipy.sparse."):
        module = "scipy.sparse"
    return import_class(module.replace("numpy._core", "numpy.core"), name)


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _admit(module, name, super().find_class)


class _JoblibUnpickler(_PythonUnpickler):
    """In Python, because the array's bytes stand in the middle of the stream (joblib reads it in the same way)."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        return _admit(module, name, super().find_class)

    def load_build(self) -> None:
        super().load_build()
        if isinstance(self.stack[-1], _JoblibArray):
            self.stack[-1] = self.stack[-1].read(self.file)

    dispatch[pickle.BUILD[0]] = load_build


def _plain(value: Any) -> Any:
    if isinstance(value, _ChumpyArray):
        return value.x
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def read_pickle(path: Path) -> Any:
    """The content of a pickle of arrays, with chumpy arrays as numpy arrays.

    Raises:
        ValueError: the file is truncated, no pickle, or holds anything but the admitted value types; names the file.
    """
    with path.open("rb") as file:
        try:
            return _plain(_RestrictedUnpickler(file, encoding="latin1").load())
        except FAILURES as error:
            raise ValueError(f"{path} cannot be read as a pickle of plain arrays: {error}") from error


def read_tensors(path: Path) -> Any:
    """What `torch.save` wrote: tensors, numbers and containers.

    Raises:
        ValueError: as `read_pickle`.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FAILURES as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} cannot be read as a file of tensors: {error}") from error


def read_joblib(path: Path) -> Any:
    """The content of a file that `joblib.dump` wrote, plain or compressed with zlib, gzip, bz2 or lzma.

    Raises:
        ValueError: as `read_pickle`.
    """
    with path.open("rb") as file:
        try:
            return _plain(_JoblibUnpickler(_decompressed(file)).load())
        except FAILURES as error:
            raise ValueError(f"{path} cannot be read as a joblib file of plain arrays: {error}") from error


def _decompressed(file: IO[bytes]) -> Any:
    head = file.read(6)
    file.seek(0)
    if head[:1] == b"\x78":
        return io.BytesIO(zlib.decompress(file.read()))
    if head[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)
    if head[:2] == b"BZ":
        return bz2.BZ2File(file)
    if head == b"\xfd7zXZ\x00" or head[:3] == b"\x5d\x00\x00":
        return lzma.LZMAFile(file)
    return file


def read_numpy_object(path: Path) -> Any:
    """The object in a `.npy` file that `numpy.save` pickled (`annots.npy`, `new_params/*.npy`), or its plain array.

    Raises:
        ValueError: as `read_pickle`.
    """
    with path.open("rb") as file:
        try:
            return _numpy_object(file)
        except FAILURES as error:
            raise ValueError(f"{path} cannot be read as a numpy file of plain arrays: {error}") from error


def read_npz(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Arrays and pickled objects of an `.npz`: those of `keys` that it has, or all.

    Raises:
        ValueError: as `read_pickle`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            wanted = [name for name in names if not keys or name in keys]
            return {name: _numpy_object(io.BytesIO(archive.read(f"{name}.npy"))) for name in wanted}
    except FAILURES as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} cannot be read as an .npz of plain arrays: {error}") from error


def _numpy_object(file: IO[bytes]) -> Any:
    start = file.tell()
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if not dtype.hasobject:
        file.seek(start)
        return np.load(file, allow_pickle=False)
    content = _RestrictedUnpickler(file, encoding="latin1").load()
    return _plain(content.item() if shape == () else content)
