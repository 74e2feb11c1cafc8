"""A restricted unpickler: SMPL's official `.pkl` files open without chumpy; a pickle with a payload does not run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

# Value types only: arrays, numbers, sparse matrices. `copyreg._reconstructor` builds only the classes named here.
_ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("scipy.sparse.csc", "csc_matrix"),
    ("scipy.sparse.csr", "csr_matrix"),
    ("scipy.sparse._csc", "csc_matrix"),
    ("scipy.sparse._csr", "csr_matrix"),
    ("collections", "OrderedDict"),
    ("copy_reg", "_reconstructor"),
    ("copyreg", "_reconstructor"),
    ("__builtin__", "object"),
    ("builtins", "object"),
    ("_codecs", "encode"),
}


class _ChumpyArray:
    """Stands for `chumpy.ch.Ch`, of whose state only the values (`x`) are wanted."""

    x: np.ndarray

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.x = np.asarray(state["x"])


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("chumpy.ch", "Ch"):
            return _ChumpyArray
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which is not an array, a number or a sparse matrix"
            )
        module = {"scipy.sparse.csc": "scipy.sparse", "scipy.sparse.csr": "scipy.sparse"}.get(module, module)
        return super().find_class(module, name)


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
        except (
            pickle.UnpicklingError,
            EOFError,
            AttributeError,
            ImportError,
            IndexError,
            KeyError,
            TypeError,
        ) as error:
            raise ValueError(f"{path} cannot be read as a pickle of plain arrays: {error}") from error


def read_numpy_object(path: Path) -> Any:
    """The object in a `.npy` file that `numpy.save` pickled (`annots.npy`, `new_params/*.npy`), or its plain array.

    Raises:
        ValueError: as `read_pickle`.
    """
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            if not dtype.hasobject:
                file.seek(0)
                return np.load(file, allow_pickle=False)
            content = _RestrictedUnpickler(file, encoding="latin1").load()
        except (
            pickle.UnpicklingError,
            EOFError,
            ValueError,
            AttributeError,
            ImportError,
            IndexError,
            KeyError,
            TypeError,
        ) as error:
            raise ValueError(f"{path} cannot be read as a numpy file of plain arrays: {error}") from error
    return _plain(content.item() if shape == () else content)
