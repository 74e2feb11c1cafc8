"""The little of glTF 2.0 that a skinned, animated mesh needs: accessors in one buffer, and the `.glb` container."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.files import atomic_path

_COMPONENTS = {np.dtype("uint8"): 5121, np.dtype("uint16"): 5123, np.dtype("uint32"): 5125, np.dtype("float32"): 5126}
_SHAPES: dict[tuple[int, ...], str] = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
_TARGETS = {"vertices": 34962, "indices": 34963}


class Buffer:
    """Arrays, one after another, with the views and accessors that describe them."""

    def __init__(self) -> None:
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self.data = bytearray()

    def add(self, values: Array, target: Literal["vertices", "indices"] | None = None, bounds: bool = False) -> int:
        """Append `values` [N, ...] and return the accessor's number; `bounds`: with the minimum and the maximum.

        Matrices are given as they multiply column vectors; the format has them column by column.
        """
        shape = values.shape[1:]
        stored = values.swapaxes(-1, -2) if len(shape) == 2 else values
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.data), "byteLength": stored.nbytes}
        if target is not None:
            view["target"] = _TARGETS[target]
        accessor: dict[str, Any] = {
            "bufferView": len(self.views),
            "componentType": _COMPONENTS[values.dtype],
            "count": len(values),
            "type": _SHAPES[shape],
        }
        if bounds:
            flat = values.reshape(len(values), -1)
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        self.data += np.ascontiguousarray(stored).tobytes()
        self.data += b"\0" * (-len(self.data) % 4)
        self.views.append(view)
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def write_glb(content: dict[str, Any], buffer: Buffer, path: Path) -> None:
    """Write a document and its buffer as one binary file."""
    document = {
        "asset": {"version": "2.0", "generator": "fmgs-nerfstudio"},
        **content,
        "buffers": [{"byteLength": len(buffer.data)}],
        "bufferViews": buffer.views,
        "accessors": buffer.accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = [(b"JSON", text), (b"BIN\0", bytes(buffer.data))]
    body = b"".join(struct.pack("<I4s", len(data), kind) + data for kind, data in chunks)
    with atomic_path(path) as temporary:
        temporary.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)
