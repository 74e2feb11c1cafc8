"""Pickles of arrays, in all the files that they come in, through the restricted unpickler."""

from __future__ import annotations

import bz2
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.gate import ARRAYS, FAILURES, FileError, open_file
from fmgs_nerfstudio.restricted import length, plain, read_array
from fmgs_nerfstudio.tensors import TensorUnpickler


def read_pickle(path: Path) -> Any:
    """The content of a pickle of arrays, with chumpy arrays as numpy arrays.

    Raises:
        FileError: the file is truncated, no pickle, or holds anything but the admitted value types; names the file.
    """
    return _read(path, "a pickle", lambda file: TensorUnpickler(file).load())


def read_joblib(path: Path) -> Any:
    """The content of a file that `joblib.dump` wrote, plain or compressed with zlib, gzip, bz2 or lzma.

    Raises:
        FileError: as `read_pickle`.
    """
    return _read(path, "a joblib file", lambda file: TensorUnpickler(_decompressed(file)).load())


def read_numpy_object(path: Path) -> Any:
    """The object in a `.npy` file that `numpy.save` pickled (`annots.npy`, `new_params/*.npy`), or its plain array.

    Raises:
        FileError: as `read_pickle`.
    """
    return _read(path, "a numpy file", _numpy_object)


def read_npz(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Arrays and pickled objects of an `.npz`: those of `keys` that it has, or all.

    Raises:
        FileError: as `read_pickle`.
    """

    def load(file: IO[bytes]) -> dict[str, Any]:
        with _archive(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {name: info for name, info in members.items() if not keys or name in keys}
            found = {}
            for name, info in _admitted(wanted).items():
                with archive.open(info) as member:
                    found[name] = _numpy_object(member)
            return found

    return _read(path, "an .npz", load)


def open_array(path: Path) -> Array:
    """The plain array of a `.npy` file, mapped into memory.

    Raises:
        FileError: as `read_pickle`, or it is larger than `ARRAYS`.
    """

    def load(file: IO[bytes]) -> Array:
        shape, _, dtype = _header(file)
        if dtype.hasobject or length(shape) * dtype.itemsize > ARRAYS:
            raise ValueError(f"it is {list(shape)} of {dtype}")
        return np.lib.format.open_memmap(path, mode="r")

    return _read(path, "a numpy file", load)


def read_tensors(path: Path) -> Any:
    """What `torch.save` wrote, tensors as arrays.

    Raises:
        FileError: as `read_pickle`.
    """

    def load(file: IO[bytes]) -> Any:
        with _archive(file) as archive:
            members = _admitted({info.filename.partition("/")[2]: info for info in archive.infolist()})
            with archive.open(members["data.pkl"]) as member:
                unpickler = TensorUnpickler(member)
                unpickler.archive, unpickler.members = archive, members
                return unpickler.load()

    return _read(path, "PyTorch's file", load)


def _read(path: Path, what: str, load: Callable[[IO[bytes]], Any]) -> Any:
    with open_file(path, ARRAYS, _Sipped) as file:
        try:
            return plain(load(file))
        except FAILURES as error:
            reason = str(error) or type(error).__name__
            raise FileError(f"{path} cannot be read as {what} of plain arrays: {reason}") from error


class _Sipped(io.BufferedReader):
    """A file that is not read in larger pieces than `most`."""

    most = ARRAYS

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise EOFError(f"it asks for {size:,} bytes in one piece")
        return super().read(size)


def _archive(file: IO[bytes]) -> zipfile.ZipFile:
    assert isinstance(file, _Sipped)
    file.most = 2**20  # of a table of contents: some ten thousand names, each of which becomes an object
    archive = zipfile.ZipFile(file)
    file.most = ARRAYS
    return archive


def _admitted(members: dict[str, zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    total = sum(info.file_size for info in members.values())
    if total > ARRAYS:
        raise ValueError(f"it unpacks to {total:,} bytes; expected at most {ARRAYS:,}")
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in members.values()):
        raise ValueError("it is compressed in a way that numpy does not use")
    return members


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    head = file.read(6)
    file.seek(0)
    unpack: Any
    if head[:1] == b"\x78" or head[:2] == b"\x1f\x8b":
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib's head or gzip's
    elif head[:2] == b"BZ":
        unpack = bz2.BZ2Decompressor()
    elif head == b"\xfd7zXZ\x00" or head[:3] == b"\x5d\x00\x00":
        unpack = lzma.LZMADecompressor(memlimit=2**28)
    else:
        return file
    unpacked = io.BytesIO()
    while not unpack.eof and (packed := file.read(2**20)):
        unpacked.write(unpack.decompress(packed, ARRAYS + 1 - unpacked.tell()))
        if unpacked.tell() > ARRAYS:
            raise ValueError(f"it unpacks to more than {ARRAYS:,} bytes")
    if not unpack.eof:
        raise EOFError("it ends in the middle")
    unpacked.seek(0)
    return unpacked


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    return read_header(file)


def _numpy_object(file: IO[bytes]) -> Any:
    shape, fortran, dtype = _header(file)
    if not dtype.hasobject:
        return read_array(file, shape, fortran, dtype)
    content = TensorUnpickler(file).load()
    return content.item() if shape == () else content
