"""Small files that ask for much, name what lies elsewhere, or run: each is refused by its name, cheaply."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import h5py
import joblib
import numpy as np
import pytest
import scipy.sparse
import torch
from nerfstudio.utils.rich_utils import CONSOLE
from support.guarded import in_child
from support.stranger_files import READERS, _write_video
from test_hostile_files import verdict

GIB = 2**30
_RECONSTRUCT: Any = import_module("numpy.core.multiarray")._reconstruct
_REBUILD: Any = import_module("torch._utils")._rebuild_tensor_v2


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONSOLE, "quiet", True)


# Text ---------------------------------------------------------------------------------

_OPENCV = "%YAML:1.0\n---\n"
TEXTS = {
    "nested lists": "[" * 200_000,
    "nested lists, closed": "[" * 200_000 + "]" * 200_000,
    "nested objects": '{"a":' * 200_000,
    "two hundred thousand digits": "1" * 200_000,
    "no UTF-8": "\udcff",
}
YAMLS = {
    "nested lists": _OPENCV + "a: " + "[" * 200_000,
    "nested lists, closed": _OPENCV + "a: " + "[" * 100_000 + "]" * 100_000,
    "nested objects": "{a: " * 100_000,
    "indented": _OPENCV + "".join(" " * i + "a:\n" for i in range(1400)),
    "laughs": "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)),
    "a matrix of 80 GB": _OPENCV + "K: !!opencv-matrix\n  rows: 100000\n  cols: 100000\n  dt: d\n  data: [ 1. ]\n",
    "a matrix of words": _OPENCV + "K: !!opencv-matrix\n  rows: 1\n  cols: 1\n  dt: d\n  data: [ a ]\n",
    "a python object": "K: !!python/object/apply:os.system ['touch canary']\n  [",
}


def _text(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(content, errors="surrogateescape")


# Pictures -----------------------------------------------------------------------------


def _png(width: int, height: int, colour: int = 0, bits: int = 8, rows: bool = True) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        packer, packed = zlib.compressobj(9), b""
        row = bytes(1 + width * (3 if colour == 2 else 1) * bits // 8)
        packed = b"".join(packer.compress(row) for _ in range(height if rows else 1)) + packer.flush()
        head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))

    return write


def _jpeg() -> bytes:
    good, content = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert good
    return content.tobytes()


def _jpeg_head(size: int) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        path.write_bytes(_jpeg()[:20])
        with path.open("ab") as file:
            file.truncate(size)

    return write


def _jpeg_scans(path: Path) -> None:
    """8,000 passes over 36 million pixels."""
    content = _jpeg()
    frame = content.index(b"\xff\xc2") + 5
    content = content[:frame] + struct.pack(">HH", 6000, 6000) + content[frame + 4 :]
    scan = content.rindex(b"\xff\xda")
    path.write_bytes(content[:scan] + content[scan:-2] * 8000 + b"\xff\xd9")


def _tiff(tags: int) -> Callable[[Path], Any]:
    """Places of strips that are not there."""

    def write(path: Path) -> None:
        entries = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (273, 4, tags, 200), (279, 4, tags, 200)]
        body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4))
        with path.open("ab") as file:
            file.truncate(200 + 4 * tags)

    return write


IMAGES = {
    "100,000 x 100,000": _png(100_000, 100_000, rows=False),
    "1 x 2,000,000,000": _png(1, 2_000_000_000, rows=False),
    "7,100 x 7,100 of 16 bits": _png(7_100, 7_100, 2, 16, rows=False),
    "a JPEG's head and 2 GB": _jpeg_head(2 * GIB),
    "a JPEG's head and 250 MB": _jpeg_head(250 * 2**20),
    "a JPEG of 8,000 passes": _jpeg_scans,
    "a TIFF of 60 million strips": _tiff(60_000_000),
}

# Pickles ------------------------------------------------------------------------------


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


def _touch() -> Call:
    return Call(os.system, "touch canary")


def _laughs() -> Any:
    tree: Any = [1.0, 2.0]
    for _ in range(60):
        tree = [tree, tree]
    return {"poses": tree}


def _dictionaries() -> Any:
    tree: Any = {"a": 1}
    for _ in range(60):
        tree = {"a": tree, "b": tree}
    return tree


def _itself() -> Any:
    tree: dict[str, Any] = {}
    tree["a"] = tree
    return tree


def _array(*shape: int) -> Any:
    state = (1, shape, np.dtype("f8"), False, b"12345678")
    return Call(_RECONSTRUCT, np.ndarray, (0,), b"b", state=state)


def _matrix(**state: Any) -> Any:
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    vars(matrix).update(state)
    return matrix


def _dtype() -> Any:
    """Numbers that say they are objects."""
    dtype = Call(np.dtype, "f8", False, True, state=(3, "<", None, None, None, -1, -1, 63))
    return Call(_RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), dtype, False, b"12345678"))


OPCODES = {
    "a tuple in a tuple in a tuple as a key": b"})" + b"\x85" * 1_000_000 + b"Ns.",
    "a key that doubles": b"}" + b")" + b"2\x86" * 60 + b"Ns.",
    "sets": b"\x80\x04(" + b"\x8f" * 6_000_000 + b"l.",
    "marks": b"(" * 6_000_000 + b".",
    "deep lists": b"]" * 400_000 + b"a" * 399_999 + b".",
    "4 GB of words": b"X" + struct.pack("<I", 2**32 - 1) + b"abc",
    "2^60 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc",
    "10 GB to write to": b"\x80\x05\x96" + struct.pack("<Q", 10 * GIB) + b"abc",
    "a frame of 10 GB": b"\x80\x04\x95" + struct.pack("<Q", 10 * GIB) + b"abc",
    "a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "an old instance": b"(S'touch canary'\nios\nsystem\n.",
    "an attribute of a module": b"\x80\x04\x8c\x05numpy\x8c\x11lib.format.os.nope\x93.",
}
OBJECTS: dict[str, Callable[[], Any]] = {
    "a command": _touch,
    "a command among values": lambda: {"poses": [1.0, {"x": _touch()}]},
    "a command in an array": lambda: np.array([_touch(), None], dtype=object),
    "eval": lambda: Call(eval, "open('canary', 'w')"),
    "getattr": lambda: Call(getattr, "a", "upper"),
    "10 GB of zeros": lambda: Call(bytes, 10 * GIB),
    "an array of 8 TB": lambda: _array(1_000_000, 1_000_000),
    "an array of -1": lambda: _array(-1),
    "an empty array of 10 GB": lambda: Call(np.ndarray, (GIB,), np.dtype("f8")),
    "numbers that are pointers": _dtype,
    "a record": lambda: np.zeros(2, [("a", "f8"), ("b", "O")]),
    "laughs": _laughs,
    "laughs of dictionaries": _dictionaries,
    "itself": _itself,
    "a sparse matrix of 8 TB": lambda: {"J": _matrix(_shape=(1_000_000, 1_000_000))},
    "a sparse matrix that points elsewhere": lambda: {"J": _matrix(indices=np.array([0, 10**8, 2]))},
    "text as another code": lambda: Call(__import__("_codecs").encode, "a" * 100_000, "punycode"),
    "copies": lambda: [
        Call(__import__("_codecs").encode, text, "latin1") for text in ["a" * 10**6] for _ in range(10**4)
    ],
    "a command in a tensor": lambda: Call(torch.storage._load_from_bytes, pickle.dumps(_touch())),
    "a set of a tuple": lambda: {(1, 2)},
}


def _pickled(make: Callable[[], Any], protocol: int = 4) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(pickle.dumps(make(), protocol=protocol))


def _dumped(make: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda path: joblib.dump(make(), path)


def _bytes(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def _zeros(wbits: int) -> Callable[[Path], Any]:
    """450 MB of them."""

    def write(path: Path) -> None:
        packer = zlib.compressobj(1, wbits=wbits)
        path.write_bytes(b"".join(packer.compress(bytes(2**24)) for _ in range(27)) + packer.flush())

    return write


PACKED: dict[str, Callable[[Path], Any]] = {
    "zlib": _zeros(15),
    "gzip": _zeros(31),
    "a dictionary of 4 GB": _bytes(b"\x5d" + struct.pack("<I", 2**32 - 1) + b"\xff" * 8 + bytes(100)),
}


# Arrays -------------------------------------------------------------------------------


def _npy_head(shape: str, descr: str = "'<f8'") -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (63 - (10 + len(head)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


NPYS = {
    "8 TB": _npy_head("(1000000, 1000000)"),
    "2^70": _npy_head(f"({2**70},)"),
    "-1": _npy_head("(-1,)") + bytes(8),
    "nothing of each": _npy_head("(100000000000,)", "'V0'"),
    "nested": _npy_head("(" * 3000 + ")" * 3000),
    "signs": _npy_head("(" + "-" * 8000 + "1,)"),
    "a zip": b"PK\3\4" + bytes(100),
    "a head of 4 GB": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + bytes(100),
}


def _zip(**members: Any) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, (head, length) in members.items():
                archive.writestr(f"{name}.npy", head + bytes(2**20))
                archive.filelist[-1].file_size = len(head) + length  # what the table of contents will say

    return write


def _table_of_contents(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(30_000):
            archive.writestr(f"{i}.npy", b"")


def _other_packing(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", _npy_head("(1,)") + bytes(8))


def _savez(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, poses=np.array({"a": _touch()}, dtype=object), a=np.zeros(1))


NPZS: dict[str, Callable[[Path], Any]] = {
    "2 GB": _zip(a=(_npy_head(f"({2**28},)"), 2 * GIB)),
    "5 x 128 MB": _zip(**{name: (_npy_head(f"({2**24},)"), 2**27) for name in "abcde"}),
    "8 TB": _zip(poses=(_npy_head("(1000000, 1000000)"), 0)),
    "a table of contents": _table_of_contents,
    "lzma": _other_packing,
    "a command": _savez,
}


def _tensor(strides: tuple[int, ...], shape: tuple[int, ...], offset: int = 0) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        storage = torch.zeros(4).storage()
        tensor = Call(_REBUILD, storage, offset, shape, strides, False, OrderedDict())
        torch.save({"a": tensor}, path)

    return write


TENSORS: dict[str, Callable[[Path], Any]] = {
    "4 TB of one number": _tensor((0, 0), (1_000_000, 1_000_000)),
    "beyond": _tensor((1,), (1_000_000,)),
    "before": _tensor((-1,), (4,), 3),
    "far": _tensor((1,), (4,), 2**40),
    "a command": lambda path: torch.save({"a": _touch()}, path),
    "10 GB to write to": lambda path: torch.save({"a": Call(bytearray, 10 * GIB)}, path),
}


def _hdf(change: Callable[[h5py.File, Path], Any]) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        with h5py.File(path.with_name("other.h5"), "w") as file:
            file["masks"] = np.ones((3, 6, 8), np.uint8)
        path.with_name("other.raw").write_bytes(bytes(3 * 6 * 8))
        with h5py.File(path, "w") as file:
            change(file, path)

    return write


def _virtual(file: h5py.File, path: Path) -> None:
    layout = h5py.VirtualLayout((3, 6, 8), np.uint8)
    layout[:] = h5py.VirtualSource(path.with_name("other.h5"), "masks", (3, 6, 8))
    file.create_virtual_dataset("masks", layout)


def _external(file: h5py.File, path: Path) -> None:
    raw = [(str(path.with_name("other.raw")), 0, 3 * 6 * 8)]
    file.create_dataset("masks", (3, 6, 8), np.uint8, external=raw)


_ALL = (2000, 1000, 1000)
HDFS: dict[str, Callable[[Path], Any]] = {
    "another file": _hdf(lambda f, p: f.__setitem__("masks", h5py.ExternalLink(str(p.with_name("other.h5")), "masks"))),
    "a view of another file": _hdf(_virtual),
    "the bytes of another file": _hdf(_external),
    "8 TB": _hdf(lambda f, p: f.create_dataset("masks", (8, 10**6, 10**6), np.uint8, chunks=(1, 100, 100))),
    "a chunk of 2 GB": _hdf(lambda f, p: f.create_dataset("masks", _ALL, np.uint8, chunks=_ALL)),
    "words": _hdf(lambda f, p: f.create_dataset("masks", (3, 6, 8), "S5")),
    "a group": _hdf(lambda f, p: f.create_group("masks")),
}

# Videos ---------------------------------------------------------------------------------


def _playlist(form: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        other = path.with_name("other.ts")
        _write_video(other)
        path.write_text(form.format(other))

    return write


def _large_video(path: Path) -> None:
    _write_video(path.with_suffix(".mkv"), "mjpeg")
    content = path.with_suffix(".mkv").read_bytes()
    path.with_suffix(".mkv").unlink()
    size = struct.pack(">HH", 32, 32)
    path.write_bytes(content.replace(size, struct.pack(">HH", 60_000, 60_000)))


VIDEOS: dict[str, Callable[[Path], Any]] = {
    "a playlist": _playlist("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{}\n#EXT-X-ENDLIST\n"),
    "a list of files": _playlist("ffconcat version 1.0\nfile '{}'\n"),
    "a playlist on the network": _playlist("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/{}\n"),
    "a picture of 100,000 x 100,000": _png(100_000, 100_000, rows=False),
    "2 GB of nothing": _jpeg_head(2 * GIB),
    "frames of 60,000 x 60,000": _large_video,
    "text": lambda path: path.write_text("a video"),
}

# All of them ------------------------------------------------------------------------------

_READ = {
    ("json", "empty lists"), ("png", "49 million pixels"),
    ("pickle", "numbers that are pointers"), ("joblib", "numbers that are pointers"),
}  # fmt: skip
"""What is large and right, and what is read as what it should be."""
BOMBS: dict[str, tuple[tuple[str, ...], dict[str, Callable[[Path], Any]]]] = {
    "text": (
        ("protocol", "priors.json", "label map", "network's config"),
        {name: _text(content) for name, content in TEXTS.items()},
    ),
    "large": (("json",), {"empty lists": _text("[" + "[]," * 5_500_000 + "0]")}),
    "large picture": (("png",), {"49 million pixels": _png(7000, 7000, 2)}),
    "yaml": (("yaml of OpenCV",), {name: _text(content) for name, content in YAMLS.items()}),
    "picture": (("png", "png mask", "prior normal"), IMAGES),
    "steps": (("joblib",), {name: _bytes(content) for name, content in OPCODES.items()}),
    "object": (("pickle", "joblib"), {name: _pickled(make) for name, make in OBJECTS.items()}),
    "object, protocol 2": (("pickle",), {name: _pickled(make, 2) for name, make in OBJECTS.items()}),
    "object in joblib": (("joblib",), {name: _dumped(make) for name, make in OBJECTS.items()}),
    "packed": (("joblib",), PACKED),
    "npy": (("npy", "npy mask", "Sapiens' normal"), {name: _bytes(content) for name, content in NPYS.items()}),
    "npz": (("npz", "motion, AMASS"), NPZS),
    "tensors": (("tensors",), TENSORS),
    "hdf5": (("hdf5 mask",), HDFS),
    "video": (("video", "video, Matroska"), VIDEOS),
}  # fmt: skip


def _explode(readers: tuple[str, ...], bomb: str, folder: Path) -> tuple[list[str], float, int]:
    os.chdir(folder)
    found, slowest, largest = [], 0.0, 0
    for name in readers:
        reader = READERS[name]
        path = folder / name / reader.file
        path.parent.mkdir(parents=True)
        os.link(folder / "bomb" / "bomb", path)
        wrong, seconds, size = verdict(reader, path, folder, must_fail=(name, bomb) not in _READ)
        slowest, largest = max(slowest, seconds), max(largest, size)
        if wrong:
            found.append(f"{name}: {wrong}")
    return found, slowest, largest


@pytest.mark.parametrize(("kind", "bomb"), [(kind, bomb) for kind, (_, bombs) in BOMBS.items() for bomb in bombs])
def test_bombs(tmp_path: Path, kind: str, bomb: str, record_property: Callable[[str, Any], None]) -> None:
    readers, bombs = BOMBS[kind]
    (tmp_path / "bomb").mkdir()
    bombs[bomb](tmp_path / "bomb" / "bomb")
    found, slowest, largest = in_child(partial(_explode, readers, bomb, tmp_path))
    for key, value in (("cases", len(readers)), ("seconds", slowest), ("MiB", largest / 2**20)):
        record_property(key, value)
    assert not found, "\n".join(found)
