"""PyTorch's files and tensors, read as arrays without PyTorch, which would believe what they say of themselves."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.restricted import ADMITTED, STEPS, Unpickler, length, read_array

_STORAGES = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1",
    "Byte": "u1", "Bool": "?",
}  # fmt: skip


class TensorUnpickler(Unpickler):
    """Of pickles with tensors among other values; in `data.pkl` of `torch.save`, whose numbers are files beside it."""

    admitted = ADMITTED | {("torch", f"{name}Storage"): np.dtype(code) for name, code in _STORAGES.items()}

    def __init__(self, file: IO[bytes], steps: int = STEPS) -> None:
        super().__init__(file, steps)
        self.archive: zipfile.ZipFile | None = None
        self.members: Mapping[str, zipfile.ZipInfo] = {}
        self.storages: dict[str, Array] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return self._storage
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda values, *_: values
        return super().find_class(module, name)

    def _tensor(self, flat: Array, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any) -> Array:
        """`torch._utils._rebuild_tensor_v2`."""
        n = length(shape)
        self.spend(nbytes=n * flat.itemsize)
        last = offset + sum((m - 1) * stride for m, stride in zip(shape, strides, strict=True))
        if min(offset, *strides, 0) < 0 or (n and last >= flat.size):
            raise ValueError(f"a tensor {list(shape)} does not fit into its {flat.size:,} numbers")
        steps = [stride * flat.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps).copy()

    def persistent_load(self, pid: tuple[Any, ...]) -> Any:
        _, dtype, key, *_ = pid
        if self.archive is None:
            return dtype  # in `_storage`, whose numbers follow
        if key not in self.storages:
            info = self.members[f"data/{key}"]
            with self.archive.open(info) as member:
                self.storages[key] = read_array(member, (info.file_size // dtype.itemsize,), False, dtype)
        return self.storages[key]

    def _storage(self, content: bytes) -> Array:
        """`torch.storage._load_from_bytes`, of PyTorch's older format: four pickles, names of storages, numbers."""
        file = io.BytesIO(content)
        *_, dtype, names = (self.inner(file) for _ in range(5))
        if not isinstance(dtype, np.dtype) or len(names) != 1:
            raise ValueError("it has something else in a tensor's place")
        return read_array(file, (int.from_bytes(file.read(8), "little"),), False, dtype)
